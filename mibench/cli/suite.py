"""``mibench suite``."""

from __future__ import annotations

import json
from typing import Any

import click

from mibench.cli.common import Workspace, planner, workspace


@click.command()
@click.argument("name", required=False)
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="How many target trainings.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@workspace
def suite(ws: Workspace, name: str | None, seeds: int, as_json: bool) -> None:
    """The setups of the suite NAME as addressable cells: what each needs that is not here, what is done, and what was
    measured beside what papers report. Without NAME: which suites there are.

    \b
    Examples:
      mibench suite midre
      mibench run --suite midre --cell W23
    """
    from mibench.protocol.suites import load_suite, suite_names

    if name is None:
        for known in suite_names(ws.registry.root):
            click.echo(f"{known}  {load_suite(ws.registry.root, known).title}")
        return
    from mibench.publish.figures_file import load_reported
    from mibench.publish.results import load_results, merged
    from mibench.records import numbered

    whole = load_suite(ws.registry.root, name)
    results = ws.registry.root / "results"
    records = merged(ws.database.runs(), load_results(results))
    lines = load_reported(results / "reported.csv")
    cells = {}
    for key, cell in whole.cells.items():
        plan = planner(ws).suite(name, (key,), numbered(seeds))
        cells[key] = _cell(ws, cell, plan, records, lines)
    if as_json:
        head = {"schema": 1, "suite": name, "title": whole.title, "note": whole.note}
        established = [entry.model_dump() for entry in whole.established]
        click.echo(json.dumps(head | {"established": established, "cells": cells}, indent=1))
        return
    _print(name, whole, cells)


def _cell(ws: Workspace, cell: Any, plan: Any, records: list[Any], lines: list[Any]) -> dict[str, Any]:
    from mibench.running.request import missing_data

    track = ws.registry.track(cell.track)
    done = {record.run: record for record in records}
    own = [done[planned.run] for planned in plan.runs if planned.run in done]
    missing = missing_data(plan, ws.home, skipped=True) + list(dict.fromkeys(reason for _, reason in plan.skipped))
    attack = cell.attack.partition("[")[0]
    names = ws.registry.entry("attack", attack).reported
    defenses = {}
    for label in dict.fromkeys(
        [*(run.cell.defense.label for run in plan.runs), *(c.defense.label for c, _ in plan.skipped)]
    ):
        published = {word for part in label.split("+") for word in _reported(ws, part)}
        values = [r.metrics["att1"].value for r in own if r.defense_label == label and "att1" in r.metrics]
        known = [value for value in values if value is not None]
        defenses[label] = {
            "measured": {"att1": 100 * sum(known) / len(known), "seeds": len(known)} if known else None,
            "reported": [
                {
                    "source": line.source,
                    "reference": line.source_ref,
                    "attack_top1": line.attack_acc_top1,
                    "natural": line.natural_acc,
                    "params": line.defense_params,
                    "notes": line.notes,
                }
                for line in lines
                if track.reported
                and line.attack in names
                and line.defense in published
                and all(str(getattr(line, key)) == str(value) for key, value in track.reported.items())
            ],
        }
    return {
        "attack": cell.attack,
        "track": cell.track,
        "title": track.title,
        "private": track.reported.get("private_dataset", track.source),
        "public": track.reported.get("public_dataset", ""),
        "target": track.target.arch,
        "resolution": track.resolution,
        "confidence": cell.confidence,
        "runs": len(plan.runs) + len(plan.skipped),
        "done": len(own),
        "missing": missing,
        "defenses": defenses,
    }


def _reported(ws: Workspace, label: str) -> tuple[str, ...]:
    return ws.registry.entry("defense", label.partition("[")[0]).reported


def _print(name: str, suite: Any, cells: dict[str, dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from mibench.cli import tables

    out = tables.console()
    out.print(Text(suite.title, style="bold"))
    out.print(Text(suite.note))
    reasons = list(dict.fromkeys(reason for cell in cells.values() for reason in cell["missing"]))
    table = Table()
    for head in ("cell", "attack", "private", "public", "target", "px", "conf.", "done", "needs"):
        table.add_column(head)
    for key, cell in cells.items():
        needs = ", ".join(str(reasons.index(reason) + 1) for reason in cell["missing"])
        words = (key, cell["attack"], cell["private"], cell["public"], cell["target"], str(cell["resolution"]))
        table.add_row(*map(Text, (*words, cell["confidence"] or "", f"{cell['done']} of {cell['runs']}", needs)))
    out.show(table)
    for number, reason in enumerate(reasons, start=1):
        out.print(Text(f"{number}: {reason}"), soft_wrap=True)
    beside = Table(title="Top-1 attack accuracy in per cent, measured here beside published", title_justify="left")
    for head in ("cell", "defense", "measured", "published", "source"):
        beside.add_column(head)
    for key, cell in cells.items():
        for label, values in cell["defenses"].items():
            measured = values["measured"]
            ours = f"{measured['att1']:.1f} ({measured['seeds']} seeds)" if measured else "not run"
            for line in values["reported"] or ([None] if measured else []):
                theirs = "" if line is None or line["attack_top1"] is None else f"{line['attack_top1']:g}"
                source = "" if line is None else ", ".join(filter(None, (line["source"], line["params"])))
                beside.add_row(*map(Text, (key, label, ours, theirs, source)))
    if beside.row_count:
        out.show(beside)
    example = f"mibench run --suite {name} --cell {next(iter(cells))}"
    out.print(Text(f"--json has the sources' notes. Run a cell: {example}"), soft_wrap=True)
