"""Intervals over identities and over seeds. Pure functions of numbers, numpy only, the same on every call.

An interval that cannot be computed (fewer than two values) is ``(None, None)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float] | tuple[None, None]

_NORMAL = NormalDist()
_BLOCK = 2**22  # resampled values held at once


class Difference(NamedTuple):
    """The mean of ``a - b`` over ``n`` identities with its interval; None where there are too few."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def bootstrap_interval(
    per_identity: Sequence[float], seed: int = 0, replicates: int = 10_000, level: float = 0.95
) -> Interval:
    """The BCa bootstrap interval of the mean over identities (Efron 1987; DiCiccio and Efron 1996, eq. 2.3).

    Identities are resampled, never images: those of one identity are not independent. The order of the values
    does not matter. Equal values give an interval of no width, which says that the sample shows no variation,
    not that there is none.

    Raises:
        ValueError: a value is not finite, or ``level`` is not between 0 and 1.
    """
    values = np.sort(np.asarray(per_identity, dtype=np.float64))
    if not np.isfinite(values).all():
        raise ValueError("An interval needs finite values.")
    if not 0 < level < 1:
        raise ValueError(f"The level of an interval is between 0 and 1, not {level}.")
    if len(values) < 2:
        return None, None
    if values[0] == values[-1]:
        return float(values[0]), float(values[0])
    means = _resampled_means(values, seed, replicates)
    bias, skew = _bias(means, values.mean()), _acceleration(values)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [_corrected(q, bias, skew) for q in (tail, 1 - tail)])
    return float(low), float(high)


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's t interval of the mean, for the means of a few seeds.

    Raises:
        ValueError: a value is not finite, or ``level`` is not between 0 and 1.
    """
    sample = np.asarray(values, dtype=np.float64)
    if not np.isfinite(sample).all():
        raise ValueError("An interval needs finite values.")
    if not 0 < level < 1:
        raise ValueError(f"The level of an interval is between 0 and 1, not {level}.")
    if len(sample) < 2:
        return None, None
    half = _t_quantile(level, len(sample) - 1) * sample.std(ddof=1) / math.sqrt(len(sample))
    return float(sample.mean() - half), float(sample.mean() + half)


def paired_difference(
    a: Mapping[str, float],
    b: Mapping[str, float],
    seed: int = 0,
    replicates: int = 10_000,
    level: float = 0.95,
) -> Difference:
    """How much ``a`` exceeds ``b``, paired by identity (those in both), with a BCa bootstrap interval."""
    differences = [a[label] - b[label] for label in a.keys() & b.keys()]
    if not differences:
        return Difference(None, None, None, 0)
    low, high = bootstrap_interval(differences, seed, replicates, level)
    return Difference(math.fsum(differences) / len(differences), low, high, len(differences))


def _resampled_means(values: NDArray[np.float64], seed: int, replicates: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK // len(values))
    blocks = [
        values[rng.integers(0, len(values), (min(rows, replicates - start), len(values)))].mean(1)
        for start in range(0, replicates, rows)
    ]
    return np.concatenate(blocks)


def _bias(means: NDArray[np.float64], mean: float) -> float:
    """z0: the share of replicates below the mean as a normal quantile. Ties, up to rounding, count half."""
    rounding = 1e-12 * max(abs(mean), float(np.abs(means).max()))
    below = np.mean(means < mean - rounding) + np.mean(means <= mean + rounding)
    return _NORMAL.inv_cdf(float(np.clip(below / 2, 0.5 / len(means), 1 - 0.5 / len(means))))


def _acceleration(values: NDArray[np.float64]) -> float:
    """a: from the jackknife, which for the mean is the skewness of the values over 6 sqrt(n)."""
    centred = (values - values.mean()) / np.abs(values - values.mean()).max()
    return float((centred**3).sum() / (6 * (centred**2).sum() ** 1.5))


def _corrected(quantile: float, bias: float, skew: float) -> float:
    z = bias + _NORMAL.inv_cdf(quantile)
    stretch = 1 - skew * z
    return _NORMAL.cdf(bias + z / stretch) if stretch > 0 else float(z > 0)


def _t_quantile(level: float, freedom: int) -> float:
    """The t with P(|T| <= t) = ``level``, by bisection of the angle atan(t / sqrt(freedom))."""
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        if _t_central(middle, freedom) < level:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _t_central(angle: float, freedom: int) -> float:
    """P(|T| <= sqrt(freedom) tan(angle)), the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for power in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (power - 1) / power
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
