"""What a track's leaderboard shows: defenses down, attacks across, and the figure of utility against leakage."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Any

from mibench.publish import text
from mibench.publish.downloads import papers
from mibench.publish.legend import Legend
from mibench.publish.links import attack_page, board_page, cell_page, defense_page, track_page
from mibench.publish.metrics import SHORT
from mibench.publish.model import Catalogue
from mibench.publish.ranking import TRAININGS
from mibench.publish.rows import MAJORITY, TOP1, Board, Row, Value, Verdict, failures
from mibench.publish.standings import Standing, is_baseline, standings

ACCESS = {"white_box": "white box", "scores": "scores", "labels": "labels", "private": "private photos"}
OTHER = "other"


def leaderboard_view(board: Board, boards: Sequence[Board], catalogue: Catalogue, legend: Legend) -> dict[str, Any]:
    facts = catalogue.tracks.get(board.track, {})
    defenses = standings(board, catalogue)
    attacks = [_attack(label, defenses, catalogue) for label in _columns(defenses, catalogue.controls)]
    attacks.sort(key=lambda attack: attack["control"])  # the controls last
    competing = [s for s in defenses if s.defense not in catalogue.controls]
    return {
        "key": board.key,
        "track": board.track,
        "version": board.version,
        "current": board.current,
        "title": catalogue.board_title(board),
        "track_href": track_page(board.track),
        "identities": facts.get("identities"),
        "chance": text.number(board.chance, "fraction"),
        "panel": board.leakage == MAJORITY,
        "leakage": SHORT[board.leakage],
        "sensitive": catalogue.sensitive(board.track),
        "boards": [
            {
                "title": catalogue.board_title(b),
                "version": None if b.current else b.version,
                "href": board_page(b, boards),
                "here": b is board,
            }
            for b in boards
        ],
        "ranked": sum(s.case.rank is not None for s in defenses),
        "required": len(board.required),
        "trainings": TRAININGS,
        "seeds": _range([s.seeds for s in defenses]),
        "attacks": attacks,
        "counts": (len(competing), sum(not attack["control"] for attack in attacks)),
        "filters": [
            {"id": "kind", "title": "Defense kind", "values": _distinct(_kind(s.defense, catalogue) for s in defenses)},
            {"id": "family", "title": "Attack family", "values": _distinct(a["family"] for a in attacks)},
            {"id": "access", "title": "Access", "values": _distinct(a["access"] for a in attacks)},
        ],
        "rows": [_row(s, attacks, _ties(defenses), catalogue, legend) for s in defenses],
        "island": {
            "chance": board.chance,
            "leakage": SHORT[board.leakage],
            "required": list(board.required),
            "attacks": [{key: a[key] for key in ("label", "method", "family", "access", "control")} for a in attacks],
            "rows": [_point(s, attacks, catalogue, legend) for s in defenses],
            "front": board.front,
            "bibtex": papers(board, catalogue),
        },
    }


def _columns(defenses: Sequence[Standing], controls: Container[str]) -> list[str]:
    """Attack labels, those that recover most (on average over the defenses that compete) first."""
    values: dict[str, list[float]] = {}
    for standing in defenses:
        for label, row in standing.cells.items():
            mean = row.leaked.mean
            values.setdefault(label, []).extend([] if mean is None or standing.defense in controls else [mean])
    return sorted(values, key=lambda label: (-(math.fsum(v) / len(v) if (v := values[label]) else -1.0), label))


def _attack(label: str, defenses: Sequence[Standing], catalogue: Catalogue) -> dict[str, Any]:
    attack = next(s.cells[label].attack for s in defenses if label in s.cells)
    facts = catalogue.attacks.get(attack, {})
    return {
        "label": label,
        "method": attack,
        "href": attack_page(attack),
        "title": facts.get("title") or attack,
        "family": facts.get("family") or OTHER,
        "control": attack in catalogue.controls,
        "adaptive": any(s.cells[label].adaptive for s in defenses if label in s.cells),
        "access": ACCESS.get(facts.get("access") or "", OTHER),
    }


def _kind(defense: str, catalogue: Catalogue) -> str:
    return catalogue.defenses.get(defense, {}).get("kind") or OTHER


def _distinct(values: Any) -> list[str]:
    return sorted(set(values))


def _range(values: Sequence[int]) -> str:
    if not values:
        return "0"
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _ties(defenses: Sequence[Standing]) -> set[int]:
    """The ranks that several defenses share."""
    ranks = [s.case.rank for s in defenses if s.case.rank is not None]
    return {rank for rank in ranks if ranks.count(rank) > 1}


def _verdict(verdict: Verdict | None) -> dict[str, Any] | None:
    """The primary test in words: the difference to the undefended model, its interval, and what it would have found."""
    if verdict is None:
        return None
    d = verdict.difference
    return {
        "word": verdict.word,
        "difference": text.points(d.mean),
        "interval": text.points_interval(d.low, d.high),
        "detectable": None if d.detectable is None else text.number(d.detectable, "fraction"),
        "p": None if verdict.adjusted is None else f"{verdict.adjusted:.2g}",
        "seeds": d.seeds,
        "tone": {"leaks less": "good", "leaks more": "bad"}.get(verdict.word, ""),
    }


def _row(
    s: Standing, attacks: Sequence[dict[str, Any]], ties: set[int], catalogue: Catalogue, legend: Legend
) -> dict[str, Any]:
    return {
        "label": s.label,
        "title": catalogue.defenses.get(s.defense, {}).get("title") or s.defense,
        "href": defense_page(s.defense),
        "kind": _kind(s.defense, catalogue),
        "rank": s.case.rank,
        "tied": s.case.rank is not None and s.case.rank in ties,
        "missing": s.case.missing,
        "badges": s.badges,
        "colour": legend.colour(s.defense),
        "shape": legend.shape(s.label),
        "natural": cell_view(s.natural),
        "worst": cell_view(s.case.value),
        "verdict": _verdict(s.case.verdict),
        "worst_attack": s.worst.attack_label if s.worst else None,
        "worst_href": cell_page(s.worst) if s.worst else None,
        "seeds": s.seeds,
        "cells": [_cell(s.cells.get(attack["label"]), s.seeds) for attack in attacks],
    }


def _cell(row: Row | None, seeds: int) -> dict[str, Any]:
    """``seeds``: of the defense; a cell of fewer says so."""
    if row is None:
        return cell_view(Value(None, reason="not run")) | {"href": None, "failed": [], "top1": None, "way": None}
    return cell_view(replace(row.leaked, of=max(row.leaked.of, seeds))) | {
        "href": cell_page(row),
        "failed": failures(row.runs),
        "top1": _top1(row),
        "way": cell_view(row.way),
    }


def _top1(row: Row) -> str | None:
    """E1's figure, which compares with papers, where another one ranks."""
    return None if row.leakage == TOP1["E1"] else text.number(row.values[TOP1["E1"]].mean, "fraction")


