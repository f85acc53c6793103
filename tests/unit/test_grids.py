"""Grids that were begun: what was typed, how many runs are done, and how one gets rid of them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from mibench.cli import cli, status
from mibench.planning.plan import Plan, PlannedRun, Stage
from mibench.running import grids
from mibench.running.grid_states import grid_states
from mibench.store import locks
from mibench.store.artifacts import Store
from tests.typed import parse

COMMAND = "mibench run --plugin 'my methods/mine.py' --defense mine --attack gmi --seeds 2"


def plan() -> Plan:
    """Two runs that share a target, each with an inversion and its picture in feature space."""
    target = Stage("target", "a" * 64, "none", 1, {}, {}, 0, "orl32", title="target none")
    stages, runs = {target.key: target}, []
    for number, letter in enumerate("bc"):
        invert = Stage("invert", letter * 64, "gmi", 1, {}, {}, number, "orl32", {"target": ("target", target.key)})
        extra = Stage("features", f"{number}" * 64, "none", 1, {}, {}, 0, "orl32", {"invert": ("invert", invert.key)})
        stages |= {invert.key: invert, extra.key: extra}
        runs.append(PlannedRun(letter * 12, None, {s.kind: s for s in (target, invert, extra)}))  # type: ignore[arg-type]
    return Plan(stages, runs)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    monkeypatch.delenv("MIBENCH_DB", raising=False)
    with grids.open_grid(tmp_path, plan(), {"b" * 64: 60.0}, grids.Origin(COMMAND, "Erasing")):
        pass
    for kind, key in (("target", "a"), ("invert", "b")):
        manifest = tmp_path / "store" / kind / (key * 2) / (key * 64) / "manifest.json"
        manifest.parent.mkdir(parents=True)
        manifest.touch()
    return tmp_path


def told(*arguments: str, code: int = 0) -> str:
    found = CliRunner().invoke(cli, arguments)
    assert found.exit_code == code, found.output
    return found.output


def test_runs_are_counted_as_runs_and_the_command_is_said(home: Path) -> None:
    [state] = grid_states(Store(home))
    told_json = state.to_json()
    assert (told_json["runs"], told_json["runs_done"], told_json["stages"]["done"]) == (2, 1, 2)
    shown = told("status")
    assert "'Erasing'" in shown and "1 of 2 runs are done" in shown and COMMAND in shown
    for line in shown.splitlines():
        if line.strip().startswith("mibench "):
            parse(line.strip())
    assert shlex.split(COMMAND)[3] == "my methods/mine.py"


def test_a_grid_is_forgotten_by_the_beginning_of_its_id(home: Path) -> None:
    [name] = grids.names(home)
    with locks.shared(home / "grids" / f"{name}.lock"):
        found = CliRunner().invoke(cli, ["grids", "forget", name[:5]])
        assert "A coordinator is at work" in str(found.exception) and grids.names(home) == [name]
    assert "Unknown grid" in str(CliRunner().invoke(cli, ["grids", "forget", "xyz"]).exception)
    assert name in told("grids", "forget", name[:5])
    assert grids.names(home) == [] and name not in told("status")


def test_leaving_the_watch_is_no_interruption(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", leave)
    [name] = grids.names(home)
    with locks.shared(home / "grids" / f"{name}.lock"):  # it moves
        assert "1 of 2 runs" in told("status", "--watch")
