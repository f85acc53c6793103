"""Utility and privacy together (evaluation 4 and 7.8). Points are (utility, leakage), fractions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np

from mibench.stats.bootstrap import Interval
from mibench.stats.intervals import Table, deviation, t_quantile, two_way_error

Point = tuple[float, float]
Verdict = Literal["dominates", "harmful", "leaks_more", "undetermined"]


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other point beats, by rising utility.

    A point is beaten by one with no less utility and no more leakage that is strictly better in one of
    them; equal points therefore stand or fall together. No convex hull: mixing two models is not a
    defense."""
    front: list[int] = []
    best = math.inf  # the least leakage seen at a higher utility
    by_utility: dict[float, list[int]] = defaultdict(list)
    for index, (utility, _) in enumerate(points):
        by_utility[utility].append(index)
    for utility in sorted(by_utility, reverse=True):
        least = min(points[index][1] for index in by_utility[utility])
        if least < best:
            front += [index for index in reversed(by_utility[utility]) if points[index][1] == least]
            best = least
    return front[::-1]


def leak_at(points: Sequence[Point], undefended: Point, loss: float) -> float:
    """Leak@b: the least leakage of the settings that lose at most ``loss`` (a fraction) of the undefended accuracy; the
    undefended model is one of them."""
    least = undefended[0] - loss - 1e-12
    return min(leakage for utility, leakage in [*points, undefended] if utility >= least)


def hypervolume(points: Sequence[Point], undefended: Point, chance: float, window: float) -> float:
    """The area that settings cover between the undefended model (0) and a free, perfect defense (1): the union of
    [0, u'] x [0, p'], u' the utility from ``window`` below the undefended one on, in windows and at most 1.2, p' the
    share of the undefended leakage above ``chance`` that is gone."""
    numbers = np.array([[*undefended, *(value for point in points for value in point)]])
    return float(hypervolumes(numbers, chance, window)[0])


def hypervolumes(rows: Table, chance: float, window: float) -> Table:
    """The same of every row of (utility, leakage, utility, leakage, ...), the undefended model's first: (rows,). 0
    where that one leaks no more than ``chance``."""
    u0, a0, u, a = rows[:, :1], rows[:, 1:2], rows[:, 2::2], rows[:, 3::2]
    right = np.clip((u - (u0 - window)) / window, 0.0, 1.2)
    room = a0 - chance
    top = np.clip((a0 - a) / np.where(room > 0, room, 1.0), 0.0, 1.0) * (room > 0)
    order = np.argsort(-right, axis=1, kind="stable")
    right, top = np.take_along_axis(right, order, 1), np.take_along_axis(top, order, 1)
    covered = np.maximum.accumulate(np.pad(top, ((0, 0), (1, 0))), axis=1)
    areas: Table = (right * np.diff(covered, axis=1)).sum(1)
    return areas


def delta(undefended: Point, defended: Point, unsure: float = 0.0) -> float | Verdict:
    """The ratio that papers print, points of attack accuracy lost per point of natural accuracy lost; or, where the
    ratio means nothing, the word for it. ``unsure``: the 95 % half width of the loss of natural accuracy.

    It is shown beside papers' figures and ranks nothing: not to defend gets the best ratio."""
    lost, hidden = undefended[0] - defended[0], undefended[1] - defended[1]
    if unsure and abs(lost) < unsure:
        return "undetermined"
    if lost > 0:
        return hidden / lost if hidden > 0 else "harmful"
    return "dominates" if hidden > 0 else "leaks_more"


def fieller(hidden: Sequence[float], lost: Sequence[float]) -> Interval:
    """The 95 % interval of the ratio of two means over the same trainings (Fieller 1954): the ratios r for which a t
    test does not tell ``hidden - r lost`` from 0. None where it has no two ends: what was lost is not told from 0."""
    n = len(lost)
    if n < 2:
        return None, None
    t = t_quantile(n - 1, 0.975) ** 2 / n
    h, x = math.fsum(hidden) / n, math.fsum(lost) / n
    together = math.fsum((a - h) * (b - x) for a, b in zip(hidden, lost, strict=True)) / (n - 1)
    a, b, c = x * x - t * deviation(lost) ** 2, h * x - t * together, h * h - t * deviation(hidden) ** 2
    if a <= 0:
        return None, None
    root = math.sqrt(max(b * b - a * c, 0.0))
    return (b - root) / a, (b + root) / a


def resampled(
    tables: Sequence[Table],
    statistic: Callable[[Table], Table],
    bounds: tuple[float, float],
    seed: int = 0,
    replicates: int = 1000,
) -> Interval:
    """The 95 % interval of a statistic of the means of K tables (S, people), a function of rows (R, K). A crossed
    bootstrap as for the population interval: people are drawn once per replicate for all tables and trainings,
    trainings are drawn as well, and distances from the statistic are stretched to what the two-way layout of its
    linear part says. Cut to ``bounds``; None of one training, or where the statistic does not depend on what varies."""
    stack = np.stack(tables)  # (K, S, people)
    _, seeds, people = stack.shape
    if seeds < 2 or people < 2:
        return None, None
    centre = stack.mean((1, 2))
    rng = np.random.default_rng(seed)
    of_people = rng.multinomial(people, np.full(people, 1 / people), replicates) / people
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), replicates) / seeds
    means = np.stack([((of_seeds @ table) * of_people).sum(1) for table in stack], 1)  # (replicates, K)
    slopes = _slopes(statistic, centre)
    spread = float((means @ slopes).std())
    if spread < 1e-12:
        return None, None
    error, df = two_way_error(np.tensordot(slopes, stack, 1))
    stretch = t_quantile(df, 0.975) * error / (NormalDist().inv_cdf(0.975) * spread)
    value = float(statistic(centre[None])[0])
    low, high = value + stretch * (np.quantile(statistic(means), [0.025, 0.975]) - value)
    return max(float(min(low, value)), bounds[0]), min(float(max(high, value)), bounds[1])


def _slopes(statistic: Callable[[Table], Table], at: Table, step: float = 1e-5) -> Table:
    """The gradient of a statistic, by central differences."""
    moves = np.eye(len(at)) * step
    gradient: Table = (statistic(at + moves) - statistic(at - moves)) / (2 * step)
    return gradient
