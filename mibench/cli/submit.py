"""``mibench submit`` and ``mibench reproduce``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mibench.cli import INTERRUPTED
from mibench.cli.common import Workspace, planner, plugin_option, workspace
from mibench.errors import EXIT_FAILED, EXIT_INTERRUPTED, MissingError, StageFailed, UserError

if TYPE_CHECKING:
    from mibench.planning.plan import Plan
    from mibench.records import RunRecord
    from mibench.running.placement import Placement
    from mibench.submission.pack import Parcel
    from mibench.submission.verify import Verdict

_FOLDERS = ("stages", "evaluations", "plugins", "weights", "images")


@click.group()
def submit() -> None:
    """Publish what you computed, and look at what others send. See docs/submitting.md."""


@submit.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The folder to make.")
@click.option("--weights-url", metavar="URL", help="Where the weights will be; {key} becomes a target's key.")
@click.option("--images", is_flag=True, help="Publish the reconstructions too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@plugin_option
@workspace
def pack(ws: Workspace, runs: tuple[str, ...], out: Path, weights_url: str | None, images: bool, yes: bool) -> None:
    """Make a folder to publish of finished RUNs: figures, manifests, sources of the methods, weights, environment.

    Everything that will be in it is shown before. It is searched for the names and paths of this machine, and verified
    as a stranger's would be.

    \b
    Examples:
      mibench submit pack 3f9a2b41 7c01de55 --out my-defense
      mibench submit pack 3f9a2b41 --out my-defense --weights-url https://example.org/{key}.safetensors
    """
    from mibench.submission.pack import gather, write

    records = list({record.run: record for record in map(ws.find_run, runs)}.values())
    tracks = {record.track: planner(ws).track(record.track) for record in records}
    parcel = gather(records, ws.store, ws.registry, tracks, weights_url, images)
    _list(parcel, [record.name for record in records], sensitive=images and any(t.sensitive for t in tracks.values()))
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("Nothing was written: nobody is here to confirm. Look at the list and add --yes.")
        click.confirm("Publish this?", abort=True, err=True)
    write(parcel, out, ws.home, ws.registry)
    click.echo(f"Written to {out}. Nothing was sent. Check it once more with: mibench submit verify {out}")


def _list(parcel: Parcel, runs: list[str], sensitive: bool) -> None:
    click.echo(f"{len(runs)} runs: {', '.join(runs)}")
    for line in parcel.about:
        click.echo(f"  {line}")
    sizes = parcel.sizes
    click.echo(f"  {'submission.json':<88} (the index, with the runs' records)")
    for folder in _FOLDERS:
        own = {name: size for name, size in sizes.items() if name.startswith(f"{folder}/")}
        if folder == "images" and own:
            click.echo(f"  {f'images/: {len(own)} reconstructions':<88} {sum(own.values()):>13,} bytes")
            continue
        for name, size in own.items():
            click.echo(f"  {name:<88} {size:>13,} bytes")
    for entry in parcel.index["weights"]:
        if entry["url"]:
            click.echo(f"  weights elsewhere: {entry['url']} ({entry['bytes']:,} bytes, not sent)")
    click.echo(f"{len(sizes) + 1} files, {sum(sizes.values()):,} bytes and the index. No private image.")
    if sensitive:
        click.echo("The reconstructions may look like real people. Leave --images out if they should not be seen.")


@submit.command()
@click.argument("submission", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else on standard output.")
@workspace
def verify(ws: Workspace, submission: Path, as_json: bool) -> None:
    """Check a SUBMISSION, a folder or a .zip, .tar or .tar.gz. No code of it is imported or run.

    \b
    Example:
      mibench submit verify my-defense.zip
    """
    from mibench.submission.verify import verify_path

    verdict = verify_path(submission, ws.registry)
    _report(verdict, as_json)
    if not verdict.ok:
        raise SystemExit(EXIT_FAILED)


def _report(verdict: Verdict, as_json: bool) -> None:
    if as_json:
        checks = [{"check": c.name, "ok": c.ok, "message": c.message, "notes": list(c.notes)} for c in verdict.checks]
        click.echo(json.dumps({"schema": 1, "ok": verdict.ok, "checks": checks}))
        return
    for check in verdict.checks:
        click.echo(f"{'ok' if check.ok else 'REFUSED':<8} {check.name:<9} {check.message}")
        for note in check.notes:
            click.echo(f"{'note':<8} {check.name:<9} {note}")


@submit.command()
@click.argument("submission", type=click.Path(path_type=Path))
@click.option("--name", help="What its file in results/submitted is called [the submission's].")
@workspace
def accept(ws: Workspace, submission: Path, name: str | None) -> None:
    """Verify a SUBMISSION and put its runs on the leaderboard, marked as submitted: results/submitted/NAME.json.

    \b
    Example:
      mibench submit accept my-defense --name my-defense
    """
    from mibench.submission.accept import accept as take
    from mibench.submission.layout import Limits, Refused
    from mibench.submission.verify import Check, Verdict, opened
    from mibench.submission.verify import verify as check

    results = ws.registry.root / "results"
    try:
        with opened(submission, Limits()) as folder:
            verdict = check(folder, ws.registry)
    except Refused as error:
        verdict = Verdict((Check("archive", False, str(error)),), None)
    _report(verdict, False)
    if verdict.submission is None:
        raise SystemExit(EXIT_FAILED)
    called = name or submission.resolve().name.partition(".")[0].lower()
    path, runs, known = take(verdict.submission, results, called)
    for run in known:
        click.echo(f"Left out: run {run} is published already.")
    click.echo(f"{len(runs)} runs written to {path}. Reproduce each with: mibench reproduce RUN")


@click.command()
@click.argument("run")
@plugin_option
@click.option("--track", metavar="FILE", help="The file of a track of your own.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--jobs", type=click.IntRange(1), help="Stages at a time [cpu: one per core; GPU: 1].")
@click.option("--fresh", is_flag=True, help="Forget what an earlier reproduction of this run computed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else on standard output.")
@click.option("--quiet", is_flag=True, help="No progress.")
@workspace
def reproduce(
    ws: Workspace,
    run: str,
    track: str | None,
    device: str,
    jobs: int | None,
    fresh: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compute a RUN of the database or of results/ again, in a store of its own, and record whether the figures agree.

    Its row on the leaderboard becomes reproduced or differs. The exit code is 0 or 1.

    \b
    Example:
      mibench reproduce 3f9a2b41 --device cpu
    """
    from mibench.running.placement import Placement
    from mibench.running.request import missing_data
    from mibench.submission import reproduce as again
    from mibench.submission.compare import outcome

    placement = Placement(device, jobs)
    results = ws.registry.root / "results"
    stored, published, _ = again.find(run, ws.database, results)
    protocol = planner(ws, decode=True, quiet=quiet).track(track or stored.track)
    plan = again.plan_again(ws.registry, stored, protocol)
    if lacking := missing_data(plan, ws.home):
        raise MissingError("\n".join(lacking))
    computed = _compute(ws, stored.run, plan, placement, fresh, quiet)
    verdict = outcome(stored, computed)
    again.record(stored, verdict, ws.store, ws.database, results if published else None)
    ws.build_site()
    if as_json:
        click.echo(json.dumps({"schema": 1, "run": stored.run} | verdict, allow_nan=False))
    else:
        _print(stored.name, verdict)
    if verdict["verdict"] != "reproduced":
        raise SystemExit(EXIT_FAILED)


