"""What coordinators were asked for: one file per grid, ``grids/<id>.json``, from the moment computing starts until
every run of it is recorded. So whoever comes later (``status``, ``collect``, another ``run``) can go on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mibench.errors import UserError, unknown
from mibench.keys import digest
from mibench.planning.plan import Cell, Plan, make_plan, prior_name
from mibench.protocol.methods import Facts
from mibench.protocol.stage_kinds import EXTRA
from mibench.protocol.tracks import Track
from mibench.records import Seeds
from mibench.store import atomic, locks

SCHEMA = 2


@dataclass(frozen=True)
class Grid:
    """A grid that was begun. ``alive``: a coordinator is at work on it."""

    id: str
    created: str  # ISO 8601, UTC
    plan: Plan
    alive: bool


@dataclass(frozen=True)
class Line:
    """A stage of a grid, as far as a look at how it stands needs it. ``seconds``: how long it was thought to take."""

    kind: str
    key: str
    title: str
    source_sha256: str
    parents: tuple[int, ...]  # places in the list
    seconds: float | None


@dataclass(frozen=True)
class Summary:
    """A grid without its plan. ``command``: what was typed to begin it, ``title``: what its file calls it; empty where
    nobody said so."""

    id: str
    created: str
    alive: bool
    runs: list[tuple[int, ...]]  # the places of each one's stages
    stages: list[Line]  # parents first
    command: str = ""
    title: str = ""


@dataclass(frozen=True)
class Origin:
    """How a grid came about: what was typed, and what a grid file calls it."""

    command: str = ""
    title: str = ""


def grid_id(plan: Plan) -> str:
    """12 hexadecimal characters that name what was asked for."""
    return digest(sorted(planned.run for planned in plan.runs))[:12]


def folder(home: Path) -> Path:
    return home / "grids"


@contextmanager
def open_grid(home: Path, plan: Plan, seconds: Mapping[str, float], origin: Origin | None = None) -> Iterator[str]:
    """Write the grid down and hold it, together with other coordinators of the same one; its id. ``seconds``: how long
    its stages will take, by key, as far as that is known."""
    name = grid_id(plan)
    places = {key: place for place, key in enumerate(plan.stages)}
    lines = [
        (s.kind, s.key, s.title, s.source_sha256, [places[key] for _, key in s.inputs.values()], seconds.get(s.key))
        for s in plan.stages.values()
    ]
    runs = [[places[s.key] for role, s in planned.stages.items() if role not in EXTRA] for planned in plan.runs]
    summary = {"runs": runs, "stages": lines} | asdict(origin or Origin())
    atomic.write_text(folder(home) / f"{name}.json", json.dumps({"summary": summary} | _question(plan)))
    with locks.shared(folder(home) / f"{name}.lock"):
        yield name


def drop(home: Path, name: str) -> None:
    """Forget a grid: all its runs are recorded, or nobody wants it any more."""
    for suffix in (".json", ".lock"):
        with atomic.writing(folder(home)), suppress(FileNotFoundError):
            (folder(home) / f"{name}{suffix}").unlink()


def forget(home: Path, text: str) -> str:
    """Drop the grid whose id begins with ``text``; its id. Raises UserError if there is none, or somebody is at work on
    it."""
    fitting = [name for name in names(home) if name.startswith(text)]
    if len(fitting) != 1:
        raise unknown("grid", text, names(home))
    if locks.held(folder(home) / f"{fitting[0]}.lock"):
        raise UserError(f"A coordinator is at work on grid {fitting[0]}. End it first, with Ctrl-C.")
    drop(home, fitting[0])
    return fitting[0]


def names(home: Path) -> list[str]:
    """The grids that were begun and not ended, oldest first."""
    files = [path for path in folder(home).glob("*.json") if not path.name.startswith(".")]
    return [path.stem for path in sorted(files, key=lambda path: (path.stat().st_mtime, path.name))]


def summary(home: Path, name: str) -> Summary | None:
    """How a grid was begun, without planning it again; None as for ``load``."""
    try:
        data = json.loads((folder(home) / f"{name}.json").read_text())
        if data["schema"] != SCHEMA:
            return None
        lines = [Line(k, key, title, source, tuple(p), s) for k, key, title, source, p, s in data["summary"]["stages"]]
        alive = locks.held(folder(home) / f"{name}.lock")
        runs = [tuple(places) for places in data["summary"]["runs"]]
        said = {key: str(data["summary"][key]) for key in ("command", "title")}
        return Summary(name, data["created"], alive, runs, lines, **said)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def load(home: Path, name: str) -> Grid | None:
    """A grid as it was planned; None if it is gone or cannot be read (a version that is not ours)."""
    try:
        data = json.loads((folder(home) / f"{name}.json").read_text())
        if data["schema"] != SCHEMA:
            return None
        return Grid(name, data["created"], _answer(data), locks.held(folder(home) / f"{name}.lock"))
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _question(plan: Plan) -> dict[str, Any]:
    """The cells, with what they share written once."""
    tables: dict[str, dict[str, Any]] = {"tracks": {}, "facts": {}, "evaluations": {}}
    places: dict[int, str] = {}

    def place(table: str, item: Any, dump: Any) -> str:
        if id(item) not in places:
            places[id(item)] = str(len(tables[table]))
            tables[table][places[id(item)]] = dump()
        return places[id(item)]

    cells = [
        [
            place("tracks", cell.track, lambda cell=cell: cell.track.model_dump(mode="json")),
            place("facts", cell.defense, lambda cell=cell: asdict(cell.defense)),
            place("facts", cell.attack, lambda cell=cell: asdict(cell.attack)),
            astuple(cell.seeds),
            place("evaluations", cell.evaluation, lambda cell=cell: cell.evaluation),
        ]
        for cell in plan.cells
    ]
    priors = {name: asdict(facts) for name, facts in plan.priors.items()}
    head = {"schema": SCHEMA, "created": datetime.now(UTC).isoformat(timespec="seconds")}
    return head | tables | {"priors": priors, "cells": cells}


def _answer(data: dict[str, Any]) -> Plan:
    tracks = {name: Track.model_validate(track) for name, track in data["tracks"].items()}
    facts = {name: Facts.from_json(value) for name, value in data["facts"].items()}
    priors = {name: Facts.from_json(value) for name, value in data["priors"].items()}
    cells = [
        Cell(tracks[track], facts[defense], facts[attack], Seeds(*seeds), data["evaluations"][evaluation])
        for track, defense, attack, seeds, evaluation in data["cells"]
    ]
    return make_plan(cells, lambda name, params, track: priors[prior_name({"id": name, "params": params}, track)])
