"""What a defense gives for what it costs: Leak@b, the area its settings cover, who dominates whom, and the ratio that
papers print (evaluation 4 and 7.8). Of ranked defenses, over the trainings that they share with the undefended model.
Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from mibench.publish import text
from mibench.publish.evidence import Side, accuracy_change, mean, side_of
from mibench.publish.links import defense_page
from mibench.publish.model import Catalogue
from mibench.publish.rows import TOP1, UTILITY, Board, Case, Row, of_trainings
from mibench.stats.comparisons import Paired, paired_means
from mibench.stats.intervals import Table
from mibench.stats.tradeoff import delta, fieller, hypervolumes, leak_at, resampled

LOSSES = (0.005, 0.01, 0.02, 0.05)  # points of accuracy that a setting may lose
WINDOWS = (0.1, 0.05)  # of accuracy, in which the area is measured
WORDS = {
    "dominates": "less leakage without losing accuracy: the ratio has no value",
    "harmful": "accuracy lost, leakage not lowered",
    "leaks_more": "more leakage, without losing accuracy: the ratio would look good",
    "undetermined": "the loss of accuracy is not told from none, so the ratio could be anything",
}


@dataclass(frozen=True)
class Estimate:
    value: float
    low: float | None
    high: float | None
    of: str | None = None  # the setting that it comes from, None: the undefended model


@dataclass(frozen=True)
class Exchange:
    """A defense with all its ranked settings. ``leak``: by loss; ``volume``: by window, None where the undefended model
    leaks no more than chance."""

    defense: str
    settings: tuple[str, ...]
    seeds: int
    leak: Mapping[float, Estimate]
    volume: Mapping[float, Estimate | None]


@dataclass(frozen=True)
class Tradeoff:
    """``dominated``: by label, a defense that is better in both, as paired intervals over trainings say."""

    exchanges: tuple[Exchange, ...]
    dominated: Mapping[str, str]


def tradeoff(board: Board, baselines: frozenset[str]) -> Tradeoff:
    ranked = [case for case in board.cases.values() if case.rank is not None]
    base = next((case for case in ranked if case.defense in baselines), None)
    dominated = _dominated(board, ranked)
    if base is None:
        return Tradeoff((), dominated)
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in ranked:
        if case is not base:
            groups[case.defense].append(case)
    return Tradeoff(tuple(_exchange(board, base, cases) for _, cases in sorted(groups.items())), dominated)


def _sides(board: Board, cases: Sequence[Case], seeds: int) -> list[Side]:
    return [side_of([r for r in _rows(board, case) if r.attack_label in case.attacks], seeds) for case in cases]


def _rows(board: Board, case: Case) -> list[Row]:
    return [row for row in board.rows if row.defense_label == case.label]


def _exchange(board: Board, base: Case, cases: Sequence[Case]) -> Exchange:
    seeds = min(case.seeds for case in [base, *cases])
    undefended, *settings = _sides(board, [base, *cases], seeds)
    known = [(case, side) for case, side in zip(cases, settings, strict=True) if None not in side.natural]
    sides = [undefended, *(side for _, side in known)]
    tables = None if None in undefended.natural else _tables(sides, seeds)
    leak = {loss: _leak(sides, loss, tables) for loss in LOSSES}
    volume = {window: _volume(sides, board.chance, window, tables) for window in WINDOWS}
    return Exchange(cases[0].defense, tuple(case.label for case in cases), seeds, leak, volume)


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _tables(sides: Sequence[Side], seeds: int) -> list[Table] | None:
    """Utility and leakage of each, (S, people); None unless all of it is known of the same people."""
    if any(side.table is None or side.table.shape != sides[0].table.shape for side in sides):  # type: ignore[union-attr]
        return None
    tables = []
    for side in sides:
        natural = {run.seed: run.metrics[UTILITY].per_identity for run in side.runs if UTILITY in run.metrics}
        people = [natural[seed] for seed in range(seeds)]
        assert side.table is not None
        whole = np.repeat(np.array(_known(side.natural))[:, None], side.table.shape[1], 1)
        same = len(people[0]) == side.table.shape[1] and all(own.keys() == people[0].keys() for own in people)
        tables += [np.array([[own[who] for who in sorted(own)] for own in people]) if same else whole, side.table]
    return tables


def _leak(sides: Sequence[Side], loss: float, tables: list[Table] | None) -> Estimate:
    """A setting counts if the lower end of the interval of its accuracy, paired with the undefended model's, is within
    ``loss``: which ones do is held fixed in its own interval."""
    base, *settings = sides
    close = [side for side in settings if (low := _low(side, base)) is not None and low >= -loss - 1e-12]
    level = mean(_known(base.natural)) if _known(base.natural) else 0.0
    value = leak_at([(level, side.worst.mean) for side in close], (level, base.worst.mean), loss)
    chosen = next((side.label for side in close if side.worst.mean == value), None)
    low, high = None, None
    if tables is not None:
        kept = [tables[1], *(tables[2 * i + 3] for i, side in enumerate(settings) if side in close)]
        low, high = resampled(kept, lambda rows: rows.min(1), (0.0, 1.0))
    return Estimate(value, low, high, chosen)


def _low(side: Side, base: Side) -> float | None:
    change = accuracy_change(side, base)
    return change.low if change else None


def _volume(sides: Sequence[Side], chance: float, window: float, tables: list[Table] | None) -> Estimate | None:
    if not _known(sides[0].natural) or sides[0].worst.mean <= chance:
        return None

    numbers = np.array([[value for side in sides for value in (mean(_known(side.natural)), side.worst.mean)]])
    low, high = None, None
    if tables is not None:
        low, high = resampled(tables, lambda rows: hypervolumes(rows, chance, window), (0.0, 1.2))
    return Estimate(float(hypervolumes(numbers, chance, window)[0]), low, high)


def _dominated(board: Board, cases: Sequence[Case]) -> dict[str, str]:
    """Surely: another one has more accuracy and less leakage, both paired intervals on that side of 0."""
    found: dict[str, str] = {}
    sides = {case.label: _sides(board, [case], case.seeds)[0] for case in cases}
    for one, other in permutations(cases, 2):
        seeds = min(one.seeds, other.seeds)
        mine, theirs = sides[one.label], sides[other.label]
        leaks = paired_means(
            [a - b for a, b in zip(theirs.worst.values[:seeds], mine.worst.values[:seeds], strict=True)]
        )
        pairs = list(zip(theirs.natural[:seeds], mine.natural[:seeds], strict=True))
        gains = [a - b for a, b in pairs if a is not None and b is not None]
        if one.label not in found and len(gains) == seeds and _below(leaks) and _above(paired_means(gains)):
            found[one.label] = other.label
    return found


def _below(paired: Paired) -> bool:
    return paired.high is not None and paired.high < 0


def _above(paired: Paired) -> bool:
    return paired.low is not None and paired.low > 0


# --- as papers print it ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ratio:
    """Points of E1's top-1 that go for each point of accuracy, under one attack; ``value`` is a word where the ratio
    means nothing."""

    defense: str
    attack: str
    value: float | str
    low: float | None
    high: float | None


def ratios(board: Board, label: str, base: str) -> list[Ratio]:
    """Of one setting, against the undefended model, under every attack that both faced. It ranks nothing."""
    rows = {row.attack_label: row for row in board.rows if row.defense_label == base}
    found = []
    for row in (row for row in board.rows if row.defense_label == label and row.attack_label in rows):
        known = [
            [of_trainings(name, each.runs) for name in (TOP1["E1"], UTILITY)] for each in (rows[row.attack_label], row)
        ]
        seeds = sorted(set.intersection(*(set(of) for both in known for of in both)))
        if not seeds:
            continue
        (a0, u0), (a1, u1) = [[[of[seed].value or 0.0 for seed in seeds] for of in both] for both in known]
        hidden, lost = ([p - q for p, q in zip(*pair, strict=True)] for pair in ((a0, a1), (u0, u1)))
        value = delta((mean(u0), mean(a0)), (mean(u1), mean(a1)), _half(lost))
        low, high = fieller(hidden, lost) if isinstance(value, float) else (None, None)
        found.append(Ratio(label, row.attack_label, value, low, high))
    return found


def _half(lost: Sequence[float]) -> float:
    """The half width of the interval of what is lost: of one training infinite."""
    paired = paired_means(lost)
    if paired.low is None or paired.high is None:
        return float("inf") if len(lost) == 1 else 0.0
    return (paired.high - paired.low) / 2


# --- as it is shown --------------------------------------------------------------------------------------------------


def tradeoff_view(board: Board, found: Tradeoff, catalogue: Catalogue) -> dict[str, Any]:
    """``rows``: a line for each defense; ``settings``: one for each that is ranked, with what its test would find and
    who dominates it for sure; ``ratios``: by defense, one for each setting and attack."""
    base = next((case.label for case in board.cases.values() if case.defense in catalogue.baselines), None)
    cases = [case for case in board.cases.values() if case.defense not in {*catalogue.controls, *catalogue.baselines}]
    ratio_lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for case in cases if base else ():
        ratio_lines[case.defense] += [_ratio(ratio, catalogue) for ratio in ratios(board, case.label, str(base))]
    return {
        "losses": [f"{100 * loss:g}" for loss in LOSSES],
        "windows": [f"{100 * window:g}" for window in WINDOWS],
        "rows": [_line(exchange, catalogue) for exchange in found.exchanges],
        "settings": [_setting(case, found) for case in cases if case.rank is not None],
        "dominated": dict(found.dominated),
        "ratios": dict(ratio_lines),
    }


def _line(exchange: Exchange, catalogue: Catalogue) -> dict[str, Any]:
    return {
        "defense": exchange.defense,
        "title": catalogue.defenses.get(exchange.defense, {}).get("title") or exchange.defense,
        "href": defense_page(exchange.defense),
        "settings": len(exchange.settings),
        "seeds": exchange.seeds,
        "leak": [_percent(exchange.leak[loss]) for loss in LOSSES],
        "volume": [_area(exchange.volume[window]) for window in WINDOWS],
    }


def _percent(estimate: Estimate) -> dict[str, Any]:
    ends = text.interval(estimate.low, estimate.high, "fraction")
    return {"text": text.number(estimate.value, "fraction"), "interval": ends, "of": estimate.of or "undefended"}


def _area(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    known = estimate.low is not None and estimate.high is not None
    return {"text": f"{estimate.value:.2f}", "interval": f"{estimate.low:.2f}–{estimate.high:.2f}" if known else ""}


def _setting(case: Case, found: Tradeoff) -> dict[str, Any]:
    verdict = case.verdict
    detectable = verdict.difference.detectable if verdict else None
    return {
        "label": case.label,
        "defense": case.defense,
        "href": defense_page(case.defense),
        "front": case.front,
        "dominated": found.dominated.get(case.label),
        "verdict": verdict.word if verdict else None,
        "difference": text.points(verdict.difference.mean) if verdict else None,
        "detectable": None if detectable is None else text.number(detectable, "fraction"),
    }


def _ratio(ratio: Ratio, catalogue: Catalogue) -> dict[str, Any]:
    settled = isinstance(ratio.value, float)
    return {
        "defense": ratio.defense,
        "attack": ratio.attack,
        "text": text.number(float(ratio.value)) if settled else str(ratio.value).replace("_", " "),
        "interval": text.interval(ratio.low, ratio.high),
        "meaning": None if settled else WORDS[str(ratio.value)],
    }


# --- as a file -------------------------------------------------------------------------------------------------------

HEAD: tuple[str, ...] = ("defense", "label", "rank", "trainings")
HEAD += ("nat1", "nat1_low", "nat1_high", "worst", "worst_low", "worst_high", "worst_attack")
HEAD += ("against_none", "against_none_low", "against_none_high", "p_holm", "detectable", "verdict")
HEAD += ("front", "dominated_by")


def standings_table(board: Board, found: Tradeoff) -> tuple[list[str], list[list[Any]]]:
    """Column names and one line per setting: what ranks, the primary test and what it would have found, and the Leak@b
    and areas of its defense. An area is in [0, 1.2], everything else a fraction; None without a value."""
    by_defense = {exchange.defense: exchange for exchange in found.exchanges}
    names = [f"leak_at_{100 * loss:g}" for loss in LOSSES] + [f"volume_{100 * window:g}" for window in WINDOWS]
    lines = []
    for case in board.cases.values():
        test = case.verdict.difference if case.verdict else None
        exchange = by_defense.get(case.defense)
        estimates: list[Estimate | None] = [None] * len(names)
        if exchange is not None and case.rank is not None:
            estimates = [*(exchange.leak[loss] for loss in LOSSES), *(exchange.volume[window] for window in WINDOWS)]
        line: list[Any] = [case.defense, case.label, case.rank, case.seeds]
        line += [
            case.natural.mean,
            case.natural.low,
            case.natural.high,
            case.value.mean,
            case.value.low,
            case.value.high,
        ]
        line += [case.worst.attack if case.worst else None]
        line += [test.mean, test.low, test.high] if test else [None] * 3
        line += [case.verdict.adjusted if case.verdict else None, test.detectable if test else None]
        line += [case.verdict.word if case.verdict else None, case.front, found.dominated.get(case.label)]
        for estimate in estimates:
            line += [None] * 3 if estimate is None else [estimate.value, estimate.low, estimate.high]
        lines.append(line)
    return [*HEAD, *(name + part for name in names for part in ("", "_low", "_high"))], lines
