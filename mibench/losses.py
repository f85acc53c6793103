"""Losses that methods share, one value per row unless said otherwise, in the papers' symbols.

``logits`` is (R, K), ``labels`` (R,) int64. An attack reduces rows with ``reduce_rows``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


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