def _compute(ws: Workspace, run: str, plan: Plan, place: Placement, fresh: bool, quiet: bool) -> RunRecord:
    """The record of the plan's one run, computed in a store of its own."""
    from mibench.cli.progress import listening
    from mibench.running.runner import execute, lookup, needed
    from mibench.store.db import Database
    from mibench.submission.reproduce import prepare_store

    store = prepare_store(ws.home, run, fresh)
    database = Database.open(f"sqlite:///{store.home / 'mibench.db'}", store.home)
    todo = needed(plan, lookup(store, plan, []))
    with listening(len(todo), quiet) as listener:
        result = execute(store, plan, place, listener, database, retry_failed=True)
    if result.outcome.interrupted:
        click.echo(INTERRUPTED, err=True)
        raise SystemExit(EXIT_INTERRUPTED)
    if not result.records or result.outcome.failed:
        reasons = " ".join(result.outcome.failed.values()) or "a stage is missing"
        raise StageFailed(f"Run {run} could not be computed again: {reasons}")
    if not todo:
        click.echo("Note: computed again before; --fresh computes it once more.", err=True)
    return result.records[0]


def _print(name: str, outcome: dict[str, Any]) -> None:
    from rich.table import Table

    from mibench.cli import tables

    table = Table(title=f"{name}: {outcome['verdict']}", title_justify="left")
    table.add_column("metric")
    for head in ("stored", "again", "difference", "tolerance"):
        table.add_column(head, justify="right")
    table.add_column("verdict")
    for item in outcome["metrics"]:
        numbers = ["-" if item[k] is None else f"{item[k]:.6g}" for k in ("stored", "again", "difference", "tolerance")]
        verdict = "agrees" if item["within"] else "differs"
        if item["stored"] is None and item["again"] is None:
            verdict = "not measured"
        table.add_row(item["metric"], *numbers, verdict)
    out = tables.console()
    out.show(table)
    same = "the same packages and kind of processor: figures must be the same"
    other = "other packages or another processor: within the tolerance, or inside the stored interval"
    out.print(same if outcome["exact"] else other)
