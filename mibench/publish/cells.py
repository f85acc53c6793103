"""The page of a cell: every seed of a defense against an attack, their mean and its interval."""

from __future__ import annotations

from typing import Any

from mibench.publish import text
from mibench.publish.aggregate import mean_over_seeds
from mibench.publish.leaderboard import cell_view
from mibench.publish.links import attack_page, defense_page, run_page, track_page
from mibench.publish.metrics import metric_facts, ordered
from mibench.publish.model import Catalogue
from mibench.publish.rows import MAJORITY, Board, Row
from mibench.records import MetricValue


def page_view(row: Row, board: Board, catalogue: Catalogue) -> dict[str, Any]:
    done = [run for run in row.runs if run.status == "done"]
    names = ordered({name for run in done for name in run.metrics}, catalogue)
    return {
        "title": catalogue.board_title(board),
        "track_href": track_page(board.track),
        "defense": row.defense_label,
        "attack": row.attack_label,
        "defense_href": defense_page(row.defense),
        "attack_href": attack_page(row.attack),
        "version": board.version,
        "seeds": [{"seed": str(r.seeds), "href": run_page(r), "failed": r.status != "done"} for r in row.runs],
        "metrics": [_line(row, name, board, catalogue) for name in names],
        "way": None if row.way.reason else cell_view(row.way),
    }


def _line(row: Row, name: str, board: Board, catalogue: Catalogue) -> dict[str, Any]:
    facts = metric_facts(catalogue, name, board.chance, board.leakage == MAJORITY)
    value = mean_over_seeds(name, [run for run in row.runs if run.status == "done"])
    each = [run.metrics.get(name, MetricValue(None, reason="not computed")) for run in row.runs]
    return facts | {
        "ranks": name == row.leakage,
        "mean": cell_view(value, facts["raw_unit"]),
        "each": [{"text": text.number(metric.value, facts["raw_unit"]), "reason": metric.reason} for metric in each],
    }
