"""What a board is made of: values with their intervals, rows (a defense and an attack), boards; and which metrics rank.
Pure data."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mibench.protocol.methods import asked_as
from mibench.protocol.params import changed
from mibench.records import MetricValue, RunRecord
from mibench.stats import Interval, bootstrap_interval
from mibench.stats.comparisons import Paired
from mibench.stats.intervals import population_interval
from mibench.stats.worst import Worst

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


_SHARES, _DISTANCES = ("nat", "att", "conf", "ver_", "face_rate"), ("d_", "knn_", "lpips", "fid")


def bounds_of(metric: str) -> tuple[float, float]:
    """Between which numbers a metric lies, by the beginning of its id."""
    if metric.startswith(_SHARES):
        return 0.0, 1.0
    return (0.0 if metric.startswith(_DISTANCES) else -math.inf), math.inf


def leakage_of(metrics: Iterable[Container[str]]) -> str:
    """What ranks, given the metrics of each run: the majority of the judges if there is a panel, else E1's top-1."""
    return MAJORITY if any(MAJORITY in names for names in metrics) else TOP1["E1"]


def columns(leakage: str) -> tuple[str, ...]:
    """The metrics that tables show."""
    if leakage != MAJORITY:
        return TABLE_METRICS
    first = (UTILITY, MAJORITY, *TOP1.values(), "face_rate")
    return (*first, *(name for name in TABLE_METRICS if name not in first))


def design_of(run: RunRecord) -> bool | None:
    """Whether judges and public prior are those of the training's seed (True) or, as in older records, of seed 0; None
    where that is the same."""
    return run.seeds.evaluator == run.seed if run.seed else None


def interval_of(metric: MetricValue, bounds: tuple[float, float]) -> Interval:
    """The interval of one run over people. Where all gave the same answer, what so many people allow: an interval of no
    width would say more than they do."""
    if metric.ci_low is None or metric.ci_high is None:
        return None, None
    if metric.ci_low == metric.ci_high and metric.per_identity:
        return population_interval(np.array([list(metric.per_identity.values())]), bounds=bounds)
    return metric.ci_low, metric.ci_high


def failures(runs: Iterable[RunRecord]) -> list[str]:
    """Which runs failed, and why."""
    return [f"seed {r.seeds} failed" + (f": {r.reason}" if r.reason else "") for r in runs if r.status != "done"]


def of_trainings(name: str, runs: Iterable[RunRecord]) -> dict[int, MetricValue]:
    """A metric of the finished runs that have a value of it, by the training's seed. Several attacks on one training
    are no trainings of their own: their mean is taken, person by person."""
    attacked: dict[int, list[MetricValue]] = defaultdict(list)
    for run in runs:
        if run.status == "done" and name in run.metrics and run.metrics[name].value is not None:
            attacked[run.seed].append(run.metrics[name])
    return {seed: _mean(metrics) if len(metrics) > 1 else metrics[0] for seed, metrics in attacked.items()}


def _mean(metrics: Sequence[MetricValue]) -> MetricValue:
    people = metrics[0].per_identity.keys()
    same = all(metric.per_identity.keys() == people for metric in metrics)
    each = {who: math.fsum(m.per_identity[who] for m in metrics) / len(metrics) for who in people} if same else {}
    value = math.fsum(metric.value for metric in metrics if metric.value is not None) / len(metrics)
    low, high = bootstrap_interval(list(each.values())) if each else (None, None)
    return MetricValue(value, sum(metric.n for metric in metrics), low, high, None, each)


@dataclass(frozen=True)
class Value:
    """One number of the leaderboard. ``mean`` is None exactly when ``reason`` is set. ``seeds`` of ``of``
    trainings had a value; ``source`` says what the interval is over: ``seeds``, ``people`` (of trainings that agree to
    the digit), ``attacks`` (its upper end holds for all of them at once), ``bootstrap`` (one training) or None."""

    mean: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None
    seeds: int = 0
    of: int = 0
    source: str | None = None


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
    worst: bool = False  # the attack that recovers most from this defense
    board: str = ""  # the key of the board that it is on

    @property
    def adaptive(self) -> bool:
        """Whether it is a variant of an attack that an attacker tries who expects masked gradients."""
        return any(changed(asked_as(run.attack_label), run.attack_params) for run in self.runs)

    @property
    def leaked(self) -> Value:
        """What the attack recovers."""
        return self.values[self.leakage]

    @property
    def by_seed(self) -> dict[int, MetricValue]:
        """What ranks, by training; of those that have it."""
        return of_trainings(self.leakage, self.runs)


@dataclass(frozen=True)
class Verdict:
    """The primary test of a defense: what its worst attack recovers against what the undefended model's worst attack
    recovers, the same trainings' seeds. ``adjusted``: its p value among all defenses of the board (Holm)."""

    difference: Paired
    adjusted: float | None

    @property
    def word(self) -> str:
        if self.adjusted is None or math.isnan(self.adjusted):
            return "one training" if self.difference.seeds == 1 else "not told apart"
        if self.adjusted >= 0.05:
            return "not told apart"
        return "leaks less" if self.difference.mean < 0 else "leaks more"


@dataclass(frozen=True)
class Case:
    """A defense as a whole. ``worst``: what its worst attack recovers on trainings 0 to S - 1, on all of which it faced
    every attack of ``attacks``; None if there is no such training. ``missing``: what it still has to face to be ranked,
    in words. ``front``: no other ranked defense has both more accuracy and less leakage."""

    defense: str
    label: str
    attacks: tuple[str, ...]
    worst: Worst | None
    value: Value  # of ``worst``; without it, of the attack that recovers most
    natural: Value
    missing: tuple[str, ...]
    verdict: Verdict | None = None  # None where it cannot be made
    rank: int | None = None
    front: bool = False

    @property
    def seeds(self) -> int:
        return len(self.worst.values) if self.worst else 0


@dataclass(frozen=True)
class Board:
    """One track (one version of it, from stages of the same versions) with its rows in default order. ``required`` are
    the attacks that a defense has to face to be ranked; ``cases`` the defenses by label, in default order."""

    track: str
    version: int
    current: bool
    rows: list[Row]
    required: tuple[str, ...]
    chance: float
    leakage: str  # the metric that ranks
    cases: Mapping[str, Case] = field(default_factory=dict)
    generation: str = ""  # which stages of other code its runs come from

    @property
    def key(self) -> str:
        key = self.track if self.current else f"{self.track}-v{self.version}"
        return f"{key} ({self.generation})" if self.generation else key

    @property
    def front(self) -> list[str]:
        """The defenses on the Pareto front, by rising utility."""
        on = [case for case in self.cases.values() if case.front]
        return [case.label for case in sorted(on, key=lambda case: (case.natural.mean or 0.0, case.label))]
