"""Whether an attack gets further than its prior does by itself. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from mibench.publish.compare import paired_difference
from mibench.publish.rows import Row
from mibench.publish.way import Bounds, prior_of
from mibench.records import RunRecord

Floors = Mapping[tuple[str, Hashable], Row]


@dataclass(frozen=True)
class Floor:
    """What an attack would reach without optimising anything: the floor of its prior on the same target or, where it
    searches no prior, guessing. ``above``: the interval of the paired difference lies above zero; for guessing, the
    attack's own interval above it."""

    value: float
    above: bool
    guessing: bool = False


def floors_of(rows: Sequence[Row], bounds: Bounds | None) -> Floors:
    """The floors of a board by the defense's label and the prior."""
    own = [row for row in rows if bounds is not None and row.attack == bounds[0] and row.by_seed]
    return {(row.defense_label, prior_of(_first(row))): row for row in own}


def floor_of(row: Row, floors: Floors, chance: float) -> Floor | None:
    """None where the attack has no figure or the floor of its prior was not run."""
    if row.leaked.mean is None:
        return None
    prior = prior_of(_first(row))
    if prior is None:
        low = row.leaked.mean if row.leaked.low is None else row.leaked.low
        return Floor(chance, low > chance, guessing=True)
    floor = floors.get((row.defense_label, prior))
    difference = paired_difference(row.runs, floor.runs, row.leakage) if floor else None
    if floor is None or floor.leaked.mean is None or difference is None:
        return None
    low = difference.mean if difference.low is None else difference.low
    return Floor(floor.leaked.mean, low > 0)


def _first(row: Row) -> RunRecord:
    return next(run for run in row.runs if run.status == "done")
