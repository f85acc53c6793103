"""Where each page lies, relative to the site's root."""

from __future__ import annotations

from collections.abc import Sequence

from mibench.publish import text
from mibench.publish.rows import Board, Row
from mibench.records import RunRecord

CLAIMS = "claims.html"


def run_page(run: RunRecord) -> str:
    return f"run/{run.run}.html"


def cell_page(row: Row) -> str:
    names = (text.file_name(name) for name in (row.board, row.defense_label, row.attack_label))
    return f"cell/{'/'.join(names)}.html"


def defense_page(defense: str) -> str:
    return f"defense/{text.file_name(defense)}.html"


def attack_page(attack: str) -> str:
    return f"attack/{text.file_name(attack)}.html"


def track_page(track: str) -> str:
    return f"track/{text.file_name(track)}.html"


def board_page(board: Board, boards: Sequence[Board]) -> str:
    """The first board is the index."""
    return "index.html" if board is boards[0] else f"leaderboard/{text.file_name(board.key)}.html"


def controls_page(board: Board) -> str:
    return f"controls/{text.file_name(board.key)}.html"


def compare_page(board: Board) -> str:
    return f"compare/{text.file_name(board.key)}.html"


def claims_page(board: Board, boards: Sequence[Board]) -> str:
    """Of the index's board it is what the navigation leads to."""
    return CLAIMS if board is boards[0] else f"claims/{text.file_name(board.key)}.html"
