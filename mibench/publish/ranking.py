"""Where a defense stands: by what the worst attack recovers, which is chosen on other trainings than it is told of.

A defense is ranked once it faced every required attack on trainings 0 to S - 1 without gaps, S at least three. Ranks
are groups: what paired tests do not tell apart shares one. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from mibench.publish.rows import Case, Row, Value, Verdict, failures, interval_of
from mibench.stats.comparisons import Paired, holm, paired_means, shared_ranks
from mibench.stats.intervals import Table, benchmark_interval, seed_interval
from mibench.stats.tradeoff import pareto_front
from mibench.stats.worst import Worst, worst_attack

TRAININGS = 3  # that it takes to be ranked (evaluation 7.12)
SURE = 0.05

Natural = Callable[[Sequence[Row]], Value]


def required_attacks(rows: Iterable[Row]) -> tuple[str, ...]:
    """The attacks in their default setting that some defense faced on enough trainings; if there is none, on any; if
    there is none of these either, all attacks."""
    faced = [(row.attack_label, row.attack_label == row.attack, _prefix([row])) for row in rows if row.by_seed]
    for least, default in ((TRAININGS, True), (0, True), (0, False)):
        names = {label for label, is_default, seeds in faced if seeds >= least and is_default >= default}
        if names:
            return tuple(sorted(names))
    return ()


def arranged(
    rows: Sequence[Row], required: Sequence[str], controls: Container[str], baselines: Container[str], natural: Natural
) -> dict[str, Case]:
    """The defenses by label, in their order; fills the rows' ``position`` and ``worst``. First those that leak less
    than the undefended model, then it and what is not told apart from it, then those that leak more; last the defenses
    that still have something to face, and controls."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.defense_label].append(row)
    cases = [_case(group, required, controls, natural(group)) for group in groups.values()]
    competing = _tested([c for c in cases if c.worst and not c.missing and c.defense not in controls], baselines)
    ranked = dict(zip((case.label for case in competing), _ranks(competing), strict=True))
    front = _front(competing)
    others = [case for case in cases if case.label not in ranked]
    others.sort(key=lambda case: (case.defense in controls, case.value.mean is None, case.value.mean, case.label))
    placed = [replace(case, rank=ranked[case.label], front=case.label in front) for case in competing] + others
    position = 0
    for case in placed:
        group = groups[case.label]
        for row in group:
            row.worst = row.attack_label == (case.worst.attack if case.worst else _leakiest(group, controls))
        for row in sorted(group, key=lambda row: (not row.worst, row.attack in controls, *_by_leakage(row))):
            row.position, position = position, position + 1
    return {case.label: case for case in placed}


def _tested(cases: Sequence[Case], baselines: Container[str]) -> list[Case]:
    """With the primary test of every defense against the undefended model, over the trainings that both have, Holm over
    the defenses; in the order of what it says, then of what leaks. Whatever else is compared is exploratory."""
    undefended = [case for case in cases if case.defense in baselines]
    base = min(undefended, key=lambda case: (case.label != case.defense, case.label), default=None)
    if base is not None:
        tests = {case.label: _against(case, base) for case in cases if case is not base}
        sure = {label: test.p for label, test in tests.items() if test.p is not None}
        adjusted = dict(zip(sure, holm(list(sure.values())), strict=True))
        cases = [
            replace(case, verdict=Verdict(tests[case.label], adjusted.get(case.label))) if case.label in tests else case
            for case in cases
        ]
    return sorted(cases, key=lambda case: (_side(case), _mean(case), case.label))


def _side(case: Case) -> int:
    """Which side of the undefended model a defense is on, as far as can be told: -1, 0 or 1."""
    word = case.verdict.word if case.verdict else ""
    return {"leaks less": -1, "leaks more": 1}.get(word, 0)


def _case(group: Sequence[Row], required: Sequence[str], controls: Container[str], natural: Value) -> Case:
    """Of one defense: its worst attack, of the required ones and their adaptive variants (evaluation 7.5). What it has
    not faced yet is left out and told, and so is a variant on fewer trainings than rank, lest it cost trainings."""
    first = group[0]
    faced = {row.attack_label: row for row in group if row.attack_label in required and row.by_seed}
    enough = min(TRAININGS, _prefix(list(faced.values()))) if faced else TRAININGS
    faced |= {row.attack_label: row for row in group if row.adaptive and _prefix([row]) >= enough > 0}
    seeds = _prefix(list(faced.values())) if faced else 0
    worst = None
    if seeds:
        by_attack = {label: _leaked(row, seeds) for label, row in faced.items()}
        worst = worst_attack(by_attack)
        value = _value(worst, [faced[label] for label in sorted(faced)], seeds)
    else:
        rows = {row.attack_label: row for row in group}
        label = _leakiest(group, controls)
        value = rows[label].leaked if label else Value(None, reason="no attack finished")
    of = {row.attack_label: row for row in group}
    missing = [_missing(label, of.get(label)) for label in required]
    return Case(
        defense=first.defense,
        label=first.defense_label,
        attacks=tuple(sorted(faced)),
        worst=worst,
        value=value,
        natural=natural,
        missing=tuple(word for word in missing if word),
    )


