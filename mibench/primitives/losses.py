"""Losses that methods share, one value per row unless said otherwise, in the papers' symbols.

``logits`` is (R, K), ``labels`` (R,) int64. An attack reduces rows with ``reduce_rows``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

RowLoss = Callable[[Tensor, Tensor], Tensor]  # logits (R, K), labels (R,) -> (R,)


def reduce_rows(losses: Tensor, reference_batch: int) -> Tensor:
    """sum over rows / B_ref: the step of a row does not depend on how many rows are computed together, and equals the
    published step, which was a mean over a batch of B_ref."""
    return losses.sum() / reference_batch


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """CE: -log softmax(o)_y."""
    return functional.cross_entropy(logits, labels, reduction="none")


def poincare(logits: Tensor, labels: Tensor, xi: float = 1e-4) -> Tensor:
    """Distance in the Poincare ball between u = o / ||o||_1 and the target v = max(onehot(y) - xi, 0) (PPA;
    Struppek et al., ICML 2022, eq. 3): arccosh(1 + 2 ||u - v||^2 / ((1 - ||u||^2)(1 - ||v||^2))).

    Acts on logits. Invariant to their positive scaling. The denominator is kept above 1e-7, because exactly one-hot
    logits have ||u|| = 1.
    """
    u = logits / logits.abs().sum(1, keepdim=True)
    v = (functional.one_hot(labels, logits.shape[1]).to(logits) - xi).clamp(0, 1)
    distance = (u - v).square().sum(1)
    denominator = (1 - u.square().sum(1)) * (1 - v.square().sum(1))
    return torch.arccosh(1 + 2 * distance / denominator.clamp(min=1e-7))


def critic_prior(score: Tensor) -> Tensor:
    """W-PRIOR: -D(x) with D a Wasserstein critic (GMI)."""
    return -score


def log_partition(logits: Tensor) -> Tensor:
    """Z = logsumexp of a K-logit discriminator whose class K+1, "fake", has logit 0."""
    return torch.logsumexp(logits, 1)


def k_plus_one_prior(logits: Tensor) -> Tensor:
    """K1-PRIOR: softplus(-Z), minus the log-probability of being real (KEDMI)."""
    return functional.softplus(-log_partition(logits))


def improbability(logits: Tensor, labels: Tensor) -> Tensor:
    """PROB: 1 - softmax(o)_y (MI-FACE; Fredrikson et al., CCS 2015)."""
    return 1 - logits.softmax(1).gather(1, labels[:, None])[:, 0]


def total_variation(images: Tensor) -> Tensor:
    """TV: mean |difference| of vertical neighbours plus that of horizontal ones; (R, C, H, W) -> (R,)."""
    return images.diff(dim=2).abs().mean((1, 2, 3)) + images.diff(dim=3).abs().mean((1, 2, 3))


def mean_square(images: Tensor) -> Tensor:
    """L2: the mean squared pixel; (R, C, H, W) -> (R,)."""
    return images.square().mean((1, 2, 3))


def max_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """MM: max_{j != y} o_j - o_y (PLG-MI; Yuan et al., AAAI 2023), negative exactly where y is the first choice."""
    own = labels[:, None]
    others = logits.scatter(1, own, -torch.inf)
    return others.amax(1) - logits.gather(1, own)[:, 0]


def negative_logit(logits: Tensor, labels: Tensor) -> Tensor:
    """NLG: -o_y (LOMMA; Nguyen et al., CVPR 2023). Unbounded below."""
    return -logits.gather(1, labels[:, None])[:, 0]


def feature_distance(features: Tensor, reference: Tensor) -> Tensor:
    """REG: 1/d ||phi - p_reg||^2 (LOMMA). ``features`` (R, d), ``reference`` (d,) or (R, d)."""
    return (features - reference).square().mean(1)


IdentityLoss = Literal["ce", "margin", "poincare"]


def identity_loss(name: IdentityLoss, logits: Tensor, labels: Tensor) -> Tensor:
    """CE, MM or the Poincare distance, by name: what an attack whose gradients a defense masked tries in turn."""
    losses: dict[IdentityLoss, RowLoss] = {"ce": cross_entropy, "margin": max_margin, "poincare": poincare}
    return losses[name](logits, labels)


def ensemble_mean(loss: RowLoss, logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """1/M sum_m loss(o^m, y) over the logits of M models (LOMMA's model augmentation)."""
    return torch.stack([loss(own, labels) for own in logits]).mean(0)


def ensemble_logit_loss(
    logits: Sequence[Tensor], labels: Tensor, features: Tensor, reference: Tensor, weight: float
) -> Tensor:
    """LOMMA's identity loss: 1/M sum_m -o^m_y + weight REG(phi, p_reg). ``features`` are the target's alone, and their
    term is not divided by M."""
    return ensemble_mean(negative_logit, logits, labels) + weight * feature_distance(features, reference)
