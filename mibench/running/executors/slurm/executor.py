"""The executor for a cluster: submit jobs, watch the queue, and tell what became of them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mibench.errors import EXIT_FAILED, MissingError
from mibench.planning.plan import Stage
from mibench.protocol.tracks import Track
from mibench.running.executors.local import log_file
from mibench.running.executors.slurm import commands
from mibench.running.executors.slurm.job import stop_file
from mibench.running.executors.slurm.options import batch_script
from mibench.running.order import Order
from mibench.running.pulse import ALIVE, pulse_of
from mibench.stages.events import Done, Failed, Last, Note, Progress, Said, Stopped
from mibench.store import atomic, attempts, locks
from mibench.store.artifacts import STATE, Store

AT_ONCE = 200  # jobs in the queue
LIVE = ("PENDING", "REQUEUED", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "RESIZING")
ASK_AGAIN = 3.0  # seconds
PATIENCE = 30.0  # seconds for which a shared disk may hide what a finished job wrote


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
        commands.check_slurm()
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
        with atomic.writing(folder), locks.exclusive(folder / "lock"):  # two coordinators submit a stage once
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
        return job if job in (commands.queue() or {}) else None

    def _submit(self, stage: Stage, folder: Path) -> str:
        track = self._tracks.get(stage.track)
        order = Order(home=self._home, device="auto", stage=stage, track=track, code=self._code, tethered=False)
        path = order.write(folder / "order.json")
        log = log_file(self._home, stage.kind, stage.key)
        words = [sys.executable, "-m", "mibench.running.executors.slurm.job", str(path)]
        words += [] if self._limit is None else [str(self._limit)]
        script = batch_script(f"mibench-{stage.kind}-{stage.key[:8]}", log, self._options, words)
        try:
            return commands.submit(script)
        except MissingError as error:
            raise MissingError(
                f"SLURM did not take the job for {stage.title}: {error}. Correct --slurm, or ask for fewer jobs at a "
                "time with --jobs; jobs that were taken go on, and the same command finds them."
            ) from error

    def wait(self, seconds: float | None) -> Iterator[tuple[str, Said]]:
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            told = list(self._poll())
            if told or self._woken or (deadline is not None and time.monotonic() >= deadline):
                self._woken = False
                yield from told
                return
            self._sleep()

    def _sleep(self) -> None:
        end = time.monotonic() + self._every
        while not self._woken and time.monotonic() < end:
            time.sleep(0.1)

    def _poll(self) -> Iterator[tuple[str, Said]]:
        queue = {} if self._killed else commands.queue()
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
        state, _ = commands.state_of(job.id)
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
                commands.cancel(job.id)
            else:
                commands.cancel("--signal=TERM", job.id)

    def kill(self) -> None:
        self._killed = True
        for job in self._running.values():
            commands.cancel(job.id)

    def close(self) -> None:
        """Jobs go on without us."""
