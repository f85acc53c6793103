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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mibench.errors import EXIT_ENVIRONMENT, EXIT_FAILED
from mibench.plan import Stage

Listener = Callable[[Stage, dict[str, Any]], None]


@dataclass
class Outcome:
    """What became of the stages that were asked for."""

    done: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)  # key -> sentence
    blocked: dict[str, str] = field(default_factory=dict)  # key -> key of the failed parent
    exit_code: int = 0
    interrupted: bool = False


class LocalExecutor:
    """``slots`` are devices, each running one stage at a time: ``["cpu", "cpu"]`` or ``["cuda:0"]``.

    Workers never touch the database; they publish artefacts. Interrupting stops starting and ends the workers;
    finished stages stay, and what a killed worker had saved is resumed by the next run. ``tracks``: by id, as they were
    planned; a worker reads those it is not given from the registry.
    """

    def __init__(
        self, home: Path, slots: list[str], listener: Listener, tracks: Mapping[str, dict[str, Any]] | None = None
    ) -> None:
        self._home, self._slots, self._listener, self._tracks = home, slots, listener, tracks or {}
        self._events: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self._running: dict[str, tuple[subprocess.Popen[str], str, Path]] = {}

    def run(self, stages: Iterable[Stage], done: set[str]) -> Outcome:
        """Compute ``stages`` (parents first) whose keys are not in ``done``."""
        outcome = Outcome(done=set(done))
        waiting = {stage.key: stage for stage in longest_chain_first(stages) if stage.key not in done}
        known = dict(waiting)
        free = list(self._slots)
        try:
            with tempfile.TemporaryDirectory(prefix="mibench-") as scratch:
                while waiting or self._running:
                    self._block(waiting, outcome)
                    for key in self._ready(waiting, outcome)[: len(free)]:
                        self._start(waiting.pop(key), free.pop(0), Path(scratch))
                    if not self._running:
                        break
                    self._handle(*self._events.get(), known, outcome, free)
        except KeyboardInterrupt:
            outcome.interrupted = True
        finally:
            self._stop()
        return outcome

    def _ready(self, waiting: dict[str, Stage], outcome: Outcome) -> list[str]:
        return [
            key for key, stage in waiting.items() if all(parent in outcome.done for _, parent in stage.inputs.values())
        ]

    def _block(self, waiting: dict[str, Stage], outcome: Outcome) -> None:
        for key, stage in list(waiting.items()):
            for _, parent in stage.inputs.values():
                if parent in outcome.failed or parent in outcome.blocked:
                    outcome.blocked[key] = parent
                    del waiting[key]
                    break

    def _start(self, stage: Stage, device: str, scratch: Path) -> None:
        request = scratch / f"{stage.key}.json"
        asked = {"home": str(self._home), "device": device, "stage": asdict(stage)}
        request.write_text(json.dumps(asked | {"track": self._tracks.get(stage.track)}))
        log = self._home / "logs" / f"{stage.kind}-{stage.key[:16]}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        if device == "cpu":
            environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "mibench.worker", str(request)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches us alone; we end the workers
            )
        self._running[stage.key] = (process, device, log)
        self._listener(stage, {"event": "started", "device": device})
        threading.Thread(target=self._read, args=(stage.key, process), daemon=True).start()

    def _read(self, key: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                self._events.put((key, json.loads(line)))
            except ValueError:
                self._events.put((key, {"event": "note", "message": line.rstrip()}))
        self._events.put((key, {"event": "exit", "code": process.wait()}))

    def _handle(
        self, key: str, event: dict[str, Any], known: dict[str, Stage], outcome: Outcome, free: list[str]
    ) -> None:
        stage = known[key]
        if event["event"] == "failed":
            outcome.failed[key] = event["message"]
            code = event.get("exit_code", EXIT_FAILED)
            outcome.exit_code = EXIT_ENVIRONMENT if code == EXIT_ENVIRONMENT else EXIT_FAILED
        elif event["event"] == "exit":
            process, device, log = self._running.pop(key)
            if process.stdin:
                process.stdin.close()
            free.append(device)
            if event["code"] == 0:
                outcome.done.add(key)
            elif key not in outcome.failed:
                outcome.failed[key] = _died(event["code"], log)
                outcome.exit_code = EXIT_FAILED
                event = event | {"message": outcome.failed[key]}
        self._listener(stage, event)

    def _stop(self) -> None:
        for process, _, _ in self._running.values():
            process.terminate()
        for process, _, _ in self._running.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()


def longest_chain_first(stages: Iterable[Stage]) -> list[Stage]:
    """Parents-first ``stages``, those first that the longest chain of others waits for; ties keep their order."""
    ordered = list(stages)
    height: dict[str, int] = {}
    for stage in reversed(ordered):
        own = height.setdefault(stage.key, 0)
        for _, parent in stage.inputs.values():
            height[parent] = max(height.get(parent, 0), own + 1)
    return sorted(ordered, key=lambda stage: -height[stage.key])


def _died(code: int, log: Path) -> str:
    tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.is_file() else []
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"The worker {how}. {' '.join(tail)} Log: {log}".replace("  ", " ")
