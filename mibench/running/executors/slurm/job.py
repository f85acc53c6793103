"""What a job runs, ``python -m mibench.running.executors.slurm.job ORDER [SECONDS]``: a worker. When the job is to
give way, the worker is asked to save its state and the job is queued again; after SECONDS the worker is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from mibench.errors import EXIT_FAILED, EXIT_INTERRUPTED
from mibench.running.executors.local import GRACE, WORKER, log_file
from mibench.running.executors.slurm.commands import requeue, state_of
from mibench.running.order import Order
from mibench.store import attempts

WARNINGS = (signal.SIGTERM, signal.SIGUSR2)  # preempted, or told to end by a coordinator; the time is nearly up


def run(words: list[str], home: Path, key: str, log: Path, title: str, limit: float | None) -> int:
    """The exit code of a worker, EXIT_INTERRUPTED if it gave way. Raises RuntimeError if it failed, after noting it."""
    asked: list[int] = []
    with log.open("a") as stream:
        now, job = datetime.now(UTC).isoformat(timespec="seconds"), os.environ.get("SLURM_JOB_ID")
        stream.write(f"--- {title} as job {job}, {now}\n")
        stream.flush()
        worker = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )

    def pass_on(number: int, frame: object) -> None:
        asked.append(number)
        worker.terminate()  # SLURM may have sent its signal to us alone

    for number in WARNINGS:
        signal.signal(number, pass_on)
    over = _ended_at(limit, worker)
    # a worker that was only starting does not listen yet, and has nothing to save
    if not over and (worker.returncode == EXIT_INTERRUPTED or (asked and -worker.returncode in WARNINGS)):
        return EXIT_INTERRUPTED
    if worker.returncode:
        message = f"The worker ended with exit code {worker.returncode}. Log: {log}"
        if over:
            message = f"It was ended at its limit of {limit:g} s; what it had saved is kept."
        attempts.died(home, key, message, "limit" if over else "died")
        raise RuntimeError(message)
    return 0


def _ended_at(limit: float | None, worker: subprocess.Popen[bytes]) -> bool:
    """Wait for a worker; whether it reached its limit and was ended, listening or not."""
    try:
        worker.wait(limit)
        return False
    except subprocess.TimeoutExpired:
        worker.terminate()
    try:
        worker.wait(GRACE)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
    return True


def stop_file(home: Path, key: str) -> Path:
    """Is there while a coordinator wants the stage's job to end for good."""
    return home / "jobs" / key / "stop"


def queue_again() -> None:
    """A job that gave way waits for its next turn. One that was cancelled does not, though SLURM would let it."""
    job = os.environ.get("SLURM_JOB_ID", "")
    state, reason = state_of(job)
    if (state == "RUNNING" or reason == "TimeLimit") and requeue(job):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(60)  # until we are ended


def main() -> int:
    order = Order.read(Path(sys.argv[1]))
    home, stage = order.home, order.stage
    limit = float(sys.argv[2]) if len(sys.argv) > 2 else None
    try:
        code = run([*WORKER, sys.argv[1]], home, stage.key, log_file(home, stage.kind, stage.key), stage.title, limit)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    if code == EXIT_INTERRUPTED and not stop_file(home, stage.key).exists():
        queue_again()
    return code


if __name__ == "__main__":
    sys.exit(main())
