"""How the grids that were begun stand: read from files alone, so that any process can tell."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

from mibench.running import grids
from mibench.running.grids import Line
from mibench.running.pulse import ALIVE, pulse_of
from mibench.store import attempts
from mibench.store.artifacts import STATE, Store


@dataclass
class GridState:
    """The stages of a grid by state. ``left``: seconds of computing in those that are not done, as far as known."""

    grid: grids.Summary
    done: list[Line] = field(default_factory=list)
    running: list[tuple[Line, dict[str, Any]]] = field(default_factory=list)  # with what the stage says of itself
    failed: list[tuple[Line, str]] = field(default_factory=list)
    blocked: list[Line] = field(default_factory=list)
    waiting: list[Line] = field(default_factory=list)
    left: float = 0.0
    runs_done: int = 0

    @property
    def moving(self) -> bool:
        """Whether somebody is at work on it."""
        return self.grid.alive or bool(self.running)

    def to_json(self) -> dict[str, Any]:
        counts = {name: len(getattr(self, name)) for name in ("done", "running", "failed", "blocked", "waiting")}
        return {
            "grid": self.grid.id,
            "created": self.grid.created,
            "coordinator": self.grid.alive,
            "command": self.grid.command,
            "title": self.grid.title,
            "runs": len(self.grid.runs),
            "runs_done": self.runs_done,
            "stages": counts,
            "running": [{"key": line.key, "title": line.title} | said for line, said in self.running],
            "failed": [{"key": line.key, "title": line.title, "message": message} for line, message in self.failed],
            "seconds_left": round(self.left, 1),
        }


def grid_states(store: Store) -> list[GridState]:
    """Every grid that was begun and not ended, oldest first."""
    busy = {file.stem for file in store.work.glob("*.lock") if store.held(file.stem)}
    begun = (grids.summary(store.home, name) for name in grids.names(store.home))
    return [_state(store, grid, busy) for grid in begun if grid is not None]


def _state(store: Store, grid: grids.Summary, busy: set[str]) -> GridState:
    whole = GridState(grid)
    root = str(store.root)
    state: list[str] = []
    for line in grid.stages:
        above = {state[place] for place in line.parents}
        if os.path.exists(f"{root}/{line.kind}/{line.key[:2]}/{line.key}/manifest.json"):  # noqa: PTH110 (speed)
            state.append("done")
            whole.done.append(line)
            continue
        whole.left += line.seconds or 0.0
        if line.key in busy:
            state.append("running")
            whole.running.append((line, pulse_of(store.workdir(line.key) / STATE / ALIVE)))
        elif above & {"failed", "blocked"}:
            state.append("blocked")
            whole.blocked.append(line)
        elif above <= {"done"} and (message := _failed(store, line)):
            state.append("failed")
            whole.failed.append((line, message))
        else:
            state.append("waiting")
            whole.waiting.append(line)
    whole.runs_done = sum(all(state[place] == "done" for place in places) for places in grid.runs)
    return whole


def _failed(store: Store, line: Line) -> str | None:
    attempt = attempts.last(store.home, line.key)
    if attempt is None or attempt.outcome in (None, "done", "stopped"):
        return None
    return attempt.message or attempt.outcome


def progress_text(said: dict[str, Any]) -> str:
    """``cpu, gmi 120/1500, 34 s``: what a running stage says of itself."""
    progress = said.get("progress") or {}
    words = [str(said["device"])] if said.get("device") else []
    if said.get("job"):
        words.append(f"job {said['job']}")
    if progress.get("name"):
        steps = f" {progress['step']}/{progress['steps']}" if progress.get("steps") else ""
        words.append(f"{progress['name']}{steps}")
    if said.get("seconds"):
        words.append(f"{said['seconds']:.0f} s")
    if said.get("time") and time.time() - said["time"] > 60:
        words.append("silent for over a minute")
    return ", ".join(words)
