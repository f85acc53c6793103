"""Compute one stage in this process: ``python -m mibench.running.worker ORDER``, a file made by an executor.

With an executor at the other end of its standard input (``tethered``) events are JSON lines on standard output, and
standard error is the log; without one everything goes to the log. SIGTERM asks it to save its state and end.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import torch

from mibench import stopping
from mibench.errors import EXIT_ENVIRONMENT, EXIT_FAILED, EXIT_INTERRUPTED, StageFailed, UserError
from mibench.protocol.stage_kinds import STAGE_KINDS
from mibench.registry import Registry
from mibench.running.environment import code_version, describe
from mibench.running.order import Order
from mibench.running.pulse import ALIVE, Pulse
from mibench.stages.events import Done, Emit, Failed, Note, Progress, Said, Stopped
from mibench.stages.job import Job
from mibench.store import attempts
from mibench.store.artifacts import STATE, Manifest, Store
from mibench.store.atomic import filling


def emit_line(event: Said) -> None:
    """An event as a line of JSON on standard output."""
    sys.stdout.write(event.model_dump_json() + "\n")
    sys.stdout.flush()


def compute(order: Order, emit: Emit = emit_line) -> None:
    """Claim the stage, run it, publish its artefact. ``emit`` hears of progress."""
    stage, store = order.stage, Store(order.home)
    waiting = Progress(name="waiting for another process")
    with store.claim(stage.kind, stage.key, lambda: emit(waiting)) as claim:
        if claim.damaged:
            emit(Note(message=f"{claim.damaged}. It is computed again."))
        if claim.manifest is not None:
            return
        device, job = _device(order.device), os.environ.get("SLURM_JOB_ID")
        attempt = attempts.begin(store.home, stage.key, str(device), stage.source_sha256, job)
        try:
            _compute(order, store, claim.workdir, device, emit)
        except BaseException as error:
            outcome, message, code = _failure(error)
            with suppress(Exception):  # a full disk, which the error itself tells
                attempts.end(store.home, stage.key, attempt, outcome, message, code)
            raise
        attempts.end(store.home, stage.key, attempt, "done")


def _compute(order: Order, store: Store, workdir: Path, device: torch.device, emit: Emit) -> None:
    stage = order.stage
    registry = Registry(home=store.home)
    if order.track is not None:
        registry.add(order.track)
    (workdir / STATE).mkdir(exist_ok=True)
    started = datetime.now(UTC)
    with Pulse(workdir / STATE / ALIVE, str(device)) as pulse:
        job = Job(stage, store, registry, workdir, device, pulse.passing(emit))
        _ = job.data  # built now if it is not there, so that it cannot come between seeding and computing
        module, function = STAGE_KINDS[stage.kind].compute.split(":")
        with filling(workdir):
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
        environment=describe(str(device)) | {"code": order.code or code_version()},
        source_sha256=stage.source_sha256,
        result=result,
        usage={
            "attempts": len(attempts.read(store.home, stage.key)),
            "device_seconds": round(pulse.device_seconds, 3),
            "steps": stage.steps,
        },
    )
    store.publish(stage.kind, stage.key, workdir, manifest)


def _device(name: str) -> torch.device:
    """The device, made ready: the same sums on every machine, and several stages beside each other."""
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cpu":
        torch.set_num_threads(1)
    else:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # see ``rounded``
        torch.cuda.set_device(device)
    return device


def _failure(error: BaseException) -> tuple[str, str | None, int]:
    """Outcome, sentence and exit code for what ended a stage."""
    if isinstance(error, stopping.Stopped):
        return "stopped", None, EXIT_INTERRUPTED
    if isinstance(error, (UserError, StageFailed)):
        return ("missing" if error.exit_code == EXIT_ENVIRONMENT else "failed"), str(error), error.exit_code
    words = f"{type(error).__name__}: {error}"
    passing = isinstance(error, (OSError, MemoryError, torch.OutOfMemoryError))
    return ("died" if passing else "failed"), words, EXIT_FAILED


def _die_with_parent() -> None:
    """The executor holds our standard input open; when it is gone, so are we."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()


def _in_the_log(event: Said) -> None:
    """Where nobody listens: all but progress, which is in the pulse."""
    if not isinstance(event, Progress):
        print(getattr(event, "message", event.event), file=sys.stderr, flush=True)


def work(path: Path) -> int:
    """Carry out the order in a file, in this process; the exit code."""
    order = Order.read(path)
    emit: Emit = _in_the_log
    if order.tethered:
        _die_with_parent()
        emit = emit_line
    stopping.listen()
    try:
        compute(order, emit)
    except BaseException as error:
        outcome, message, code = _failure(error)
        if outcome == "stopped":
            emit(Stopped())
        else:
            if not hasattr(error, "exit_code"):
                traceback.print_exc()
            emit(Failed(message=message or outcome, exit_code=code))
        return code
    emit(Done())
    return 0


if __name__ == "__main__":
    code = work(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # everything is on disk; tearing torch down takes a second
