"""A surrogate of several experts that learn from the scores of a long-tailed pool (SMILE; Li et al., CVPR 2025)."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mibench.nets.small import ConvNet

LEAST = 1e-8  # of what diversity divides by


def class_weights(log_p: Tensor, beta: float, top: int) -> Tensor:
    """omega_k = (1 - beta) / (1 - beta^(c_k + 1)), (K,): k is among the ``top`` largest of c_k rows of log_p (N, K)."""
    c = log_p.topk(top, dim=1).indices.flatten().bincount(minlength=log_p.shape[1])
    return (1 - beta) / (1 - beta ** (c + 1))


def surrogate_loss(
    o: Tensor,
    log_p: Tensor,
    omega: Tensor,
    tau: float = 0.5,
    ce_weight: float = 0.15,
    diversity_weight: float = 10.0,
    literal: bool = False,
    clamp: float = 20.0,
) -> dict[str, Tensor]:
    """Of the experts' logits o (E, B, K) and the target's log-scores log_p (B, K): ``kl`` and ``ce``, sums over
    experts and over images, each of the weight ``omega`` (K,) of its class, or (``literal``) means over images times
    the sum of these weights; ``diversity``, small where the experts differ; ``loss``."""
    q, y = (log_p / tau).softmax(1), log_p.argmax(1)
    kl = (torch.xlogy(q, q) - q * (o / tau).log_softmax(2)).sum((0, 2))
    ce = torch.stack([cross_entropy(expert, y, reduction="none") for expert in o]).sum(0)
    apart = ((o / tau).clamp(-clamp, clamp) / tau).log_softmax(2)  # by tau twice, the mean once, as released
    gap = (apart.exp() * (apart - (o.mean(0) / tau).log_softmax(1))).sum(2).mean(1)
    diversity = (1 / gap.clamp(min=LEAST)).sum()
    w = omega[y].mean() if literal else omega[y]
    kl, ce = (w * kl).sum(), (w * ce).sum()
    return {"kl": kl, "ce": ce, "diversity": diversity, "loss": kl + ce_weight * ce + diversity_weight * diversity}


class Experts(nn.Module):
    """A network that tells other people apart, its last stage and a new head several times: (E, B, K) logits."""

    def __init__(self, net: ConvNet, experts: int, classes: int) -> None:
        super().__init__()
        *trunk, (_, last), (_, flatten) = net.stages()
        self.trunk = nn.Sequential(*(stage for _, stage in trunk)).eval().requires_grad_(False)
        self.experts = nn.ModuleList(
            nn.Sequential(deepcopy(last), flatten, nn.Linear(net.feature_dim, classes)) for _ in range(experts)
        ).requires_grad_(True)

    def train(self, mode: bool = True) -> Experts:
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.trunk(x)
        return torch.stack([expert(hidden) for expert in self.experts])
