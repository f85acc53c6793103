"""``mibench run``."""

from __future__ import annotations

import json
import re
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mibench.cli import INTERRUPTED
from mibench.cli.common import Workspace, planner, read_asked, selection_options, workspace
from mibench.errors import EXIT_INTERRUPTED, MissingError, UserError

if TYPE_CHECKING:
    from mibench.planning.plan import Plan
    from mibench.registry import Registry
    from mibench.running.grids import Origin
    from mibench.running.placement import Placement
    from mibench.running.runner import Result

SHOWN = 20  # incomplete runs that are named one by one


@click.command()
@selection_options
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--jobs", type=click.IntRange(1), help="Stages at a time [cpu: one per core; GPU: 1; slurm: 200].")
@click.option("--gpus", metavar="LIST", help="Use these GPUs: 0,1 or all.")
@click.option("--per-gpu", default=1, show_default=True, type=click.IntRange(1), help="Stages at a time on each GPU.")
@click.option("--executor", type=click.Choice(("local", "slurm")), default="local", show_default=True)
@click.option("--slurm", metavar="OPTIONS", help="Options of sbatch: partition=gpu,time=240,gres=gpu:1.")
@click.option("--limit", metavar="TIME", help="End a stage that takes longer: 90s, 30m or 4h.")
@click.option("--retry-failed", is_flag=True, help="Try stages again that failed before.")
@click.option("--force", "forced", multiple=True, metavar="STAGE", help="Compute again: a kind or a key. Repeatable.")
@click.option("--skip-damaged", is_flag=True, help="Leave images of your own out that cannot be read.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else on standard output.")
@click.option("--quiet", is_flag=True, help="No progress.")
@workspace
def run(
    ws: Workspace,
    device: str,
    jobs: int | None,
    gpus: str | None,
    per_gpu: int,
    executor: str,
    slurm: str | None,
    limit: str | None,
    retry_failed: bool,
    forced: tuple[str, ...],
    skip_damaged: bool,
    as_json: bool,
    quiet: bool,
    **asked: Any,
) -> None:
    """Attack defended targets, and the undefended one beside them, and update the leaderboard.

    Everything that was computed before is reused. Without --defense only the undefended target is attacked; without
    --attack every attack runs. Ctrl-C lets the stages that run save where they are; a second one ends them at once.

    \b
    Examples:
      mibench run --defense re --attack kedmi
      mibench run --defense all --attack all --seeds 3 --gpus 0,1 --per-gpu 2
      mibench run --defense bido --attack ppa --set defense.lambda_y=1.0 --json
      mibench run --grid my-grid.yaml --executor slurm --slurm partition=gpu,time=240,gres=gpu:1
    """
    from mibench.running.placement import Placement

    seconds = read_seconds(limit) if limit is not None else None
    options = slurm_options(executor, slurm)
    placement = Placement(device, jobs, gpus=gpus, per_gpu=per_gpu, limit=seconds, slurm=options)
    plan = planner(ws, decode=True, quiet=quiet, skip_damaged=skip_damaged).plan(read_asked(asked))
    result = _compute(ws, plan, placement, forced, retry_failed, quiet, origin(asked["grid"]))
    _show(result, str(ws.build_site()), as_json, ws.registry)
    if result.outcome.interrupted:
        click.echo(INTERRUPTED, err=True)
        raise SystemExit(EXIT_INTERRUPTED)
    if result.outcome.exit_code:
        raise SystemExit(result.outcome.exit_code)


def _compute(
    ws: Workspace,
    plan: Plan,
    place: Placement,
    forced: tuple[str, ...],
    retry_failed: bool,
    quiet: bool,
    origin: Origin,
) -> Result:
    """What the plan came to. Raises MissingError if something has to be computed and its data is not here."""
    from mibench.cli.progress import listening
    from mibench.running.request import missing_data
    from mibench.running.runner import execute, force, lookup, needed

    database = ws.database  # a damaged or newer database is said before anything is computed
    notes: list[str] = []
    again = force(ws.store, plan, forced)
    if again:
        notes.append(f"{len(again)} stages are computed again; what they were is in {ws.home / 'discarded'}.")
    todo = needed(plan, lookup(ws.store, plan, notes))
    if todo and (lacking := missing_data(plan, ws.home)):
        raise MissingError("\n".join(lacking))
    with listening(len(todo), quiet) as listener:
        result = execute(ws.store, plan, place, listener, database, retry_failed or bool(again), origin)
    result.notes = list(dict.fromkeys(notes + result.notes))
    return result


