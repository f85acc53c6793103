"""Whether a defense hides gradients rather than what they lead to (evaluation 7.5): four checks, by themselves, of what
is stored. A hit says that its figures against attacks by gradient may flatter it, not that it is worthless. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mibench.publish import text
from mibench.publish.model import Catalogue, Facts
from mibench.publish.rows import TOP1, Row, of_trainings
from mibench.records import GradientFacts
from mibench.stats import bootstrap_interval

STEP0 = "att1_step0"
SHOWN = 3  # comparisons that a sentence names
AGREE = 0.05  # the cosine of the gradients of two views of an image below which they say nothing of each other
UNCHANGED = 0.9  # of the accuracy on images, on their views: below, the answers change as the gradients do


@dataclass(frozen=True)
class Check:
    """One check of one defense. ``hit`` is None where it cannot be told; ``said`` has the figures, or why it cannot."""

    name: str
    hit: bool | None
    said: str


@dataclass(frozen=True)
class _Difference:
    """Of two attacks on one defense, or of one before and after: the mean over the trainings that both have, with its
    95 % bootstrap interval over people, of each of whom the mean over these trainings counts."""

    mean: float
    low: float
    high: float

    @property
    def words(self) -> str:
        return f"{text.points(self.mean)} points ({text.points_interval(self.low, self.high)})"


Rows = Mapping[str, Row]  # by attack label
Pair = tuple[str, str]  # attack labels: whose figure should not be the higher one


def checks(rows: Rows, undefended: Rows, catalogue: Catalogue) -> tuple[Check, ...]:
    """All of one defense: ``rows`` against it, ``undefended`` against the undefended model, which shows how the attacks
    compare where nothing is hidden."""
    return (
        _black_box(rows, undefended, catalogue.attacks),
        _budget(rows, undefended, catalogue.attacks),
        _transfer(rows, undefended),
        _gradients(rows.values(), undefended.values()),
    )


def _black_box(rows: Rows, undefended: Rows, attacks: Mapping[str, Facts]) -> Check:
    """The best attack without gradients against the best one with them."""
    name = "without gradients"
    white = _best(row for row in rows.values() if _access(row, attacks) == "white_box" and not transfers(row))
    black = _best(row for row in rows.values() if _access(row, attacks) in ("scores", "labels"))
    if white is None or black is None:
        return Check(name, None, "It did not meet attacks with gradients and attacks without.")
    return _above(name, [(black, white)], rows, undefended)


def _transfer(rows: Rows, undefended: Rows) -> Check:
    """Attacks on an undefended student of the target against the same on the target."""
    pairs = [(label, base) for label, row in rows.items() if transfers(row) and (base := _base(row, rows, "transfer"))]
    if not pairs:
        return Check("transfer", None, "No attack met both the target and a student of it.")
    return _above("transfer", pairs, rows, undefended)


def _above(name: str, pairs: Iterable[Pair], rows: Rows, undefended: Rows) -> Check:
    """Whether the first of a pair recovers more, as it does not on the undefended model."""
    told, open_ = [], []
    for high, low in pairs:
        found = _difference(rows[high], rows[low])
        if found is None:
            open_.append(f"{high} and {low}: not known of the same people and trainings")
            continue
        there = _difference(undefended[high], undefended[low]) if {high, low} <= undefended.keys() else None
        words = f"{high} recovers {found.words} more than {low}"
        if there is None:
            open_.append(f"{words}; the undefended model did not meet both")
        elif found.low > 0 and there.low > 0:
            open_.append(f"{words}, but on the undefended model too, {there.words}")
        else:
            told.append((found.low > 0, f"{words}; undefended {there.words}"))
    return _told(name, told, open_)


def _budget(rows: Rows, undefended: Rows, attacks: Mapping[str, Facts]) -> Check:
    """Whether attacks with gradients gain by optimisation, and by more of it, where they do on the undefended model."""
    told: dict[bool, list[tuple[bool, str]]] = {False: [], True: []}  # from the start on; by more steps
    open_ = []
    for label, row in rows.items():
        base = _base(row, rows, "effort")
        if _access(row, attacks) != "white_box" or transfers(row) or (row.adaptive and base is None):
            continue
        found, there = (_growth(of, label, base) for of in (rows, undefended))
        words = f"{label} gains" if base is None else f"{label} recovers more than {base}:"
        if found is None or there is None:
            open_.append(f"{label}: not known person by person, of it and of the undefended model")
        elif there.low <= 0:
            open_.append(f"{words} {there.words} on the undefended model, which may be nothing")
        else:
            told[base is not None].append((found.low <= 0, f"{words} {found.words}; undefended {there.words}"))
    hits = [each for group in told.values() if group and all(hit for hit, _ in group) for each in group]
    every = [(False, words) for group in told.values() for _, words in group]
    return _told("budget", hits or every, open_ or ["No attack with gradients met both it and the undefended model"])


def _growth(of: Rows, label: str, base: str | None) -> _Difference | None:
    """What an attack recovers more than ``base``, or, without one, than where it starts."""
    if label not in of or (base is not None and base not in of):
        return None
    return _gain(of[label]) if base is None else _difference(of[label], of[base])


def _gradients(rows: Iterable[Row], undefended: Iterable[Row]) -> Check:
    """What the stage ``gradients`` found, the mean over trainings."""
    name = "gradients"
    found, there = _facts(rows), _facts(undefended)
    if not found:
        return Check(name, None, "Not computed: no attack with gradients meets the target, or an older program ran it.")
    accuracy, on_views, without = (_mean(found, key) for key in ("accuracy", "accuracy_views", "without"))
    known = [facts for facts in found if facts["cosine"] is not None]
    cosine = _mean(known, "cosine") if known else None
    words = f"{text.number(without, 'fraction')} % of the images have no gradient"
    if cosine is not None:
        other = [facts for facts in there if facts["cosine"] is not None]
        words += f", those of two views of the others a cosine of {cosine:.2f}"
        words += f" (undefended {_mean(other, 'cosine'):.2f})" if other else ""
    words += f"; accuracy {text.number(accuracy, 'fraction')} %, on the views {text.number(on_views, 'fraction')} %"
    if on_views < UNCHANGED * accuracy:
        return Check(name, None, f"The answers change with the view as well: {words}.")
    apart = bool(known) and _mean(known, "cosine_high") < AGREE
    return Check(name, without > 0.5 or apart, f"{words[0].upper()}{words[1:]}.")


def _told(name: str, told: Sequence[tuple[bool, str]], open_: Sequence[str]) -> Check:
    hits = [words for hit, words in told if hit]
    known = hits or [words for _, words in told] or open_
    more = [f"and {len(known) - SHOWN} more"] if len(known) > SHOWN else []
    return Check(name, bool(hits) if told else None, f"{'; '.join([*known[:SHOWN], *more])}.")


def _difference(one: Row, other: Row) -> _Difference | None:
    first, second = one.by_seed, other.by_seed
    seeds = sorted(first.keys() & second.keys())
    return _over_people([(first[seed].per_identity, second[seed].per_identity) for seed in seeds])


def _gain(row: Row) -> _Difference | None:
    """What optimisation adds, under E1, which alone judges the start."""
    ends, starts = (of_trainings(name, row.runs) for name in (TOP1["E1"], STEP0))
    return _over_people([(ends[seed].per_identity, starts[seed].per_identity) for seed in sorted(ends.keys() & starts)])


def _over_people(pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> _Difference | None:
    labels = sorted(set.intersection(*({*one} & {*other} for one, other in pairs))) if pairs else []
    if len(labels) < 2:
        return None
    people = np.array([[one[label] - other[label] for label in labels] for one, other in pairs]).mean(0)
    low, high = bootstrap_interval(people.tolist())
    assert low is not None and high is not None
    return _Difference(float(people.mean()), low, high)


def transfers(row: Row) -> bool:
    """Whether the attack looked at a student in place of the target."""
    return any(run.attack_params.get("transfer") for run in row.runs)


def _access(row: Row, attacks: Mapping[str, Facts]) -> str:
    return str(attacks.get(row.attack, {}).get("access") or "")


def _base(row: Row, rows: Rows, changed: str) -> str | None:
    """The label of the same attack without the parameter ``changed``; None if the row has none or that was not run."""
    params = row.runs[0].attack_params
    if changed not in params:
        return None
    rest = {key: value for key, value in params.items() if key != changed}
    same = (x for x, other in rows.items() if other.attack == row.attack and other.runs[0].attack_params == rest)
    return next(same, None)


def _best(rows: Iterable[Row]) -> str | None:
    known = [row for row in rows if row.leaked.mean is not None]
    return max(known, key=lambda row: (row.leaked.mean or 0.0, row.attack_label)).attack_label if known else None


def _facts(rows: Iterable[Row]) -> list[GradientFacts]:
    """Of each training once."""
    runs = [run for row in rows for run in row.runs]
    return list({run.seed: run.gradients for run in runs if run.gradients}.values())


def _mean(facts: Sequence[Mapping[str, Any]], key: str) -> float:
    return sum(float(each[key]) for each in facts) / len(facts)
