"""Compute one stage in this process: ``python -m mibench.worker REQUEST``, a JSON file made by an executor.

Events are JSON lines on standard output: progress, done, failed. Standard error is the log.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

STAGES = {
    "evaluator": "mibench.stages.evaluator:run",
    "target": "mibench.stages.target:run",
    "prior": "mibench.stages.prior:run",
    "prepare": "mibench.stages.invert:prepare",
    "invert": "mibench.stages.invert:run",
    "utility": "mibench.stages.utility:run",
    "evaluate": "mibench.stages.evaluate:run",
    "features": "mibench.stages.features:run",
}


def emit(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def compute(request: dict[str, Any]) -> None:
    """Claim the stage, run it, publish its artefact."""
    import torch

    from mibench.environment import describe
    from mibench.plan import Stage
    from mibench.registry import Registry
    from mibench.stages.job import Job
    from mibench.store.artifacts import STATE, Manifest, Store
    from mibench.tracks import Track

    device = torch.device(request["device"])
    if device.type == "cpu":
        torch.set_num_threads(1)  # the same sums on every machine; several stages run beside each other
    else:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.cuda.set_device(device)
    fields = request["stage"]
    stage = Stage(**fields | {"inputs": {role: tuple(pair) for role, pair in fields["inputs"].items()}})
    store = Store(Path(request["home"]))
    waiting = {
        "event": "progress",
        "name": "waiting for another process",
        "step": 0,
        "steps": 0,
        "loss": None,
    }
    with store.claim(stage.kind, stage.key, lambda: emit(waiting)) as claim:
        if claim.damaged:
            emit({"event": "note", "message": f"{claim.damaged}. It is computed again."})
        if claim.manifest is not None:
            return
        registry = Registry(home=store.home)
        if request.get("track"):
            registry.add(Track.model_validate(request["track"]))
        job = Job(stage, store, registry, claim.workdir, device, emit)
        (claim.workdir / STATE).mkdir(exist_ok=True)
        started, clock = datetime.now(UTC), time.monotonic()
        _ = job.data  # built now if it is not there, so that it cannot come between seeding and computing
        before = _seconds_so_far(claim.workdir / STATE)
        module, function = STAGES[stage.kind].split(":")
        with _Clock(claim.workdir / STATE, before, clock):
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
            seconds=before + time.monotonic() - clock,
            started=started.isoformat(timespec="seconds"),
            environment=describe(str(device)),
            source_sha256=stage.source_sha256,
            result=result,
        )
        store.publish(stage.kind, stage.key, claim.workdir, manifest)


class _Clock:
    """Keeps the seconds already spent on disk, so that a resumed stage reports all of them."""

    def __init__(self, folder: Path, before: float, start: float) -> None:
        self._path, self._before, self._start = folder / "seconds", before, start
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(2):
            scratch = self._path.with_suffix(".new")
            scratch.write_text(str(self._before + time.monotonic() - self._start))
            scratch.replace(self._path)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _seconds_so_far(folder: Path) -> float:
    try:
        return float((folder / "seconds").read_text())
    except (OSError, ValueError):
        return 0.0


def _die_with_parent() -> None:
    """The executor holds our standard input open; when it is gone, so are we."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    from mibench.errors import EXIT_FAILED, StageFailed, UserError

    request = json.loads(Path(sys.argv[1]).read_text())
    _die_with_parent()
    try:
        compute(request)
    except (UserError, StageFailed) as error:
        emit({"event": "failed", "message": str(error), "exit_code": error.exit_code})
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        emit({"event": "failed", "message": f"{type(error).__name__}: {error}", "exit_code": EXIT_FAILED})
        return EXIT_FAILED
    emit({"event": "done"})
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # everything is on disk; tearing torch down takes a second
