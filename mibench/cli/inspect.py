"""``mibench list``, ``plan``, ``show`` and ``why``: what exists, what would run, what a run was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mibench.cli.common import (
    Workspace,
    planner,
    plugin_option,
    read_asked,
    selection_options,
    workspace,
)
from mibench.cli.times import describe_time

if TYPE_CHECKING:
    from mibench.protocol.methods import Kind

_METHODS: dict[str, Kind] = {"defenses": "defense", "attacks": "attack", "priors": "prior"}
_KINDS = (*_METHODS, "tracks", "metrics")


@click.command("list")
@click.argument("kind", required=False, type=click.Choice(_KINDS))
@plugin_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@workspace
def list_(ws: Workspace, kind: str | None, as_json: bool) -> None:
    """What there is: defenses, attacks, priors, tracks and metrics. One KIND alone comes with what its presets cost.

    \b
    Examples:
      mibench list
      mibench list defenses --json
      mibench list priors --plugin mine.py
    """
    listings = {name: _listing(ws, name) for name in ([kind] if kind else _KINDS)}
    if as_json:
        click.echo(json.dumps(listings[kind] if kind else listings, indent=1))
        return
    for name, items in listings.items():
        click.echo(f"{name}:")
        width = max(map(len, items), default=0)
        for item, facts in items.items():
            extra = facts.get("presets")
            click.echo(f"  {item:<{width}}  {facts['title']}" + (f"  [{', '.join(extra)}]" if extra else ""))
            for preset, cost in (facts.get("costs") or {}).items() if kind else ():
                click.echo(f"  {'':<{width}}    {preset}: {cost}")


def _listing(ws: Workspace, kind: str) -> dict[str, dict[str, Any]]:
    if kind == "tracks":
        return {name: {"title": t.title, "version": t.version} for name, t in ws.registry.tracks.items()}
    if kind == "metrics":
        from mibench.metrics import METRICS

        return {name: {"title": m.title, "direction": m.direction, "unit": m.unit} for name, m in METRICS.items()}
    entries = ws.registry.entries(_METHODS[kind])
    return {name: entry.model_dump(exclude_none=True) for name, entry in entries.items()}


@click.command()
@selection_options
@click.option("--slots", type=click.IntRange(1), help="Also how long it takes on so many devices.")
@click.option("--dry-run", is_flag=True, help="Only how many stages of each kind, and what to get first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@workspace
def plan(ws: Workspace, slots: int | None, dry_run: bool, as_json: bool, **asked: Any) -> None:
    """What `mibench run` with the same options would compute, what is done already, and how long the rest takes, judged
    by how long such stages took before.

    \b
    Example:
      mibench plan --defense all --attack all --seeds 3
      mibench plan --suite midre --dry-run
    """
    from mibench.planning.estimates import estimate, past_seconds
    from mibench.running.request import missing_data
    from mibench.running.runner import lookup, needed

    planned = planner(ws).plan(read_asked(asked))
    notes: list[str] = []
    done = lookup(ws.store, planned, notes)
    lacking = missing_data(planned, ws.home, skipped=asked["suite"] is not None)
    notes += lacking + ["Keys follow from the data: those of a track without it are not final."] * bool(lacking)
    waiting = needed(planned, done)
    seconds = estimate(waiting, past_seconds(ws.database.durations()))
    if as_json:
        click.echo(json.dumps(_as_json(planned, waiting, seconds, lacking), indent=1))
        for note in notes:
            click.echo(f"Note: {note}", err=True)
        return
    todo = {stage.key for stage in waiting}
    for stage in () if dry_run else planned.stages.values():
        state = "to do" if stage.key in todo else "done"
        click.echo(f"{state:<6} {stage.kind:<9} {stage.key[:12]}  {stage.title}")
    _table(planned, todo, seconds)
    for line in _duration(waiting, set(done), seconds, slots):
        click.echo(line)
    click.echo(f"{len(planned.runs)} runs, {len(planned.stages)} stages, {len(todo)} to do.")
    why: dict[str, int] = {}
    for _, reason in planned.skipped if dry_run else ():
        why[reason] = why.get(reason, 0) + 1
    for reason, count in why.items():
        click.echo(f"skipped {count} runs: {reason}")
    for cell, reason in () if dry_run else planned.skipped:
        click.echo(f"skipped {cell.defense.label} + {cell.attack.label}: {reason}")
    for note in notes:
        click.echo(f"Note: {note}", err=True)


def _as_json(planned: Any, waiting: list[Any], seconds: dict[str, float], lacking: list[str]) -> dict[str, Any]:
    todo = {stage.key for stage in waiting}
    stages = [
        {
            "kind": stage.kind,
            "key": stage.key,
            "plugin": stage.plugin,
            "params": stage.params,
            "seed": stage.seed,
            "inputs": {role: key for role, (_, key) in stage.inputs.items()},
            "state": "to do" if stage.key in todo else "done",
            "seconds": seconds.get(stage.key),
        }
        for stage in planned.stages.values()
    ]
    runs = [
        {
            "run": r.run,
            "defense": r.cell.defense.label,
            "attack": r.cell.attack.label,
            "seed": r.cell.seeds.target,
            "seeds": asdict(r.cell.seeds),
        }
        for r in planned.runs
    ]
    return {"schema": 1, "runs": runs, "stages": stages, "missing": lacking}


def _table(planned: Any, todo: set[str], seconds: dict[str, float]) -> None:
    """What runs share: stages of each kind without and with sharing, done and to do, and their time."""
    if not planned.stages:
        return
    click.echo(f"{'stage':<10}{'unshared':>9}{'planned':>9}{'done':>7}{'to do':>7}  time")
    for kind, unshared in planned.requests.items():
        own = [stage.key for stage in planned.stages.values() if stage.kind == kind]
        left = todo.intersection(own)
        known = [seconds[key] for key in left if key in seconds]
        time = describe_time(sum(known)) if known else "unknown" if left else ""
        time += f" and {len(left) - len(known)} of unknown length" if known and len(known) < len(left) else ""
        click.echo(f"{kind:<10}{unshared:>9}{len(own):>9}{len(own) - len(left):>7}{len(left):>7}  {time}".rstrip())


def _duration(waiting: list[Any], done: set[str], seconds: dict[str, float], slots: int | None) -> Iterator[str]:
    if not waiting:
        return
    unknown = len(waiting) - len(seconds)
    if not seconds:
        yield "time: unknown; none of these kinds of stages ran here before"
        return
    from mibench.planning.estimates import filled
    from mibench.resources import cores
    from mibench.running.forecast import makespan

    text = f"time: about {describe_time(sum(seconds.values()))} of computing"
    if unknown:
        text += f", without {unknown} stages that are of unknown length"
    yield text
    whole = filled(waiting, seconds)
    for count in dict.fromkeys(filter(None, (slots or cores(), 1))):
        at_a_time = f"{count} stages at a time" if count > 1 else "one stage at a time"
        guess = " (unknown ones taken as the median)" if unknown else ""
        yield f"      about {describe_time(makespan(waiting, done, whole, count))} with {at_a_time}{guess}"


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print the whole record as JSON.")
@workspace
def show(ws: Workspace, run: str, as_json: bool) -> None:
    """One run: parameters, metrics, stages. RUN is its id, a beginning of it, or its name.

    \b
    Example:
      mibench show re+kedmi.orl32.s0
    """
    record = ws.find_run(run)
    if as_json:
        click.echo(json.dumps(record.to_json(), indent=1))
        return
    from mibench.cli import tables
    from mibench.study import load_studies

    out = tables.console()
    click.echo(f"run {record.run} of {record.created}, track {record.track} version {record.track_version}")
    out.print(f"defense {record.defense_label}: {json.dumps(record.defense_params)}", markup=False)
    out.print(f"attack  {record.attack_label}: {json.dumps(record.attack_params)}", markup=False)
    out.show(tables.metrics(record))
    if record.protected is not None:
        for name in record.metrics:
            if means := record.apart(name):
                out.print(
                    f"{name}: {means[0]:.3f} of the {len(record.protected)} protected, {means[1]:.3f} of the others"
                )
    for entry in load_studies(ws.home).get(record.run, ()):
        out.print(f"study {entry['study']}:")
        out.show(tables.study(entry))
    out.show(tables.seconds([record]))
    out.print(f"page: {ws.home / 'site' / 'run' / (record.run + '.html')}", markup=False, soft_wrap=True)
    out.print(f"again: {record.command}", markup=False, soft_wrap=True)


@click.command()
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
@workspace
def why(ws: Workspace, first: str, second: str) -> None:
    """Why two runs are not the same: the stages and fields in which they differ.

    \b
    Example:
      mibench why none+kedmi.orl32.s0 re+kedmi.orl32.s0
    """
    a, b = ws.find_run(first), ws.find_run(second)
    stages_a, stages_b = ({stage.kind: stage for stage in run.stages} for run in (a, b))
    differ = False
    for kind in dict.fromkeys([*stages_a, *stages_b]):
        one, other = stages_a.get(kind), stages_b.get(kind)
        if one is None or other is None:
            click.echo(f"{kind}: only in {(a if one else b).name}")
            differ = True
            continue
        if one.key == other.key:
            continue
        differ = True
        reasons = [
            f"{name} {getattr(one, name)!r} and {getattr(other, name)!r}"
            for name in ("plugin", "version", "seed")
            if getattr(one, name) != getattr(other, name)
        ]
        if one.plugin == other.plugin:
            reasons += [
                f"{name} {one.params.get(name)!r} and {other.params.get(name)!r}"
                for name in sorted(one.params.keys() | other.params.keys())
                if one.params.get(name) != other.params.get(name)
            ]
        if (a.track, a.track_version) != (b.track, b.track_version):
            reasons.append(f"track {a.track} v{a.track_version} and {b.track} v{b.track_version}")
        click.echo(f"{kind}: {'; '.join(reasons) or 'its inputs differ'}")
    if not differ:
        click.echo("They are the same run." if a.run == b.run else "All their stages are the same.")
