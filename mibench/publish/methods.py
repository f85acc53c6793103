"""The pages of a defense, an attack and a track, and the overview of the protocol."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mibench.protocol.stage_kinds import computed_by
from mibench.publish import text
from mibench.publish.leaderboard import cell_view
from mibench.publish.links import attack_page, board_page, compare_page, defense_page, run_page, track_page
from mibench.publish.metrics import metric_facts
from mibench.publish.model import Catalogue, Facts
from mibench.publish.protection import Protection
from mibench.publish.rows import MAJORITY, Board, Row, columns, leakage_of
from mibench.publish.standings import standings
from mibench.records import RunRecord

EMPTY: dict[str, Any] = {"title": None, "paper": None, "url": None, "year": None, "kind": None, "family": None}
EMPTY |= {"access": None, "prior": None, "presets": {}, "costs": {}, "bibtex": None}


def methods(kind: str, boards: Sequence[Board], catalogue: Catalogue) -> list[str]:
    """Ids of all methods of a kind: those the catalogue knows and those that have runs."""
    known = catalogue.defenses if kind == "defense" else catalogue.attacks
    return sorted({*known, *(getattr(row, kind) for board in boards for row in board.rows)})


def method_view(kind: str, name: str, boards: Sequence[Board], catalogue: Catalogue) -> dict[str, Any]:
    """A defense with every attack on it, or an attack with every defense it met, track by track."""
    known = catalogue.defenses if kind == "defense" else catalogue.attacks
    facts = EMPTY | dict(known.get(name, {}))
    mine = [(board, [row for row in board.rows if getattr(row, kind) == name]) for board in boards]
    runs = [run for _, rows in mine for row in rows for run in row.runs]
    own = [d for d in facts.get("deviations") or () if d] or sorted(
        {d for run in runs for d in _told(kind, run, catalogue)}
    )
    return {
        "kind": kind,
        "id": name,
        "facts": facts,
        "presets": [(p, text.flat(v), facts["costs"].get(p)) for p, v in (facts["presets"] or {}).items()],
        "deviations": own,
        "boards": [_results(board, rows, kind, boards, catalogue) for board, rows in mine if rows],
    }


def _told(kind: str, run: RunRecord, catalogue: Catalogue) -> Iterable[str]:
    """The deviations of a run's method; of an older record, which has both methods' in one list, without those that
    are known to be the other's."""
    if run.methods:
        return run.methods["defense" if kind == "defense" else "attack"].get("deviations", ())
    other = catalogue.attacks.get(run.attack, {}) if kind == "defense" else catalogue.defenses.get(run.defense, {})
    return set(run.deviations) - set(other.get("deviations") or ())


def _results(board: Board, rows: list[Row], kind: str, boards: Sequence[Board], catalogue: Catalogue) -> dict[str, Any]:
    shown = [metric_facts(catalogue, name, board.chance, board.leakage == MAJORITY) for name in columns(board.leakage)]
    return {
        "title": catalogue.board_title(board),
        "version": None if board.current else board.version,
        "anchor": text.anchor("results", board.key),
        "href": board_page(board, boards),
        "settings": _settings(board, rows, catalogue) if kind == "defense" else [],
        "columns": shown,
        "rows": [
            {
                "defense": row.defense_label,
                "attack": row.attack_label,
                "label": row.attack_label if kind == "defense" else row.defense_label,
                "href": attack_page(row.attack) if kind == "defense" else defense_page(row.defense),
                "worst": row.worst,
                "cells": [cell_view(row.values[facts["id"]], facts["raw_unit"]) for facts in shown],
                "seconds": _cost(row, kind),
                "queries": _queries(row),
                "memory": _memory(row),
                "runs": [
                    {"seed": str(r.seeds), "href": run_page(r), "failed": r.status != "done", "reason": r.reason}
                    for r in row.runs
                ],
            }
            for row in rows
        ],
    }


