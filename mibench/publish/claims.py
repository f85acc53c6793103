"""What the runs of a board say of statements whose tests were fixed before. Pure, and without torch.

A comparison is paired by training, and by person where it is over people too; a negative difference speaks for the
statement. Holm over what one statement compares, whether or not it was run. Three verdicts:

- holds here: every comparison is told apart, on the statement's side;
- does not hold here: one is told apart on the other side, or an interval that holds for all comparisons at once
  (Bonferroni) excludes a difference as large as the smallest one that counts;
- cannot be told: anything else, with what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mibench.protocol.claims import Claim, LeakAt, Lower, Measure, Trend
from mibench.protocol.suites import Suite
from mibench.publish import text
from mibench.publish.evidence import Asked, Evidence, Missing, Side, accuracy_change, gathered, mean
from mibench.publish.ranking import SURE, TRAININGS
from mibench.publish.rows import Board
from mibench.records import RunRecord
from mibench.stats.comparisons import Paired, holm, paired_means
from mibench.stats.intervals import population_interval, seed_interval

Verdict = Literal["holds here", "does not hold here", "cannot be told"]
HOLDS: Verdict = "holds here"
FAILS: Verdict = "does not hold here"
OPEN: Verdict = "cannot be told"
Unit = Literal["fraction", "points", "number"]


@dataclass(frozen=True)
class Figure:
    """A number and the runs that it is made of. A fraction is of images or of accuracy, points are a difference of
    fractions (in fractions)."""

    id: str
    title: str
    value: float
    low: float | None
    high: float | None
    unit: Unit
    runs: tuple[RunRecord, ...]

    @property
    def written(self) -> str:
        if self.unit == "points":
            return f"{text.points(self.value)} points"
        return text.number(self.value, self.unit) + (" %" if self.unit == "fraction" else "")

    @property
    def interval(self) -> str:
        if self.unit == "points":
            return text.points_interval(self.low, self.high)
        return text.interval(self.low, self.high, self.unit)


@dataclass(frozen=True)
class Comparison:
    """One test of a statement. ``test`` is oriented: below zero speaks for it. ``adjusted`` is its p value among all of
    the statement; ``why`` is set where it cannot be told, or is what it rests on."""

    id: str
    title: str
    sides: tuple[str, ...]  # the labels of what is compared
    figures: tuple[Figure, ...]
    test: Paired | None
    least: float
    seeds: int
    attacks: tuple[str, ...]
    missing: tuple[Missing, ...]
    complete: bool
    adjusted: float | None = None
    verdict: Verdict = OPEN
    why: str = ""
    differences: tuple[float, ...] = ()  # one for each training, oriented

    def figure(self, name: str) -> Figure | None:
        return next((figure for figure in self.figures if figure.id == f"{self.id}.{name}"), None)


@dataclass(frozen=True)
class Outcome:
    """A statement with what its comparisons say."""

    id: str
    claim: Claim
    attacks: tuple[str, ...]  # that it asks for
    trainings: int
    comparisons: tuple[Comparison, ...]
    wanted: int  # how many runs it asks for

    @property
    def verdict(self) -> Verdict:
        verdicts = {comparison.verdict for comparison in self.comparisons}
        return FAILS if FAILS in verdicts else HOLDS if verdicts == {HOLDS} else OPEN

    @property
    def missing(self) -> tuple[Missing, ...]:
        return tuple(dict.fromkeys(item for comparison in self.comparisons for item in comparison.missing))


def outcomes(board: Board, suite: Suite) -> list[Outcome]:
    """What a board's runs say of every statement of a suite, in its order."""
    return [_outcome(board, suite, name, claim) for name, claim in suite.claims.items()]


