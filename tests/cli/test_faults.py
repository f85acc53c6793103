"""Faults at random moments, and afterwards the numbers of an uninterrupted run, bit for bit."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from once import Once
from tiny import PATIENCE, Cli, edit_registry, make_root, numbers, until, workers_of

from mibench.store import attempts

pytestmark = pytest.mark.slow
GRID = ("--track", "tiny", "--device", "cpu", "--defense", "re", "--attack", "ppa", "--json")


@pytest.fixture(scope="module")
def root(once: Once) -> Path:
    """Trainings of a few seconds."""
    return once("faults-root", lambda folder: make_root(folder, {"target": {"epochs": 150}}, {"dcgan": {"steps": 60}}))


def fresh(folder: Path, root: Path) -> Cli:
    return Cli(folder, root, MIBENCH_CHECKPOINT_SECONDS="0.2")


def outputs(cli: Cli) -> dict[str, Any]:
    manifests = [json.loads(path.read_text()) for path in cli.home.glob("store/*/*/*/manifest.json")]
    return {f"{m['kind']} {m['key']}": m["outputs"] for m in manifests if m["kind"] != "run"}


@pytest.fixture(scope="module")
def whole(root: Path, once: Once) -> tuple[Any, dict[str, Any]]:
    def make(home: Path) -> None:
        said = fresh(home, root)("run", *GRID).stdout
        (home / "answer.json").write_text(said)

    home = once("faults-whole", make)
    return numbers(json.loads((home / "answer.json").read_text())), outputs(fresh(home, root))


def finish(cli: Cli, whole: tuple[Any, dict[str, Any]]) -> None:
    answer = json.loads(cli("run", *GRID).stdout)
    assert (numbers(answer), outputs(cli)) == whole
    assert "agree" in cli("db", "check").stdout
    assert not list(cli.home.glob("work/*")) and not list(cli.home.glob("grids/*.json"))


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_at_random_moments(root: Path, tmp_path: Path, whole: tuple[Any, dict[str, Any]], seed: int) -> None:
    cli, dice = fresh(tmp_path / "home", root), random.Random(seed)
    killed = []
    for _ in range(5):
        process = cli.start("run", *GRID, "--jobs", "2")
        time.sleep(dice.uniform(1.5, 5))
        workers = workers_of(cli.home)
        if process.poll() is not None:
            break
        victim = dice.choice(["coordinator", *["worker"] * bool(workers)])
        os.kill(process.pid if victim == "coordinator" else dice.choice(workers), signal.SIGKILL)
        killed.append(victim)
        process.communicate(timeout=PATIENCE)
        until(lambda: not workers_of(cli.home), 20)
    assert len(killed) >= 3
    finish(cli, whole)


def test_terminated_by_a_scheduler(root: Path, tmp_path: Path, whole: tuple[Any, dict[str, Any]]) -> None:
    cli = fresh(tmp_path / "home", root)
    process = cli.start("run", *GRID)
    until(lambda: list(cli.home.glob("work/*/state/state-train/state.json")))
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130 and "Finished stages are kept" in error and "stop   target" in error
    standing = json.loads(cli("status", "--json").stdout)
    assert standing["unfinished"] and standing["grids"][0]["stages"]["failed"] == 0
    finish(cli, whole)
    target = next(key for key in whole[1] if key.startswith("target")).split()[1]
    outcomes = [attempt.outcome for attempt in attempts.read(cli.home, target)]
    assert outcomes in (["stopped", "done"], ["done"])
    manifest = json.loads(next(cli.home.glob(f"store/target/*/{target}/manifest.json")).read_text())
    assert manifest["usage"]["attempts"] == len(outcomes)


def test_worker_saves_when_it_is_asked_to_end(root: Path, tmp_path: Path, whole: tuple[Any, Any]) -> None:
    """Its first report afterwards is beyond the step at which it was asked, though no state was due."""
    cli = Cli(tmp_path / "home", root, MIBENCH_CHECKPOINT_SECONDS="1000")
    process = cli.start("run", *GRID, "--jobs", "1")
    until(lambda: any("train" in p.read_text() for p in cli.home.glob("work/*/state/alive.json")))
    assert not list(cli.home.glob("work/*/state/state-train/state.json"))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    [state] = cli.home.glob("work/*/state/state-train/state.json")
    assert json.loads(state.read_text())["step"] > 0
    finish(cli, whole)


def test_two_coordinators_compute_each_stage_once(root: Path, tmp_path: Path, whole: tuple[Any, Any]) -> None:
    cli = fresh(tmp_path / "home", root)
    processes = [cli.start("run", *GRID, "--jobs", "1") for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    for output, _ in said:
        assert numbers(json.loads(output)) == whole[0]
    assert outputs(cli) == whole[1]
    tried = {path.stem: len(attempts.read(cli.home, path.stem)) for path in cli.home.glob("attempts/*/*.jsonl")}
    assert set(tried.values()) == {1} and len(tried) == len(whole[1])
    started = [error.count("start  ") for _, error in said]
    assert sum(started) >= len(whole[1]) and min(started) >= 2, "they share the work"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk_and_then_room(root: Path, small_disk: Path, whole: tuple[Any, dict[str, Any]]) -> None:
    cli = fresh(small_disk / "home", root)
    for size in (3, 5, 8):
        subprocess.run(["mount", "-o", f"remount,size={size}m", small_disk], check=True)
        done = cli("run", *GRID, code=None)
        if done.returncode == 0:
            break
        assert done.returncode == 3, done.stderr
        assert "full" in done.stderr or "free space" in done.stderr.lower(), done.stderr
    else:
        subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    assert done.returncode == 3 or size > 3
    finish(cli, whole)


BAD = '''"""A defense that {what} (nobody, 2026)."""

import os
import signal
import time

from mibench.contracts import Defense


class Bad(Defense):
    """It {what} at the third step."""

    def loss(self, batch, output, progress):
        if progress.step == 3:
            {code}
        return super().loss(batch, output, progress)
'''


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL, as the system does when memory runs out"),
        ("os._exit(7)", "ended with exit code 7"),
        ("time.sleep(1000)", "ended at its limit of 30 s"),
    ],
    ids=["segfault", "memory", "exit", "hang"],
)
def test_a_crash_takes_one_stage_down(root: Path, tmp_path: Path, whole: tuple[Any, Any], code: str, said: str) -> None:
    own = tmp_path / "root"
    shutil.copytree(root, own, symlinks=True)
    (own / "defenses" / "bad.py").write_text(BAD.format(what="ends badly", code=code))
    edit_registry(own, lambda data: data["defenses"].update(bad={"title": "Bad", "kind": "baseline"}))
    cli = fresh(tmp_path / "home", own)
    limit = ("--limit", "30s") if "sleep" in code else ()
    done = cli("run", *GRID, "--defense", "bad", *limit, code=1)
    states = {run["defense"]: run["status"] for run in json.loads(done.stdout)["runs"]}
    assert states == {"none": "done", "re": "done", "bad": "failed"}
    assert {k: v for k, v in outputs(cli).items() if k in whole[1]} == whole[1], "everything else went on"
    assert said in done.stderr and "1 failed, 6 blocked by them" in done.stderr
    key = done.stderr.rpartition("mibench logs ")[2].split()[0]
    log = cli("logs", key).stdout
    assert "target bad seed 0 on cpu" in log
    assert cli("logs", "bad+ppa.tiny.s0", code=2).stderr
    [grid] = json.loads(cli("status", "--json").stdout)["grids"]
    assert grid["stages"]["failed"] == 1 and grid["stages"]["blocked"] == 6 and not grid["coordinator"]
    assert said in cli("status").stdout
    (own / "defenses" / "bad.py").write_text(BAD.format(what="behaves", code="pass"))
    again = json.loads(cli("run", *GRID, "--defense", "bad").stdout)
    assert all(run["status"] == "done" for run in again["runs"]), "a crash is tried again"


def test_second_interrupt_ends_what_does_not_listen(root: Path, tmp_path: Path) -> None:
    own = tmp_path / "root"
    shutil.copytree(root, own, symlinks=True)
    (own / "defenses" / "bad.py").write_text(BAD.format(what="sleeps", code="time.sleep(1000)"))
    edit_registry(own, lambda data: data["defenses"].update(bad={"title": "Bad", "kind": "baseline"}))
    cli = fresh(tmp_path / "home", own)
    process = cli.start("run", *GRID, "--defense", "bad", "--jobs", "2")
    until(lambda: any('"title": "target bad' in json.dumps(g["running"]) for g in grids_of(cli)))
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    time.sleep(4)
    assert process.poll() is None and len(workers_of(cli.home)) == 1, "it waits for the one that does not listen"
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130 and "Ctrl-C again ends it at once" in error
    until(lambda: not workers_of(cli.home), 10)
    [grid] = grids_of(cli)
    assert grid["stages"]["failed"] == 0 and not grid["coordinator"]


def grids_of(cli: Cli) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cli("status", "--json").stdout)["grids"]
    return found


@pytest.mark.parametrize("damage", ["truncated", "page overwritten", "deleted"])
def test_a_damaged_database_is_named_and_made_again(finished: Cli, tmp_path: Path, damage: str) -> None:
    cli = finished.copy(tmp_path)
    before = cli("export").stdout
    file = cli.home / "mibench.db"
    content = file.read_bytes()
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "page overwritten":
        file.write_bytes(content[:4096] + b"\xa5" * 4096 + content[8192:])
    else:
        file.unlink()
        assert cli("export").stdout == before, "a database that is gone mends itself"
        return
    for command in (("status",), ("run", *GRID), ("db", "check")):
        done = cli(*command, code=None)
        said = done.stdout + done.stderr
        if done.returncode:
            assert "damaged" in said and "mibench db rebuild" in said
    assert done.returncode, "the check finds it"
    cli("db", "rebuild")
    assert cli("export").stdout == before and "agree" in cli("db", "check").stdout