def origin(grid: str | None) -> Origin:
    """What was typed, and the title of the grid file."""
    from mibench.protocol.grid_files import read_grid
    from mibench.running.grids import Origin

    return Origin(shlex.join(["mibench", *sys.argv[1:]]), read_grid(Path(grid)).title if grid is not None else "")


def _show(result: Result, index: str, as_json: bool, registry: Registry) -> None:
    """The figures on standard output; notes, and what was skipped or failed, on standard error."""
    failures = _failures(result)
    if as_json:
        runs = [record.public(result.cached[record.run]) for record in result.records] + failures
        click.echo(json.dumps({"schema": 1, "runs": runs, "site": index}, allow_nan=False))
    else:
        _print(result, failures, index, registry)
    for note in result.notes:
        click.echo(f"Note: {note}", err=True)
    for cell, reason in result.plan.skipped:
        click.echo(f"Skipped {cell.defense.label} + {cell.attack.label}: {reason}.", err=True)
    _summary(result)


def slurm_options(executor: str, text: str | None) -> dict[str, str | bool] | None:
    """The options of sbatch; None for the local executor. Raises UserError."""
    if executor != "slurm":
        if text is not None:
            raise click.UsageError("--slurm goes with --executor slurm.")
        return None
    from mibench.running.executors.slurm.commands import check_slurm
    from mibench.running.executors.slurm.options import minutes, parse_options

    options = parse_options(text)
    minutes(str(options.get("time", 1)))
    check_slurm()
    return options


def read_seconds(text: str) -> float:
    """``90s``, ``30m``, ``4h`` or ``90`` (seconds) -> seconds. Raises UserError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match or float(match[1]) <= 0:
        raise UserError(f"Cannot read the time {text!r}. Expected 90s, 30m or 4h.")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _summary(result: Result) -> None:
    """What failed, and where to look: on standard error, if anything did."""
    outcome = result.outcome
    if not outcome.failed:
        return
    done = len(outcome.done & result.todo)
    click.echo(f"{done} stages done, {len(outcome.failed)} failed, {len(outcome.blocked)} blocked by them:", err=True)
    for key, message in outcome.failed.items():
        stage = result.plan.stages[key]
        waiting = sum(1 for parent in _roots(outcome.blocked).values() if parent == key)
        behind = f" ({waiting} stages wait for it)" if waiting else ""
        click.echo(f"  {stage.title}{behind}: {message}\n    log: mibench logs {key[:12]}", err=True)


def _roots(blocked: dict[str, str]) -> dict[str, str]:
    """Blocked stage -> the stage that failed, however far above."""
    roots = {}
    for key in blocked:
        parent = blocked[key]
        while parent in blocked:
            parent = blocked[parent]
        roots[key] = parent
    return roots


@click.command()
@workspace
def collect(ws: Workspace) -> None:
    """Take in what jobs and other coordinators have finished since, and update the leaderboard.

    \b
    Example:
      mibench collect
    """
    from mibench.running.runner import collect as take_in

    for grid, (recorded, runs) in take_in(ws.store, ws.database).items():
        click.echo(f"grid {grid}: {recorded} of {runs} runs")
    click.echo(f"Leaderboard: {ws.build_site()}")


def _failures(result: Result) -> list[dict[str, Any]]:
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
                "seed": planned.cell.seeds.target,
                "seeds": asdict(planned.cell.seeds),
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


def _print(result: Result, failures: list[dict[str, Any]], index: str, registry: Registry) -> None:
    from mibench.cli import tables

    out = tables.console()
    if result.records:
        for table in tables.results(result.records, registry.control_ids, registry.bounds):
            out.show(table)
        out.show(tables.seconds(result.records))
        nulls = {
            f"{name}: {metric.reason}"
            for record in result.records
            for name, metric in record.metrics.items()
            if metric.reason
        }
        for line in sorted(nulls):
            out.print(f"not measured, {line}", markup=False)
    for item in failures[:SHOWN]:
        out.print(
            f"{item['status']}: {item['defense_label']} + {item['attack_label']} seed {item['seed']}: {item['reason']}",
            markup=False,
        )
    if len(failures) > SHOWN:
        out.print(f"and {len(failures) - SHOWN} more runs that are not complete; --json lists them")
    if result.records and not (result.todo or failures or result.outdated):
        out.print("Everything was computed before.")
    out.print(f"Leaderboard: {index}", markup=False, soft_wrap=True)
