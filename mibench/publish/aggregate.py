"""From runs to leaderboard rows: which runs count, means and intervals over seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from typing import Any

import numpy as np

from mibench.publish.model import Catalogue
from mibench.publish.ranking import arranged, required_attacks
from mibench.publish.rows import (
    UTILITY,
    Board,
    Row,
    Value,
    bounds_of,
    columns,
    failures,
    interval_of,
    leakage_of,
    of_trainings,
)
from mibench.publish.variants import apart, named
from mibench.publish.way import Bounds, Scale
from mibench.records import FIRST_TUNING_SEED, MetricValue, RunRecord
from mibench.stats.intervals import benchmark_interval, seed_interval


def current_runs(runs: Iterable[RunRecord], catalogue: Catalogue | None = None) -> list[RunRecord]:
    """The runs that count, sorted, under the labels of their rows (``mibench.publish.variants``). Of several runs of
    one method, training and attack on it the finished one that knows most, then the newest. Runs of tuning seeds never
    count."""
    cells: dict[tuple[Any, ...], list[RunRecord]] = defaultdict(list)
    for key, own in apart(run for run in runs if run.seed < FIRST_TUNING_SEED).items():
        for run in named(own, catalogue):
            cells[(*key, run.defense_label, run.attack_label, run.seed, run.seeds.attack)].append(run)
    return [max(cells[key], key=_counts) for key in sorted(cells)]


def _counts(run: RunRecord) -> tuple[bool, int, str, str]:
    known = sum(metric.value is not None for metric in run.metrics.values())
    return run.status == "done", known, run.created, run.run


def boards(
    runs: Sequence[RunRecord],
    tracks: Iterable[str] = (),
    controls: Container[str] = frozenset(),
    bounds: Bounds | None = None,
    baselines: Container[str] = frozenset(),
) -> list[Board]:
    """One board per track version that has runs: tracks in the given order, then by name; newest version first, and of
    a version the runs of this code before those of other stages. ``runs`` as of ``current_runs``. ``controls``:
    defenses and attacks that do not compete; ``bounds``: of these, the floor and the ceiling of the priors;
    ``baselines``: the undefended model."""
    place = {track: index for index, track in enumerate(tracks)}
    groups = apart(runs)
    newest = {track: max(v for t, v, _ in groups if t == track) for track, _, _ in groups}
    return [
        _board(*key, newest[key[0]] == key[1], groups[key], controls, bounds, baselines)
        for key in sorted(groups, key=lambda key: (place.get(key[0], len(place)), key[0], -key[1], key[2]))
    ]


def _board(
    track: str,
    version: int,
    generation: str,
    current: bool,
    runs: list[RunRecord],
    controls: Container[str],
    bounds: Bounds | None,
    baselines: Container[str],
) -> Board:
    cells: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for run in runs:
        cells[(run.defense_label, run.attack_label)].append(run)
    leakage = leakage_of(run.metrics for run in runs)
    scale = Scale.of(runs, bounds, leakage)
    rows = [_row(cells[key], leakage, scale) for key in sorted(cells)]
    required = required_attacks([row for row in rows if row.attack not in controls])
    cases = arranged(rows, required, controls, baselines, natural)
    ordered = sorted(rows, key=lambda row: row.position)
    board = Board(track, version, current, ordered, required, runs[0].chance, leakage, cases, generation)
    for row in rows:
        row.board = board.key
    return board


def natural(rows: Sequence[Row]) -> Value:
    """Over the targets that a defense trained, each counted once whatever the number of attacks on it."""
    done = [run for row in rows for run in row.runs if run.status == "done" and UTILITY in run.metrics]
    targets = {run.seed: run for run in sorted(done, key=lambda run: run.created)}
    return mean_over_seeds(UTILITY, [targets[seed] for seed in sorted(targets)])


def _row(runs: list[RunRecord], leakage: str, scale: Scale) -> Row:
    done = [run for run in runs if run.status == "done"]
    first = runs[0]
    return Row(
        defense=first.defense,
        attack=first.attack,
        defense_label=first.defense_label,
        attack_label=first.attack_label,
        runs=runs,
        values={name: mean_over_seeds(name, runs) for name in columns(leakage)},
        leakage=leakage,
        seconds=math.fsum(run.seconds for run in done) / len(done) if done else None,
        way=way_value(scale, runs, leakage),
    )


def way_value(scale: Scale, runs: Sequence[RunRecord], leakage: str) -> Value:
    """The share of the way from floor to ceiling, the mean over the trainings of a cell."""
    found, reason = scale.shares(runs, leakage)
    of = len({run.seed for run in runs})
    if not found:
        return Value(None, reason=reason, of=of)
    shares = [math.fsum(attacks) / len(attacks) for attacks in found.values()]
    mean, interval = math.fsum(shares) / len(shares), seed_interval(shares)
    low, high = interval or (None, None)
    return Value(mean, low, high, seeds=len(shares), of=of, source="seeds" if interval else None)


def mean_over_seeds(name: str, runs: Sequence[RunRecord]) -> Value:
    """One metric over the trainings of a cell that have it. One value keeps its run's own bootstrap interval; several
    that agree to the digit tell nothing of other trainings, and get the interval over people."""
    trainings = len({run.seed for run in runs})
    if all(run.status != "done" for run in runs):
        return Value(None, reason="; ".join(failures(runs)) or "no run finished", of=trainings)
    metrics = [run.metrics[name] for run in runs if name in run.metrics]
    known = list(of_trainings(name, runs).values())
    if not known:
        reasons = sorted({metric.reason for metric in metrics if metric.reason})
        return Value(None, reason="; ".join(reasons) or "not measured on this track", of=trainings)
    values = [metric.value for metric in known if metric.value is not None]
    mean = math.fsum(values) / len(values)
    low, high, source = _interval(known, values, bounds_of(name))
    return Value(mean, low, high, seeds=len(values), of=trainings, source=source)


def _interval(
    known: Sequence[MetricValue], values: Sequence[float], bounds: tuple[float, float]
) -> tuple[float | None, float | None, str | None]:
    """Low, high and what it is over."""
    if len(values) == 1:
        interval = interval_of(known[0], bounds)
        return *interval, None if interval[0] is None else "bootstrap"
    if max(values) > min(values):
        low, high = seed_interval(values) or bounds
        return max(low, bounds[0]), min(high, bounds[1]), "seeds"
    people = [metric.per_identity for metric in known]
    if not people[0] or any(own.keys() != people[0].keys() for own in people):
        return None, None, None
    interval = benchmark_interval(np.array([[own[label] for label in sorted(own)] for own in people]), bounds=bounds)
    return *interval, None if interval[0] is None else "people"
