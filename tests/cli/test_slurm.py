"""Stages as jobs of a real SLURM on this machine (``.ci/services``)."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from once import Once
from tiny import PATIENCE, Cli, make_root, numbers, until, workers_of

from mibench.errors import UserError
from mibench.running.executors.slurm import job as job_module
from mibench.running.executors.slurm.options import minutes, parse_options
from mibench.store import attempts

pytestmark = pytest.mark.slow
ASK = ("run", "--track", "tiny", "--attack", "ppa", "--json", "--executor", "slurm")
real = pytest.mark.skipif(
    not os.environ.get("MIBENCH_TEST_SLURM"), reason="no SLURM here: .ci/services start DIR, source DIR/env"
)


@pytest.fixture(scope="module")
def slow_root(once: Once) -> Path:
    """A target that trains for about ten seconds."""
    return once("slurm-root", lambda folder: make_root(folder, {"target": {"epochs": 900}}))


@pytest.fixture
def cluster(tmp_path: Path, slow_root: Path, once: Once) -> Any:
    """There is one queue, which every test here empties."""
    with once.alone("slurm"):
        subprocess.run(["scancel", "--me"], check=True)
        yield Cli(tmp_path / "home", slow_root, MIBENCH_SLURM_POLL_SECONDS="0.3", MIBENCH_CHECKPOINT_SECONDS="0.5")
        subprocess.run(["scancel", "--me"], check=True)
        until(lambda: not queue())


@pytest.fixture
def at_once() -> Iterator[None]:
    """SLURM lets a job that was queued again wait for two minutes; here it need not."""
    over = threading.Event()

    def release() -> None:
        waiting: dict[str, int] = {}
        while not over.wait(0.5):
            command = ["squeue", "--me", "-h", "-t", "PD", "-o", "%i|%r"]
            lines = subprocess.run(command, capture_output=True, text=True).stdout.split()
            held = [line.partition("|")[0] for line in lines if line.endswith("|BeginTime")]
            waiting = {job: waiting.get(job, 0) + 1 for job in held}  # a job that runs in between begins anew
            for job, looks in waiting.items():
                if looks == 5:  # its last turn has ended for sure, which would otherwise end this one
                    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True)

    thread = threading.Thread(target=release)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.fixture(scope="module")
def local(once: Once, slow_root: Path) -> tuple[Any, dict[str, Any]]:
    """What the same grid gives without a cluster."""

    def make(home: Path) -> None:
        done = Cli(home, slow_root)("run", "--track", "tiny", "--attack", "ppa", "--json", "--device", "cpu")
        (home / "answer.json").write_text(done.stdout)

    home = once("slurm-local", make)
    return numbers(json.loads((home / "answer.json").read_text())), outputs(Cli(home, slow_root))


def outputs(cli: Cli) -> dict[str, Any]:
    manifests = [json.loads(path.read_text()) for path in cli.home.glob("store/*/*/*/manifest.json")]
    return {f"{m['kind']} {m['key']}": m["outputs"] for m in manifests if m["kind"] != "run"}


def queue() -> dict[str, str]:
    """Our jobs: name -> state."""
    done = subprocess.run(["squeue", "--me", "-h", "-o", "%j|%T"], capture_output=True, text=True, check=True)
    return dict(line.split("|") for line in done.stdout.split())


def jobs(cli: Cli, kind: str) -> list[str]:
    """The numbers of the jobs of a kind of stage."""
    files = [file for file in cli.home.glob("jobs/*/job.json") if key_kind(file) == kind]
    return [json.loads(file.read_text())["job"] for file in files]


def key_kind(file: Path) -> str:
    kind: str = json.loads((file.parent / "order.json").read_text())["stage"]["kind"]
    return kind


def stage_of(pid: int) -> str:
    """The kind of stage that a worker computes."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return key_kind(Path(words[words.index("mibench.running.worker") + 1]))


def is_held(pid: int) -> bool:
    """Whether a process is stopped. SLURM lets one go on with whatever signal it sends."""
    try:
        return "\nState:\tT" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def tries(cli: Cli, kind: str) -> list[attempts.Attempt]:
    [key] = {file.parent.name for file in cli.home.glob("jobs/*/job.json") if key_kind(file) == kind}
    return attempts.read(cli.home, key)


def training(cli: Cli) -> Any:
    """The target has saved a state."""
    return until(lambda: [p for p in cli.home.glob("work/*/state/state-train/state.json") if p.exists()])


@real
def test_same_numbers_as_on_this_machine(cluster: Cli, local: tuple[Any, Any]) -> None:
    done = cluster(*ASK, "--slurm", "partition=gpu,time=0:10:00")
    assert (numbers(json.loads(done.stdout)), outputs(cluster)) == local
    assert "on job" in done.stderr
    again = json.loads(cluster(*ASK).stdout)
    assert all(run["cached"] for run in again["runs"])
    assert not list(cluster.home.glob("grids/*.json")) and "agree" in cluster("db", "check").stdout
    shown = json.loads(cluster("show", again["runs"][0]["run"], "--json").stdout)
    assert {stage["attempts"] for stage in shown["stages"]} == {1}


@real
def test_jobs_go_on_without_their_coordinator(cluster: Cli, local: tuple[Any, Any]) -> None:
    process = cluster.start(*ASK)
    training(cluster)
    process.kill()
    process.communicate()
    assert "mibench-target" in " ".join(queue())
    standing = json.loads(cluster("status", "--json").stdout)["grids"][0]
    assert not standing["coordinator"] and standing["stages"]["running"] >= 1
    second = cluster.start(*ASK)  # adopts the job that still trains
    error = second.communicate(timeout=PATIENCE)[1]
    assert second.returncode == 0 and "adopted job" in error
    assert [a.outcome for a in tries(cluster, "target")] == ["done"] and outputs(cluster) == local[1]


