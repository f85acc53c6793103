"""How much the worst attack recovers: chosen on other trainings than it is reported on, bounded over all attacks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mibench.stats.intervals import deviation, t_quantile


@dataclass(frozen=True)
class Worst:
    """``values``: per training, what the attack recovers there that was worst on the other trainings; ``chosen``, which
    it was. ``mean`` of them; ``bound``: all attacks' true means lie below it with 97.5 % (Bonferroni, so an interval's
    upper end), None of one training, of which attack and figure are the same choice: it is biased upward."""

    values: list[float]
    chosen: list[str]
    mean: float
    bound: float | None

    @property
    def attack(self) -> str:
        """The attack that is worst most often; of several, the first in the alphabet."""
        return min(set(self.chosen), key=lambda name: (-self.chosen.count(name), name))


def worst_attack(means: Mapping[str, Sequence[float]]) -> Worst:
    """``means``: by attack, what it recovers on each of the same S trainings. The largest of noisy means is biased
    upward, so the attack of training s is the one with the largest mean over the others (evaluation 7.5)."""
    names = sorted(means)
    seeds = len(means[names[0]])
    chosen = [max(names, key=lambda name: _without(means[name], s)) for s in range(seeds)]
    values = [means[name][s] for s, name in enumerate(chosen)]
    mean = math.fsum(values) / seeds
    if seeds < 2:
        return Worst(values, chosen, mean, None)
    t = t_quantile(seeds - 1, 1 - 0.025 / len(names))
    uppers = [math.fsum(means[name]) / seeds + t * deviation(means[name]) / math.sqrt(seeds) for name in names]
    return Worst(values, chosen, mean, min(1.0, max(uppers)))


def _without(values: Sequence[float], left_out: int) -> float:
    """The mean of the others; of one value, itself."""
    others = [value for s, value in enumerate(values) if s != left_out] or list(values)
    return math.fsum(others) / len(others)
