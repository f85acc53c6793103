"""The simulated cluster: within a tenth of what no schedule can undercut, and docs/scaling.md says what was found."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scaling() -> Any:
    spec = importlib.util.spec_from_file_location("scaling", ROOT / "benchmarks" / "scaling.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("devices", [1, 16, 64, 150, 256])
def test_a_thousand_cells_within_a_tenth_of_the_bound(scaling: Any, devices: int) -> None:
    past = scaling.measured()
    plan = scaling.grid(20, 10, 5, sorted(past["invert"]))
    assert len(plan.runs) == 1000
    seconds, expected = scaling.durations(plan, past, random.Random(devices))
    row = scaling.simulate(plan, seconds, expected, devices)
    assert row["over"] >= 0.9999 and row["over"] <= 1.1 and row["over_known"] <= 1.1


def test_the_documentation_has_the_numbers(scaling: Any) -> None:
    found = json.loads(scaling.RESULTS.read_text())
    text = (ROOT / "docs" / "scaling.md").read_text()
    for rows in found.values():
        for row in rows:
            assert row["over_known"] <= 1.1
            hours = row["makespan"] / 3600
            shown = f"{hours:.1f} h" if hours >= 2 else f"{60 * hours:.1f} min"
            line = next(line for line in text.splitlines() if line.startswith(f"| {row['devices']} |"))
            assert f" {shown} | {100 * (row['over'] - 1):.1f} % ({100 * (row['over_known'] - 1):.1f} %) |" in line
    assert scaling.PLOT.read_text() == scaling.draw(found)
    overhead = json.loads((ROOT / "benchmarks" / "results" / "overhead.json").read_text())
    coordinator = overhead["coordinator"]
    assert f"| {coordinator['beyond_process_start_ms_per_stage']:.1f} ms | under 20 ms |" in text
    assert f"| {coordinator['coordinator_ms_per_stage']:.1f} ms |" in text
    assert f"{overhead['planning']['stages']:,} stages" in text
    assert f"| {overhead['planning']['seconds']:.1f} s | under 2 s |" in text
    assert f"| {overhead['status']['seconds']:.2f} s | under 1 s |" in text
    startup = json.loads((ROOT / "benchmarks" / "results" / "startup.json").read_text())
    empty, first = startup["empty_stages"], startup["first_command"]
    line = f"| {empty['started_ms_per_stage']:.0f} ms | {empty['forked_ms_per_stage']:.0f} ms | {empty['ratio']:.1f} |"
    assert line in text
    seconds = [f"{first[f'first_{way}_seconds']:.0f} s" for way in ("started", "forked")]
    assert f"| {' | '.join(seconds)} | {first['first_ratio']:.2f} |" in text
