"""Compute stages on this machine: one process each, as many at a time as there are slots."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mibench.errors import EXIT_FAILED
from mibench.planning.plan import Stage
from mibench.running.executors import Event
from mibench.store import attempts

WORKER = (sys.executable, "-m", "mibench.running.worker")
GRACE = 10.0  # seconds between asking a stage that passed its limit to end and ending it


@dataclass
class _Process:
    process: subprocess.Popen[str]
    slot: str
    log: Path
    begun: float
    said: Event | None = None  # its last word
    limit: float | None = None  # when it passed its limit


class LocalExecutor:
    """``slots`` are devices, each running one stage at a time: ``["cpu", "cpu"]``, ``["cuda:0", "cuda:1"]``.

    A worker on a GPU sees that GPU alone. Workers never touch the database; they publish artefacts. They end with
    their coordinator, however it ends. ``limit``: seconds after which a stage is ended. ``tracks``: by id, as they were
    planned; a worker reads those it is not given from the registry. ``code``: which code this is (``environment``).
    """

    alone = True

    def __init__(
        self,
        home: Path,
        slots: Sequence[str],
        tracks: Mapping[str, dict[str, Any]] | None = None,
        limit: float | None = None,
        code: dict[str, Any] | None = None,
        worker: Sequence[str] = WORKER,
    ) -> None:
        self._home, self._slots, self._tracks, self._limit = home, list(slots), tracks or {}, limit
        self._code, self._worker = code, list(worker)
        self._events: queue.SimpleQueue[tuple[str, Event] | None] = queue.SimpleQueue()
        self._running: dict[str, _Process] = {}
        self._killed = False
        self._scratch = tempfile.TemporaryDirectory(prefix="mibench-")

    def free(self) -> int:
        return len(self._slots)

    def start(self, stage: Stage) -> str:
        slot = self._slots.pop(0)
        request = Path(self._scratch.name) / f"{stage.key}.json"
        seen, device = visible(slot)
        asked = {"home": str(self._home), "device": device, "stage": asdict(stage), "code": self._code}
        request.write_text(json.dumps(asked | {"track": self._tracks.get(stage.track)}))
        log = log_file(self._home, stage.kind, stage.key)
        with log.open("a") as stream:
            stream.write(f"--- {stage.title} on {slot}, {datetime.now(UTC).isoformat(timespec='seconds')}\n")
            stream.flush()
            process = subprocess.Popen(
                [*self._worker, str(request)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | seen,
                start_new_session=True,  # Ctrl-C reaches us alone; we end the workers
            )
        self._running[stage.key] = _Process(process, slot, log, time.monotonic())
        threading.Thread(target=self._read, args=(stage.key, process), daemon=True).start()
        return slot

    def wait(self, seconds: float | None) -> Iterator[tuple[str, Event]]:
        deadlines = [] if seconds is None else [time.monotonic() + seconds]
        if self._limit is not None:
            deadlines += [p.begun + self._limit if p.limit is None else p.limit + GRACE for p in self._running.values()]
        try:
            left = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
            found = self._events.get(timeout=left)
        except queue.Empty:
            found = None
        self._enforce_limit()
        if found is not None:
            yield from self._told(*found)

    def _told(self, key: str, event: Event) -> Iterator[tuple[str, Event]]:
        own = self._running[key]
        if event["event"] in ("done", "failed", "stopped"):
            own.said = event  # it counts once the process is gone
        elif event["event"] != "exit":
            yield key, event
        else:
            del self._running[key]
            if own.process.stdin:
                own.process.stdin.close()
            (Path(self._scratch.name) / f"{key}.json").unlink(missing_ok=True)
            self._slots.append(own.slot)
            yield key, self._end(key, own, event["code"])

    def _end(self, key: str, own: _Process, code: int) -> Event:
        if code == 0:
            return {"event": "done"}
        if own.limit is not None:
            message = (
                f"It was ended at its limit of {self._limit:g} s; what it had saved is kept. Give it more time with "
                "--limit, or see its log."
            )
            attempts.died(self._home, key, message, "limit")
            return {"event": "failed", "message": message, "exit_code": EXIT_FAILED}
        if own.said is not None and own.said["event"] != "done":
            return own.said
        message = _died(code, own.log)
        attempts.died(self._home, key, message, "stopped" if self._killed else "died")
        return {"event": "failed", "message": message, "exit_code": EXIT_FAILED, "ended": code < 0}

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

    def _read(self, key: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                self._events.put((key, json.loads(line)))
            except ValueError:
                self._events.put((key, {"event": "note", "message": line.rstrip()}))
        self._events.put((key, {"event": "exit", "code": process.wait()}))

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
        self._scratch.cleanup()


def visible(slot: str) -> tuple[dict[str, str], str]:
    """Environment variables with which a process sees the device of a slot alone, and what it calls that device."""
    if slot == "cpu":
        return {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, "cpu"
    index = slot.partition(":")[2] or "0"
    ours = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return {"CUDA_VISIBLE_DEVICES": ours[int(index)] if ours else index}, "cuda:0"


def log_file(home: Path, kind: str, key: str) -> Path:
    """Where the attempts at a stage write their log, one below the other."""
    file = home / "logs" / f"{kind}-{key[:16]}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _kill(process: subprocess.Popen[str]) -> None:
    """End a worker with whatever it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()


def _died(code: int, log: Path) -> str:
    tail = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:] if log.is_file() else []
    said = "" if not tail or tail[0].startswith("---") else tail[0]
    how = f"ended with exit code {code}"
    if code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            how += ", as the system does when memory runs out"
    return f"The worker {how}. {said} Log: {log}".replace("  ", " ")
