"""A cluster that computes nothing and keeps its own time: how long a grid would take under the same coordinator."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

from mibench.coordinator import coordinate
from mibench.executors import Event
from mibench.plan import Stage
from mibench.schedule import Schedule, chains


class SimulatedExecutor:
    """``slots`` devices; a stage takes ``seconds`` by key, and ``overhead`` on top of it."""

    alone = True

    def __init__(self, slots: int, seconds: Mapping[str, float], overhead: float = 0.0) -> None:
        self._free, self._seconds, self._overhead = slots, seconds, overhead
        self._running: list[tuple[float, int, str]] = []
        self._count = 0
        self.now = 0.0
        self.busy = 0.0

    def free(self) -> int:
        return self._free

    def start(self, stage: Stage) -> str:
        takes = self._seconds.get(stage.key, 0.0) + self._overhead
        self._free -= 1
        self._count += 1
        self.busy += takes
        heapq.heappush(self._running, (self.now + takes, self._count, stage.key))
        return "simulated"

    def wait(self, seconds: float | None) -> Iterator[tuple[str, Event]]:
        self.now, _, key = heapq.heappop(self._running)
        self._free += 1
        yield key, {"event": "done"}

    def wake(self) -> None:
        pass

    def stop(self) -> None:
        self._running.clear()

    def kill(self) -> None:
        self._running.clear()

    def close(self) -> None:
        pass


def makespan(stages: list[Stage], done: set[str], seconds: Mapping[str, float], slots: int) -> float:
    """Seconds from start to end on ``slots`` devices."""
    executor = SimulatedExecutor(slots, seconds)
    coordinate(Schedule(stages, done, seconds), executor, lambda stage, event: None)
    return executor.now


def bound(stages: list[Stage], seconds: Mapping[str, float], slots: int) -> float:
    """What no schedule can undercut: the longest chain, or all work shared out evenly, whichever is longer."""
    work = sum(seconds.get(stage.key, 0.0) for stage in stages)
    return max(max(chains(stages, seconds).values(), default=0.0), work / slots)
