"""Colours and shapes of the figure, the same on every page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from mibench.publish.rows import Board

COLOURS = 10  # classes c0..c9 in mibench.css
# Paths on a 12 x 12 grid.
SHAPES = (
    "M6 1a5 5 0 1 0 0 10a5 5 0 1 0 0-10z",
    "M1.5 1.5h9v9h-9z",
    "M6 .2L11.8 6L6 11.8L.2 6z",
    "M6 1L11.5 10.5H.5z",
    "M4 1h4v3h3v4H8v3H4V8H1V4h3z",
    "M6 11L.5 1.5h11z",
    "M6 .5L11.5 4.6L9.4 11H2.6L.5 4.6z",
    "M6 .3L7.5 4.3L11.8 4.5L8.4 7.1L9.6 11.3L6 8.9L2.4 11.3L3.6 7.1L.2 4.5L4.5 4.3z",
)


class Legend:
    """A colour for each defense, and within a defense a shape for each of its settings."""

    def __init__(self, boards: Sequence[Board]) -> None:
        settings: dict[str, set[str]] = defaultdict(set)
        for row in (row for board in boards for row in board.rows):
            settings[row.defense].add(row.defense_label)
        self._colours = {name: i for i, name in enumerate(sorted(settings))}
        self._shapes = {
            label: turn + i
            for turn, name in enumerate(sorted(settings))
            for i, label in enumerate(sorted(settings[name]))
        }

    def colour(self, defense: str) -> str:
        return f"c{self._colours[defense] % COLOURS}"

    def shape(self, label: str) -> dict[str, Any]:
        turn, index = divmod(self._shapes[label], len(SHAPES))
        return {"path": SHAPES[index], "open": bool(turn % 2)}
