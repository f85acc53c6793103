"""What a judge's or rater's mistakes make of a measured share (evaluation 5.4, 6.4)."""

from __future__ import annotations

import math


def double_sampled(accepted: float, false_accepted: float, false_rejected: float) -> float:
    """a (1 - phi) + (1 - a) psi: the true share, where an audit found a share phi of the accepted and psi of the
    rejected images misjudged."""
    return accepted * (1 - false_accepted) + (1 - accepted) * false_rejected


def double_sampled_error(
    accepted: float, variance: float, false_accepted: float, n_accepted: int, false_rejected: float, n_rejected: int
) -> float:
    """Its standard error by the delta method; ``variance`` of the accepted share, audits of n images each."""
    phi, psi = false_accepted, false_rejected
    parts = (
        (1 - phi - psi) ** 2 * variance,
        accepted**2 * phi * (1 - phi) / n_accepted,
        (1 - accepted) ** 2 * psi * (1 - psi) / n_rejected,
    )
    return math.sqrt(math.fsum(parts))


def rogan_gladen(positive: float, sensitivity: float, false_positive: float, n: int) -> tuple[float, float]:
    """The share behind what a judge with these error rates calls positive, within [0, 1], and its standard error over
    ``n`` items (Rogan and Gladen 1978). It holds only if the judge errs on reconstructions as on photos."""
    gap = sensitivity - false_positive
    share = min(max((positive - false_positive) / gap, 0.0), 1.0)
    return share, math.sqrt(positive * (1 - positive) / n) / gap


def design_effect(images: int, correlation: float) -> float:
    """1 + (m - 1) rho: by how much m correlated images of one person overstate what they tell."""
    return 1 + (images - 1) * correlation
