"""Published figures: what papers report, with their sources and notes. They stand apart and never rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mibench.publish import text
from mibench.publish.figures_file import Reported
from mibench.publish.links import cell_page
from mibench.publish.model import Catalogue
from mibench.publish.rows import Board


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
    measured = []
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
                measured.append(
                    {
                        "label": f"{row.defense_label} against {row.attack_label}, {board.key}",
                        "href": cell_page(row),
                        "value": text.number(value.mean, "fraction"),
                        "interval": text.interval(value.low, value.high, "fraction"),
                    }
                )
    return measured
