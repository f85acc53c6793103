"""What the answers say: one record per study, with every run's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mibench.records import MetricValue
from mibench.study.key import NEITHER, SCHEMA, Key, KeyItem, Sheet
from mibench.study.numbers import against_controls, grouped, krippendorff_alpha, rate

PASSING = 0.8  # share of right answers to controls below which a rater is excluded

_NOBODY = "no rater passed the controls"
_NOT_ASKED = "no rater answered such an item"


@dataclass(frozen=True)
class _Given:
    """One answer of a rater who counts. ``meaning`` is yes, no, unsure, a person's label, a run or neither."""

    name: str
    item: KeyItem
    meaning: str

    @property
    def identity(self) -> tuple[str, int]:
        return self.item.track, self.item.identity


def score(key: Key, sheets: Sequence[Sheet]) -> dict[str, Any]:
    """The result of a study (schema 1). Raters below 80 % on the controls are listed and left out of every number."""
    raters = [_rater(key, sheet) for sheet in sheets]
    counted = {rater["rater"] for rater in raters if rater["included"]}
    given = [
        _Given(name, key.items[name], key.items[name].choices[answer])
        for sheet in sheets
        if sheet.rater in counted
        for name, answer in sheet.answers.items()
    ]
    why = _NOT_ASKED if counted else _NOBODY
    tasks = {item.task for item in key.items.values()}
    return {
        "schema": SCHEMA,
        "study": key.study,
        "seed": key.seed,
        "passing": PASSING,
        "raters": raters,
        "missing_raters": [name for name in key.raters if name not in {sheet.rater for sheet in sheets}],
        "runs": {
            run.run: {
                "name": run.name,
                "track": run.track,
                "track_version": run.track_version,
                "identities": len({i.identity for i in key.items.values() if i.run == run.run}),
                "same": _same([g for g in given if g.item.task == "same"], run.run, run.track, why),
                "lineup": _lineup(key, [g for g in given if g.item.task == "lineup"], run.run, why),
                "pair": _pair(key, [g for g in given if g.item.task == "pair"], run.run, why)
                if "pair" in tasks
                else None,
            }
            for run in key.runs
        },
    }


def _rater(key: Key, sheet: Sheet) -> dict[str, Any]:
    controls = [(key.items[name], answer) for name, answer in sheet.answers.items() if key.items[name].correct]
    controls = [(item, answer) for item, answer in controls if item.kind != "reconstruction"]
    right = sum(item.choices[answer] == item.correct for item, answer in controls)
    reason = None
    if not controls:
        reason = "answered no control"
    elif right < PASSING * len(controls):
        reason = f"under {PASSING:.0%} on the controls".replace("%", " %")
    return {
        "rater": sheet.rater,
        "answered": len(sheet.answers),
        "items": len(key.raters[sheet.rater]),
        "controls": len(controls),
        "right": right,
        "included": reason is None,
        "reason": reason,
    }


def _same(given: Sequence[_Given], run: str, track: str, why: str) -> dict[str, Any]:
    """Acceptance is the share of yes; ``cannot tell`` is not yes. False alarms are those of the run's track."""
    made = [g for g in given if g.item.run == run]
    same, others = (
        [(g.identity, float(g.meaning == "yes")) for g in given if g.item.kind == kind and g.item.track == track]
        for kind in ("matched", "mismatched")
    )
    accepted = [(g.identity, float(g.meaning == "yes")) for g in made]
    difference, sensitivity = against_controls(grouped(accepted), grouped(others))
    return {
        "acceptance": rate(accepted, why).public(),
        "cannot_tell": rate(((g.identity, float(g.meaning == "unsure")) for g in made), why).public(),
        "matched_accepted": rate(same, why).public(),
        "false_alarms": rate(others, why).public(),
        "difference": difference.public(),
        "d_prime": sensitivity.public(),
        "alpha": _agreement(made).public(),
    }


def _lineup(key: Key, given: Sequence[_Given], run: str, why: str) -> dict[str, Any] | None:
    asked = [item for item in key.items.values() if item.task == "lineup" and item.run == run]
    if not asked:
        return None
    own = [g for g in given if g.item.run == run]
    return {
        "accuracy": rate(((g.identity, float(g.meaning == g.item.correct)) for g in own), why).public(),
        "chance": 1 / len(asked[0].choices),
        "alpha": _agreement(own).public(),
    }


def _pair(key: Key, given: Sequence[_Given], run: str, why: str) -> dict[str, Any]:
    [other] = [entry for entry in key.runs if entry.run != run]

    def share(meaning: str) -> dict[str, Any]:
        return rate(((g.identity, float(g.meaning == meaning)) for g in given), why).public()

    return {
        "against": other.run,
        "against_name": other.name,
        "preferred": share(run),
        "other": share(other.run),
        "neither": share(NEITHER),
        "alpha": _agreement(given).public(),
    }


def _agreement(given: Sequence[_Given]) -> MetricValue:
    units: dict[str, tuple[tuple[str, int], list[str]]] = {}
    for g in given:
        units.setdefault(g.name, (g.identity, []))[1].append(g.meaning)
    return krippendorff_alpha(units.values())
