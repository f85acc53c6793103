"""Compute stages as jobs of a SLURM cluster, through submitit. ``MIBENCH_HOME`` lies on a disk that all nodes share.

No state lives only here: a job's number stands in ``jobs/<key>/job.json`` and what became of it in the stage's attempts
and its artefact. So jobs go on when their coordinator dies, and the next one adopts those that still run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mibench.errors import EXIT_FAILED, EXIT_INTERRUPTED, MissingError, UserError
from mibench.planning.plan import Stage
from mibench.protocol.tracks import Track
from mibench.running.executors.local import GRACE, log_file
from mibench.running.order import Order
from mibench.running.pulse import ALIVE, pulse_of
from mibench.stages.events import Done, Failed, Last, Note, Progress, Said, Stopped
from mibench.store import atomic, attempts, locks
from mibench.store.artifacts import STATE, Store

DEFAULT_MINUTES = 24 * 60
AT_ONCE = 200  # jobs in the queue
REQUEUES = 1000  # a stage may need many short allocations
LIVE = ("PENDING", "REQUEUED", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "RESIZING")
ASK_AGAIN = 3.0  # seconds
PATIENCE = 30.0  # seconds for which a shared disk may hide what a finished job wrote


def parse_options(text: str | None) -> dict[str, str | bool]:
    """``partition=gpu,time=240,gres=gpu:1,exclusive`` -> sbatch options. Raises UserError."""
    options: dict[str, str | bool] = {}
    for item in filter(None, (text or "").split(",")):
        name, equals, value = item.partition("=")
        name = name.strip().lstrip("-").replace("_", "-")
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name) or (equals and not value.strip()):
            raise UserError(
                f"Cannot read {item!r} in --slurm. Expected sbatch options: partition=gpu,time=240,gres=gpu:1."
            )
        options[name] = value.strip() if equals else True
    return options


def minutes(text: str) -> int:
    """SLURM's ways of writing a time limit: ``M``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M`` and ``D-H:M:S``, rounded up.
    Raises UserError."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not found:
        raise UserError(f"Cannot read the time {text!r} in --slurm. Expected minutes or days-hours:minutes:seconds.")
    days, *parts = (int(part or 0) for part in found.groups())
    if found[1] is None:
        hours, minute, second = {1: (0, parts[0], 0), 2: (0, *parts[:2]), 3: tuple(parts)}[1 + text.count(":")]
    else:
        hours, minute, second = parts
    return max(1, -(-((days * 24 + hours) * 3600 + minute * 60 + second) // 60))


class Command:
    """What a job runs: a worker, as strings. Passes on SIGTERM, and, through submitit, a time limit or preemption: the
    worker saves its state, and the job is queued again."""

    def __init__(self, words: list[str], home: str, key: str, log: str, title: str, limit: float | None) -> None:
        self._fields = (words, home, key, log, title, limit)
        self._process: subprocess.Popen[bytes] | None = None
        self._code: int | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Command, self._fields

    def __call__(self) -> int:
        words, home, key, log, title, limit = self._fields
        with Path(log).open("a") as stream:
            now, job = datetime.now(UTC).isoformat(timespec="seconds"), os.environ.get("SLURM_JOB_ID")
            stream.write(f"--- {title} as job {job}, {now}\n")
            stream.flush()
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
                preexec_fn=_hold_signals,
            )
        signal.signal(signal.SIGTERM, lambda number, frame: self._terminate())
        threading.Thread(target=self._wait, daemon=True).start()
        message = self._until_done(limit)
        if message is None and self._code == EXIT_INTERRUPTED:
            if not stop_file(Path(home), key).exists():
                _queue_again()
            return EXIT_INTERRUPTED
        if self._code:
            outcome = "died" if message is None else "limit"
            message = message or f"The worker ended with exit code {self._code}. Log: {log}"
            attempts.died(Path(home), key, message, outcome)
            raise RuntimeError(message)
        return 0

    def _until_done(self, limit: float | None) -> str | None:
        begun = time.monotonic()
        message = None
        while self._code is None:
            time.sleep(0.2)
            over = 0.0 if limit is None else time.monotonic() - begun - limit
            if over > 0 and message is None:
                message = f"It was ended at its limit of {limit:g} s; what it had saved is kept."
                self._terminate()
            elif over > GRACE and self._process is not None:
                self._process.kill()
        return message

    def _wait(self) -> None:
        assert self._process is not None
        self._code = self._process.wait()

    def _terminate(self) -> None:
        if self._process is not None and self._code is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)

    def checkpoint(self) -> Any:
        """Called by submitit, in a signal handler, before the job's time ends or when it is preempted."""
        from submitit.helpers import DelayedSubmission

        self._terminate()
        while self._process is not None and self._code is None:
            time.sleep(0.1)
        return DelayedSubmission(Command(*self._fields))