def _settings(board: Board, rows: list[Row], catalogue: Catalogue) -> list[dict[str, Any]]:
    """Of each of these settings of a defense its net protection and the masking checks."""
    labels = {row.defense_label for row in rows}
    found = [s for s in standings(board, catalogue) if s.label in labels and s.checks]
    word = {True: "raised", False: "not raised", None: "cannot be told"}
    return [
        {
            "label": s.label,
            "net": _net(s.protection),
            "lines": [(c.name, c.hit, word[c.hit], c.said) for c in s.checks],
        }
        for s in found
    ]


def _net(found: Protection | None) -> dict[str, Any] | None:
    """Net protection in words; None where the control was not run."""
    if found is None:
        return None
    d = found.net
    return {
        "control": found.control,
        "points": text.points(d.mean),
        "interval": text.points_interval(d.low, d.high),
        "seeds": d.seeds,
        "attacks": len(found.attacks),
        "gap": text.points(found.gap),
        "matched": found.matched,
        "credited": d.low is not None and d.low > 0,
    }


def _cost(row: Row, kind: str) -> str:
    """Mean seconds of what belongs to the method: training of a defense; preparation and inversion of an attack."""
    done = [run for run in row.runs if run.status == "done"]
    seconds = [sum(s.seconds for s in run.stages if s.kind in computed_by(kind)) for run in done]
    return text.duration(sum(seconds) / len(seconds)) if seconds else text.MISSING


def _queries(row: Row) -> str:
    """Mean number of images that the target was asked about, per identity, over all kinds of questions."""
    done = [run for run in row.runs if run.status == "done" and run.identities]
    asked = [sum(run.asked().values()) / len(run.identities) for run in done]
    return f"{sum(asked) / len(asked):,.0f}" if asked else text.MISSING


def _memory(row: Row) -> str:
    peaks = [s.peak_memory_mib for run in row.runs for s in run.stages if s.peak_memory_mib]
    return f"{max(peaks):,} MiB" if peaks else text.MISSING


def track_view(name: str, boards: Sequence[Board], catalogue: Catalogue) -> dict[str, Any]:
    facts: Facts = {"title": name} | dict(catalogue.tracks.get(name, {}))
    shown = {"title", "version", "kind", "sensitive", "chance", "identities", "metrics"}
    mine = [board for board in boards if board.track == name]
    panel = leakage_of([facts.get("metrics") or ()]) == MAJORITY
    return {
        "id": name,
        "facts": facts,
        "panel": panel,
        "sensitive": catalogue.sensitive(name),
        "more": text.flat({key: value for key, value in facts.items() if key not in shown}),
        "metrics": [metric_facts(catalogue, metric, panel=panel) for metric in facts.get("metrics") or ()],
        "boards": [
            {
                "version": board.version,
                "current": board.current,
                "href": board_page(board, boards),
                "compare": compare_page(board),
                "defenses": len({row.defense_label for row in board.rows}),
                "attacks": len({row.attack_label for row in board.rows}),
            }
            for board in mine
        ],
    }


def tracks(boards: Iterable[Board], catalogue: Catalogue) -> list[str]:
    return list(dict.fromkeys([*catalogue.tracks, *(board.track for board in boards)]))


def protocol_view(boards: Sequence[Board], catalogue: Catalogue) -> dict[str, Any]:
    """Everything that exists, each with a link to its page."""
    runs = [run for board in boards for row in board.rows for run in row.runs]
    others = sorted({name for run in runs for name in run.metrics} - set(catalogue.metrics))
    ran = {id for run in runs for id in (run.track, run.defense, run.attack)}
    return {
        "tracks": [{"id": t, "href": track_page(t)} | _title(catalogue.tracks, t) for t in tracks(boards, catalogue)],
        "measured": ran,
        "metrics": [metric_facts(catalogue, name) for name in [*catalogue.metrics, *others]],
        "defenses": [
            {"id": n, "href": defense_page(n)} | _title(catalogue.defenses, n)
            for n in methods("defense", boards, catalogue)
        ],
        "attacks": [
            {"id": n, "href": attack_page(n)} | _title(catalogue.attacks, n)
            for n in methods("attack", boards, catalogue)
        ],
    }


def _title(known: Mapping[str, Facts], name: str) -> dict[str, Any]:
    facts = known.get(name, {})
    return {"title": facts.get("title") or name, "note": facts.get("kind") or facts.get("family")}
