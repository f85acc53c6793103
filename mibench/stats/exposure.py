"""Who is exposed: what an attack recovers of single people (evaluation 7.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Exposure:
    """Of the share of each person's images that are recognised: quantiles (10, 25, 50, 75, 90 %); the shares of people
    with at least half of them (``ids50``), with at least one (``any``) and with none (``never``) recognised; the mean
    of the most exposed tenth (``tail10``, at least one person); and the Gini coefficient, 0 where all are exposed
    alike, None where nobody is."""

    quantiles: tuple[float, ...]
    ids50: float
    any: float
    never: float
    tail10: float
    gini: float | None


def exposure(per_identity: Sequence[float]) -> Exposure:
    """``per_identity``: shares in [0, 1], one per person, at least one. ``any`` compares only where everybody has the
    same number of images."""
    p = np.sort(np.asarray(per_identity, dtype=np.float64))
    n = len(p)
    tail = p[-max(1, math.ceil(n / 10)) :]
    return Exposure(
        quantiles=tuple(float(q) for q in np.quantile(p, QUANTILES)),
        ids50=float((p >= 0.5).mean()),
        any=float((p > 0).mean()),
        never=float((p == 0).mean()),
        tail10=float(tail.mean()),
        gini=None if p[-1] == 0 else float((2 * np.arange(1, n + 1) - n - 1) @ p / (n * p.sum())),
    )


def any_of(successes: Sequence[int], images: int, drawn: int) -> float:
    """The share of people with at least one success if ``drawn`` of their ``images`` images were taken at random:
    1 - mean of C(m - k, m') / C(m, m'). Raises ValueError unless 0 < drawn <= images."""
    if not 0 < drawn <= images:
        raise ValueError(f"expected between 1 and {images} images, found {drawn}")
    missed = [math.comb(images - k, drawn) / math.comb(images, drawn) for k in successes]
    return 1 - math.fsum(missed) / len(missed)
