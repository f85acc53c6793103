"""Results as Markdown tables, from the objects that `mibench export --format json` writes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
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
    tables, runs = [], [run for run in runs if run["status"] == "done"]
    for track, defense in dict.fromkeys((run["track"], run["defense_label"]) for run in runs):
        own = [run for run in runs if (run["track"], run["defense_label"]) == (track, defense)]
        attacks = dict.fromkeys(run["attack_label"] for run in own)
        rows = [(cell, [run for run in own if run["attack_label"] == cell]) for cell in attacks]
        leakage = leakage_of(run["metrics"] for run in own)
        shown = WITH_PANEL if leakage == MAJORITY else ACCURACIES
        rows.sort(key=lambda row: -(_mean(_values(row[1], leakage)) or 0.0))
        heads = ("attack", *shown.values(), *HEADS)
        table = _table(heads, ((f"`{name}`", *_cells(cell, shown)) for name, cell in rows))
        tables.append(f"Track `{track}`, defense `{defense}`:\n\n{table}")
    return "\n".join(tables)


def defenses_table(runs: Sequence[dict[str, Any]], controls: Collection[str]) -> str:
    """One table per track: a row per defense, the one that leaks most under any attack first, and a column for every
    attack that several defenses met, ``controls`` among neither attacks nor these. Accuracies are means over seeds with
    the t interval; leakage is what the majority accepts where a panel judges, else top-1. The time is that of one
    training."""
    tables = []
    for track in dict.fromkeys(run["track"] for run in runs):
        own = [run for run in runs if run["track"] == track and run["attack"] not in controls]
        leakage = leakage_of(run["metrics"] for run in own)
        cells: dict[str, dict[str, list[dict[str, Any]]]] = {}  # by defense and attack
        for run in own:
            cells.setdefault(run["defense_label"], {}).setdefault(run["attack_label"], []).append(run)
        competing = {run["defense_label"] for run in own if run["defense"] not in controls}
        everyone = [attack for defense in competing for attack in cells[defense]]
        shown = sorted({attack for attack in everyone if everyone.count(attack) >= min(2, len(competing))})
        most = {
            defense: max(_mean(_values(found, leakage)) or 0.0 for found in by_attack.values())
            for defense, by_attack in cells.items()
        }
        rows = []
        for defense in sorted(cells, key=lambda name: (-most[name], name)):
            met = [run for found in cells[defense].values() for run in found]
            leaks = (_accuracy(_values(cells[defense].get(attack, ()), leakage)) for attack in shown)
            time = duration(_seconds(met, computed_by("defense")))
            rows.append(
                (f"`{defense}`", _accuracy(_values(met, "nat1")), *leaks, str(len({run["seed"] for run in met})), time)
            )
        table = _table(("defense", "natural %", *(f"`{attack}` %" for attack in shown), "seeds", "training"), rows)
        what = "the majority" if leakage == MAJORITY else "top-1"
        tables.append(f"Track `{track}`, leakage is {what}:\n\n{table}")
    return "\n".join(tables)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


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
