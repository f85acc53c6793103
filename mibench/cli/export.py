"""``mibench export``."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import click

from mibench.cli.common import Workspace, workspace


@click.command()
@click.option("--format", "form", type=click.Choice(["csv", "json"]), default="csv", show_default=True)
@click.option("--track", help="Only this track.")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="A file [standard output].")
@workspace
def export(ws: Workspace, form: str, track: str | None, output: Path | None) -> None:
    """All results. CSV has one line per run and metric; JSON the objects of `mibench run --json`.

    \b
    Example:
      mibench export --format csv -o results.csv
    """
    if track is not None:
        ws.registry.track(track)
    runs = ws.database.runs(track=track)
    if form == "json":
        objects = [run.public() for run in runs]
        text = json.dumps({"schema": 1, "runs": objects}, indent=1, allow_nan=False) + "\n"
    else:
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
            )
        )
        for run in runs:
            for name, m in run.metrics.items():
                cell = (run.run, run.track, run.defense_label, run.attack_label, run.seed)
                writer.writerow((*cell, name, m.value, m.ci_low, m.ci_high, m.n, m.reason))
        text = buffer.getvalue()
    if output is None:
        click.echo(text, nl=False)
    else:
        from mibench.store.atomic import write_text

        write_text(output, text)
        click.echo(f"{len(runs)} runs written to {output}", err=True)
