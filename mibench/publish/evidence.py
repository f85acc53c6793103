"""What a board holds of some defenses under some attacks, over the trainings that all of them share. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mibench.publish.ranking import TRAININGS
from mibench.publish.rows import UTILITY, Board, Row
from mibench.records import MetricValue, RunRecord
from mibench.stats.comparisons import Paired, paired_means
from mibench.stats.intervals import Table
from mibench.stats.worst import Worst, worst_attack

Asked = tuple[str, tuple[str, ...]]  # the label of a defense, and those of the attacks that it faces


@dataclass(frozen=True)
class Missing:
    """Trainings of a defense that an attack did not meet yet."""

    defense: str
    attack: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Side:
    """A defense under its attacks on trainings 0 to S - 1. ``table`` (S, people) holds what the worst attack of each
    training recovers of each person, None where that is not known person by person; ``natural`` the accuracy of each
    target, None where one is not known."""

    label: str
    worst: Worst
    table: Table | None
    natural: tuple[float | None, ...]
    runs: tuple[RunRecord, ...]


@dataclass(frozen=True)
class Evidence:
    """``sides`` by label, over ``seeds`` trainings and ``attacks``; empty where nothing is shared. ``missing`` is what
    is asked for and not there; ``complete`` if all attacks were met on enough trainings to say anything."""

    sides: Mapping[str, Side]
    seeds: int
    attacks: tuple[str, ...]
    missing: tuple[Missing, ...]
    complete: bool


def gathered(board: Board, asked: Sequence[Asked], trainings: int, optional: bool = False) -> Evidence:
    """``trainings``: how many there are to be; more are left aside. An attack counts if every defense that is asked to
    face it did, on enough trainings from 0 on without a gap; if there is none, on any. ``optional``: what is known of
    the others is told although some defenses have no runs at all."""
    rows = {(row.defense_label, row.attack_label): row for row in board.rows}
    met = {(defense, attack): _met(rows.get((defense, attack)), trainings) for defense, own in asked for attack in own}
    if optional:
        here = [(defense, own) for defense, own in asked if any(met[defense, attack] for attack in own)]
        if here and len(here) < len(asked):
            rest = [(defense, own) for defense, own in asked if (defense, own) not in here]
            none = tuple(Missing(d, a, tuple(range(trainings))) for d, own in rest for a in own)
            found = gathered(board, here, trainings)
            return replace(found, missing=found.missing + none, complete=False)
    missing = tuple(
        Missing(*cell, left) for cell, seeds in met.items() if (left := tuple(sorted({*range(trainings)} - seeds)))
    )
    everything = dict.fromkeys(attack for _, own in asked for attack in own)
    shared = {
        attack: min(_prefix(met[defense, attack]) for defense, own in asked if attack in own) for attack in everything
    }
    attacks = [attack for attack in everything if shared[attack] >= TRAININGS]
    complete = len(attacks) == len(everything)
    attacks = attacks or [attack for attack in everything if shared[attack]]
    if not all(set(own) & set(attacks) for _, own in asked):
        return Evidence({}, 0, (), missing, False)
    seeds = min(shared[attack] for attack in attacks)
    sides = {
        defense: side_of([rows[defense, attack] for attack in own if attack in attacks], seeds)
        for defense, own in asked
    }
    return Evidence(sides, seeds, tuple(attacks), missing, complete)


def side_of(rows: Sequence[Row], seeds: int) -> Side:
    """Of the rows of one defense, one for each attack."""
    found = {row.attack_label: row.by_seed for row in rows}
    values = {attack: [_value(of[seed]) for seed in range(seeds)] for attack, of in found.items()}
    worst = worst_attack(values)
    people = [found[attack][seed].per_identity for seed, attack in enumerate(worst.chosen)]
    known = bool(people[0]) and all(own.keys() == people[0].keys() for own in people)
    table = np.array([[own[label] for label in sorted(people[0])] for own in people]) if known else None
    runs = tuple(run for row in rows for run in row.runs if run.status == "done" and run.seed < seeds)
    return Side(rows[0].defense_label, worst, table, natural_of(runs, seeds), runs)


def natural_of(runs: Iterable[RunRecord], seeds: int) -> tuple[float | None, ...]:
    """The accuracy of the target of each training; of several records of one the newest."""
    found = {
        run.seed: run.metrics[UTILITY].value for run in sorted(runs, key=lambda r: r.created) if UTILITY in run.metrics
    }
    return tuple(found.get(seed) for seed in range(seeds))


def accuracy_change(one: Side, other: Side) -> Paired | None:
    """The accuracy of one minus that of the other, paired by training; None where one is not known."""
    pairs = zip(one.natural, other.natural, strict=True)
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    return paired_means(differences) if len(differences) == len(one.natural) else None


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _met(row: Row | None, trainings: int) -> set[int]:
    return {seed for seed in row.by_seed if seed < trainings} if row else set()


def _prefix(seeds: set[int]) -> int:
    return next(n for n in range(len(seeds) + 1) if n not in seeds)


def _value(metric: MetricValue) -> float:
    assert metric.value is not None
    return metric.value
