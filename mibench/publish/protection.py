"""What a defense is credited with: what it leaks less than the undefended model that is no more accurate (evaluation
7.8). The control is trained from the same initial weights and stopped at the defense's accuracy. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mibench.publish.rows import UTILITY, Row, of_trainings
from mibench.stats.comparisons import Paired, paired_means
from mibench.stats.worst import worst_attack

MATCHED = 0.003  # accuracies no further apart than this are equal (evaluation 7.8)


@dataclass(frozen=True)
class Protection:
    """``net``: what the worst attack recovers from the control minus what the worst recovers from the defense, of the
    ``attacks`` that both met, paired by training. ``gap``: the control's accuracy minus the defense's, the largest of
    any training; None where it is not known."""

    control: str  # its label
    net: Paired
    attacks: tuple[str, ...]
    gap: float | None

    @property
    def matched(self) -> bool:
        """Whether both are equally accurate in every training."""
        return self.gap is not None and abs(self.gap) <= MATCHED + 1e-9


def protection(rows: Sequence[Row], controls: Sequence[Row]) -> Protection | None:
    """Of a defense with ``rows``; ``controls`` are the rows of all controls. None where its own is not among them, or
    met none of the same attacks in the same trainings, from 0 on without a gap."""
    if not rows:
        return None
    label = rows[0].defense_label
    own = {row.attack_label: row for row in controls if row.runs[0].defense_params.get("like") == label}
    pairs = {row.attack_label: (own[row.attack_label], row) for row in rows if row.attack_label in own}
    pairs = {attack: pair for attack, pair in pairs.items() if 0 in pair[0].by_seed and 0 in pair[1].by_seed}
    if not pairs:
        return None
    common = set.intersection(*(row.by_seed.keys() & other.by_seed for row, other in pairs.values()))
    seeds = next(n for n in range(len(common) + 1) if n not in common)
    control, defense = (_worst({attack: pair[side] for attack, pair in pairs.items()}, seeds) for side in (0, 1))
    return Protection(
        control=next(iter(own.values())).defense_label,
        net=paired_means([a - b for a, b in zip(control, defense, strict=True)]),
        attacks=tuple(sorted(pairs)),
        gap=_gap([pair[0] for pair in pairs.values()], [pair[1] for pair in pairs.values()]),
    )


def _worst(rows: Mapping[str, Row], seeds: int) -> list[float]:
    """What the worst attack of each training recovers, chosen on the others."""
    means = {attack: [_value(row, seed) for seed in range(seeds)] for attack, row in rows.items()}
    return worst_attack(means).values


def _value(row: Row, seed: int) -> float:
    value = row.by_seed[seed].value
    assert value is not None
    return value


def _gap(control: Sequence[Row], defense: Sequence[Row]) -> float | None:
    one, other = (of_trainings(UTILITY, [run for row in rows for run in row.runs]) for rows in (control, defense))
    known = [(one[seed].value, other[seed].value) for seed in sorted(one.keys() & other.keys())]
    gaps = [a - b for a, b in known if a is not None and b is not None]
    return max(gaps, key=abs, default=None)