def _outcome(board: Board, suite: Suite, name: str, claim: Claim) -> Outcome:
    attacks = suite.attacks[claim.attacks]
    groups: dict[str, tuple[str, ...]] = {}
    if isinstance(claim, Lower):
        groups = {label: suite.attacks[group] for label, group in claim.attacks_on.items()}
        parts = [
            _lower(board, claim, f"{name}.{n}", pair, attacks, groups, suite.seeds)
            for n, pair in enumerate(claim.pairs, 1)
        ]
    elif isinstance(claim, Trend):
        parts = [_trend(board, claim, f"{name}.1", attacks, suite.seeds)]
    elif isinstance(claim, LeakAt):
        others = [other for other in claim.settings if other != claim.defense]
        parts = [_leak_at(board, claim, f"{name}.{n}", o, attacks, suite.seeds) for n, o in enumerate(others, 1)]
    else:
        cells = [(p, a, m) for p in claim.pairs for a in attacks for m in claim.measures]
        parts = [_features(board, f"{name}.{n}", *cell, suite.seeds) for n, cell in enumerate(cells, 1)]
    asked = {(label, attack) for label in claim.defenses for attack in groups.get(label, attacks)}
    return Outcome(name, claim, attacks, suite.seeds, tuple(_judged(parts)), len(asked) * suite.seeds)


# --- verdicts --------------------------------------------------------------------------------------------------------


def _judged(parts: Sequence[Comparison]) -> list[Comparison]:
    """With Holm over all of them; what has no p value counts as told by none."""
    adjusted = holm([1.0 if part.test is None or part.test.p is None else part.test.p for part in parts])
    return [_verdict(part, p, len(parts)) for part, p in zip(parts, adjusted, strict=True)]


def _verdict(part: Comparison, adjusted: float, among: int) -> Comparison:
    test = part.test
    if test is None:
        return replace(part, why=part.why or "no training of all that it compares is here")
    if test.p is None:
        reason = "one training is no evidence about a method" if test.seeds == 1 else "its trainings agree to the digit"
        return replace(part, why=part.why or reason)
    part = replace(part, adjusted=adjusted)
    if part.why:
        return part
    if not part.complete:
        return replace(part, why=f"runs are missing; so far on {_some(part.attacks)}")
    if adjusted < SURE:
        return replace(part, verdict=HOLDS if test.mean < 0 else FAILS)
    low, _ = seed_interval(part.differences, 1 - SURE / among) or (None, None)
    if low is not None and low > -part.least:
        return replace(part, verdict=FAILS, why="a difference as large as the smallest that counts is excluded")
    assert test.detectable is not None
    return replace(part, why=f"so many trainings find differences of {_size(part, test.detectable)} four times in five")


def _size(part: Comparison, value: float) -> str:
    figure = part.figure("difference")
    points = figure is not None and figure.unit == "points"
    return f"{text.number(value, 'fraction')} points" if points else text.number(value)


def _some(attacks: Sequence[str]) -> str:
    return f"{len(attacks)} attack{'' if len(attacks) == 1 else 's'} ({', '.join(attacks)})"


# --- the tests -------------------------------------------------------------------------------------------------------


def _lower(
    board: Board,
    claim: Lower,
    id: str,
    pair: tuple[str, str],
    attacks: tuple[str, ...],
    groups: dict[str, tuple[str, ...]],
    trainings: int,
) -> Comparison:
    found = gathered(board, [(label, groups.get(label, attacks)) for label in pair], trainings)
    title = f"{pair[0]} against {pair[1]}"
    if not found.sides:
        return _nothing(id, title, pair, claim.least, found)
    one, other = (found.sides[label] for label in pair)
    part = _against(id, title, one, other, found, claim.least)
    change = accuracy_change(one, other)
    if claim.equal_accuracy is None:
        return part
    if change is None or abs(change.mean) > claim.equal_accuracy:
        differ = "is not known" if change is None else f"differs by {text.points(change.mean)} points"
        return replace(part, why=f"accuracy {differ}, where at most {100 * claim.equal_accuracy:g} are equal")
    return part


