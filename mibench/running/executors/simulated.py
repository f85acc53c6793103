"""A cluster that computes nothing and keeps its own time: how long a grid would take under the same coordinator."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

from mibench.planning.plan import Stage
from mibench.stages.events import Done, Said


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

    def wait(self, seconds: float | None) -> Iterator[tuple[str, Said]]:
        self.now, _, key = heapq.heappop(self._running)
        self._free += 1
        yield key, Done()

    def wake(self) -> None:
        pass

    def stop(self) -> None:
        self._running.clear()

    def kill(self) -> None:
        self._running.clear()

    def close(self) -> None:
        pass