@real
def test_collect_takes_in_what_jobs_have_finished(cluster: Cli) -> None:
    process = cluster.start(*ASK)
    until(lambda: list(cluster.home.glob("logs/evaluate-*")))
    process.kill()
    process.communicate()
    until(lambda: not queue())
    said = cluster("collect").stdout
    assert "of 1 runs" in said
    answer = json.loads(cluster(*ASK).stdout)
    assert answer["runs"][0]["status"] == "done"
    assert "grid" not in cluster("collect").stdout


@real
@pytest.mark.usefixtures("at_once")
def test_preempted_job_is_queued_again_and_resumes(cluster: Cli, local: tuple[Any, Any]) -> None:
    process = cluster.start(*ASK, "--slurm", "partition=low,time=10")
    training(cluster)
    important = ["sbatch", "--parsable", "-p", "gpu", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3"]
    subprocess.run(important, check=True, capture_output=True)
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0
    assert (numbers(json.loads(output)), outputs(cluster)) == local
    tried = tries(cluster, "target")
    assert [a.outcome for a in tried] == ["stopped", "done"] and tried[0].job == tried[1].job


@real
@pytest.mark.usefixtures("at_once")
def test_timed_out_job_is_queued_again_and_resumes(cluster: Cli, local: tuple[Any, Any]) -> None:
    """The time is one minute, the least that SLURM knows. It looks at times every half minute, and a fast machine
    might be done before it warns: the worker is held until then."""
    process = cluster.start(*ASK, "--slurm", "time=1,signal-delay=56")
    training(cluster)
    [worker] = until(lambda: [pid for pid in workers_of(cluster.home) if "target" in stage_of(pid)])
    os.kill(worker, signal.SIGSTOP)
    until(lambda: not is_held(worker))
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0
    assert (numbers(json.loads(output)), outputs(cluster)) == local
    tried = tries(cluster, "target")
    assert tried[-1].outcome == "done" and {a.outcome for a in tried[:-1]} == {"stopped"}
    assert len({a.job for a in tried}) == 1


@real
def test_cancelled_job_takes_one_stage_down(cluster: Cli) -> None:
    process = cluster.start(*ASK, "--defense", "re")
    training(cluster)
    until(lambda: len(jobs(cluster, "target")) == 2)
    victim = min(jobs(cluster, "target"), key=int)
    until(lambda: "RUNNING" in queue().values())
    subprocess.run(["scancel", victim], check=True)
    output, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    states = sorted(run["status"] for run in json.loads(output)["runs"])
    assert states == ["done", "failed"]
    assert f"Job {victim} ended as CANCELLED" in error and "blocked by" in error and "mibench logs" in error


@real
def test_interrupt_saves_and_the_next_run_goes_on(cluster: Cli, local: tuple[Any, Any]) -> None:
    process = cluster.start(*ASK)
    training(cluster)
    until(lambda: re.search(r"running target none seed 0: cpu, job \d+, train", cluster("status").stdout))
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130 and "Finished stages are kept" in error
    until(lambda: not queue())
    assert [a.outcome for a in tries(cluster, "target")] == ["stopped"]
    answer = json.loads(cluster(*ASK).stdout)
    assert (numbers(answer), outputs(cluster)) == local
    assert [a.outcome for a in tries(cluster, "target")] == ["stopped", "done"]


@real
def test_refused_jobs_are_a_sentence(cluster: Cli) -> None:
    said = cluster(*ASK, "--slurm", "partition=nowhere", code=3).stderr
    assert "SLURM did not take the job" in said and "nowhere" in said
    assert not queue()


def test_without_slurm(finished: Cli, tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home", finished.root, PATH=str(Path(shutil.which("env") or "").parent / "nothing"))
    assert "sbatch" in cli(*ASK, code=3).stderr
    assert "--slurm goes with" in finished("run", "--slurm", "time=3", code=2).stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("240", 240),
        ("1:30", 2),
        ("4:00:00", 240),
        ("1-0", 1440),
        ("1-2:30", 1590),
        ("2-00:00:01", 2881),
    ],
)
def test_times_as_slurm_writes_them(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "four", "1:2:3:4", "-5", "1-2-3"])
def test_wrong_times(text: str) -> None:
    with pytest.raises(UserError, match="Cannot read the time"):
        minutes(text)


def test_options() -> None:
    found = parse_options("partition=gpu,time=240,gres=gpu:1,exclusive,cpus_per_task=4")
    assert found == {"partition": "gpu", "time": "240", "gres": "gpu:1", "exclusive": True, "cpus-per-task": "4"}
    assert parse_options(None) == {}
    for wrong in ("=gpu", "partition=", "x y", "a;rm", "signal-delay", "signal-delay=soon"):
        with pytest.raises(UserError, match="Cannot read"):
            parse_options(wrong)


def test_command_ends_a_worker_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not listen, too."""
    key = "a" * 64
    attempts.begin(tmp_path, key, "cpu", "")
    monkeypatch.setattr(job_module, "GRACE", 0.5)
    before = {number: signal.getsignal(number) for number in job_module.WARNINGS}
    try:
        with pytest.raises(RuntimeError, match="limit"):
            job_module.run(
                ["sh", "-c", "trap '' TERM; sleep 1000 & wait; sleep 1000"], tmp_path, key, tmp_path / "log", "t", 0.5
            )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert [a.outcome for a in attempts.read(tmp_path, key)] == ["limit"]
