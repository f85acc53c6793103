"""The script of a SLURM job and what the job does, without SLURM."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mibench.errors import EXIT_INTERRUPTED
from mibench.running.executors.slurm import job
from mibench.running.executors.slurm.options import batch_script, parse_options
from mibench.store import attempts

KEY = "a" * 64


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in job.WARNINGS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def flags(options: str | None, log: Path = Path("/home/log.txt")) -> dict[str, str | bool]:
    """The options in a script, as sbatch reads them."""
    lines = batch_script("name", log, parse_options(options), ["run", "it's mine"]).splitlines()
    assert lines[0] == "#!/bin/sh" and shlex.split(lines[-1]) == ["srun", "run", "it's mine"]
    found: dict[str, str | bool] = {}
    for line in lines[1:-1]:
        [flag] = shlex.split(line.removeprefix("#SBATCH "))
        name, equals, value = flag.partition("=")
        found[name] = value if equals else True
    return found


def test_script_says_what_every_job_needs() -> None:
    found = flags(None, Path("/ho%me/log.txt"))
    assert found == {
        "--job-name": "name",
        "--nodes": "1",
        "--output": "/ho%%me/log.txt",
        "--open-mode": "append",
        "--requeue": True,
        "--time": "1440",
        "--signal": "USR2@90",
    }


def test_script_passes_options_on() -> None:
    found = flags("partition=gpu,exclusive,time=1-0:00:01,signal-delay=300,nodes=2,comment=a b;c")
    assert (found["--partition"], found["--exclusive"], found["--comment"]) == ("gpu", True, "a b;c")
    assert (found["--time"], found["--signal"], found["--nodes"]) == ("1441", "USR2@300", "2")


@pytest.mark.parametrize("number", job.WARNINGS)
def test_worker_that_only_starts_gives_way(tmp_path: Path, number: int) -> None:
    """It does not listen yet and dies of the signal."""
    attempts.begin(tmp_path, KEY, "cpu", "")
    timer = threading.Timer(0.5, os.kill, (os.getpid(), number))
    timer.start()
    assert job.run(["sleep", "60"], tmp_path, KEY, tmp_path / "log", "a title", None) == EXIT_INTERRUPTED
    assert [a.outcome for a in attempts.read(tmp_path, KEY)] == [None]
    assert "a title as job" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("words", [["sh", "-c", "exit 3"], ["sh", "-c", "kill -TERM $$"]])
def test_worker_that_dies_of_itself_has_failed(tmp_path: Path, words: list[str]) -> None:
    attempts.begin(tmp_path, KEY, "cpu", "")
    with pytest.raises(RuntimeError, match="exit code"):
        job.run(words, tmp_path, KEY, tmp_path / "log", "a title", None)
    assert [a.outcome for a in attempts.read(tmp_path, KEY)] == ["died"]


@pytest.mark.parametrize(
    ("state", "again"),
    [
        ("JobState=RUNNING Reason=None Dependency=(null)", True),
        ("JobState=COMPLETING Reason=TimeLimit Dependency=(null)", True),
        ("JobState=TIMEOUT Reason=TimeLimit Dependency=(null)", True),
        ("JobState=COMPLETING Reason=None Dependency=(null)", False),
        ("JobState=CANCELLED Reason=None Dependency=(null)", False),
        ("", False),
    ],
)
def test_job_is_queued_again_unless_somebody_cancelled_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, again: bool
) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\necho "   {state}"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    job.queue_again()
    assert ("requeue 4711" in (tmp_path / "asked").read_text()) == again
