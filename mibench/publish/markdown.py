"""Results as a Markdown table, from the objects that `mibench export --format json` writes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from mibench.protocol.stage_kinds import ASKING, computed_by
from mibench.publish.rows import MAJORITY, TOP1, leakage_of
from mibench.publish.text import MISSING, duration, interval, number
from mibench.stats.intervals import seed_interval

ACCURACIES = {"att1": "top-1 %", "att5": "top-5 %", "att1_step0": "step 0 %", "conf": "confidence %"}
WITH_PANEL = {MAJORITY: "majority %"} | {name: f"{judge} %" for judge, name in TOP1.items()}
WITH_PANEL |= {name: head for name, head in ACCURACIES.items() if name not in WITH_PANEL}
HEADS = (
    "images per identity",
    "seeds",
    "prior",
    "attack itself",
    "queries per identity",
    "peak memory",
)


def results_table(runs: Sequence[dict[str, Any]]) -> str:
    """One table per track and defense: a row per attack, the strongest first. Accuracies are means over seeds with
    the t interval; times are means over seeds of the seconds that the stages took, as many beside each other as the
    machine ran; queries are all questions to the target, prior and preparation included, divided by the attacked
    identities; memory is the largest of the attack's processes."""
    tables = []
    for track, defense in dict.fromkeys((run["track"], run["defense_label"]) for run in runs):
        own = [run for run in runs if (run["track"], run["defense_label"]) == (track, defense)]
        attacks = dict.fromkeys(run["attack_label"] for run in own)
        rows = [(cell, [run for run in own if run["attack_label"] == cell]) for cell in attacks]
        leakage = leakage_of(run["metrics"] for run in own)
        shown = WITH_PANEL if leakage == MAJORITY else ACCURACIES
        rows.sort(key=lambda row: -(_mean(_values(row[1], leakage)) or 0.0))
        heads = ("attack", *shown.values(), *HEADS)
        lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
        lines += [f"| {' | '.join((f'`{name}`', *_cells(cell, shown)))} |" for name, cell in rows]
        tables.append(f"Track `{track}`, defense `{defense}`:\n\n" + "\n".join(lines) + "\n")
    return "\n".join(tables)


def _cells(runs: Sequence[dict[str, Any]], accuracies: Iterable[str]) -> Iterable[str]:
    for name in accuracies:
        yield _accuracy(_values(runs, name))
    first = runs[0]
    yield f"{first['metrics']['att1']['n'] / first['identities']:g}"
    yield str(len({run["seed"] for run in runs}))
    yield duration(_seconds(runs, computed_by("prior")))
    yield duration(_seconds(runs, computed_by("attack")))
    kinds = {kind: _mean([run["queries"][kind] / run["identities"] for run in runs]) for kind in first["queries"]}
    yield ", ".join(f"{_count(count)} {kind}" for kind, count in kinds.items() if count) or "0"
    peaks = [
        stage["peak_memory_mib"]
        for run in runs
        for stage in run["stages"]
        if stage["kind"] in ASKING and stage["peak_memory_mib"] is not None
    ]
    yield f"{max(peaks)} MiB" if peaks else MISSING


def _values(runs: Sequence[dict[str, Any]], name: str) -> list[float]:
    """By training, the mean over the attacks on it."""
    found: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        if (value := run["metrics"].get(name, {}).get("value")) is not None:
            found[run["seed"]].append(value)
    return [math.fsum(values) / len(values) for values in found.values()]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _accuracy(values: Sequence[float]) -> str:
    bounds = seed_interval(values)
    return number(_mean(values), "fraction") + (f" [{interval(*bounds, 'fraction')}]" if bounds else "")


def _seconds(runs: Sequence[dict[str, Any]], kinds: Sequence[str]) -> float | None:
    return _mean([sum(stage["seconds"] for stage in run["stages"] if stage["kind"] in kinds) for run in runs]) or None


def _count(count: float | None) -> str:
    return f"{count:,.0f}" if count is not None else MISSING
