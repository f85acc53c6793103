"""From runs to leaderboard rows: means and intervals over seeds, worst attacks, ranks and the Pareto
front."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mibench.protocol.stage_kinds import EXTRA
from mibench.publish.way import Bounds, Scale, frozen
from mibench.records import FIRST_TUNING_SEED, RunRecord
from mibench.stats.intervals import seed_interval
from mibench.stats.tradeoff import pareto_front

TABLE_METRICS = (
    "nat1",
    "att1",
    "att5",
    "att1_selected",
    "att1_step0",
    "conf",
    "knn_eval",
    "d_eval",
    "face_rate",
)
UTILITY, MAJORITY = "nat1", "att_maj"
TOP1 = {"E1": "att1", "E2": "att1_e2", "E3": "att1_e3"}  # of each judge


def leakage_of(metrics: Iterable[Container[str]]) -> str:
    """What ranks, given the metrics of each run: the majority of the judges if there is a panel, else E1's top-1."""
    return MAJORITY if any(MAJORITY in names for names in metrics) else TOP1["E1"]


def columns(leakage: str) -> tuple[str, ...]:
    """The metrics that tables show."""
    if leakage != MAJORITY:
        return TABLE_METRICS
    first = (UTILITY, MAJORITY, *TOP1.values(), "face_rate")
    return (*first, *(name for name in TABLE_METRICS if name not in first))


@dataclass(frozen=True)
class Value:
    """One number of the leaderboard. ``mean`` is None exactly when ``reason`` is set. ``seeds`` of ``of``
    runs had a value; ``source`` says what the interval is over: ``seeds``, ``bootstrap`` or None without
    one."""

    mean: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None
    seeds: int = 0
    of: int = 0
    source: str | None = None

    @property
    def upper(self) -> float:
        """The upper end of the interval, or the mean without one."""
        if self.mean is None:
            return math.inf
        return self.mean if self.high is None else self.high


@dataclass
class Row:
    """A defense and an attack on a track, over seeds. ``runs`` includes failed ones, by seed."""

    defense: str
    attack: str
    defense_label: str
    attack_label: str
    runs: list[RunRecord]
    values: dict[str, Value]
    leakage: str  # the metric that ranks
    seconds: float | None
    way: Value  # its share of the way from its prior's floor to the ceiling
    position: int = 0  # in the default order
    rank: int | None = None  # of the defense; None when it was not run against every attack
    missing: tuple[str, ...] = ()  # attacks it still has to face
    worst: bool = False  # the attack that recovers most from this defense
    front: bool = False  # worst row of a defense on the Pareto front

    @property
    def leaked(self) -> Value:
        """What the attack recovers."""
        return self.values[self.leakage]


@dataclass(frozen=True)
class Board:
    """One track (one version of it) with its rows in default order. ``required`` are the attacks that a
    defense has to face to be ranked."""

    track: str
    version: int
    current: bool
    rows: list[Row]
    required: tuple[str, ...]
    chance: float
    leakage: str  # the metric that ranks

    @property
    def key(self) -> str:
        return self.track if self.current else f"{self.track}-v{self.version}"

    @property
    def front(self) -> list[str]:
        """The defenses on the Pareto front, by rising utility."""
        return [row.defense_label for row in sorted(self.rows, key=_utility) if row.front]


def current_runs(runs: Iterable[RunRecord]) -> list[RunRecord]:
    """The runs that count, sorted: within a cell those of the newest run's method (versions and
    parameters), and per seed the newest, a finished one before a failed one. Older ones would mix two
    methods in one mean. Runs of tuning seeds never count."""
    cells: dict[tuple[str, int, str, str], list[RunRecord]] = defaultdict(list)
    for run in runs:
        if run.seed < FIRST_TUNING_SEED:
            cells[(run.track, run.track_version, run.defense_label, run.attack_label)].append(run)
    kept: list[RunRecord] = []
    for key in sorted(cells):
        ordered = sorted(cells[key], key=lambda run: (run.created, run.run))
        done = [run for run in ordered if run.status == "done"]
        by_seed = {run.seed: run for run in ordered if run.status != "done"}
        by_seed |= {run.seed: run for run in done if _method(run) == _method(done[-1])}
        kept += [by_seed[seed] for seed in sorted(by_seed)]
    return kept


def boards(
    runs: Sequence[RunRecord],
    tracks: Iterable[str] = (),
    controls: Container[str] = frozenset(),
    bounds: Bounds | None = None,
) -> list[Board]:
    """One board per track version that has runs: tracks in the given order, then by name; newest version
    first. ``runs`` as of ``current_runs``. ``controls``: defenses and attacks that do not compete; ``bounds``:
    of these, the floor and the ceiling of the priors."""
    place = {track: index for index, track in enumerate(tracks)}
    groups: dict[tuple[str, int], list[RunRecord]] = defaultdict(list)
    for run in runs:
        groups[(run.track, run.track_version)].append(run)
    newest = {track: max(v for t, v in groups if t == track) for track, _ in groups}
    return [
        _board(track, version, newest[track] == version, groups[(track, version)], controls, bounds)
        for track, version in sorted(groups, key=lambda key: (place.get(key[0], len(place)), key[0], -key[1]))
    ]


