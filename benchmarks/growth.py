"""How the cost of an attack's step grows with the number of identities, restarts and pixels."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch

from benchmarks.cases import Setting, Size, attack
from mibench.nets.gan import GmiCritic

IDENTITIES, RESTARTS, SIDES = (5, 15, 30, 60, 120), (1, 2, 4, 8), (32, 64)


def growth(size: Size, repeats: int = 3) -> dict[str, dict[str, float]]:
    """Milliseconds of one step of GMI with the default track's networks: by identities (4 restarts), by restarts (30
    identities), by pixels of a side (30 identities, 4 restarts)."""
    if size.quick:
        return {"identities": {"5": _step(size, 5, 1, 32, 1)}}
    return {
        "identities": {str(n): _step(size, n, 4, 32, repeats) for n in IDENTITIES},
        "restarts": {str(n): _step(size, 30, n, 32, repeats) for n in RESTARTS},
        "pixels": {str(side): _step(size, 30, 4, side, repeats) for side in SIDES},
    }


def _step(size: Size, identities: int, restarts: int, side: int, repeats: int, steps: int = 4) -> float:
    at = Setting(size, "convnet", side, max(identities, 30), 32)
    prior = at.prior(GmiCritic(side, 1, 32).to(size.device).eval())
    labels: Sequence[int] = range(identities)
    method = attack("gmi", at.track, iterations=steps, restarts=restarts)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        list(method.invert(at.oracle(), prior, labels, at.context(labels, restarts)))
        if size.device.type == "cuda":
            torch.cuda.synchronize(size.device)
        seconds.append((time.perf_counter() - start) / steps)
    return 1000 * statistics.median(seconds[1:])
