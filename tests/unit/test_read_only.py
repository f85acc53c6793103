"""A home that is read-only, or somebody else's, answers every command that only reads, and nothing in it changes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from mibench.cli import cli
from mibench.running import grids
from mibench.store.artifacts import Store
from mibench.store.db import Database
from tests.factories import make_run, run_manifest

RUN = make_run(defense="re", attack="gmi")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A read-only mount of a home that holds a run."""
    store, locked = Store(tmp_path / "home"), tmp_path / "locked"
    for record in (RUN, make_run(defense="none", attack="gmi")):
        manifest = run_manifest(record)
        with store.claim("run", manifest.key) as claim:
            store.publish("run", manifest.key, claim.workdir, manifest)
    Database.open(home=store.home)
    (store.home / "logs").mkdir()
    (store.home / "logs" / f"target-{'ab' * 8}.txt").write_text("epoch 1\n")
    locked.mkdir()
    for options in (["--bind", str(store.home)], ["-o", "remount,ro,bind"]):
        done = subprocess.run(["mount", *options, str(locked)], capture_output=True, text=True)
        if done.returncode:
            subprocess.run(["umount", "-l", str(locked)], capture_output=True)
            pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    monkeypatch.setenv("MIBENCH_HOME", str(locked))
    monkeypatch.delenv("MIBENCH_DB", raising=False)
    yield locked
    subprocess.run(["umount", "-l", str(locked)], check=True)


def told(*arguments: str) -> str:
    found = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


READING: dict[str, tuple[tuple[str, ...], str]] = {
    "status": (("status",), "runs      2"),
    "show": (("show", RUN.run), RUN.run),
    "why": (("why", RUN.run, "none+gmi.orl32.s0"), ""),
    "export": (("export", "--format", "json"), RUN.run),
    "logs": (("logs", "abababab"), "epoch 1"),
    "gc": (("gc", "--dry-run"), "0 items"),
    "db path": (("db", "path"), "locked/mibench.db"),
    "data show": (("data", "show"), "celeba64-gmi"),
    "list": (("list", "tracks"), "orl32"),
    "import-checkpoint": (("import-checkpoint", "--list"), "Nothing was imported yet"),
    "suite": (("suite",), "midre"),
    "plan": (("plan", "--attack", "miface", "--dry-run"), "11 stages, 11 to do"),
    "db check": (("db", "check"), "agree"),
}


@pytest.mark.parametrize("name", READING)
def test_it_answers(name: str, home: Path) -> None:
    arguments, expected = READING[name]
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    assert expected in told(*arguments)
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_without_a_database_the_store_answers(home: Path) -> None:
    for file in home.with_name("home").glob("mibench.db*"):
        file.unlink()
    assert RUN.run in told("export", "--format", "json")
    assert not list(home.glob("mibench.db*"))


def test_a_lock_that_somebody_holds_is_seen(home: Path) -> None:
    from mibench.store import locks

    file = home.with_name("home") / "grids" / "x.lock"
    with locks.shared(file):
        assert locks.held(home / "grids" / "x.lock")
    assert not locks.held(home / "grids" / "x.lock") and grids.names(home) == []


def test_what_writes_says_where_it_may_not(home: Path) -> None:
    found = CliRunner().invoke(cli, ["db", "rebuild"])
    assert "MIBENCH_HOME" in str(found.exception) and str(home) in str(found.exception)
    shutil.rmtree(home.with_name("home") / "store")  # the original can be written
