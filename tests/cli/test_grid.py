"""Grids, and what one does with them: files, plans, looks, repeats, logs and housekeeping."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
from pathlib import Path

import pytest
from tiny import Cli

from mibench.errors import MissingError, UserError
from mibench.running import devices
from mibench.running.executors.local import visible

ASK = ("--track", "tiny", "--defense", "re", "--attack", "ppa")
GRID = """
schema: 1
title: A small one
grid:
  - tracks: [tiny]
    defenses: [re, ls]
    attacks: [ppa]
    seeds: 2
  - tracks: [tiny]
    defenses: ['re']
    attacks: [ppa]
    settings: {defense.area: [0.1, 0.2], defense.p: 0.5}
    attack_seeds: 2
"""


@pytest.fixture
def cli(finished: Cli, tmp_path: Path) -> Cli:
    return finished.copy(tmp_path)


def test_grid_file(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(GRID)
    planned = json.loads(cli("plan", "--grid", str(file), "--json").stdout)
    cells = {(run["defense"], run["seed"]) for run in planned["runs"]}
    extra = ("re[area=0.1:0.2,p=0.5]", 0)
    assert cells == {(name, seed) for name in ("none", "re", "ls") for seed in (0, 1)} | {extra}
    again = [run["seeds"]["attack"] for run in planned["runs"] if run["defense"] == extra[0]]
    assert again == [0, 1_000_000] and len(planned["runs"]) == 9, "none too is attacked again"
    known = [stage["seconds"] for stage in planned["stages"] if stage["state"] == "to do"]
    assert all(seconds is not None and seconds >= 0 for seconds in known), "every kind of stage ran here before"
    text = cli("plan", "--grid", str(file), "--slots", "4").stdout
    assert "time: about" in text and "with 4 stages at a time" in text and "with one stage at a time" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("schema: 2\ngrid: []", "schema"),
        ("schema: 1\ngrid: [{tracks: [tiny], defenses: [re], attacks: [ppa], seed: 3}]", "grid.0.seed"),
        ("schema: 1\ngrid: [{tracks: [tiny], defenses: [], attacks: [ppa]}]", "grid.0.defenses"),
        ("schema: 1\ngrid: [{tracks: [nowhere], defenses: [re], attacks: [ppa]}]", "nowhere"),
        ("{", "cannot be read"),
        (None, "There is no grid file"),
    ],
)
def test_wrong_grid_file(finished: Cli, tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "grid.yaml"
    if content is not None:
        file.write_text(content)
    assert said in finished("plan", "--grid", str(file), code=2).stderr


def test_grid_goes_alone(finished: Cli) -> None:
    assert "--grid says what runs" in finished("run", "--grid", "x.yaml", "--seeds", "2", code=2).stderr


def test_force_computes_again_and_the_same(cli: Cli) -> None:
    before = json.loads(cli("run", *ASK, "--json").stdout)["runs"]
    old = {path: path.stat().st_mtime_ns for path in cli.home.glob("store/*/*/*/manifest.json")}
    done = cli("run", *ASK, "--json", "--force", "invert", "--device", "cpu")
    after = json.loads(done.stdout)["runs"]
    assert [run["metrics"] for run in after] == [run["metrics"] for run in before]
    assert not any(run["cached"] for run in after) and "computed again" in done.stderr
    kinds = {path.parts[-4] for path, when in old.items() if path.stat().st_mtime_ns != when}
    assert kinds == {"invert", "evaluate", "features", "run"}, "and what was computed from it, nothing else"
    assert len(list(cli.home.glob("discarded/invert-*"))) == 2
    key = next(cli.home.glob("store/utility/*/*")).name
    again = cli("run", *ASK, "--json", "--force", key[:12], "--device", "cpu")
    assert len(list(cli.home.glob("discarded/utility-*"))) == 1
    assert sum(not run["cached"] for run in json.loads(again.stdout)["runs"]) == 1
    assert "Unknown stage" in cli("run", *ASK, "--force", "nothing", code=2).stderr
    assert "agree" in cli("db", "check").stdout


def test_logs(cli: Cli) -> None:
    manifest = json.loads(next(cli.home.glob("store/target/*/*/manifest.json")).read_text())
    text = cli("logs", manifest["key"][:12]).stdout
    assert f"--- target {manifest['plugin']} seed 0 on cpu" in text
    whole = cli("logs", "re+ppa.tiny.s0").stdout
    assert whole.count("=== ") == 9 and "invert ppa on re seed 0" in whole
    assert "Unknown stage or run" in cli("logs", "nobody", code=2).stderr


def test_gc_spares_what_listed_runs_need(cli: Cli) -> None:
    before = json.loads(cli("run", *ASK, "--json").stdout)["runs"]
    cli("run", "--track", "tiny", "--attack", "ppa", "--defense", "ls", "--device", "cpu", "--quiet")
    kept = {path for path in cli.home.glob("store/*/*/*") if path.parts[-3] != "run"}
    [record] = [p for p in cli.home.glob("store/run/*/*") if '"defense": "ls"' in (p / "manifest.json").read_text()]
    shutil.rmtree(record)
    (cli.home / "mibench.db").unlink()  # a new one lists what the store holds
    (cli.home / "work" / ("0" * 64)).mkdir(parents=True)
    (cli.home / "damaged" / "target-x").mkdir(parents=True)
    (cli.home / "store" / ".something.0123456789ab.tmp").write_text("left")
    assert "0 items" in cli("gc").stdout, "all of it is young"
    listed = cli("gc", "--dry-run", "--days", "0", "--unused").stdout
    assert "would be deleted" in listed and (cli.home / "damaged" / "target-x").exists()
    alone = ("target", "prepare", "invert", "utility", "gradients", "evaluate", "features")  # of ls
    assert listed.count("a finished stage that no run needs") == len(alone)
    said = cli("gc", "--days", "0").stdout
    assert "abandoned" not in said and not (cli.home / "damaged" / "target-x").exists()
    assert not list(cli.home.glob("work/*")) and not list(cli.home.glob("store/.*.tmp"))
    assert {path for path in kept if not path.exists()} == set(), "finished stages stay without --unused"
    cli("gc", "--days", "0", "--unused")
    again = json.loads(cli("run", *ASK, "--json").stdout)["runs"]
    assert all(run["cached"] for run in again) and [r["metrics"] for r in again] == [r["metrics"] for r in before]
    assert "agree" in cli("db", "check").stdout


def test_status_watch_ends_when_nothing_moves(cli: Cli) -> None:
    assert "runs      2" in cli("status", "--watch").stdout
    assert "call it with --json" in cli("status", "--watch", "--json", code=2).stderr


def test_provenance_names_no_host_and_no_user(cli: Cli, tmp_path: Path) -> None:
    """Code version, packages, device, seeds, parents, attempts, seconds, memory and queries are told; who and where
    is not."""
    record = json.loads(cli("show", "re+ppa.tiny.s0", "--json").stdout)
    assert set(record["environment"]["code"]) == {"commit", "modified"} and record["environment"]["packages"]
    for stage in record["stages"]:
        assert stage["attempts"] == 1 and stage["device"] == "cpu" and stage["device_seconds"] >= 0
        assert stage["peak_memory_mib"] > 0 and stage["seed"] is not None
    inputs = {stage["kind"]: set(stage["inputs"]) for stage in record["stages"]}
    assert inputs["evaluate"] == {"evaluator", "invert", "utility"} and inputs["target"] == set()
    assert record["queries"]
    index = Path(cli("site", "build", "--out", str(tmp_path / "site")).stdout.strip())
    page = (index.parent / "run" / f"{record['run']}.html").read_text()
    for words in ("code.modified", "Attempts", "Device time", "Peak memory", "evaluator, invert, utility"):
        assert words in page, words
    exported = cli("export", "--format", "results").stdout
    names = {socket.gethostname(), os.uname().nodename, getpass.getuser(), str(Path.home()), str(cli.home)}
    texts = [exported, *(p.read_text() for p in index.parent.rglob("*.html"))]
    for name in names:
        if len(name) > 4:  # "root" and "vm" are words
            assert not [text for text in texts if name in text], name


@pytest.mark.parametrize("text", ["0", "-1h", "soon", "5d", ""])
def test_wrong_limit(finished: Cli, text: str) -> None:
    assert "Cannot read the time" in finished("run", *ASK, f"--limit={text}", code=2).stderr


def test_gpu_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_count", lambda: 4)
    assert devices.slots("auto") == ["cuda:0"] and devices.slots("cuda:2", 3) == ["cuda:2"] * 3
    assert devices.slots("auto", gpus="0,2", per_gpu=2) == ["cuda:0", "cuda:2", "cuda:0", "cuda:2"]
    assert devices.slots("auto", gpus="all") == [f"cuda:{n}" for n in range(4)]
    assert devices.slots("auto", jobs=3, gpus="1,0", per_gpu=2) == ["cuda:1", "cuda:0", "cuda:1"]
    for wrong in ("", "0;1", "a", "1,"):
        with pytest.raises(UserError, match="Cannot read --gpus"):
            devices.slots("auto", gpus=wrong)
    with pytest.raises(MissingError, match="GPU 4 was asked for, but torch sees 4"):
        devices.slots("auto", gpus="0,4")
    with pytest.raises(UserError, match="contradict"):
        devices.check_device("cpu", "0")


def test_a_worker_sees_its_own_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible("cuda:3") == ({"CUDA_VISIBLE_DEVICES": "3"}, "cuda:0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-abc")
    assert visible("cuda:1") == ({"CUDA_VISIBLE_DEVICES": "GPU-abc"}, "cuda:0")
    assert visible("cpu")[0]["CUDA_VISIBLE_DEVICES"] == ""


def test_progress_is_plain_lines_in_a_log_file(cli: Cli) -> None:
    done = cli("run", *ASK, "--seeds", "2", "--device", "cpu")
    words = {line.split()[0] for line in done.stderr.splitlines()}
    assert words <= {"start", "done", "..."} and "\x1b" not in done.stderr
