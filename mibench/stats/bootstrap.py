"""The interval over identities. A pure function of numbers, numpy only, the same on every call."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float] | tuple[None, None]

_NORMAL = NormalDist()
_BLOCK = 2**22  # resampled values held at once


def bootstrap_interval(
    per_identity: Sequence[float], seed: int = 0, replicates: int = 10_000, level: float = 0.95
) -> Interval:
    """The BCa bootstrap interval of the mean over identities (Efron 1987; DiCiccio and Efron 1996, eq. 2.3).

    Identities are resampled, never images: those of one identity are not independent. The order of the values
    does not matter. Equal values give an interval of no width, which says that the sample shows no variation,
    not that there is none. Fewer than two values have no interval: ``(None, None)``.

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
