"""Published figures as papers report them: ``results/reported.csv``."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mibench.errors import UserError

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
