"""``mibench export``."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import click

from mibench.cli.common import Workspace, workspace
from mibench.errors import UserError
from mibench.keys import canonical

FORMATS = ("csv", "json", "results", "markdown")


@click.command()
@click.option("--format", "form", type=click.Choice(FORMATS), default="csv", show_default=True)
@click.option("--track", help="Only this track.")
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Markdown of a file that --format json or results wrote, instead of the database.",
)
@click.option(
    "--onto",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Results: with the runs of this file that the database does not have newer versions of.",
)
@click.option(
    "--rows",
    type=click.Choice(("attacks", "defenses")),
    default="attacks",
    show_default=True,
    help="Markdown: a table per defense with a row per attack, or one with a row per defense.",
)
@click.option(
    "--into",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Markdown: put it between the marks `result:begin` and `result:end` of this page.",
)
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="A file [standard output].")
@workspace
def export(
    ws: Workspace,
    form: str,
    track: str | None,
    source: Path | None,
    onto: Path | None,
    rows: str,
    into: Path | None,
    output: Path | None,
) -> None:
    """All results. CSV has one line per run and metric, JSON the objects of `mibench run --json`, results the same with
    each run's whole record but its images (what the leaderboard reads from results/), Markdown tables of what each
    attack reached and cost, or of what each defense leaks.

    \b
    Examples:
      mibench export --format csv -o results.csv
      mibench export --format markdown --track orl32
      mibench export --format markdown --rows defenses --from results/orl32.json --into docs/defenses.md
      mibench export --format results --track orl32 --onto published.json -o published.json
    """
    if output is not None and not output.parent.is_dir():
        raise UserError(f"There is no folder {output.parent} for {output.name}. Make it first, or name another.")
    if track is not None:
        ws.registry.track(track)
    for option, given in (("--from", source), ("--into", into), ("--rows", None if rows == "attacks" else rows)):
        if given is not None and form != "markdown":
            raise click.UsageError(f"{option} goes with --format markdown.")
    if onto is not None and form != "results":
        raise click.UsageError("--onto goes with --format results.")
    runs = [] if source else ws.database.runs(track=track)
    if form == "markdown":
        from mibench.publish.variants import apart, named

        runs = [run for board in apart(runs).values() for run in named(board)]
    whole = form == "results"
    objects = _recorded(source, track) if source else [run.published() if whole else run.public() for run in runs]
    if onto is not None:
        published = _recorded(onto, track)
        ids = {run["run"] for run in published}
        objects = [run for run in objects if run["run"] not in ids]  # the same figures, perhaps at a busier time
        cells = {_cell(run) for run in objects}
        kept = [run for run in published if _cell(run) not in cells]
        objects = sorted(kept + objects, key=_cell)
    if form == "markdown":
        from mibench.publish.markdown import defenses_table, results_table

        by_defense = rows == "defenses"
        text = defenses_table(objects, ws.registry.control_ids) if by_defense else results_table(objects)
        if into is not None:
            text, output = _between_marks(into.read_text(encoding="utf-8"), text, into), into
    elif form in ("json", "results"):
        text = json.dumps({"schema": 1, "runs": objects}, indent=1, allow_nan=False) + "\n"
    else:
        from mibench.publish.downloads import MADE, made_of

        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(
            (
                "run",
                "track",
                "defense",
                "attack",
                "seed",
                "metric",
                "value",
                "ci_low",
                "ci_high",
                "n",
                "reason",
                *MADE,
            )
        )
        for run in runs:
            made = [canonical(item) for item in made_of(run)]
            cell = (run.run, run.track, run.defense_label, run.attack_label, run.seed)
            if run.status != "done":
                writer.writerow((*cell, "", None, None, None, 0, f"failed: {run.reason}", *made))
            for name, m in run.metrics.items():
                writer.writerow((*cell, name, m.value, m.ci_low, m.ci_high, m.n, m.reason, *made))
            for name, value in (run.exposure or {}).items():
                if name not in ("metric", "people", "images"):
                    why = "nobody is recognised" if value is None else None
                    writer.writerow((*cell, f"exposure_{name}", value, None, None, len(run.identities), why, *made))
        text = buffer.getvalue()
    if output is None:
        click.echo(text, nl=False)
    else:
        from mibench.store.atomic import write_text

        write_text(output, text)
        click.echo(f"{len(objects)} runs written to {output}", err=True)


def _between_marks(page: str, text: str, path: Path) -> str:
    parts = re.split(r"(?<=<!-- result:begin -->\n)[\s\S]*?(?=<!-- result:end -->)", page)
    if len(parts) != 2:
        raise UserError(f"{path} does not have one pair of lines <!-- result:begin --> and <!-- result:end -->.")
    return text.join(parts)


def _cell(run: dict[str, Any]) -> tuple[Any, ...]:
    version = run.get("record", run).get("track_version", 0)
    attack = run.get("seeds", {}).get("attack", run["seed"])
    return run["track"], version, run["defense_label"], run["attack_label"], run["seed"], attack


def _recorded(source: Path, track: str | None) -> list[dict[str, Any]]:
    """The runs in a file that ``--format json`` wrote."""
    try:
        data = json.loads(source.read_text(encoding="utf-8"))
        runs = [run for run in data["runs"] if track is None or run["track"] == track]
        if data["schema"] != 1 or not all("stages" in run for run in runs):
            raise ValueError("it was written by another version")
        return runs
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{source} is not what `mibench export --format json` writes: {error}.") from None
