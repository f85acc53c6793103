"""How a grid scales with the number of devices: the real coordinator on a simulated cluster.

    python benchmarks/scaling.py

Stage durations are drawn from those that were measured for the runs in ``results/orl32-v1.json`` (by kind and method);
the coordinator only knows their medians, as it would. Writes ``benchmarks/results/scaling.json`` and
``docs/scaling.svg``; the table in ``docs/scaling.md`` is checked against the former by a test.
"""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from mibench.planning.plan import Cell, Plan, make_plan
from mibench.planning.schedule import Schedule
from mibench.protocol.methods import Facts
from mibench.records import numbered
from mibench.registry import Registry
from mibench.running.coordinator import coordinate
from mibench.running.executors.simulated import SimulatedExecutor
from mibench.running.forecast import bound

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "scaling.json"
PLOT = ROOT / "docs" / "scaling.svg"
DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
GRIDS = {"90 runs": (6, 5, 3), "300 runs": (10, 10, 3), "1000 runs": (20, 10, 5)}  # defenses, attacks, seeds


def measured() -> dict[str, dict[str, list[float]]]:
    """Seconds of measured stages by kind, and under the attack that they belong to."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in json.loads((ROOT / "results" / "orl32-v1.json").read_text())["runs"]:
        for stage in run["record"]["stages"]:
            found[stage["kind"]][run["attack"]].append(stage["seconds"])
    return found


def grid(defenses: int, attacks: int, seeds: int, names: list[str]) -> Plan:
    """A plan with the registered attacks' own shape: their priors, their preparation."""
    registry = Registry()
    track = registry.track("orl32").model_copy(update={"panel": None})  # as it was measured
    facts = {name: registry.facts(registry.select("attack", name), track) for name in names[:attacks]}
    guards = [Facts("defense", f"defense{n}", f"defense{n}", 1, {}, {}, "") for n in range(defenses)]
    cells = [Cell(track, d, a, s) for a in facts.values() for d in guards for s in numbered(seeds)]
    return make_plan(
        cells, lambda name, params, on: registry.facts(registry.select("prior", name).with_params(params), on)
    )


def durations(
    plan: Plan, past: dict[str, dict[str, list[float]]], dice: random.Random
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each stage as they will be, and as they are expected."""
    owner: dict[str, str] = {}
    for planned in plan.runs:
        for stage in planned.stages.values():
            owner.setdefault(stage.key, planned.cell.attack.id)
    later = past["evaluate"]  # kinds of stages that those runs did not have: as short as judging
    pools = {key: past.get(stage.kind, later)[owner[key]] for key, stage in plan.stages.items()}
    return {key: dice.choice(pool) for key, pool in pools.items()}, {key: median(pool) for key, pool in pools.items()}


def simulate(plan: Plan, seconds: dict[str, float], expected: dict[str, float], devices: int) -> dict[str, float]:
    """``makespan`` and ``over`` if the medians are all that the coordinator knows; ``over_known`` if it knew all."""
    stages = list(plan.stages.values())
    least = bound(stages, seconds, devices)
    took = {}
    for name, known in (("over", expected), ("over_known", seconds)):
        executor = SimulatedExecutor(devices, seconds)
        clock = time.perf_counter()
        coordinate(Schedule(stages, (), known), executor, lambda stage, event: None)
        took[name] = executor.now
    return {
        "devices": devices,
        "makespan": round(took["over"], 1),
        "bound": round(least, 1),
        "over": round(took["over"] / least, 4),
        "over_known": round(took["over_known"] / least, 4),
        "speedup": round(sum(seconds.values()) / took["over"], 2),
        "scheduler_seconds": round(time.perf_counter() - clock, 3),
    }


def draw(found: dict[str, Any]) -> str:
    """Makespan against devices, both axes logarithmic, as SVG; dashed: the bound."""
    import math

    wide, high, left, top = 560, 320, 64, 16
    times = [row[name] for rows in found.values() for row in rows for name in ("makespan", "bound")]
    low, up = math.log10(min(times)) - 0.05, math.log10(max(times)) + 0.05

    def place(devices: float, seconds: float) -> tuple[float, float]:
        x = left + (wide - left - 90) * math.log2(devices) / 8
        return x, top + (high - top - 46) * (up - math.log10(seconds)) / (up - low)

    style = "font: 12px sans-serif; fill: #333"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" role="img" style="background: #fff">',
        "<title>Makespan against the number of devices</title>",
    ]
    for devices in DEVICES:
        x, y = place(devices, 10**low)
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{y:.1f}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle" style="{style}">{devices}</text>')
    for text, seconds in (("1 min", 60), ("10 min", 600), ("1 h", 3600), ("10 h", 36000), ("100 h", 360000)):
        if low < math.log10(seconds) < up:
            x, y = place(1, seconds)
            parts.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{wide - 90}" y2="{y:.1f}" stroke="#e5e5e5"/>')
            parts.append(f'<text x="{x - 8:.1f}" y="{y + 4:.1f}" text-anchor="end" style="{style}">{text}</text>')
    below = float(high)
    for colour, (name, rows) in zip(("#0072b2", "#d55e00", "#009e73"), found.items(), strict=True):
        for which, dash in (("bound", ' stroke-dasharray="4 3"'), ("makespan", "")):
            points = " ".join("{:.1f},{:.1f}".format(*place(row["devices"], row[which])) for row in rows)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>')
        x, y = place(rows[-1]["devices"], rows[-1]["makespan"])
        y = min(y, below - 15)
        below = y
        parts.append(
            f'<text x="{x + 6:.1f}" y="{y + 4:.1f}" style="font: 12px sans-serif; fill: {colour}">{name}</text>'
        )
    parts.append(
        f'<text x="{(left + wide - 90) / 2}" y="{high - 6}" text-anchor="middle" style="{style}">devices</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    past = measured()
    names = sorted(past["invert"])
    found = {}
    for name, size in GRIDS.items():
        plan = grid(*size, names)
        seconds, expected = durations(plan, past, random.Random(name))
        assert len(plan.runs) == size[0] * size[1] * size[2]
        found[name] = [simulate(plan, seconds, expected, devices) for devices in DEVICES]
        for row in found[name]:
            print(name, row)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    PLOT.write_text(draw(found))


if __name__ == "__main__":
    main()
