"""``mibench run``."""

from __future__ import annotations

import json
from typing import Any

import click

from mibench.cli import INTERRUPTED
from mibench.cli.common import Workspace, make_plan, missing_data, selection_options, workspace
from mibench.errors import EXIT_INTERRUPTED, MissingError


@click.command()
@selection_options
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--jobs", type=click.IntRange(1), help="Stages at a time on the device [cpu: one per core; cuda: 1].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else on standard output.")
@click.option("--quiet", is_flag=True, help="No progress.")
@workspace
def run(
    ws: Workspace,
    defenses: tuple[str, ...],
    attacks: tuple[str, ...],
    track: str,
    seeds: int,
    settings: tuple[str, ...],
    suite: str | None,
    cells: tuple[str, ...],
    device: str,
    jobs: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Attack defended targets, and the undefended one beside them, and update the leaderboard.

    Everything that was computed before is reused. Without --defense only the undefended target is attacked; without
    --attack every attack runs.

    \b
    Examples:
      mibench run --defense re --attack kedmi
      mibench run --defense re --defense 're[strong]' --attack all --seeds 3
      mibench run --defense bido --attack ppa --set defense.lambda_y=1.0 --json
    """
    from mibench.cli.progress import listening
    from mibench.devices import check_device, slots
    from mibench.runner import execute, lookup, needed

    check_device(device)
    plan = make_plan(ws, defenses, attacks, track, seeds, settings, suite, cells, decode=True, quiet=quiet)
    database = ws.database  # a damaged or newer database is said before anything is computed
    notes: list[str] = []
    todo = needed(plan, lookup(ws.store, plan, notes))
    if todo and (lacking := missing_data(ws, plan)):
        raise MissingError("\n".join(lacking))
    with listening(len(todo), quiet) as listener:
        result = execute(ws.registry, ws.store, plan, lambda: slots(device, jobs), listener)
    database.ingest(result.manifests)
    index = ws.build_site()
    failures = _failures(result)
    if as_json:
        runs = [record.public(result.cached[record.run]) for record in result.records] + failures
        click.echo(json.dumps({"schema": 1, "runs": runs, "site": str(index)}, allow_nan=False))
    else:
        _print(result, failures, str(index))
    for note in dict.fromkeys(notes + result.notes):
        click.echo(f"Note: {note}", err=True)
    for cell, reason in plan.skipped:
        click.echo(f"Skipped {cell.defense.label} + {cell.attack.label}: {reason}.", err=True)
    if result.outcome.interrupted:
        click.echo(INTERRUPTED, err=True)
        raise SystemExit(EXIT_INTERRUPTED)
    if result.outcome.exit_code:
        raise SystemExit(result.outcome.exit_code)


def _failures(result: Any) -> list[dict[str, Any]]:
    """The runs that are not complete, as the JSON objects that say so."""
    complete = {record.run for record in result.records}
    failed = result.outcome.failed
    objects = []
    for planned in result.plan.runs:
        if planned.run in complete:
            continue
        reasons = [failed[stage.key] for stage in planned.stages.values() if stage.key in failed]
        objects.append(
            {
                "run": planned.run,
                "track": planned.cell.track.id,
                "defense": planned.cell.defense.id,
                "attack": planned.cell.attack.id,
                "seed": planned.cell.seed,
                "status": "failed" if reasons else "incomplete",
                "cached": False,
                "seconds": None,
                "metrics": {},
                "reason": " ".join(reasons) or "interrupted",
                "defense_label": planned.cell.defense.label,
                "attack_label": planned.cell.attack.label,
            }
        )
    return objects


def _print(result: Any, failures: list[dict[str, Any]], index: str) -> None:
    from mibench.cli import tables

    out = tables.console()
    if result.records:
        for table in tables.results(result.records):
            out.print(table)
        out.print(tables.seconds(result.records))
        nulls = {
            f"{name}: {metric.reason}"
            for record in result.records
            for name, metric in record.metrics.items()
            if metric.reason
        }
        for line in sorted(nulls):
            out.print(f"not measured, {line}", markup=False)
    for item in failures:
        out.print(
            f"{item['status']}: {item['defense_label']} + {item['attack_label']} seed {item['seed']}: {item['reason']}",
            markup=False,
        )
    cached = sum(result.cached.values())
    if result.records and cached == len(result.records):
        out.print("Everything was computed before.")
    out.print(f"Leaderboard: {index}", markup=False, soft_wrap=True)
