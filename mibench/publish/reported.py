"""Published figures: what papers report, with their sources and notes. They stand apart and never rank."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mibench.errors import UserError
from mibench.publish import text
from mibench.publish.aggregate import Board
from mibench.publish.links import run_page
from mibench.publish.model import Catalogue

NUMBERS = (
    "natural_acc",
    "attack_acc_top1",
    "attack_acc_top1_std",
    "attack_acc_top5",
    "knn_dist",
    "delta_eval",
    "delta_face",
    "fid",
)


@dataclass(frozen=True)
class Reported:
    """One published cell. Accuracies are per cent, as printed; None: not given."""

    source: str
    source_ref: str
    attack: str
    defense: str
    defense_params: str
    private_dataset: str
    public_dataset: str
    target_arch: str
    resolution: str
    natural_acc: float | None
    attack_acc_top1: float | None
    attack_acc_top1_std: float | None
    attack_acc_top5: float | None
    knn_dist: float | None
    delta_eval: float | None
    delta_face: float | None
    fid: float | None
    notes: str
    verified_in: str


def load_reported(path: Path) -> list[Reported]:
    """The table, line by line; nothing if there is no file. Raises UserError naming the line that cannot be read."""
    if not path.is_file():
        return []
    names = [field.name for field in fields(Reported)]
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if reader.fieldnames != names:
            raise UserError(f"{path}: expected the columns {', '.join(names)}; found {reader.fieldnames}.")
        return [_line(path, number, line) for number, line in enumerate(reader, start=2)]


def _line(path: Path, number: int, line: dict[str, Any]) -> Reported:
    try:
        if None in line or None in line.values():
            raise ValueError("another number of columns")
        values: dict[str, Any] = {k: (float(v) if v else None) if k in NUMBERS else v for k, v in line.items()}
        if not all(math.isfinite(values[name]) for name in NUMBERS if values[name] is not None):
            raise ValueError("a number that is not finite")
        return Reported(**values)
    except ValueError as error:
        raise UserError(f"{path}, line {number}: {error}.") from None


def reported_view(lines: Sequence[Reported], boards: Sequence[Board], catalogue: Catalogue) -> dict[str, Any]:
    """All lines; beside one that a track was made to repeat, what was measured there."""
    return {
        "lines": [
            {"line": line, "doi": arxiv(line.source_ref), "measured": _measured(line, boards, catalogue)}
            for line in lines
        ],
        "sources": sorted({line.source for line in lines}),
    }


def arxiv(reference: str) -> str | None:
    """The address of an arXiv number such as ``2409.01062``."""
    digits = reference.replace(".", "", 1)
    return f"https://arxiv.org/abs/{reference}" if digits.isdigit() and reference.count(".") == 1 else None


def _measured(line: Reported, boards: Sequence[Board], catalogue: Catalogue) -> list[dict[str, Any]]:
    """Rows on tracks whose fact ``reported`` (private_dataset, public_dataset, target_arch, resolution) fits the line,
    of methods whose fact ``reported`` holds the line's name for them."""
    found = []
    for board in boards:
        same = catalogue.tracks.get(board.track, {}).get("reported")
        if not same or any(str(getattr(line, key)) != str(value) for key, value in same.items()):
            continue
        for row in board.rows:
            names = {
                "defense": catalogue.defenses.get(row.defense, {}),
                "attack": catalogue.attacks.get(row.attack, {}),
            }
            if all(getattr(line, k) in (facts.get("reported") or ()) for k, facts in names.items()):
                value = row.values["att1"]
                found.append(
                    {
                        "label": f"{row.defense_label} against {row.attack_label}, {board.key}",
                        "href": run_page(row.runs[0]),
                        "value": text.number(value.mean, "fraction"),
                        "interval": text.interval(value.low, value.high, "fraction"),
                    }
                )
    return found
