"""Published figures: what papers report, with their sources and notes. They stand apart and never rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mibench.publish import text
from mibench.publish.figures_file import Reported
from mibench.publish.links import cell_page, track_page
from mibench.publish.model import Catalogue, Facts
from mibench.publish.rows import Board, Row

FILTERS = {"attack": "Attack", "defense": "Defense", "private_dataset": "Private data", "target_arch": "Target"}


def reported_view(lines: Sequence[Reported], boards: Sequence[Board], catalogue: Catalogue) -> dict[str, Any]:
    """The lines that say what of whom, by source; beside one that a track repeats, what was measured there."""
    shown = [line for line in lines if _told(line)]
    groups: dict[str, list[Reported]] = {}
    for line in shown:
        groups.setdefault(line.source, []).append(line)
    return {
        "count": len(shown),
        "groups": [
            {
                "source": source,
                "anchor": text.anchor("source", source),
                "lines": [
                    {"line": line, "href": arxiv(line.source_ref), "tracks": _tracks(line, boards, catalogue)}
                    for line in own
                ],
            }
            for source, own in groups.items()
        ],
        "filters": [
            {"id": name, "title": title, "values": sorted({getattr(line, name) for line in shown} - {""})}
            for name, title in FILTERS.items()
        ],
    }


def _told(line: Reported) -> bool:
    """Whether it has a figure, and says which defense it is of."""
    figures = (line.natural_acc, line.attack_acc_top1, line.attack_acc_top5)
    return line.defense not in ("", "not stated") and any(figure is not None for figure in figures)


def arxiv(reference: str) -> str | None:
    """The address of an arXiv number such as ``2409.01062``."""
    digits = reference.replace(".", "", 1)
    return f"https://arxiv.org/abs/{reference}" if digits.isdigit() and reference.count(".") == 1 else None


def _tracks(line: Reported, boards: Sequence[Board], catalogue: Catalogue) -> list[dict[str, Any]]:
    """The tracks whose fact ``reported`` (private_dataset, public_dataset, target_arch, resolution) fits the line, with
    what was measured there of methods whose fact ``reported`` holds the line's name for them; none if there are no such
    methods here."""
    defenses, attacks = _called(line.defense, catalogue.defenses), _called(line.attack, catalogue.attacks)
    if not defenses or not attacks:
        return []
    return [
        {
            "title": facts.get("title") or track,
            "href": track_page(track),
            "measured": [
                _measured(board, row)
                for board in boards
                if board.track == track
                for row in board.rows
                if row.defense in defenses and row.attack in attacks
            ],
        }
        for track, facts in catalogue.tracks.items()
        if (same := facts.get("reported")) and all(str(getattr(line, k)) == str(v) for k, v in same.items())
    ]


def _called(name: str, known: Mapping[str, Facts]) -> set[str]:
    """The methods that a source calls ``name``."""
    return {id for id, facts in known.items() if name in (facts.get("reported") or ())}


def _measured(board: Board, row: Row) -> dict[str, Any]:
    value = row.values["att1"]
    return {
        "label": f"{row.defense_label} against {row.attack_label}, {board.key}",
        "href": cell_page(row),
        "value": text.number(value.mean, "fraction"),
        "interval": text.interval(value.low, value.high, "fraction"),
    }
