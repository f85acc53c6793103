"""The page of the controls: what figures mean on a track, and what its judges know. Pure."""

from __future__ import annotations

from typing import Any

from mibench.publish import text
from mibench.publish.judges import knowledge_view
from mibench.publish.leaderboard import cell_view
from mibench.publish.links import attack_page, board_page, defense_page
from mibench.publish.metrics import metric_facts
from mibench.publish.model import Catalogue
from mibench.publish.names import attack_name, defense_name
from mibench.publish.rows import MAJORITY, TOP1, Board, Row

FACES = "face_rate"


def controls_view(board: Board, boards: list[Board], catalogue: Catalogue) -> dict[str, Any] | None:
    """A table for each control, and each judge's accuracy on real photos; None where a track has neither."""
    mine = [row for row in board.rows if row.by_seed and {row.attack, row.defense} & catalogue.controls]
    judges = next((view for run in _newest(board) if (view := knowledge_view(run.judges))), [])
    if not mine and not judges:
        return None
    names = [board.leakage, *(name for name in TOP1.values() if name != board.leakage), FACES]
    shown = [n for n in names if any(n in row.values and row.values[n].mean is not None for row in mine)]
    return {
        "title": catalogue.tracks.get(board.track, {}).get("title") or board.track,
        "version": None if board.current else board.version,
        "href": board_page(board, boards),
        "panel": board.leakage == MAJORITY,
        "chance": text.number(board.chance, "fraction"),
        "columns": [metric_facts(catalogue, name, board.chance, board.leakage == MAJORITY) for name in shown],
        "groups": [
            *(_group(name, "attack", mine, shown, catalogue) for name in sorted({row.attack for row in mine})),
            *(_group(name, "defense", mine, shown, catalogue) for name in sorted({row.defense for row in mine})),
        ],
        "judges": judges,
    }


def _group(name: str, kind: str, rows: list[Row], shown: list[str], catalogue: Catalogue) -> dict[str, Any]:
    """The rows of one control; none where the method is not one."""
    known = catalogue.attacks if kind == "attack" else catalogue.defenses
    mine = [row for row in rows if getattr(row, kind) == name] if name in catalogue.controls else []
    own = [row for row in mine if kind == "defense" or row.defense not in catalogue.controls]
    own.sort(key=lambda row: (row.attack in catalogue.controls, row.attack_label, row.defense_label))
    return {
        "id": name,
        "anchor": text.anchor(kind, name),
        "title": known.get(name, {}).get("title") or name,
        "href": (attack_page if kind == "attack" else defense_page)(name),
        "summary": known.get(name, {}).get("summary"),
        "rows": [
            {
                "attack": attack_name(catalogue, row.attack, row.attack_label),
                "defense": defense_name(catalogue, row.defense, row.defense_label),
                "cells": [cell_view(row.values[metric]) for metric in shown],
                "seeds": len(row.by_seed),
            }
            for row in own
        ],
    }


def _newest(board: Board) -> list[Any]:
    runs = [run for row in board.rows for run in row.runs if run.status == "done" and run.judges]
    return sorted(runs, key=lambda run: run.created, reverse=True)
