"""Intervals of a mean over trainings and people, 95 % unless ``level`` says otherwise.

The benchmark interval holds people fixed and asks what other trainings would give; the population interval asks about
other people too. Neither pretends to know what a sample without any spread cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mibench.stats.bootstrap import Interval, bootstrap_interval

Table = NDArray[np.float64]  # (S, I)
_NORMAL = NormalDist()


def seed_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """The t interval of the mean over trainings (evaluation 7.7), None for fewer than two values."""
    if len(values) < 2:
        return None
    n, mean = len(values), math.fsum(values) / len(values)
    half = t_quantile(n - 1, 0.5 + level / 2) * deviation(values) / math.sqrt(n)
    return mean - half, mean + half


def benchmark_interval(table: Table, level: float = 0.95, bounds: tuple[float, float] = (0.0, 1.0)) -> Interval:
    """People fixed, trainings random: the t interval of the S means, cut to ``bounds``. One training, or several that
    agree to the digit, say nothing about others: then the population interval stands in, which is wider."""
    means = table.mean(1)
    if len(means) < 2 or float(np.ptp(means)) == 0:
        return population_interval(table, level, bounds)
    return _cut(seed_interval(list(means), level), bounds)


def population_interval(
    table: Table,
    level: float = 0.95,
    bounds: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
    replicates: int = 10_000,
) -> Interval:
    """People random too: a crossed bootstrap (Owen 2007), people drawn once per replicate for all trainings, trainings
    drawn as well. Resampling a handful of trainings shows too little of their spread and counts what is left over
    three times, so the replicates' distances from the mean are stretched to the standard error of the two-way layout,
    (MS_S + MS_I - MS_E) / (S I), and to the t quantile of its degrees of freedom (Satterthwaite 1946).

    Of one training: over people alone (BCa). Without any spread: what S = 1 and I people who all gave the same answer
    allow (Clopper and Pearson 1934), where the answers are shares; else none."""
    seeds, people = table.shape
    if float(np.ptp(table)) == 0:
        return _unanimous(float(table.flat[0]), people, level) if bounds == (0.0, 1.0) else (None, None)
    if seeds == 1:
        return _cut(bootstrap_interval(list(table[0]), seed, replicates, level), bounds)
    if people == 1:
        return _cut(seed_interval(list(table[:, 0]), level), bounds)
    means = _crossed(table, seed, replicates)
    error, df = two_way_error(table)
    tail = (1 - level) / 2
    stretch = t_quantile(df, 1 - tail) * error / (_NORMAL.inv_cdf(1 - tail) * float(means.std()))
    low, high = table.mean() + stretch * (np.quantile(means, [tail, 1 - tail]) - table.mean())
    return _cut((float(low), float(high)), bounds)


def two_way_error(table: Table) -> tuple[float, float]:
    """The standard error of a table's mean with trainings and people both random, and its degrees of freedom."""
    seeds, people = table.shape
    mean, of_seeds, of_people = table.mean(), table.mean(1), table.mean(0)
    rest = table - of_seeds[:, None] - of_people + mean
    df = np.array([seeds - 1, people - 1, (seeds - 1) * (people - 1)], dtype=np.float64)
    sums = [people * ((of_seeds - mean) ** 2).sum(), seeds * ((of_people - mean) ** 2).sum(), (rest**2).sum()]
    squares = np.array(sums) / df
    total = squares[0] + squares[1] - squares[2]
    if total < max(squares[:2]):  # what is left over is larger than the smaller of the two: keep the larger
        larger = int(np.argmax(squares[:2]))
        return math.sqrt(float(squares[larger]) / table.size), float(df[larger])
    return math.sqrt(float(total) / table.size), float(total**2 / (squares**2 / df).sum())


def two_peaks(means: Sequence[float]) -> bool:
    """Whether trainings fall into two kinds, some of which work: the largest gap between sorted means is over three
    times the spread within its two sides, or they lie more than 30 points apart (evaluation 7.7)."""
    ordered = sorted(means)
    if len(ordered) < 3:
        return False
    if ordered[-1] - ordered[0] > 0.3:
        return True
    gaps = [b - a for a, b in pairwise(ordered)]
    at = gaps.index(max(gaps)) + 1
    sides = [side for side in (ordered[:at], ordered[at:]) if len(side) > 1]
    squares = sum(deviation(side) ** 2 * (len(side) - 1) for side in sides)
    freedom = sum(len(side) - 1 for side in sides)
    return gaps[at - 1] > 3 * math.sqrt(squares / freedom) if freedom else False


def deviation(values: Sequence[float]) -> float:
    """The sample standard deviation."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def t_quantile(df: float, quantile: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, quantile))


def _crossed(table: Table, seed: int, replicates: int) -> NDArray[np.float64]:
    seeds, people = table.shape
    rng = np.random.default_rng(seed)
    of_people = rng.multinomial(people, np.full(people, 1 / people), replicates)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), replicates)
    means: NDArray[np.float64] = ((of_seeds @ table) * of_people).sum(1) / table.size
    return means


def _unanimous(share: float, people: int, level: float) -> Interval:
    from scipy.special import betaincinv

    tail, k = (1 - level) / 2, share * people
    low = 0.0 if k == 0 else float(betaincinv(k, people - k + 1, tail))
    high = 1.0 if k == people else float(betaincinv(k + 1, people - k, 1 - tail))
    return low, high


def _cut(interval: Interval | None, bounds: tuple[float, float]) -> Interval:
    if interval is None or interval[0] is None:
        return None, None
    return max(interval[0], bounds[0]), min(interval[1], bounds[1])
