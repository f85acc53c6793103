"""How long a grid would take: the same coordinator on a cluster that computes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from mibench.planning.plan import Stage
from mibench.planning.schedule import Schedule, chains
from mibench.running.coordinator import coordinate
from mibench.running.executors.simulated import SimulatedExecutor


def makespan(stages: list[Stage], done: set[str], seconds: Mapping[str, float], slots: int) -> float:
    """Seconds from start to end on ``slots`` devices."""
    executor = SimulatedExecutor(slots, seconds)
    coordinate(Schedule(stages, done, seconds), executor, lambda stage, event: None)
    return executor.now


def bound(stages: list[Stage], seconds: Mapping[str, float], slots: int) -> float:
    """What no schedule can undercut: the longest chain, or all work shared out evenly, whichever is longer."""
    work = sum(seconds.get(stage.key, 0.0) for stage in stages)
    return max(max(chains(stages, seconds).values(), default=0.0), work / slots)
