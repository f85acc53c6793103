"""From the points of the stage ``features`` to the panels and tables of a run's page. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mibench.publish import text

WIDTH, HEIGHT, MARGIN = 240, 180, 12  # of a panel, in its own units
SHOWN = 12  # panels; the numbers of all identities are in a table
SETS = ("erased", "private", "reconstructed")  # drawn in this order, so that few points lie on top of many
UNIT = "L2, target features"
VALUES = {
    "overlap_private": ("Reconstructions’ hull inside the private hull", "fraction"),
    "overlap_erased": ("Reconstructions’ hull inside the erased hull", "fraction"),
    "distance_private": ("Reconstruction to nearest private image", UNIT),
    "distance_erased": ("Reconstruction to nearest erased image", UNIT),
    "distance_within": ("Private image to nearest other private image", UNIT),
}
NOT_COMPUTED = "Not computed for this run. Run its command again to add them."
NO_POINTS = "This build does not have the points of this run, only their means."


@dataclass(frozen=True)
class Space:
    """The feature space of one run: ``RunRecord.features``, and the object in ``features.json``; either may be
    missing."""

    name: str
    summary: Mapping[str, Any] | None = None
    data: Mapping[str, Any] | None = None


def feature_view(own: Space, other: Space | None = None) -> dict[str, Any]:
    """What ``_features.html`` shows of a run, beside ``other``, the same attack on the undefended model. ``missing``
    says what is not there; ``see`` what to look at."""
    summary, data = own.summary, own.data
    if summary is None:
        return {"missing": NOT_COMPUTED, "means": [], "panels": [], "more": 0, "rows": [], "draws": 0, "area": ""}
    pair = other is not None and other.summary is not None
    identities = data["identities"] if data else []
    near = {row["label"]: row for row in other.data["identities"]} if other and other.data else {}
    panels = [
        {"own": _panel(row, own.name), "other": _panel(near[row["label"]], other.name) if other and near else None}
        for row in identities[: SHOWN // 2 if near else SHOWN]
        if not near or row["label"] in near
    ]
    return {
        "missing": None if data else NO_POINTS,
        "name": own.name,
        "other": other.name if other and pair else None,
        "see": _see(own, other if pair else None),
        "means": [
            _mean(name, summary) | {"other": _mean(name, other.summary) if other and other.summary else None}
            for name in VALUES
        ],
        "panels": panels,
        "more": len(identities) - len(panels),
        "rows": [_row(row) for row in identities],
        "draws": summary["draws"],
        "area": "–".join(f"{100 * share:g}" for share in summary["area"]),
    }


def _see(own: Space, other: Space | None) -> str:
    """One sentence on what to look at, with the figures."""
    there, here = (_apart(space) if space else None for space in (other, own))
    if here is None:
        return "Look at how far the triangles lie from the circles: the nearer, the more of a person the attack found."
    told = (
        f"Look at how far the triangles lie from the circles: here {here:.1f} times as far as circles from each other"
    )
    if there is None:
        return f"{told}, where 1 would be a photo."
    return f"{told}, without a defense {there:.1f} times; the nearer, the more of a person the attack found."


def _apart(space: Space) -> float | None:
    """The distance of reconstructions to the nearest private image, in distances between private images."""
    values = space.summary["values"] if space.summary else {}
    far, within = (values.get(name, {}).get("value") for name in ("distance_private", "distance_within"))
    return far / within if far is not None and within else None


def _mean(name: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    title, unit = VALUES[name]
    value = summary["values"][name]
    return {
        "title": title,
        "value": text.number(value["value"], unit),
        "interval": text.interval(value["ci_low"], value["ci_high"], unit),
        "unit": "%" if unit == "fraction" else unit,
        "reason": value["reason"],
        "n": value["n"],
        "of": summary["identities"],
    }


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "label": row["label"],
        "counts": row["counts"],
        "variance": text.number(row["variance"], "fraction"),
        "cells": [
            {"text": text.number(row["values"][name], unit), "reason": row["reasons"].get(name)}
            for name, (_, unit) in VALUES.items()
        ],
    }


def _panel(row: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """One identity's picture: SVG paths of each set's hull and marks, one scale for both axes, and what a reader who
    does not see it is told."""
    sets = row["points"]
    place = _placing([point for name in SETS for point in sets[name]])
    counts = row["counts"]
    shown = {name: [place(point) for point in sets[name]] for name in SETS}
    overlaps = [
        f"{text.number(row['values'][key], 'fraction')} % of the reconstructions’ hull lies inside the {name} hull"
        if row["values"][key] is not None
        else f"no overlap with the {name} hull, because {row['reasons'][key]}"
        for name, key in (("private", "overlap_private"), ("erased", "overlap_erased"))
    ]
    return {
        "label": row["label"],
        "whose": whose,
        "sets": [
            {
                "name": name,
                "hull": _outline([shown[name][corner] for corner in row["hulls"][name]]),
                "marks": "".join(mark(name, x, y) for x, y in shown[name]),
            }
            for name in SETS
        ],
        "origin": place((0.0, 0.0)),
        "variance": text.number(row["variance"], "fraction") if row["variance"] is not None else None,
        "description": f"{counts['private']} private, {counts['erased']} erased and {counts['reconstructed']} "
        f"reconstructed images; {'; '.join(overlaps)}.",
    }


def _placing(points: Sequence[Sequence[float]]) -> Any:
    """From the plane to the panel: centred, as large as fits, the second axis upwards; one decimal."""
    low = [min(point[axis] for point in points) for axis in (0, 1)]
    high = [max(point[axis] for point in points) for axis in (0, 1)]
    span = [b - a for a, b in zip(low, high, strict=True)]
    room = (WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN)
    scale = min((r / s for r, s in zip(room, span, strict=True) if s > 0), default=1.0)
    middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]

    def place(point: Sequence[float]) -> tuple[float, float]:
        x = WIDTH / 2 + (point[0] - middle[0]) * scale
        y = HEIGHT / 2 - (point[1] - middle[1]) * scale
        return round(x, 1), round(y, 1)

    return place


def _outline(corners: Sequence[tuple[float, float]]) -> str:
    """A closed path; a line for two corners, nothing for one."""
    if len(corners) < 2:
        return ""
    path = "M" + "L".join(f"{x:g},{y:g}" for x, y in corners)
    return path + "Z" if len(corners) > 2 else path


def mark(name: str, x: float, y: float) -> str:
    """The path of a point of a set: a circle, a square or a triangle."""
    if name == "private":
        return f"M{x - 3.5:.1f},{y:g}a3.5,3.5 0 1 0 7,0a3.5,3.5 0 1 0 -7,0z"
    if name == "erased":
        return f"M{x - 1.7:.1f},{y - 1.7:.1f}h3.4v3.4h-3.4z"
    return f"M{x:g},{y - 4.4:.1f}l4,7h-8z"
