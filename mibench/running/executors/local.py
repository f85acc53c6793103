"""Compute stages on this machine: one process each, as many at a time as there are slots."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from mibench.planning.plan import Stage
from mibench.protocol.tracks import Track
from mibench.running.forkserver import LOST, POSSIBLE, Forks, Worker
from mibench.running.order import Order
from mibench.stages.events import Done, Failed, Last, Said, read_line
from mibench.store import attempts
from mibench.store.scratch import scratch

WORKER = (sys.executable, "-m", "mibench.running.worker")
FORKS = "forks.txt"  # the log of the process that starts workers on a CPU
GRACE = 10.0  # seconds between asking a stage that passed its limit to end and ending it


@dataclass
class _Process:
    process: subprocess.Popen[str] | Worker
    slot: str
    log: Path
    begun: float
    said: Last | None = None  # its last word
    limit: float | None = None  # when it passed its limit


class LocalExecutor:
    """``slots`` are devices, each running one stage at a time: ``["cpu", "cpu"]``, ``["cuda:0", "cuda:1"]``.

    A worker on a CPU is forked by a process that has imported torch (``mibench/running/forkserver.py``); one on a GPU
    is started, and sees that GPU alone. Workers never touch the database; they publish artefacts. They end with their
    coordinator, however it ends. ``limit``: seconds after which a stage is ended. ``tracks``: by id, as they were
    planned; a worker reads those it is not given from the registry. ``code``: which code this is (``environment``).
    ``worker``: the words of a command that is started instead, with the path of the order.
    """

    alone = True

    def __init__(
        self,
        home: Path,
        slots: Sequence[str],
        tracks: Mapping[str, Track] | None = None,
        limit: float | None = None,
        code: dict[str, Any] | None = None,
        worker: Sequence[str] | None = None,
    ) -> None:
        self._home, self._slots, self._tracks, self._limit = home, list(slots), tracks or {}, limit
        self._code, self._worker = code, worker
        self._events: queue.SimpleQueue[tuple[str, Said | int] | None] = queue.SimpleQueue()  # a number: the exit code
        self._running: dict[str, _Process] = {}
        self._killed = False
        self._open = ExitStack()
        self._scratch = self._open.enter_context(scratch("run"))
        self._forks: Forks | None = None

    def free(self) -> int:
        return len(self._slots)

    def start(self, stage: Stage) -> str:
        slot = self._slots.pop(0)
        seen, device = visible(slot)
        track = self._tracks.get(stage.track)
        order = Order(home=self._home, device=device, stage=stage, track=track, code=self._code)
        path = order.write(self._scratch / f"{stage.key}.json")
        log = log_file(self._home, stage.kind, stage.key)
        with log.open("a") as stream:
            stream.write(f"--- {stage.title} on {slot}, {datetime.now(UTC).isoformat(timespec='seconds')}\n")
            stream.flush()
            process = self._begin(path, seen, stream, forked=device == "cpu" and POSSIBLE and self._worker is None)
        self._running[stage.key] = _Process(process, slot, log, time.monotonic())
        threading.Thread(target=self._read, args=(stage.key, process), daemon=True).start()
        return slot

    def _begin(self, order: Path, seen: dict[str, str], log: TextIO, forked: bool) -> subprocess.Popen[str] | Worker:
        environment = os.environ | {"PYTHONUNBUFFERED": "1"} | seen
        if forked:
            self._forks = self._forks or Forks(environment, self._home / "logs" / FORKS)
            return self._forks.start(order, log.fileno())
        return subprocess.Popen(
            [*(self._worker or WORKER), str(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches us alone; we end the workers
        )

    def wait(self, seconds: float | None) -> Iterator[tuple[str, Said]]:
        deadlines = [] if seconds is None else [time.monotonic() + seconds]
        if self._limit is not None:
            deadlines += [p.begun + self._limit if p.limit is None else p.limit + GRACE for p in self._running.values()]
        try:
            left = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
            word = self._events.get(timeout=left)
        except queue.Empty:
            word = None
        self._enforce_limit()
        if word is not None:
            yield from self._told(*word)

    def _told(self, key: str, said: Said | int) -> Iterator[tuple[str, Said]]:
        own = self._running[key]
        if isinstance(said, Last):
            own.said = said  # it counts once the process is gone
        elif not isinstance(said, int):
            yield key, said
        else:
            del self._running[key]
            if own.process.stdin:
                own.process.stdin.close()
            (self._scratch / f"{key}.json").unlink(missing_ok=True)
            self._slots.append(own.slot)
            yield key, self._end(key, own, said)

    def _end(self, key: str, own: _Process, code: int) -> Last:
        if code == 0:
            return Done()
        if own.limit is not None:
            message = (
                f"It was ended at its limit of {self._limit:g} s; what it had saved is kept. Give it more time with "
                "--limit, or see its log."
            )
            attempts.died(self._home, key, message, "limit")
            return Failed(message=message)
        if own.said is not None and not isinstance(own.said, Done):
            return own.said
        message = _died(code, own.log)
        attempts.died(self._home, key, message, "stopped" if self._killed else "died")
        return Failed(message=message, ended=code < 0)

    def _enforce_limit(self) -> None:
        if self._limit is None:
            return
        now = time.monotonic()
        for own in self._running.values():
            if own.limit is None and now >= own.begun + self._limit:
                own.limit = now
                own.process.terminate()
            elif own.limit is not None and now >= own.limit + GRACE:
                _kill(own.process)

    def _read(self, key: str, process: subprocess.Popen[str] | Worker) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._events.put((key, read_line(line)))
        self._events.put((key, process.wait()))

    def wake(self) -> None:
        self._events.put(None)

    def stop(self) -> None:
        for own in self._running.values():
            own.process.terminate()

    def kill(self) -> None:
        self._killed = True
        for own in self._running.values():
            _kill(own.process)

    def close(self) -> None:
        self.kill()
        for own in self._running.values():
            own.process.wait()
        if self._forks is not None:
            self._forks.close()
        self._open.close()


def visible(slot: str) -> tuple[dict[str, str], str]:
    """Environment variables with which a process sees the device of a slot alone, and what it calls that device."""
    if slot == "cpu":
        return {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }, "cpu"
    index = slot.partition(":")[2] or "0"
    ours = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return {"CUDA_VISIBLE_DEVICES": ours[int(index)] if ours else index}, "cuda:0"


def log_file(home: Path, kind: str, key: str) -> Path:
    """Where the attempts at a stage write their log, one below the other."""
    file = home / "logs" / f"{kind}-{key[:16]}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _kill(process: subprocess.Popen[str] | Worker) -> None:
    """End a worker with whatever it started."""
    if isinstance(process, Worker):
        process.kill()
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()


def _died(code: int, log: Path) -> str:
    tail = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:] if log.is_file() else []
    said = "" if not tail or tail[0].startswith("---") else tail[0]
    if code == LOST:
        return f"The process that starts workers ended, and with it this one. Log: {log.with_name(FORKS)}"
    how = f"ended with exit code {code}"
    if code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            how += ", as the system does when memory runs out"
    return f"The worker {how}. {said} Log: {log}".replace("  ", " ")
