"""How a metric is headed, and in which unit and direction it is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mibench.publish import text
from mibench.publish.model import Catalogue
from mibench.publish.rows import MAJORITY, TABLE_METRICS, TOP1, UTILITY

HEADINGS = {
    "nat1": "Natural accuracy",
    "att1": "Attack top‑1",
    "att5": "Attack top‑5",
    "att_maj": "Majority of judges",
    "att_min": "All judges",
    "att1_e2": "Top‑1 (E2)",
    "att5_e2": "Top‑5 (E2)",
    "conf_e2": "Confidence (E2)",
    "att1_e3": "Rank\N{NO-BREAK SPACE}1 (E3)",
    "att5_e3": "Rank\N{NO-BREAK SPACE}5 (E3)",
    "ver_e3": "Verified (E3)",
    "att1_selected": "Top‑1, selected",
    "att1_step0": "Top‑1, step\N{NO-BREAK SPACE}0",
    "conf": "Confidence",
    "knn_eval": "KNN distance",
    "d_eval": "δ eval",
    "face_rate": "Face rate",
}


SHORT = {"att1": "top-1", "att_maj": "majority"}  # what kind of attack accuracy
GUESSED = {"att1": 1, "att5": 5, "att1_e2": 1, "att5_e2": 5, "att1_e3": 1, "att5_e3": 5}  # people named


def ordered(names: Iterable[str], catalogue: Catalogue) -> list[str]:
    """Metrics as pages list them: what ranks first, then as the catalogue has them."""
    order = [UTILITY, MAJORITY, "att_min", *TOP1.values(), *catalogue.metrics, *TABLE_METRICS]
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def metric_facts(catalogue: Catalogue, name: str, chance: float | None = None, panel: bool = False) -> dict[str, Any]:
    """id, title, heading, direction (``low`` or ``high``: which is more private, for ``nat1`` more useful), unit as
    shown, raw_unit, help, and a note for a table's head: the level of chance where there is one, else the unit. With a
    ``panel``, E1's accuracies are headed as its own."""
    facts = dict(catalogue.metrics.get(name, {}))
    raw = facts.get("unit") or ("fraction" if name in text.FRACTIONS else None)
    unit = {"fraction": "%", None: ""}.get(raw, raw)
    guess = None if chance is None or name not in GUESSED else min(1.0, GUESSED[name] * chance)
    whose = " (E1)" if panel and name in ("att1", "att5") else ""
    return {
        "id": name,
        "title": (facts.get("title") or HEADINGS.get(name, name)) + whose,
        "heading": HEADINGS.get(name, name) + whose,
        "direction": "high" if name == "nat1" else facts.get("direction"),
        "help": facts.get("help"),
        "unit": unit,
        "raw_unit": raw,
        "note": unit if guess is None else f"chance {text.number(guess, 'fraction')}",
    }
