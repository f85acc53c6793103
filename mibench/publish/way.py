"""How far an attack gets: its share of the way from its prior's floor to its prior's ceiling. Pure.

The floor is what the prior gives before anything is optimised, on the same target; the ceiling is what the prior can
draw of these people at best. 0 is a prior that was only asked, 100 % an attack that finds the best its prior has.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mibench.publish.variants import marked
from mibench.records import RunRecord

Bounds = tuple[str, str]  # the ids of floor and ceiling


@dataclass(frozen=True)
class Scale:
    """Of a track and the metric that ranks: floors by defense, prior and seeds, ceilings by prior and judges."""

    floors: Mapping[Hashable, float]
    ceilings: Mapping[Hashable, float]

    @staticmethod
    def of(runs: Iterable[RunRecord], bounds: Bounds | None, metric: str) -> Scale:
        floors: dict[Hashable, float] = {}
        ceilings: dict[Hashable, list[float]] = defaultdict(list)
        if bounds is None:
            return Scale(floors, {})
        for run in runs:
            value, prior = _value(run, metric), prior_of(run)
            if value is None or prior is None or marked(run.attack_label):
                continue
            if run.attack == bounds[0]:
                floors[_floor_of(run)] = value
            elif run.attack == bounds[1]:
                ceilings[_ceiling_of(run)].append(value)
        return Scale(floors, {whose: math.fsum(values) / len(values) for whose, values in ceilings.items()})

    def floor(self, run: RunRecord) -> float | None:
        """Of the prior of a run, on the same target."""
        return self.floors.get(_floor_of(run))

    def shares(self, runs: Sequence[RunRecord], metric: str) -> tuple[dict[int, list[float]], str | None]:
        """Of the finished runs of a cell, by training, (attack - floor) / (ceiling - floor); or the reason why there is
        none."""
        shares: dict[int, list[float]] = defaultdict(list)
        reason = "no run finished"
        for run in (run for run in runs if run.status == "done"):
            value, prior = _value(run, metric), prior_of(run)
            if prior is None:
                reason = "it searches no generative prior"
                continue
            floor, ceiling = self.floor(run), self.ceilings.get(_ceiling_of(run))
            if value is None or floor is None or ceiling is None:
                reason = "floor or ceiling of its prior was not run"
            elif ceiling <= floor:
                reason = "its prior's ceiling is not above its floor"
            else:
                shares[run.seed].append((value - floor) / (ceiling - floor))
        return shares, None if shares else reason


def _floor_of(run: RunRecord) -> Hashable:
    return run.defense_label, prior_of(run), run.seed, run.seeds.evaluator


def _ceiling_of(run: RunRecord) -> Hashable:
    return prior_of(run), run.seeds.evaluator


def prior_of(run: RunRecord) -> Hashable | None:
    """Which prior a run searches: its id and its parameters."""
    stage = next((stage for stage in run.stages if stage.kind == "prior"), None)
    return None if stage is None else (stage.plugin, frozen(stage.params))


def _value(run: RunRecord, metric: str) -> float | None:
    found = run.metrics.get(metric)
    return found.value if found is not None else None


def frozen(value: Any) -> Hashable:
    """Parameters as something that can be compared and looked up."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(key), frozen(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return tuple(frozen(item) for item in value)
    return repr(value)
