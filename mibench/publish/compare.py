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
from mibench.publish.rows import MAJORITY, UTILITY, Board, Row, of_trainings
from mibench.publish.standings import Standing, baseline, standings
from mibench.records import RunRecord
from mibench.stats.intervals import seed_interval

TONES = {"leaks less": "good", "leaks more": "bad"}
QUANTILES = 200  # degrees of freedom with a tabulated t quantile; beyond, the last one serves


@dataclass(frozen=True)
class PairedDifference:
    """Attack accuracy of one defense minus that of another: mean with a 95 % t interval over ``over`` (``seeds`` or, of
    a single seed, ``identities``), from ``seeds`` common seeds and ``identities`` common identities. ``one`` and
    ``other`` are the two accuracies over these."""

    mean: float
    low: float | None
    high: float | None
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
    values, over = (means, "seeds") if len(means) > 1 else (list(by_seed[0].values()), "identities")
    low, high = seed_interval(values) or (None, None)
    labels = {label for d in by_seed for label in d}
    one_mean, other_mean = (math.fsum(column) / len(column) for column in zip(*both, strict=True))
    return PairedDifference(
        math.fsum(means) / len(means), low, high, over, len(means), len(labels), one_mean, other_mean
    )


def _mean_of(values: Mapping[str, float], labels: Collection[str]) -> float:
    return math.fsum(values[label] for label in labels) / len(labels)


def reading(difference: PairedDifference) -> str:
    """What a single comparison says."""
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return "not told apart"
    return "leaks less" if difference.mean < 0 else "leaks more"


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
    table = []
    for standing in others:
        for label in sorted(standing.cells):
            if label in reference.cells:
                table.append(_line(standing, label, standing.cells[label], reference.cells[label]))
    return table


def _line(standing: Standing, attack: str, row: Row, base: Row) -> dict[str, Any]:
    difference = paired_difference(row.runs, base.runs, row.leakage)
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
        "verdict": reading(difference),
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
