"""Comparing two defenses on the same trainings' seeds and the same people, and many defenses at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mibench.stats.intervals import Table, deviation, seed_interval, t_quantile

POWER = 0.8  # of the smallest difference that a design is said to find


@dataclass(frozen=True)
class Paired:
    """One minus the other: ``mean``, its 95 % t interval over ``seeds`` trainings and the two-sided p value; the
    difference that such a design finds four times in five, ``detectable``. Of one training all but the mean is None:
    one training is no evidence about the method."""

    mean: float
    low: float | None
    high: float | None
    p: float | None
    detectable: float | None
    seeds: int


def paired(one: Table, other: Table) -> Paired:
    """Of two tables (S, I) of the same seeds and people, paired by both."""
    return paired_means(list((one - other).mean(1)))


def paired_means(differences: Sequence[float]) -> Paired:
    """Of one difference per training. Differences that agree to the digit say that there is one, or none at all, and
    not how sure that is: they have no p value and no interval, like one training."""
    n = len(differences)
    mean = math.fsum(differences) / n
    spread = deviation(differences) if n > 1 else 0.0
    if spread == 0:
        return Paired(mean, None, None, None, None, n)
    from scipy.special import stdtr

    error = spread / math.sqrt(n)
    low, high = seed_interval(differences) or (None, None)
    p = 2 * float(stdtr(n - 1, -abs(mean) / error))
    return Paired(mean, low, high, p, (t_quantile(n - 1, 0.975) + t_quantile(n - 1, POWER)) * error, n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values: below a, the tests that hold while one wrong claim among all has a probability of at most a
    (Holm 1979)."""
    ordered = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(ordered):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def shared_ranks(count: int, apart: Callable[[int, int], bool]) -> list[int]:
    """Ranks of ``count`` things in their order, 1 the best: one shares the rank of the group before it unless
    ``apart(first of the group, one)``. Ranks skip as many places as were shared (1, 1, 3)."""
    ranks: list[int] = []
    first = 0
    for index in range(count):
        if index and apart(first, index):
            first = index
        ranks.append(first + 1)
    return ranks
