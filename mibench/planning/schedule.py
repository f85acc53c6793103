"""Which stage is next: a graph of stages, some done, some failed, some blocked. Pure: no clock, no process, no file."""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable, Mapping

from mibench.planning.plan import Stage


class Schedule:
    """The stages to compute, handed out parents first; of those that are ready, the one with the longest chain of
    work behind it (itself included) comes first, and ties keep the order of the plan.

    ``stages``: parents before children. ``done``: keys of finished stages that are not among them. ``seconds``: how
    long each stage will take, as far as anybody knows; without it chains are counted in stages.
    """

    def __init__(
        self, stages: Iterable[Stage], done: Container[str] = (), seconds: Mapping[str, float] | None = None
    ) -> None:
        self.stages = {stage.key: stage for stage in stages}
        self._open = {
            key: {parent for _, parent in stage.inputs.values() if parent in self.stages or parent not in done}
            for key, stage in self.stages.items()
        }
        self._children: dict[str, list[str]] = {}
        for key, parents in self._open.items():
            for parent in parents:
                self._children.setdefault(parent, []).append(key)
        self.chains = chains(self.stages.values(), seconds)
        self._order = {key: place for place, key in enumerate(self.stages)}
        self.unfinished = set(self.stages)  # neither done nor failed nor blocked
        self._ready: list[tuple[float, int, str]] = []
        for key, parents in self._open.items():
            if not parents:
                self.put_back(key)

    def pop(self) -> Stage | None:
        """The next stage to start; None if none is ready."""
        return self.stages[heapq.heappop(self._ready)[2]] if self._ready else None

    def put_back(self, key: str) -> None:
        """Make a stage ready (again)."""
        heapq.heappush(self._ready, (-self.chains[key], self._order[key], key))

    def finish(self, key: str) -> None:
        """A stage is done: its children may become ready."""
        self.unfinished.discard(key)
        for child in self._children.get(key, ()):
            self._open[child].discard(key)
            if not self._open[child] and child in self.unfinished:
                self.put_back(child)

    def fail(self, key: str) -> dict[str, str]:
        """A stage failed. Returns what is blocked by it now: key -> key of the parent that is missing."""
        self.unfinished.discard(key)
        blocked: dict[str, str] = {}
        todo = [key]
        while todo:
            parent = todo.pop()
            for child in self._children.get(parent, ()):
                if child in self.unfinished:
                    self.unfinished.discard(child)
                    blocked[child] = parent
                    todo.append(child)
        return blocked


def chains(stages: Iterable[Stage], seconds: Mapping[str, float] | None = None) -> dict[str, float]:
    """For each stage, the length of the longest chain of stages that starts with it; ``seconds`` as in ``Schedule``."""
    ordered = list(stages)
    below: dict[str, float] = {}
    lengths: dict[str, float] = {}
    for stage in reversed(ordered):
        own = 1.0 if seconds is None else seconds.get(stage.key, 0.0)
        lengths[stage.key] = own + below.get(stage.key, 0.0)
        for _, parent in stage.inputs.values():
            below[parent] = max(below.get(parent, 0.0), lengths[stage.key])
    return lengths