def _against(id: str, title: str, one: Side, other: Side, found: Evidence, least: float) -> Comparison:
    """Worst attack against worst attack, and accuracy against accuracy."""
    differences = tuple(a - b for a, b in zip(one.worst.values, other.worst.values, strict=True))
    test, runs = paired_means(differences), one.runs + other.runs
    figures = [
        _of_side(f"{id}.first", one),
        _of_side(f"{id}.second", other),
        _change(f"{id}.difference", "difference", test, "points", runs),
    ]
    if one.table is not None and other.table is not None and one.table.shape == other.table.shape and found.seeds > 1:
        low, high = population_interval(one.table - other.table, bounds=(-1.0, 1.0))
        figures.append(Figure(f"{id}.people", "with other people too", test.mean, low, high, "points", runs))
    if change := accuracy_change(one, other):
        figures.append(_change(f"{id}.accuracy", "accuracy", change, "points", runs))
    return _comparison(id, title, (one.label, other.label), figures, test, differences, found, least)


def _of_side(id: str, side: Side) -> Figure:
    """What the worst attack of each training recovers: its mean, the lower end of its t interval, the bound over all
    attacks."""
    worst, ends = side.worst, seed_interval(side.worst.values)
    if ends is not None and worst.bound is not None:
        ends = ends[0], max(worst.bound, worst.mean)
    chosen = worst.chosen if len(set(worst.chosen)) > 1 else worst.chosen[:1]
    title = f"worst attack on {side.label} ({', '.join(chosen)})"
    return _figure(id, title, worst.mean, ends, "fraction", side.runs)


def _figure(
    id: str, title: str, value: float, ends: tuple[float, float] | None, unit: Unit, runs: tuple[RunRecord, ...]
) -> Figure:
    if ends is not None and unit == "fraction":
        ends = max(ends[0], 0.0), min(ends[1], 1.0)
    low, high = ends or (None, None)
    return Figure(id, title, value, low, high, unit, runs)


def _change(id: str, title: str, test: Paired, unit: Unit, runs: tuple[RunRecord, ...]) -> Figure:
    return Figure(id, title, test.mean, test.low, test.high, unit, runs)


def _trend(board: Board, claim: Trend, id: str, attacks: tuple[str, ...], trainings: int) -> Comparison:
    """The least squares slope of each training, as the change from the smallest dose to the largest."""
    asked: list[Asked] = [(label, attacks) for label in claim.doses]
    found = gathered(board, asked, trainings, optional=True)
    title = f"along {len(claim.doses)} settings ({claim.dose})"
    if len(found.sides) < 2:
        return _nothing(id, title, tuple(claim.doses), claim.least, found)
    doses = {label: claim.doses[label] for label in found.sides}
    centre, span = mean(list(doses.values())), max(doses.values()) - min(doses.values())
    spread = sum((dose - centre) ** 2 for dose in doses.values())
    differences = tuple(
        span * sum((dose - centre) * found.sides[label].worst.values[seed] for label, dose in doses.items()) / spread
        for seed in range(found.seeds)
    )
    test = paired_means(differences)
    runs = tuple(run for side in found.sides.values() for run in side.runs)
    figures = [_of_side(f"{id}.{label}", side) for label, side in found.sides.items()]
    figures.append(_change(f"{id}.difference", "difference", test, "points", runs))
    return _comparison(id, title, tuple(doses), figures, test, differences, found, claim.least)


def _leak_at(board: Board, claim: LeakAt, id: str, other: str, attacks: tuple[str, ...], trainings: int) -> Comparison:
    """Of each training the setting that leaks least on the others, among those whose accuracy is surely close enough
    to the undefended model's, which is always one of them."""
    pair = (claim.defense, other)
    labels = dict.fromkeys([claim.undefended, *(label for name in pair for label in claim.settings[name])])
    found = gathered(board, [(label, attacks) for label in labels], trainings, optional=True)
    title = f"{claim.defense} against {other}"
    base = found.sides.get(claim.undefended)
    both = {name: [found.sides[label] for label in claim.settings[name] if label in found.sides] for name in pair}
    if base is None or not all(both.values()):
        return _nothing(id, title, pair, claim.least, found)
    leaks, figures = [], []
    runs = tuple(run for side in found.sides.values() for run in side.runs)
    for name, place in zip(pair, ("first", "second"), strict=True):
        settings = [base, *(side for side in both[name] if _close(side, base, claim))]
        values = [_chosen(settings, seed).worst.values[seed] for seed in range(found.seeds)]
        own = tuple(run for side in settings for run in side.runs)
        what = f"least leakage of {name} within {100 * claim.loss:g} points ({len(settings) - 1} of its settings)"
        figures.append(_figure(f"{id}.{place}", what, mean(values), seed_interval(values), "fraction", own))
        leaks.append(values)
    differences = tuple(a - b for a, b in zip(*leaks, strict=True))
    test = paired_means(differences)
    figures.append(_change(f"{id}.difference", "difference", test, "points", runs))
    part = _comparison(id, title, pair, figures, test, differences, found, claim.least)
    neither = len(figures[0].runs) == len(figures[1].runs) == len(base.runs)
    return replace(part, why="no setting of either is surely that accurate") if neither else part


