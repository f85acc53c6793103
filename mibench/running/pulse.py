"""What a running stage says of itself in a file, for whoever asks."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mibench.stages.events import Emit, Progress, Said

ALIVE = "alive.json"  # in a stage's state: what it is doing, for whoever asks


BEAT = 2.0  # seconds between two of them


class Pulse:
    """Says every two seconds, and when it begins with something else, in a file what the stage is doing and what it has
    cost, over all its attempts, so that ``status`` can tell and a resumed stage reports the whole."""

    def __init__(self, path: Path, device: str) -> None:
        self._path, self._device = path, device
        self._start, self._busy = time.monotonic(), time.process_time()
        self._before = pulse_of(path)
        self._progress: Progress | None = None
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def seconds(self) -> float:
        return float(self._before.get("seconds", 0.0)) + time.monotonic() - self._start

    @property
    def device_seconds(self) -> float:
        """Of a GPU: for how long it was held. Of a CPU: seconds in which a core worked."""
        here = time.monotonic() - self._start
        if self._device == "cpu":
            here = time.process_time() - self._busy
        return float(self._before.get("device_seconds", 0.0)) + here

    def passing(self, emit: Emit) -> Emit:
        def tell(event: Said) -> None:
            if isinstance(event, Progress):
                new = self._progress is None or self._progress.name != event.name
                self._progress = event
                if new:
                    self._wake.set()
            emit(event)

        return tell

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(BEAT)
            self._wake.clear()
            with suppress(OSError):  # a full disk stops the stage where it writes results
                self._beat()

    def _beat(self) -> None:
        scratch = self._path.with_suffix(".new")
        said = self._progress.model_dump(exclude={"event"}) if self._progress else {}
        progress = dict.fromkeys(("name", "step", "steps", "loss")) | said
        if progress["loss"] is not None and not math.isfinite(progress["loss"]):
            progress["loss"] = None
        cost = {"seconds": self.seconds, "device_seconds": self.device_seconds}
        where = {"device": self._device, "job": os.environ.get("SLURM_JOB_ID"), "time": time.time()}
        scratch.write_text(json.dumps(cost | where | {"progress": progress}))
        scratch.replace(self._path)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join()  # with a last beat


def pulse_of(path: Path) -> dict[str, Any]:
    """What a stage last said of itself; empty if it never did."""
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
