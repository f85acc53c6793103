"""Is what a run gave again what it gave before? The one place that says within which tolerance."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from mibench.metrics import METRICS
from mibench.publish.results import figures_of
from mibench.records import MetricValue, RunRecord

EXACT = 1e-6  # with the same packages and processor; relative for values above 1
FRACTION = 0.05  # elsewhere: absolute, of metrics that are fractions
RELATIVE = 0.05  # elsewhere: of the stored value, of all other metrics
SAME = ("packages", "python", "machine", "cpu_capability", "threads", "gpu", "cuda")  # of an environment


@dataclass(frozen=True)
class Agreement:
    """One metric, before and again. ``within``: no further apart than ``tolerance``, or inside the stored 95 %
    interval where that counts."""

    metric: str
    stored: float | None
    again: float | None
    difference: float | None
    tolerance: float | None
    within: bool


def same_environment(stored: RunRecord, again: RunRecord) -> bool:
    """Whether both were computed with the same packages on the same kind of processor: then figures are the same."""

    def place(record: RunRecord) -> list[Any]:
        devices = sorted({(stage.device or "").partition(":")[0] for stage in record.stages})
        return [devices, *(record.environment.get(name) for name in SAME)]

    return place(stored) == place(again)


def compare(stored: RunRecord, again: RunRecord) -> list[Agreement]:
    """Every metric of either, in the stored order."""
    exact = same_environment(stored, again)
    names = [*stored.metrics, *(name for name in again.metrics if name not in stored.metrics)]
    none = MetricValue(None)
    return [_agreement(name, stored.metrics.get(name, none), again.metrics.get(name, none), exact) for name in names]


def _agreement(name: str, stored: MetricValue, again: MetricValue, exact: bool) -> Agreement:
    if stored.value is None or again.value is None:
        return Agreement(name, stored.value, again.value, None, None, stored.value is again.value)
    fraction = name in METRICS and METRICS[name].unit == "fraction"
    loose = FRACTION if fraction else RELATIVE * abs(stored.value)
    tolerance = EXACT * max(1.0, abs(stored.value)) if exact else loose
    apart = abs(again.value - stored.value)
    inside = not exact and stored.ci_low is not None and stored.ci_high is not None
    within = apart <= tolerance or (inside and stored.ci_low <= again.value <= stored.ci_high)  # type: ignore[operator]
    return Agreement(name, stored.value, again.value, apart, tolerance, within and math.isfinite(apart))


def outcome(stored: RunRecord, again: RunRecord) -> dict[str, Any]:
    """What is remembered of a reproduction: when, on what, and how far every metric agrees. ``of`` names the stored
    figures, so that others under the same run id do not inherit it."""
    agreements = compare(stored, again)
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "of": figures_of(stored),
        "verdict": "reproduced" if all(item.within for item in agreements) else "differs",
        "exact": same_environment(stored, again),
        "environment": again.environment,
        "metrics": [asdict(item) for item in agreements],
    }