def _missing(label: str, row: Row | None) -> str | None:
    """What keeps a cell from being ranked: a training that failed, or none of the seeds 0 to S - 1 may lack, S at least
    three."""
    if row is None:
        return label
    if failed := failures(row.runs):
        return f"{label} ({'; '.join(failed)})"
    if not row.by_seed:
        return label
    seeds = _prefix([row])
    if seeds < TRAININGS:
        return f"{label} (trainings 0 to {TRAININGS - 1}; {seeds} done without a gap)"
    return None if seeds == len(row.by_seed) else f"{label} (training {seeds}, of which there are later ones)"


def _value(worst: Worst, rows: Sequence[Row], seeds: int) -> Value:
    """The mean with the lower end of its own interval and the bound over all attacks, which is never below what the
    interval of any single attack's people allows."""
    if worst.bound is None:
        row = next(row for row in rows if row.attack_label == worst.attack)
        metric = row.by_seed[0]
        low, high = interval_of(metric, (0.0, 1.0))
        return Value(worst.mean, low, high, seeds=1, of=1, source="bootstrap")
    low, _ = seed_interval(worst.values) or (None, None)
    high = worst.bound
    for row in rows:
        table = table_of(row, range(seeds))
        if table is not None and float(np.ptp(table.mean(1))) == 0:  # trainings that agree tell nothing of others
            people_low, people_high = benchmark_interval(table)
            high = max(high, people_high or high)
            if row.attack_label == worst.attack:
                low = people_low
    low = worst.mean if low is None else max(0.0, min(low, worst.mean))
    return Value(worst.mean, low, max(high, worst.mean), seeds=seeds, of=seeds, source="attacks")


def table_of(row: Row, seeds: Iterable[int]) -> Table | None:
    """(S, I) of what leaks, people in the order of their labels; None unless every run tells it of the same people."""
    of = row.by_seed
    runs = [of[seed].per_identity for seed in seeds]
    if not runs or not runs[0] or any(run.keys() != runs[0].keys() for run in runs):
        return None
    return np.array([[run[label] for label in sorted(runs[0])] for run in runs], dtype=np.float64)


def _prefix(rows: Sequence[Row]) -> int:
    """How many trainings, from 0 on without a gap, are finished for all of these rows."""
    seeds = set.intersection(*(set(row.by_seed) for row in rows))
    return next(n for n in range(len(seeds) + 1) if n not in seeds)


def _leaked(row: Row, seeds: int) -> list[float]:
    of = row.by_seed
    return [value for seed in range(seeds) if (value := of[seed].value) is not None]


def _ranks(cases: Sequence[Case]) -> list[int]:
    """In the order of ``_tested``: defenses on different sides of the undefended model are told apart; within a side a
    test for each pair tells, Holm over its pairs."""
    pairs = [(a, b) for a, b in combinations(range(len(cases)), 2) if _side(cases[a]) == _side(cases[b])]
    tests = [_against(cases[b], cases[a]) for a, b in pairs]
    adjusted = holm([1.0 if test.p is None else test.p for test in tests])
    alike = {pair for pair, test, p in zip(pairs, tests, adjusted, strict=True) if p >= SURE or test.mean <= 0}
    return shared_ranks(len(cases), lambda a, b: (a, b) not in alike)


def _against(one: Case, other: Case) -> Paired:
    assert one.worst and other.worst
    return paired_means([a - b for a, b in zip(one.worst.values, other.worst.values, strict=False)])


def _front(cases: Sequence[Case]) -> set[str]:
    known = [case for case in cases if case.natural.mean is not None]
    points = [(case.natural.mean or 0.0, _mean(case)) for case in known]
    return {known[index].label for index in pareto_front(points)}


def _mean(case: Case) -> float:
    assert case.worst
    return case.worst.mean


def _leakiest(group: Sequence[Row], controls: Container[str]) -> str | None:
    """The label of the attack that recovers most."""
    known = [row for row in group if row.attack not in controls and row.leaked.mean is not None]
    return min(known, key=_by_leakage).attack_label if known else None


def _by_leakage(row: Row) -> tuple[bool, float, str]:
    mean = row.leaked.mean
    return mean is None, -(mean or 0.0), row.attack_label
