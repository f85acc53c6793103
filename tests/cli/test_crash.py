"""Whatever is killed whenever: the same command goes on and gives the numbers of an uninterrupted run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from once import Once
from tiny import PATIENCE, Cli, images, make_root, numbers, until, workers_of

from mibench.keys import digest
from mibench.protocol.methods import Selection
from mibench.records import numbered
from mibench.registry import Registry
from mibench.running.request import build_plan

ASK = ("run", "--track", "tiny", "--device", "cpu", "--jobs", "1", "--attack", "gmi", "--json")
BLOCK = 2  # identities; so that an inversion has three blocks
WHERE = {
    "target": "work/{}/state/state-train/state.json",
    "prior": "work/{}/state/state-wgan_gp/state.json",
    "invert": "work/{}/blocks/*.json",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(once: Once) -> Path:
    presets = {"wgan_gp": {"steps": 400}, "gmi": {"iterations": 400}}
    return once("crash-root", lambda folder: make_root(folder, {"target": {"epochs": 250}}, presets))


def new_home(home: Path, root: Path) -> tuple[Cli, dict[str, str]]:
    """An empty home that remembers small blocks of identities; the keys of the run's stages by kind."""
    cli = Cli(home, root, MIBENCH_CHECKPOINT_SECONDS="0.2")
    planned = json.loads(cli("plan", "--track", "tiny", "--attack", "gmi", "--json").stdout)
    keys = {stage["kind"]: stage["key"] for stage in planned["stages"]}
    memory = home / "cache" / "blocks.json"
    memory.parent.mkdir(parents=True, exist_ok=True)
    memory.write_text(json.dumps({f"cpu/tiny/gmi/{digest(stage_of(root, keys['invert'])['params'])[:12]}": BLOCK}))
    return cli, keys


def outputs(cli: Cli) -> dict[str, Any]:
    """The hashes of everything that was computed."""
    manifests = [json.loads(path.read_text()) for path in cli.home.glob("store/*/*/*/manifest.json")]
    return {f"{m['kind']} {m['key']}": m["outputs"] for m in manifests if m["kind"] != "run"}


@pytest.fixture(scope="module")
def uninterrupted(root: Path, once: Once) -> tuple[Any, ...]:
    def make(home: Path) -> None:
        cli, _ = new_home(home, root)
        (home / "answer.json").write_text(cli(*ASK).stdout)

    home = once("crash-whole", make)
    cli = Cli(home, root)
    return numbers(json.loads((home / "answer.json").read_text())), images(cli), outputs(cli)


@pytest.mark.parametrize(
    "victims",
    [
        {"target": "coordinator", "prior": "worker", "invert": "coordinator"},
        {"prior": "coordinator", "invert": "worker"},
    ],
    ids=["three-kills", "two-kills"],
)
def test_killed_run_gives_the_same_numbers(
    root: Path, tmp_path: Path, uninterrupted: tuple[Any, ...], victims: dict[str, str]
) -> None:
    cli, keys = new_home(tmp_path / "home", root)
    moment = random.Random(str(victims))
    first_block: dict[str, int] = {}
    for kind, victim in victims.items():
        process = cli.start(*ASK)
        try:
            until(lambda kind=kind: list(cli.home.glob(WHERE[kind].format(keys[kind]))))
            time.sleep(moment.uniform(0, 0.3))
            [worker] = workers_of(cli.home)
            os.kill(process.pid if victim == "coordinator" else worker, signal.SIGKILL)
            output, error = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        if victim == "worker":
            assert process.returncode == 1 and "killed by SIGKILL" in error
            [run] = json.loads(output)["runs"]
            assert run["status"] == "failed" and "SIGKILL" in run["reason"] and run["metrics"] == {}
        until(lambda: not workers_of(cli.home), 10)  # no orphan goes on computing
        assert not list(cli.home.glob(f"store/{kind}/*/*")), "it was killed too late to tell"
        left = list(cli.home.glob(WHERE[kind].format(keys[kind])))
        assert left, "nothing was saved"
        if kind == "invert":
            labels = [label for path in left for label in json.loads(path.read_text())["labels"]]
            pictures = [p for p in cli.home.glob("work/*/images/*.png") if int(p.name.split("_")[0]) in labels]
            first_block = {path.name: path.stat().st_mtime_ns for path in pictures}
        else:
            assert json.loads(left[0].read_text())["step"] > 0
    answer = json.loads(cli(*ASK).stdout)
    assert answer["runs"][0]["status"] == "done"
    assert (numbers(answer), images(cli), outputs(cli)) == uninterrupted
    assert len(first_block) >= 2 * BLOCK
    kept = {path.name: path.stat().st_mtime_ns for path in cli.home.glob("store/invert/*/*/images/*.png")}
    assert kept.items() >= first_block.items(), "finished blocks were computed again"
    assert not [path for path in cli.home.glob("work/*")], "work was left over"
    assert "agree" in cli("db", "check").stdout


@pytest.mark.parametrize("kind", ["target", "prior"])
def test_worker_goes_on_from_its_state(root: Path, tmp_path: Path, uninterrupted: tuple[Any, ...], kind: str) -> None:
    """A killed worker does not start at the beginning (its first report is beyond the saved step), and computes the
    same."""
    cli, keys = new_home(tmp_path / "home", root)
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"home": str(cli.home), "device": "cpu", "stage": stage_of(root, keys[kind])}))
    command = [sys.executable, "-m", "mibench.running.worker", str(request)]
    options: dict[str, Any] = {"env": cli.environment, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **options) as worker:
        state = until(lambda: list(cli.home.glob(WHERE[kind].format(keys[kind]))))[0]
        worker.kill()
    saved = json.loads(state.read_text())["step"]
    assert saved > 0
    with subprocess.Popen(command, text=True, **options) as worker:
        assert worker.stdout is not None
        events = [json.loads(line) for line in worker.stdout]
    assert worker.returncode == 0
    reported = [event["step"] for event in events if event["event"] == "progress"]
    assert saved < reported[0] and reported == sorted(reported)
    mine = outputs(cli)
    assert mine and mine.items() <= uninterrupted[2].items()


def stage_of(root: Path, key: str) -> dict[str, Any]:
    """The stage as the executor hands it to a worker."""
    registry = Registry(root)
    plan = build_plan(registry, registry.track("tiny"), [], [Selection("attack", "gmi")], numbered(1))
    return asdict(plan.stages[key])


def test_worker_ends_with_its_parent(root: Path, tmp_path: Path) -> None:
    """The executor's end of the pipe closes when it dies, however it dies."""
    cli, keys = new_home(tmp_path / "home", root)
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"home": str(cli.home), "device": "cpu", "stage": stage_of(root, keys["target"])}))
    command = [sys.executable, "-m", "mibench.running.worker", str(request)]
    with subprocess.Popen(
        command, env=cli.environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as worker:
        until(lambda: list(cli.home.glob(f"work/{keys['target']}/state")))
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.wait(10) == 3
    assert not list(cli.home.glob("store/target/*/*"))