def stop_file(home: Path, key: str) -> Path:
    """Is there while a coordinator wants the stage's job to end for good."""
    return home / "jobs" / key / "stop"


def _queue_again() -> None:
    """A job that was told to give way, and not by us, and that nobody cancelled, waits for its next turn."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if _final_state(job) == "RUNNING":
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["scontrol", "requeue", job], capture_output=True, timeout=60, check=True)
            time.sleep(60)  # until we are ended


def _hold_signals() -> None:
    """The scheduler's warning goes to every process of a job; until the worker listens, it must not kill it."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


@dataclass
class _Job:
    id: str
    stage: Stage
    state: str = ""
    told: Progress | None = None  # the last
    gone: float | None = None  # when it was first missing from the queue


class SlurmExecutor:
    """``options``: of sbatch. ``jobs``: at most so many in the queue. Other arguments as ``LocalExecutor``."""

    alone = False

    def __init__(
        self,
        home: Path,
        options: Mapping[str, str | bool],
        tracks: Mapping[str, Track] | None = None,
        jobs: int | None = None,
        limit: float | None = None,
        code: dict[str, Any] | None = None,
    ) -> None:
        check_slurm()
        self._home, self._options, self._tracks = home, dict(options), tracks or {}
        self._most, self._limit, self._code = jobs or AT_ONCE, limit, code
        self._store = Store(home)
        self._running: dict[str, _Job] = {}
        self._woken = self._stopping = self._killed = False
        self._asked = 0.0
        self._every = float(os.environ.get("MIBENCH_SLURM_POLL_SECONDS") or 5)
        self._silent = 0

    def free(self) -> int:
        return self._most - len(self._running)

    def start(self, stage: Stage) -> str:
        folder = self._home / "jobs" / stage.key
        with atomic.writing(folder), locks.exclusive(folder / "lock"):  # or two coordinators submit the same stage
            job = self._live(folder)
            word = "job" if job is None else "adopted job"
            stop_file(self._home, stage.key).unlink(missing_ok=True)
            if job is None:
                job = self._submit(stage, folder)
                atomic.write_json(folder / "job.json", {"job": job})
        self._running[stage.key] = _Job(job, stage)
        return f"{word} {job}"

    def _live(self, folder: Path) -> str | None:
        """The job of an earlier coordinator, if it is still in the queue."""
        try:
            job = str(json.loads((folder / "job.json").read_text())["job"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return job if job in (_queue() or {}) else None

    def _submit(self, stage: Stage, folder: Path) -> str:
        import submitit

        track = self._tracks.get(stage.track)
        order = Order(home=self._home, device="auto", stage=stage, track=track, code=self._code, tethered=False)
        request = order.write(folder / "request.json")
        options = dict(self._options)
        executor = submitit.SlurmExecutor(folder / "submitit", max_num_timeout=REQUEUES)
        warning = options.pop("signal-delay", 90)
        executor.update_parameters(
            job_name=f"mibench-{stage.kind}-{stage.key[:8]}",
            time=minutes(str(options.pop("time", DEFAULT_MINUTES))),
            signal_delay_s=int(warning),
            stderr_to_stdout=True,
            additional_parameters={"requeue": True, **options},
        )
        log = log_file(self._home, stage.kind, stage.key)
        words = [sys.executable, "-m", "mibench.running.worker", str(request)]
        command = Command(words, str(self._home), stage.key, str(log), stage.title, self._limit)
        try:
            return str(executor.submit(command).job_id)
        except Exception as error:
            raise MissingError(
                f"SLURM did not take the job for {stage.title}: {error} Correct --slurm, or ask for fewer jobs at a "
                "time with --jobs; jobs that were taken go on, and the same command finds them."
            ) from error

    def wait(self, seconds: float | None) -> Iterator[tuple[str, Said]]:
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            found = list(self._poll())
            if found or self._woken or (deadline is not None and time.monotonic() >= deadline):
                self._woken = False
                yield from found
                return
            self._sleep()

    def _sleep(self) -> None:
        end = time.monotonic() + self._every
        while not self._woken and time.monotonic() < end:
            time.sleep(0.1)

    def _poll(self) -> Iterator[tuple[str, Said]]:
        queue = {} if self._killed else _queue()
        if self._stopping and time.monotonic() > self._asked + ASK_AGAIN:
            self._ask_to_end()
        self._silent = self._silent + 1 if queue is None else 0
        if queue is None:
            if self._silent == 3:
                yield next(iter(self._running)), Note(message="SLURM does not answer; asking again")
            return
        for key, job in list(self._running.items()):
            if job.id in queue:
                job.gone = None
                yield from self._progress(key, job, *queue[job.id])
                continue
            last = self._last_word(job)
            if last is not None:
                del self._running[key]
                yield key, last

    def _progress(self, key: str, job: _Job, state: str, reason: str) -> Iterator[tuple[str, Said]]:
        said = pulse_of(self._store.workdir(key) / STATE / ALIVE).get("progress") or {}
        progress = Progress(name=f"in the queue ({reason})")
        job.state = state
        if state != "PENDING":
            if not said.get("name"):
                return
            progress = Progress(**said)
        if progress != job.told:
            job.told = progress
            yield key, progress

    def _last_word(self, job: _Job) -> Last | None:
        """What became of a job that left the queue; None while the disk may not show it yet."""
        key, kind = job.stage.key, job.stage.kind
        attempt = attempts.last(self._home, key)
        if self._store.path(kind, key).exists():
            return Done()
        ended = attempt is not None and attempt.outcome is not None and attempt.job == job.id
        if ended and attempt is not None and attempt.outcome not in ("done", "stopped"):
            code = attempt.exit_code or EXIT_FAILED
            return Failed(message=attempt.message or str(attempt.outcome), exit_code=code)
        if self._stopping:
            return Stopped()
        state = _final_state(job.id)
        if state in LIVE:
            return None  # between two turns
        if ended and attempt is not None and attempt.outcome == "stopped" and state != "CANCELLED":
            return Stopped()  # it gave way and was not queued again by the cluster: we do that
        job.gone = job.gone or time.monotonic()
        if state in ("", "COMPLETED") and time.monotonic() < job.gone + PATIENCE:
            return None
        log = log_file(self._home, kind, key)
        message = f"Job {job.id} ended as {state or 'unknown'} without a result. Log: {log}"
        attempts.died(self._home, key, message)
        return Failed(message=message)

    def wake(self) -> None:
        self._woken = True

    def stop(self) -> None:
        self._stopping = True
        for key in self._running:
            stop_file(self._home, key).touch()
        self._ask_to_end()

    def _ask_to_end(self) -> None:
        """Again and again, because a job whose first process is only being started does not hear it."""
        self._asked = time.monotonic()
        for job in self._running.values():
            if job.state in ("", "PENDING"):
                _scancel(job.id)
            else:
                _scancel("--signal=TERM", job.id)

    def kill(self) -> None:
        self._killed = True
        for job in self._running.values():
            _scancel(job.id)

    def close(self) -> None:
        """Jobs go on without us."""


def check_slurm() -> None:
    """Raises MissingError without submitit or SLURM's commands."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise MissingError(
            "--executor slurm needs the package submitit, which is not installed: pip install 'mibench[cluster]'"
        ) from None
    lacking = [name for name in ("sbatch", "squeue", "scancel", "scontrol") if shutil.which(name) is None]
    if lacking:
        raise MissingError(
            f"--executor slurm needs SLURM's commands; {', '.join(lacking)} is not on the PATH. Run this on a login "
            "node of the cluster."
        )


def _queue() -> dict[str, tuple[str, str]] | None:
    """Our jobs that wait or run: number -> (state, reason); None if SLURM does not answer."""
    try:
        done = subprocess.run(
            ["squeue", "--me", "--noheader", "--format=%i|%T|%r"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    rows = (line.strip().split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2)
    return {job: (state, reason) for job, state, reason in rows}


def _final_state(job: str) -> str:
    """SLURM's word for how a job ended, if it remembers it."""
    try:
        done = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r"JobState=(\w+)", done.stdout)
    return found[1] if found else ""


def _scancel(*words: str) -> None:
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(["scancel", *words], capture_output=True, timeout=60, check=False)
