"""``mibench status``, ``logs`` and ``gc``: what is going on, what went wrong, what can go."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from typing import Any

import click

from mibench.cli.common import Workspace, workspace
from mibench.cli.times import describe_time
from mibench.errors import EXIT_INTERRUPTED, UserError, few, unknown

_EVERY = 2.0  # seconds between looks
_SHOWN = 12  # stages of a kind


@click.command()
@click.option("--watch", is_flag=True, help="Look again every two seconds, as long as anything runs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@workspace
def status(ws: Workspace, watch: bool, as_json: bool) -> None:
    """What the store holds, how the grids that were begun stand, unfinished work.

    \b
    Examples:
      mibench status
      mibench status --watch
    """
    if watch and as_json:
        raise click.UsageError("--watch is for reading; call it with --json again and again instead.")
    if as_json:
        click.echo(json.dumps(_look(ws)[0], indent=1))
        return
    if watch and sys.stdout.isatty():
        _live(ws)
        return
    before: list[str] = []
    with suppress(KeyboardInterrupt):  # who leaves ends nothing
        while True:
            state, moving = _look(ws)
            lines = _lines(state)
            if lines != before:
                click.echo("\n".join(lines))
            before = lines
            if not (watch and moving):
                return
            time.sleep(_EVERY)


def _live(ws: Workspace) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    moving = True
    with suppress(KeyboardInterrupt), Live(console=Console(), auto_refresh=False) as live:
        while moving:
            state, moving = _look(ws)
            live.update(Text("\n".join(_lines(state))), refresh=True)
            if moving:
                time.sleep(_EVERY)


def _look(ws: Workspace) -> tuple[dict[str, Any], bool]:
    """What ``--json`` prints; whether anything moves."""
    from mibench.running.grid_states import grid_states

    counts = ws.database.counts()
    known = grid_states(ws.store)
    work = ws.store.work
    unfinished = sorted(path.name for path in work.iterdir() if path.is_dir()) if work.is_dir() else []
    state = {
        "home": str(ws.home),
        "stages": {kind: count for kind, (count, _) in sorted(counts.items())},
        "seconds": round(sum(seconds for _, seconds in counts.values()), 1),
        "grids": [grid.to_json() for grid in known],
        "unfinished": [key for key in unfinished if not ws.store.held(key)],
        "damaged": _damaged(ws),
    }
    return state, any(grid.moving for grid in known)


def _damaged(ws: Workspace) -> list[str]:
    """Artefacts that the database knows and the store lacks, and what was set aside. ``db check`` reads everything."""
    import os

    root = str(ws.store.root)
    gone = [
        f"The {kind} {key[:12]} is not in the store any more. It is computed again when it is needed."
        for kind, key in ws.database.names()
        if not os.path.exists(f"{root}/{kind}/{key[:2]}/{key}/manifest.json")  # noqa: PTH110 (speed)
    ]
    aside = sorted(path.name for path in (ws.home / "damaged").glob("*"))
    return gone + [f"{name} was damaged and set aside; `mibench gc` removes it." for name in aside]


def _lines(state: dict[str, Any]) -> list[str]:
    from mibench.running.grid_states import progress_text

    lines = [f"home: {state['home']}"]
    lines += [f"  {'runs' if kind == 'run' else kind:<9} {count}" for kind, count in state["stages"].items()]
    left = len(state["unfinished"])
    lines.append(
        f"computed in {describe_time(state['seconds'])}; {left} unfinished stages are resumed by the same command"
    )
    for grid in state["grids"]:
        states = ", ".join(f"{count} {name}" for name, count in grid["stages"].items() if count)
        time_left = f"; about {describe_time(grid['seconds_left'])} of computing left" if grid["seconds_left"] else ""
        called = f" {grid['title']!r}" if grid["title"] else ""
        done = f"{grid['runs_done']} of {grid['runs']} runs are done"
        lines.append(f"grid {grid['grid']}{called} of {grid['created']}: {done}")
        lines.append(f"  stages: {states}{time_left}")
        if grid["coordinator"]:
            lines += [f"  {grid['command']}"] if grid["command"] else []
        else:
            lines.append("  no coordinator is at work; the same command goes on, and the other one forgets it:")
            lines += [
                f"    {grid['command'] or 'the command that began it'}",
                f"    mibench grids forget {grid['grid']}",
            ]
        for stage in grid["running"][:_SHOWN]:
            lines.append(f"  running {stage['title']}: {progress_text(stage)}")
        for stage in grid["failed"][:_SHOWN]:
            lines.append(f"  failed  {stage['title']}: {stage['message']}")
            lines.append(f"          log: mibench logs {stage['key'][:12]}")
        for name in ("running", "failed"):
            if len(grid[name]) > _SHOWN:
                lines.append(f"  and {len(grid[name]) - _SHOWN} more {name}; --json lists them")
    return lines + [f"damaged: {sentence}" for sentence in state["damaged"]]


@click.group()
def grids() -> None:
    """The grids that were begun and not ended; `mibench status` shows how they stand."""


@grids.command()
@click.argument("names", metavar="GRID...", nargs=-1, required=True)
@workspace
def forget(ws: Workspace, names: tuple[str, ...]) -> None:
    """Drop grids that nobody wants to go on with, by the beginning of their ids. What they computed stays.

    \b
    Example:
      mibench grids forget 3f9ac01b22de
    """
    from mibench.running.grids import forget as drop

    for name in names:
        click.echo(f"grid {drop(ws.home, name)} is forgotten; `mibench gc --unused` deletes what only it needed.")


@click.command()
@click.argument("name", metavar="STAGE|RUN")
@click.option("--follow", is_flag=True, help="Go on printing as the log grows.")
@workspace
def logs(ws: Workspace, name: str, follow: bool) -> None:
    """The log of a stage, by the beginning of its key, or the logs of a run's stages, by its id or name.

    \b
    Examples:
      mibench logs 3f9ac01b22de
      mibench logs re+kedmi.orl32.s0
    """
    files = _log_files(ws, name)
    if follow and len(files) > 1:
        raise click.UsageError(f"{name} has {len(files)} logs; --follow takes one stage.")
    for file in files:
        if len(files) > 1:
            click.echo(f"=== {file.name}")
        with file.open(errors="replace") as stream:
            click.echo(stream.read(), nl=False)
            while follow:
                text = stream.read()
                click.echo(text, nl=False)
                if not text:
                    try:
                        time.sleep(0.5)
                    except KeyboardInterrupt:
                        raise SystemExit(EXIT_INTERRUPTED) from None


def _log_files(ws: Workspace, name: str) -> list[Any]:
    folder = ws.home / "logs"
    every = sorted(folder.glob("*.txt"))
    if all(letter in "0123456789abcdef" for letter in name) and len(name) >= 4:
        own = [file for file in every if file.stem.rpartition("-")[2].startswith(name[:16])]
        if own:
            return own
    runs = [run for run in ws.database.runs() if run.run.startswith(name) or run.name == name]
    if len(runs) > 1:
        raise UserError(f"{name!r} fits {len(runs)} runs: {few([run.run for run in runs])}.")
    if not runs:
        raise unknown("stage or run", name, {run.name for run in ws.database.runs()})
    short = {stage.key[:16] for stage in runs[0].stages}
    own = [file for file in every if file.stem.rpartition("-")[2] in short]
    if not own:
        raise UserError(f"The logs of run {runs[0].run} are not on this machine.")
    return own


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--days", default=7.0, show_default=True, type=click.FloatRange(0), help="Spare what is younger.")
@click.option("--unused", is_flag=True, help="Also finished stages that no listed run needs.")
@workspace
def gc(ws: Workspace, dry_run: bool, days: float, unused: bool) -> None:
    """Delete what no listed run needs: damaged and replaced artefacts, abandoned work, old logs.

    \b
    Examples:
      mibench gc --dry-run
      mibench gc --unused --days 30
    """
    from mibench.running.garbage import delete, garbage

    items = garbage(ws.store, ws.database.runs(), days, unused)
    total = 0
    for item in items:
        size = item.bytes
        total += size
        click.echo(f"{size / 2**20:8.1f} MiB  {item.path.relative_to(ws.home)}: {item.why}")
        if not dry_run:
            delete(item)
    word = "would be deleted" if dry_run else "deleted"
    click.echo(f"{len(items)} items, {total / 2**20:.1f} MiB {word}.")
    if unused and items and not dry_run:
        ws.database.forget_missing(ws.store)
