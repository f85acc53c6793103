"""Paired comparison of two defenses: the same attack, the same seeds, the same identities."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mibench.publish import text
from mibench.publish.links import run_page
from mibench.publish.metrics import metric_facts
from mibench.publish.model import Catalogue
from mibench.publish.names import attack_name, defense_name
from mibench.publish.ranking import SURE
from mibench.publish.rows import MAJORITY, UTILITY, Board, Row, of_trainings
from mibench.publish.standings import Standing, baseline, standings
from mibench.records import RunRecord
from mibench.stats.comparisons import holm, paired_means
from mibench.stats.intervals import seed_interval

TONES = {"leaks less": "good", "leaks more": "bad"}
QUANTILES = 200  # degrees of freedom with a tabulated t quantile; beyond, the last one serves


@dataclass(frozen=True)
class PairedDifference:
    """Attack accuracy of one defense minus that of another: mean with a 95 % t interval over ``over`` (``seeds`` or, of
    a single seed, ``identities``), from ``seeds`` common seeds and ``identities`` common identities. ``p`` is
    two-sided, over seeds; None where there is one, or where all differ by the same to the digit. ``one`` and ``other``
    are the two accuracies over these."""

    mean: float
    low: float | None
    high: float | None
    p: float | None
    over: str
    seeds: int
    identities: int
    one: float
    other: float


def paired_difference(one: Sequence[RunRecord], other: Sequence[RunRecord], metric: str) -> PairedDifference | None:
    """Of a metric: over the seeds that both have finished, and in them over the identities that both attacked. None
    without any.

    With several seeds the interval is over the seeds' mean differences, with one over the identities' differences."""
    first, second = _by_seed(one, metric), _by_seed(other, metric)
    by_seed: list[dict[str, float]] = []
    both: list[tuple[float, float]] = []
    for seed in sorted(first.keys() & second.keys()):
        a, b = first[seed], second[seed]
        if common := a.keys() & b.keys():
            by_seed.append({label: a[label] - b[label] for label in sorted(common)})
            both.append((_mean_of(a, common), _mean_of(b, common)))
    if not by_seed:
        return None
    means = [math.fsum(d.values()) / len(d) for d in by_seed]
    over = "seeds" if len(means) > 1 else "identities"
    found = paired_means(means)
    low, high = (found.low, found.high)
    if over == "identities":
        low, high = seed_interval(list(by_seed[0].values())) or (None, None)
    labels = {label for d in by_seed for label in d}
    one_mean, other_mean = (math.fsum(column) / len(column) for column in zip(*both, strict=True))
    return PairedDifference(found.mean, low, high, found.p, over, len(means), len(labels), one_mean, other_mean)


def _mean_of(values: Mapping[str, float], labels: Collection[str]) -> float:
    return math.fsum(values[label] for label in labels) / len(labels)


def readings(differences: Sequence[PairedDifference | None]) -> list[str | None]:
    """What comparisons that are read together say: leaks less, leaks more, not told apart, one training. Holm's
    correction is over all of them that have a p value."""
    tested = [i for i, found in enumerate(differences) if found is not None and found.p is not None]
    adjusted = dict(zip(tested, holm([differences[i].p for i in tested]), strict=True))  # type: ignore[union-attr, misc]
    return [None if found is None else _reading(found, adjusted.get(i)) for i, found in enumerate(differences)]


def _reading(found: PairedDifference, p: float | None) -> str:
    if found.seeds == 1:
        return "one training"
    if p is None or p >= SURE:
        return "not told apart"
    return "leaks less" if found.mean < 0 else "leaks more"


def _by_seed(runs: Sequence[RunRecord], metric: str) -> dict[int, Mapping[str, float]]:
    return {seed: value.per_identity for seed, value in of_trainings(metric, runs).items() if value.per_identity}


def t_quantiles() -> list[float]:
    """The 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom, to six digits."""
    from scipy.special import stdtrit

    return [round(float(stdtrit(df, 0.975)), 6) for df in range(1, QUANTILES + 1)]


def compare_view(board: Board, catalogue: Catalogue, pictures: Mapping[str, Mapping[int, int]]) -> dict[str, Any]:
    """``pictures``: for each run the index of the first image that the site carries, by identity."""
    defenses = standings(board, catalogue)
    runs = [run for s in defenses for run in s.runs if run.status == "done" and run.metrics.get(board.leakage)]
    labels = sorted({label for run in runs for label in run.identities})
    reference = baseline(defenses, catalogue)
    return {
        "title": catalogue.board_title(board),
        "sensitive": catalogue.sensitive(board.track),
        "reference": reference.label if reference else None,
        "panel": board.leakage == MAJORITY,
        "heading": metric_facts(catalogue, board.leakage)["heading"],
        "defenses": [s.label for s in defenses],
        "rows": _against(reference, [s for s in defenses if s is not reference]) if reference else [],
        "island": {
            "identities": labels,
            "defenses": [[s.label, defense_name(catalogue, s.defense, s.label)] for s in defenses],
            "attacks": {
                row.attack_label: attack_name(catalogue, row.attack, row.attack_label)
                for s in defenses
                for row in s.cells.values()
            },
            "worst": {s.label: s.worst.attack_label for s in defenses if s.worst},
            "controls": sorted({row.attack_label for row in board.rows if row.attack in catalogue.controls}),
            "t": t_quantiles(),
            "reference": reference.label if reference else None,
            "runs": [line for s in defenses for row in s.cells.values() for line in _trainings(row, labels, pictures)],
        },
    }


def _against(reference: Standing, others: Sequence[Standing]) -> list[dict[str, Any]]:
    """A line per defense and attack that both met; what they say holds for all lines at once."""
    both = [(s, attack) for s in others for attack in sorted(s.cells) if attack in reference.cells]
    found = [paired_difference(s.cells[a].runs, reference.cells[a].runs, s.cells[a].leakage) for s, a in both]
    return [_line(s, a, each, word) for (s, a), each, word in zip(both, found, readings(found), strict=True)]


def _line(standing: Standing, attack: str, difference: PairedDifference | None, word: str | None) -> dict[str, Any]:
    line: dict[str, Any] = {
        "defense": standing.label,
        "attack": attack,
        "own": text.MISSING,
        "reference": text.MISSING,
        "difference": None,
    }
    if difference is None:
        return line
    return line | {
        "own": text.number(difference.one, "fraction"),
        "reference": text.number(difference.other, "fraction"),
        "difference": text.points(difference.mean),
        "order": repr(difference.mean),
        "interval": text.points_interval(difference.low, difference.high),
        "seeds": difference.seeds,
        "over": difference.over,
        "verdict": word,
    }


def _trainings(row: Row, labels: Sequence[int], pictures: Mapping[str, Mapping[int, int]]) -> Iterator[dict[str, Any]]:
    """A line per training, with the page and the pictures of the first attack on it."""
    first = {run.seed: run for run in reversed(row.runs) if run.status == "done" and row.leakage in run.metrics}
    leaked = row.by_seed
    for seed in sorted(first):
        people = leaked[seed].per_identity if seed in leaked else {}
        yield _training(first[seed], people, labels, pictures.get(first[seed].run, {}))


def _training(
    run: RunRecord, values: Mapping[str, float], labels: Sequence[int], pictures: Mapping[int, int]
) -> dict[str, Any]:
    return {
        "run": run.run,
        "href": run_page(run),
        "defense": run.defense_label,
        "attack": run.attack_label,
        "seed": run.seed,
        "natural": run.metrics[UTILITY].value if UTILITY in run.metrics else None,
        "leaked": [values.get(str(label)) for label in labels],
        "images": [pictures.get(label) for label in labels] if pictures else None,
    }