def cell_view(value: Value, unit: str | None = "fraction") -> dict[str, Any]:
    """A value as the tables show it; ``level`` (0 to 10) is how dark a fraction's cell is."""
    over = {
        "seeds": f"95 % t interval over {value.seeds} seeds",
        "people": f"95 % interval over people: {value.seeds} seeds that agree to the digit tell nothing of others",
        "attacks": f"over {value.seeds} seeds, each with the attack that was worst on the others; the upper end holds "
        "for all required attacks and their adaptive variants at once",
        "bootstrap": "95 % interval of one training, over people",
    }
    return {
        "text": text.number(value.mean, unit),
        "interval": text.interval(value.low, value.high, unit),
        "interval_kind": over.get(value.source or "", ""),
        "order": "" if value.mean is None else repr(value.mean),
        "level": 0 if value.mean is None else round(10 * min(max(value.mean, 0.0), 1.0)),
        "reason": value.reason,
        "seeds": value.seeds,
        "partial": f"{value.seeds} of {value.of} seeds" if value.mean is not None and value.seeds < value.of else None,
    }


def _point(s: Standing, attacks: Sequence[dict[str, Any]], catalogue: Catalogue, legend: Legend) -> dict[str, Any]:
    """A row of the table for the script: natural accuracy x and, for each attack, accuracy y as [mean, low, high]."""
    return {
        "label": s.label,
        "defense": s.defense,
        "kind": _kind(s.defense, catalogue),
        "baseline": is_baseline(catalogue, s.defense),
        "control": s.defense in catalogue.controls,
        "colour": legend.colour(s.defense),
        "shape": legend.shape(s.label)["symbol"],
        "seeds": s.seeds,
        "x": _triple(s.natural),
        "case": _case(s, attacks),
        "ranked": s.case.rank is not None,
        "y": [_triple(s.cells[a["label"]].leaked) if a["label"] in s.cells else None for a in attacks],
        "href": [cell_page(s.cells[a["label"]]) if a["label"] in s.cells else None for a in attacks],
    }


def _case(s: Standing, attacks: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What ranks, where it is more than one attack's figure: which attack is worst, and [mean, low, bound]."""
    if s.case.worst is None or s.worst is None:
        return None
    labels = [attack["label"] for attack in attacks]
    return {"attack": labels.index(s.worst.attack_label), "y": _triple(s.case.value)}


def _triple(value: Value) -> list[float | None] | None:
    """Mean and interval, cut to what a fraction can be; None without a value."""
    if value.mean is None:
        return None
    if value.low is None or value.high is None:
        return [value.mean, None, None]
    return [value.mean, max(value.low, 0.0), min(value.high, 1.0)]
