"""What each page shows, as plain values for the templates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from mibench.publish import text
from mibench.publish.aggregate import TABLE_METRICS, Board, Row, Value
from mibench.publish.model import Catalogue
from mibench.records import RunRecord

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
COLOURS = 10  # classes c0..c9 in mibench.css
# One marker per attack: Plotly's name, and the same shape as a path on a 12 x 12 grid for the legend.
SHAPES = (
    ("circle", "M6 1a5 5 0 1 0 0 10a5 5 0 1 0 0-10z"),
    ("square", "M1.5 1.5h9v9h-9z"),
    ("diamond", "M6 .2L11.8 6L6 11.8L.2 6z"),
    ("triangle-up", "M6 1L11.5 10.5H.5z"),
    ("cross", "M4 1h4v3h3v4H8v3H4V8H1V4h3z"),
    ("triangle-down", "M6 11L.5 1.5h11z"),
    ("pentagon", "M6 .5L11.5 4.6L9.4 11H2.6L.5 4.6z"),
    ("star", "M6 .3L7.5 4.3L11.8 4.5L8.4 7.1L9.6 11.3L6 8.9L2.4 11.3L3.6 7.1L.2 4.5L4.5 4.3z"),
)


def metric_facts(catalogue: Catalogue, name: str) -> dict[str, Any]:
    """Title, direction, unit and help of a metric, with what follows from its id where the catalogue says
    nothing."""
    facts = dict(catalogue.metrics.get(name, {}))
    facts["unit"] = facts.get("unit") or ("fraction" if name in text.FRACTIONS else None)
    facts["title"] = facts.get("title") or HEADINGS.get(name, name)
    return {"direction": None, "help": None} | facts


def run_page(run: RunRecord) -> str:
    return f"run/{run.run}.html"


class Legend:
    """Colours of the defenses and shapes of the attacks, the same on all tracks."""

    def __init__(self, boards: Sequence[Board]) -> None:
        rows = [row for board in boards for row in board.rows]
        self._defenses = {name: i for i, name in enumerate(sorted({row.defense_label for row in rows}))}
        self._attacks = {name: i for i, name in enumerate(sorted({row.attack_label for row in rows}))}

    def colour(self, defense: str) -> str:
        return f"c{self._defenses[defense] % COLOURS}"

    def shape(self, attack: str) -> dict[str, Any]:
        turn, index = divmod(self._attacks[attack], len(SHAPES))
        name, path = SHAPES[index]
        return {"symbol": name + ("-open" if turn % 2 else ""), "path": path, "open": bool(turn % 2)}


def board_view(board: Board, catalogue: Catalogue, legend: Legend) -> dict[str, Any]:
    """One track of the index page."""
    facts = catalogue.tracks.get(board.track, {})
    identities = facts.get("identities")
    columns = [_column(name, catalogue, board.chance) for name in TABLE_METRICS]
    return {
        "key": board.key,
        "anchor": text.anchor("track", board.key),
        "track": board.track,
        "version": board.version,
        "current": board.current,
        "title": facts.get("title") or board.track,
        "sensitive": catalogue.sensitive(board.track),
        "kind": facts.get("kind"),
        "identities": len(identities) if isinstance(identities, list | tuple | range) else identities,
        "chance": text.number(board.chance, "fraction"),
        "required": board.required,
        "defenses": [{"name": n, "colour": legend.colour(n)} for n in sorted({r.defense_label for r in board.rows})],
        "attacks": [{"name": n} | legend.shape(n) for n in sorted({row.attack_label for row in board.rows})],
        "columns": columns,
        "rows": [_row_view(row, columns, legend) for row in board.rows],
        "ranked": sum(row.worst and row.rank is not None for row in board.rows),
        "island": {
            "key": board.key,
            "chance": board.chance,
            "required": list(board.required),
            "front": board.front,
            "rows": [_point(row, legend) for row in board.rows],
        },
    }


def _column(name: str, catalogue: Catalogue, chance: float) -> dict[str, Any]:
    facts = metric_facts(catalogue, name)
    guess = {"att1": chance, "att5": min(1.0, 5 * chance)}.get(name)
    unit = {"fraction": "%", None: ""}.get(facts["unit"], facts["unit"])
    if name == "nat1":
        facts["direction"] = "high"
    return facts | {
        "id": name,
        "heading": HEADINGS[name],
        "note": unit if guess is None else f"chance {text.number(guess, 'fraction')}",
    }


def _row_view(row: Row, columns: Sequence[dict[str, Any]], legend: Legend) -> dict[str, Any]:
    return {
        "row": row,
        "colour": legend.colour(row.defense_label),
        "shape": legend.shape(row.attack_label),
        "cells": [_cell(row.values[column["id"]], column) for column in columns],
        "seconds": text.duration(row.seconds),
        "runs": [{"seed": run.seed, "href": run_page(run), "failed": run.status != "done"} for run in row.runs],
    }


def _cell(value: Value, column: dict[str, Any]) -> dict[str, Any]:
    unit = column["unit"]
    kind = {
        "seeds": f"95 % t interval over {value.seeds} seeds",
        "bootstrap": "95 % bootstrap interval of one run",
    }
    return {
        "text": text.number(value.mean, unit),
        "interval": text.interval(value.low, value.high, unit),
        "interval_kind": kind.get(value.source or "", ""),
        "order": "" if value.mean is None else repr(value.mean),
        "reason": value.reason,
        "partial": f"{value.seeds} of {value.of} seeds" if value.mean is not None and value.seeds < value.of else None,
        "lead": column["id"] == "att1",
    }


def _point(row: Row, legend: Legend) -> dict[str, Any]:
    x, y = row.values["nat1"], row.values["att1"]
    return {
        "defense": row.defense_label,
        "attack": row.attack_label,
        "colour": legend.colour(row.defense_label),
        "shape": legend.shape(row.attack_label)["symbol"],
        "x": [x.mean, *_clipped(x)],
        "y": [y.mean, *_clipped(y)],
        "seeds": len(row.runs),
    }


def _clipped(value: Value) -> tuple[float | None, float | None]:
    if value.low is None or value.high is None:
        return None, None
    return max(value.low, 0.0), min(value.high, 1.0)


def run_view(run: RunRecord, catalogue: Catalogue, picture: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """A run's page. ``picture`` returns what the gallery shows of an image: ``{"src", "nearest"}``, or
    None."""
    order = [*catalogue.metrics, *TABLE_METRICS]
    names = sorted(run.metrics, key=lambda name: (order.index(name) if name in order else len(order), name))
    return {
        "run": run,
        "title": catalogue.tracks.get(run.track, {}).get("title") or run.track,
        "track_anchor": text.anchor("track", run.track),
        "sensitive": catalogue.sensitive(run.track),
        "metrics": [_metric(run, name, catalogue) for name in names],
        "defense_params": text.flat(run.defense_params),
        "attack_params": text.flat(run.attack_params),
        "environment": text.flat(run.environment),
        "stages": [{"stage": stage, "params": text.plain(stage.params)} for stage in run.stages],
        "queries": _queries(run),
        "identities": _identities(run),
        "gallery": _gallery(run, picture),
    }


def _metric(run: RunRecord, name: str, catalogue: Catalogue) -> dict[str, Any]:
    metric, facts = run.metrics[name], metric_facts(catalogue, name)
    return facts | {
        "id": name,
        "value": text.number(metric.value, facts["unit"]),
        "interval": text.interval(metric.ci_low, metric.ci_high, facts["unit"]),
        "n": metric.n,
        "reason": metric.reason if metric.value is None else None,
        "unit": {"fraction": "%", None: ""}.get(facts["unit"], facts["unit"]),
    }


def _queries(run: RunRecord) -> list[dict[str, Any]]:
    """Queries to the target by phase: the shared ones, and the mean per attacked identity."""
    table: list[dict[str, Any]] = []
    labels = sorted((key for key in run.queries if key != "shared"), key=_label)
    groups = [("shared by all identities", [run.queries.get("shared", {})])]
    groups.append(("per identity", [run.queries[label] for label in labels]))
    for title, counts in groups:
        for phase in sorted({phase for count in counts for phase in count}):
            row: dict[str, Any] = {"who": title, "phase": phase}
            for kind in ("forward", "gradient", "label"):
                row[kind] = text.number(sum(c.get(phase, {}).get(kind, 0) for c in counts) / len(counts), None)
            table.append(row)
    return table


def _identities(run: RunRecord) -> dict[str, Any] | None:
    """The distribution of top-1 attack accuracy over identities, None where it is not known."""
    metric = run.metrics.get("att1")
    if metric is None or not metric.per_identity:
        return None
    pairs = [(label, metric.per_identity[label]) for label in sorted(metric.per_identity, key=_label)]
    values = sorted(value for _, value in pairs)
    tail = values[-max(1, math.ceil(len(values) / 10)) :]
    half = len(values) // 2
    return {
        "strip": [{"label": n, "text": f"{100 * v:.0f}", "level": round(10 * v)} for n, v in pairs],
        "count": len(values),
        "median": text.number((values[half] + values[~half]) / 2, "fraction"),
        "exposed": sum(value >= 0.5 for value in values),
        "never": sum(value == 0 for value in values),
        "tail": text.number(math.fsum(tail) / len(tail), "fraction"),
    }


def _gallery(run: RunRecord, picture: Callable[[dict[str, Any]], Any]) -> list[dict[str, Any]]:
    """Reconstructions by identity, in the order of their index; empty when no image is shown."""
    groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for image in sorted(run.images, key=lambda image: (int(image["label"]), int(image["index"]))):
        shown = picture(image)
        if shown is not None:
            confidence = image.get("confidence")
            groups[int(image["label"])].append(
                shown
                | {
                    "index": int(image["index"]),
                    "selected": bool(image.get("selected")),
                    "verdict": image.get("verdict"),
                    "correct": image.get("correct"),
                    "confidence": None if confidence is None else text.number(confidence, "fraction"),
                }
            )
    return [
        {
            "label": label,
            "images": groups[label],
            "correct": sum(bool(image["correct"]) for image in groups[label]),
            "judged": sum(image["correct"] is not None for image in groups[label]),
        }
        for label in sorted(groups)
    ]


def _label(name: str) -> tuple[bool, int, str]:
    return not name.isdigit(), int(name) if name.isdigit() else 0, name


def protocol_view(catalogue: Catalogue, boards: Sequence[Board]) -> dict[str, Any]:
    """The protocol page: what exists, with the facts a reader needs to judge a number."""
    known = {"title", "version", "kind", "sensitive", "chance", "identities", "metrics"}
    tracks = []
    for name in dict.fromkeys([*catalogue.tracks, *(board.track for board in boards)]):
        facts = {"title": name} | dict(catalogue.tracks.get(name, {}))
        more = {key: value for key, value in facts.items() if key not in known}
        tracks.append({"id": name, "facts": facts, "sensitive": catalogue.sensitive(name), "more": text.flat(more)})
    rows = [row for board in boards for row in board.rows]
    others = sorted({name for row in rows for run in row.runs for name in run.metrics} - set(catalogue.metrics))
    return {
        "tracks": tracks,
        "metrics": [metric_facts(catalogue, name) | {"id": name} for name in [*catalogue.metrics, *others]],
        "methods": [
            {
                "kind": "defense",
                "title": "Defenses",
                "items": _methods(catalogue.defenses, {r.defense for r in rows}),
            },
            {
                "kind": "attack",
                "title": "Attacks",
                "items": _methods(catalogue.attacks, {r.attack for r in rows}),
            },
        ],
    }


def _methods(facts: Any, used: set[str]) -> list[dict[str, Any]]:
    empty = {"title": None, "paper": None, "url": None, "year": None, "deviations": ()}
    return [empty | dict(facts.get(name, {})) | {"id": name} for name in sorted({*facts, *used})]
