"""What a judge's or rater's mistakes make of a measured share (evaluation 5.4, 6.4); and whether a judge's answers are
better than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

Table = NDArray[np.float64]


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


def share_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share (Clopper and Pearson 1934)."""
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, 1 - tail))
    return low, high


def matched(tables: Sequence[Table], draws: int = 10_000, seed: int = 0) -> float:
    """How often chance alone does as well: p of the largest share that several attacks reach. A table (n, K) holds, for
    the reconstructions of each of n classes (those of columns 0 to n - 1), the shares that a judge gives to each of K.
    Classes and reconstructions are matched anew, in all ways or in ``draws`` of them, the same for all attacks
    (Westfall and Young 1993); so a judge who always gives one answer tells nothing, and n classes give no p below
    1 / n!."""
    n = len(tables[0])
    own = np.stack([np.asarray(table)[:, :n] for table in tables])
    rows, rng = np.arange(n), np.random.default_rng(seed)
    if math.factorial(n) <= draws:
        orders = np.array(list(permutations(range(n))))
    else:
        orders = np.stack([rows, *(rng.permutation(n) for _ in range(draws))])
    parts = (own[:, rows, part].sum(2).max(0) for part in np.array_split(orders, len(orders) // 500 + 1))
    reached = np.concatenate(list(parts))
    return float((reached >= reached[0] - 1e-9).mean())
