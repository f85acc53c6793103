"""Compute one stage in this process: ``python -m mibench.running.worker REQUEST``, a JSON file made by an executor.

With an executor at the other end of its standard input (``tethered``) events are JSON lines on standard output, and
standard error is the log; without one everything goes to the log. SIGTERM asks it to save its state and end.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mibench.protocol.stage_kinds import STAGE_KINDS
from mibench.running.pulse import ALIVE, Emit, Pulse

if TYPE_CHECKING:
    from mibench.planning.plan import Stage
    from mibench.store.artifacts import Store


def emit_line(event: dict[str, Any]) -> None:
    """An event as a line of JSON on standard output."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def compute(request: dict[str, Any], emit: Emit = emit_line) -> None:
    """Claim the stage, run it, publish its artefact. ``emit`` hears of progress; see ``mibench/running/executors``."""
    from mibench.planning.plan import Stage
    from mibench.store import attempts
    from mibench.store.artifacts import Store

    fields = request["stage"]
    stage = Stage(**fields | {"inputs": {role: tuple(pair) for role, pair in fields["inputs"].items()}})
    store = Store(Path(request["home"]))
    waiting = {"event": "progress", "name": "waiting for another process", "step": 0, "steps": 0, "loss": None}
    with store.claim(stage.kind, stage.key, lambda: emit(waiting)) as claim:
        if claim.damaged:
            emit({"event": "note", "message": f"{claim.damaged}. It is computed again."})
        if claim.manifest is not None:
            return
        device, job = _device(request["device"]), os.environ.get("SLURM_JOB_ID")
        attempt = attempts.begin(store.home, stage.key, str(device), stage.source_sha256, job)
        try:
            _compute(request, stage, store, claim.workdir, device, emit)
        except BaseException as error:
            outcome, message, code = _failure(error)
            with suppress(Exception):  # a full disk, which the error itself tells
                attempts.end(store.home, stage.key, attempt, outcome, message, code)
            raise
        attempts.end(store.home, stage.key, attempt, "done")


def _compute(request: dict[str, Any], stage: Stage, store: Store, workdir: Path, device: Any, emit: Emit) -> None:
    from mibench.protocol.tracks import Track
    from mibench.registry import Registry
    from mibench.running.environment import code_version, describe
    from mibench.stages.job import Job
    from mibench.store import attempts
    from mibench.store.artifacts import STATE, Manifest

    registry = Registry(home=store.home)
    if request.get("track"):
        registry.add(Track.model_validate(request["track"]))
    (workdir / STATE).mkdir(exist_ok=True)
    started = datetime.now(UTC)
    with Pulse(workdir / STATE / ALIVE, str(device)) as pulse:
        job = Job(stage, store, registry, workdir, device, pulse.passing(emit))
        _ = job.data  # built now if it is not there, so that it cannot come between seeding and computing
        module, function = STAGE_KINDS[stage.kind].compute.split(":")
        result = getattr(import_module(module), function)(job)
    manifest = Manifest(
        kind=stage.kind,
        key=stage.key,
        plugin=stage.plugin,
        version=stage.version,
        params=stage.params,
        non_default=stage.non_default,
        seed=stage.seed,
        track=stage.track,
        track_version=job.track.version,
        inputs={role: key for role, (_, key) in stage.inputs.items()},
        seconds=pulse.seconds,
        started=started.isoformat(timespec="seconds"),
        environment=describe(str(device)) | {"code": request.get("code") or code_version()},
        source_sha256=stage.source_sha256,
        result=result,
        usage={
            "attempts": len(attempts.read(store.home, stage.key)),
            "device_seconds": round(pulse.device_seconds, 3),
        },
    )
    store.publish(stage.kind, stage.key, workdir, manifest)


def _device(name: str) -> Any:
    """The device, made ready: the same sums on every machine, and several stages beside each other."""
    import torch

    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cpu":
        torch.set_num_threads(1)
    else:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.cuda.set_device(device)
    return device


def _failure(error: BaseException) -> tuple[str, str | None, int]:
    """Outcome, sentence and exit code for what ended a stage."""
    from mibench.errors import EXIT_ENVIRONMENT, EXIT_FAILED, EXIT_INTERRUPTED, StageFailed, UserError
    from mibench.stopping import Stopped

    if isinstance(error, Stopped):
        return "stopped", None, EXIT_INTERRUPTED
    if isinstance(error, (UserError, StageFailed)):
        return ("missing" if error.exit_code == EXIT_ENVIRONMENT else "failed"), str(error), error.exit_code
    words = f"{type(error).__name__}: {error}"
    passing = isinstance(error, (OSError, MemoryError)) or type(error).__name__ == "OutOfMemoryError"
    return ("died" if passing else "failed"), words, EXIT_FAILED


def _die_with_parent() -> None:
    """The executor holds our standard input open; when it is gone, so are we."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()


def _in_the_log(event: dict[str, Any]) -> None:
    """Where nobody listens: all but progress, which is in the pulse."""
    if event["event"] != "progress":
        print(event.get("message") or event["event"], file=sys.stderr, flush=True)


def main() -> int:
    from mibench import stopping

    request = json.loads(Path(sys.argv[1]).read_text())
    emit: Emit = _in_the_log
    if request.get("tethered", True):
        _die_with_parent()
        emit = emit_line
    stopping.listen()
    try:
        compute(request, emit)
    except BaseException as error:
        outcome, message, code = _failure(error)
        if outcome == "stopped":
            emit({"event": "stopped"})
        else:
            if not hasattr(error, "exit_code"):
                traceback.print_exc()
            emit({"event": "failed", "message": message, "exit_code": code})
        return code
    emit({"event": "done"})
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # everything is on disk; tearing torch down takes a second