def _board(
    track: str, version: int, current: bool, runs: list[RunRecord], controls: Container[str], bounds: Bounds | None
) -> Board:
    cells: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for run in runs:
        cells[(run.defense_label, run.attack_label)].append(run)
    leakage = leakage_of(run.metrics for run in runs)
    scale = Scale.of(runs, bounds, leakage)
    rows = [_row(cells[key], leakage, scale) for key in sorted(cells)]
    required = required_attacks([row for row in rows if row.attack not in controls])
    _order(rows, required, controls)
    ordered = sorted(rows, key=lambda row: row.position)
    return Board(track, version, current, ordered, required, runs[0].chance, leakage)


def required_attacks(rows: Sequence[Row]) -> tuple[str, ...]:
    """The attacks in their default setting that some defense faced; if there is none, all attacks."""
    seen = {(row.attack_label, row.attack) for row in rows if row.leaked.mean is not None}
    default = {label for label, attack in seen if label == attack}
    return tuple(sorted(default or {label for label, _ in seen}))


def _order(rows: list[Row], required: Sequence[str], controls: Container[str]) -> None:
    """Fill position, rank, missing, worst and front. Defenses go by the upper end of their worst attack's
    interval; those that did not face every attack, and controls, come last and have no rank."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.defense_label].append(row)
    for group in groups.values():
        group.sort(key=lambda row: (row.attack in controls, *_leakiest(row)))
        faced = {row.attack_label for row in group if row.leaked.mean is not None}
        for row in group:
            row.missing = tuple(attack for attack in required if attack not in faced)
        group[0].worst = group[0].attack_label in faced and group[0].attack not in controls

    def place(group: list[Row]) -> tuple[Any, ...]:
        first = group[0]
        return first.defense in controls, bool(first.missing), first.leaked.upper, _leakiest(first)

    ordered = sorted(groups.values(), key=place)
    position = 0
    for rank, group in enumerate(ordered, start=1):
        for row in group:
            row.position, position = position, position + 1
            competes = group[0].worst and not row.missing and row.defense not in controls
            row.rank = rank if competes else None
    worst = [
        (row, (row.values[UTILITY].mean, row.leaked.mean))
        for row in rows
        if row.worst and row.rank is not None and row.values[UTILITY].mean is not None
    ]
    for index in pareto_front([point for _, point in worst]):  # type: ignore[misc]
        worst[index][0].front = True


def _leakiest(row: Row) -> tuple[bool, float, float, str, str]:
    value = row.leaked
    mean = -math.inf if value.mean is None else value.mean
    return value.mean is None, -mean, -value.upper, row.defense_label, row.attack_label


def _utility(row: Row) -> tuple[float, float, str]:
    utility, leakage = row.values[UTILITY].mean, row.leaked.mean
    return utility or 0.0, leakage or 0.0, row.defense_label


def _row(runs: list[RunRecord], leakage: str, scale: Scale) -> Row:
    done = [run for run in runs if run.status == "done"]
    first = runs[0]
    return Row(
        defense=first.defense,
        attack=first.attack,
        defense_label=first.defense_label,
        attack_label=first.attack_label,
        runs=runs,
        values={name: mean_over_seeds(name, done) for name in columns(leakage)},
        leakage=leakage,
        seconds=math.fsum(run.seconds for run in done) / len(done) if done else None,
        way=way_value(scale, done, leakage),
    )


def way_value(scale: Scale, runs: Sequence[RunRecord], leakage: str) -> Value:
    """The share of the way from floor to ceiling, the mean over the finished runs of a cell."""
    shares, reason = scale.shares(runs, leakage)
    if not shares:
        return Value(None, reason=reason, of=len(runs))
    mean, interval = math.fsum(shares) / len(shares), seed_interval(shares)
    low, high = interval or (None, None)
    return Value(mean, low, high, seeds=len(shares), of=len(runs), source="seeds" if interval else None)


def mean_over_seeds(name: str, runs: Sequence[RunRecord]) -> Value:
    """One metric over the finished runs of a cell. One value keeps its run's own bootstrap interval."""
    if not runs:
        return Value(None, reason="no run finished")
    metrics = [run.metrics[name] for run in runs if name in run.metrics]
    known = [metric for metric in metrics if metric.value is not None]
    if not known:
        reasons = sorted({metric.reason for metric in metrics if metric.reason})
        return Value(None, reason="; ".join(reasons) or "not measured on this track", of=len(runs))
    values = [metric.value for metric in known if metric.value is not None]
    mean = math.fsum(values) / len(values)
    interval, source = seed_interval(values), "seeds"
    if interval is None and known[0].ci_low is not None and known[0].ci_high is not None:
        interval, source = (known[0].ci_low, known[0].ci_high), "bootstrap"
    if interval is None:
        return Value(mean, seeds=len(values), of=len(runs))
    return Value(mean, *interval, seeds=len(values), of=len(runs), source=source)


def _method(run: RunRecord) -> tuple[Any, ...]:
    """What has to be equal for two runs of a cell to be seeds of the same method."""
    versions = sorted({(s.kind, s.plugin, s.version) for s in run.stages if s.kind not in EXTRA})
    return frozen(run.defense_params), frozen(run.attack_params), tuple(versions)
