"""How a metric is headed, and in which unit and direction it is read."""

from __future__ import annotations

from typing import Any

from mibench.publish import text
from mibench.publish.model import Catalogue

HEADINGS = {
    "nat1": "Natural accuracy",
    "att1": "Attack top‑1",
    "att5": "Attack top‑5",
    "att1_selected": "Top‑1, selected",
    "att1_step0": "Top‑1, step\N{NO-BREAK SPACE}0",
    "conf": "Confidence",
    "knn_eval": "KNN distance",
    "d_eval": "δ eval",
    "face_rate": "Face rate",
}


def metric_facts(catalogue: Catalogue, name: str, chance: float | None = None) -> dict[str, Any]:
    """id, title, heading, direction (``low`` or ``high``: which is more private, for ``nat1`` more useful), unit as
    shown, raw_unit, help, and a note for a table's head: the level of chance where there is one, else the unit."""
    facts = dict(catalogue.metrics.get(name, {}))
    raw = facts.get("unit") or ("fraction" if name in text.FRACTIONS else None)
    unit = {"fraction": "%", None: ""}.get(raw, raw)
    guess = None if chance is None else {"att1": chance, "att5": min(1.0, 5 * chance)}.get(name)
    return {
        "id": name,
        "title": facts.get("title") or HEADINGS.get(name, name),
        "heading": HEADINGS.get(name, name),
        "direction": "high" if name == "nat1" else facts.get("direction"),
        "help": facts.get("help"),
        "unit": unit,
        "raw_unit": raw,
        "note": unit if guess is None else f"chance {text.number(guess, 'fraction')}",
    }
