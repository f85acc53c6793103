"""Utility and privacy together (evaluation 4 and 7.8). Points are (utility, leakage), fractions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

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
    u0, a0 = undefended
    corners = [
        (min(max((u - (u0 - window)) / window, 0.0), 1.2), min(max((a0 - a) / (a0 - chance), 0.0), 1.0))
        for u, a in points
    ]
    area, covered = 0.0, 0.0
    for u, p in sorted(corners, reverse=True):
        if p > covered:
            area, covered = area + u * (p - covered), p
    return area


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