def _close(side: Side, base: Side, claim: LeakAt) -> bool:
    change = accuracy_change(side, base)
    return change is not None and change.low is not None and change.low >= -claim.loss


def _chosen(sides: Sequence[Side], seed: int) -> Side:
    """The one that leaks least on the other trainings; of several, the first."""
    return min(sides, key=lambda side: _without(side.worst.values, seed))


def _without(values: Sequence[float], left_out: int) -> float:
    """The mean of the others; of one value, itself."""
    return mean([value for seed, value in enumerate(values) if seed != left_out] or list(values))


def _features(
    board: Board, id: str, pair: tuple[str, str], attack: str, measure: Measure, trainings: int
) -> Comparison:
    found = gathered(board, [(label, (attack,)) for label in pair], trainings)
    title = f"{pair[0]} against {pair[1]} under {attack}: {measure.title}"
    if not found.sides:
        return _nothing(id, title, pair, measure.least, found)
    values = [_by_training(found.sides[label], measure, found.seeds) for label in pair]
    known = [(a, b) for a, b in zip(*values, strict=True) if a is not None and b is not None]
    if len(known) < found.seeds:
        return replace(_nothing(id, title, pair, measure.least, found), why="some runs have no feature space")
    sign = 1 if measure.sign == "lower" else -1
    test = paired_means([a - b for a, b in known])
    unit: Unit = "number" if measure.over else "fraction"
    figures = []
    for label, place, own in zip(pair, ("first", "second"), zip(*known, strict=True), strict=True):
        figures.append(_figure(f"{id}.{place}", label, mean(own), seed_interval(own), unit, found.sides[label].runs))
    runs = figures[0].runs + figures[1].runs
    of_difference: Unit = "number" if measure.over else "points"
    figures.append(_change(f"{id}.difference", "difference", test, of_difference, runs))
    oriented = tuple(sign * (a - b) for a, b in known)
    return _comparison(id, title, pair, figures, paired_means(oriented), oriented, found, measure.least)


def _by_training(side: Side, measure: Measure, seeds: int) -> list[float | None]:
    """The mean over the attacks on each training, None where one is not known."""
    found = [[_measured(run, measure) for run in side.runs if run.seed == seed] for seed in range(seeds)]
    return [None if None in own else mean([value for value in own if value is not None]) for own in found]


def _measured(run: RunRecord, measure: Measure) -> float | None:
    values = (run.features or {}).get("values", {})
    found = [values.get(name, {}).get("value") for name in (measure.value, measure.over) if name]
    if any(value is None for value in found) or (measure.over and not found[1]):
        return None
    return float(found[0] / found[1] if measure.over else found[0])


def _comparison(
    id: str,
    title: str,
    sides: tuple[str, ...],
    figures: Iterable[Figure],
    test: Paired,
    differences: tuple[float, ...],
    found: Evidence,
    least: float,
) -> Comparison:
    facts = (found.seeds, found.attacks, found.missing, found.complete and found.seeds >= TRAININGS)
    return Comparison(id, title, sides, tuple(figures), test, least, *facts, differences=differences)


def _nothing(id: str, title: str, sides: tuple[str, ...], least: float, found: Evidence) -> Comparison:
    return Comparison(id, title, sides, (), None, least, 0, (), found.missing, False)
