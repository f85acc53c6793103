"""What stands beside a run on its page: the same attack on the undefended model, and the floor of its prior. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mibench.publish.floor import floors_of
from mibench.publish.model import Catalogue
from mibench.publish.rows import Board, Row
from mibench.publish.way import prior_of
from mibench.records import RunRecord


@dataclass(frozen=True)
class Beside:
    """Both of the run's own seed; None where there is none, or where the run is one itself."""

    undefended: RunRecord | None = None
    floor: RunRecord | None = None


def beside(boards: Iterable[Board], catalogue: Catalogue) -> dict[str, Beside]:
    """By run."""
    found = {}
    for board in boards:
        floors = floors_of(board.rows, catalogue.bounds)
        base = {label: _by_seed(row) for label, row in undefended_rows(board, catalogue).items()}
        for row in board.rows:
            competes = row.attack not in catalogue.controls
            for run in row.runs:
                floor = floors.get((run.defense_label, prior_of(run))) if competes else None
                undefended = {} if run.defense in catalogue.baselines else base.get(run.attack_label, {})
                found[run.run] = Beside(undefended.get(run.seed), _by_seed(floor).get(run.seed) if floor else None)
    return found


def undefended_rows(board: Board, catalogue: Catalogue) -> dict[str, Row]:
    """The undefended model's rows by attack; of several such models those of the one under its plain name."""
    own = [row for row in board.rows if row.defense in catalogue.baselines]
    return {row.attack_label: row for row in sorted(own, key=lambda row: row.defense_label == row.defense)}


def _by_seed(row: Row) -> dict[int, RunRecord]:
    """The first finished run on each training."""
    return {run.seed: run for run in reversed(row.runs) if run.status == "done"}
