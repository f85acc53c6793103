"""From the results of human studies to the lines of a run's page and of `mibench study score`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mibench.publish import text

_SAME = {
    "acceptance": ("Reconstructions taken for the identity", "fraction"),
    "false_alarms": ("Photos of another identity taken for it", "fraction"),
    "difference": ("Reconstructions minus photos of another", "points"),
    "d_prime": ("Sensitivity d′ between the two", None),
    "cannot_tell": ("Reconstructions of which raters could not tell", "fraction"),
    "matched_accepted": ("Other photos of the identity recognised", "fraction"),
    "alpha": ("Agreement of the raters (Krippendorff’s alpha)", None),
}


def study_view(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What ``_study.html`` shows of each study of one run. ``entries`` are those of ``mibench.study.load_studies``."""
    return [
        {
            "study": entry["study"],
            "identities": entry["identities"],
            "raters": sum(rater["included"] for rater in entry["raters"]),
            "excluded": sum(not rater["included"] for rater in entry["raters"]),
            "passing": text.number(entry["passing"], "fraction").removesuffix(".0"),
            "tasks": study_tasks(entry),
        }
        for entry in entries
    ]


def study_tasks(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Title and lines of each task that the study asked about the run."""
    same = [_line(title, entry["same"][name], unit) for name, (title, unit) in _SAME.items()]
    tasks = [{"title": "Same or not", "lines": same}]
    if lineup := entry["lineup"]:
        chance = text.number(lineup["chance"], "fraction")
        lines = [
            _line(f"Right identity picked among look-alikes (chance {chance} %)", lineup["accuracy"], "fraction"),
            _line(_SAME["alpha"][0], lineup["alpha"], None),
        ]
        tasks.append({"title": "Line-up", "lines": lines})
    if pair := entry["pair"]:
        lines = [
            _line("This run’s reconstruction is closer", pair["preferred"], "fraction"),
            _line(f"That of {pair['against_name']} is closer", pair["other"], "fraction"),
            _line("Neither", pair["neither"], "fraction"),
            _line(_SAME["alpha"][0], pair["alpha"], None),
        ]
        tasks.append({"title": "Which of two", "lines": lines})
    return tasks


def _line(title: str, value: Mapping[str, Any], unit: str | None) -> dict[str, Any]:
    points = unit == "points"
    write, bounds = (text.points, text.points_interval) if points else (_number(unit), _interval(unit))
    return {
        "title": title,
        "value": write(value["value"]),
        "interval": bounds(value["ci_low"], value["ci_high"]),
        "unit": {"fraction": "%", "points": "points", None: ""}[unit],
        "n": value["n"],
        "reason": value["reason"],
    }


def _number(unit: str | None) -> Any:
    return lambda value: text.number(value, unit)


def _interval(unit: str | None) -> Any:
    return lambda low, high: text.interval(low, high, unit)
