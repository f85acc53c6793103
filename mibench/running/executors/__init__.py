"""Where stages are computed. An executor starts them and tells what becomes of them; what runs when, and what a failure
means for the rest, is decided in ``mibench/running/coordinator.py``, once for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from mibench.planning.plan import Stage
from mibench.stages.events import Said


class Executor(Protocol):
    """A place to compute stages in."""

    alone: bool  # whether stages are claimed on this machine, so that a look at the lock tells who else is at work

    def free(self) -> int:
        """How many stages can be started now."""

    def start(self, stage: Stage) -> str:
        """Start a stage whose parents are done; says where (``cpu``, ``cuda:1``, ``job 4711``)."""

    def wait(self, seconds: float | None) -> Iterable[tuple[str, Said]]:
        """What happened, by key of the stage, last one of ``Done``, ``Failed`` and ``Stopped``; waits until something
        did, or for so many seconds."""

    def wake(self) -> None:
        """Make ``wait`` return soon; called by a signal handler."""

    def stop(self) -> None:
        """Ask what runs to write down where it is and to end."""

    def kill(self) -> None:
        """End what runs now."""

    def close(self) -> None:
        """Give back what the executor holds. Nothing runs any more, or nobody waits for it."""
