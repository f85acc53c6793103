"""Progress of stages: bars on a terminal, plain lines elsewhere. Always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from mibench.coordinator import Listener
from mibench.plan import Stage

_EVERY = 10.0  # seconds between plain lines of one stage


@contextmanager
def listening(total: int, quiet: bool) -> Iterator[Listener]:
    """A listener for ``total`` stages."""
    if quiet:
        yield _silent
    elif sys.stderr.isatty():
        with _bars(total) as bars:
            yield bars
    else:
        yield _lines(total)


@contextmanager
def decoding(name: str, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Progress of preparing a data set: a bar on a terminal, plain lines elsewhere."""
    if quiet:
        yield lambda what, done, total: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress, TimeElapsedColumn

        columns = [*Progress.get_default_columns(), TimeElapsedColumn()]
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(name, total=None)

            def show(what: str, done: int, total: int) -> None:
                progress.update(task, description=f"{name}: {what}", completed=done, total=total or None)

            yield show
    else:
        yield _plain(name)


def _plain(name: str) -> Callable[[str, int, int], None]:
    told: dict[str, float] = {}
    begun: dict[str, tuple[float, int]] = {}

    def tell(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        start, before = begun.setdefault(what, (now, done))
        if what in told and now - told[what] < _EVERY and done < total:
            return
        told[what] = now
        rate = (done - before) / (now - start) if now > start else 0
        left = f", {rate:.0f} a second, {(total - done) / rate:.0f} s left" if rate and done < total else ""
        click.echo(f"...    {name}: {what} {done:,}/{total:,}{left}", err=True)

    return tell


def _silent(stage: Stage, event: dict[str, Any]) -> None:
    """For --quiet."""


def _lines(total: int) -> Listener:
    count = 0
    started: dict[str, float] = {}
    told: dict[str, float] = {}

    def listen(stage: Stage, event: dict[str, Any]) -> None:
        nonlocal count
        now = time.monotonic()
        kind = event["event"]
        if kind == "started":
            started[stage.key] = told[stage.key] = now
            click.echo(f"start  {stage.title} on {event['device']}", err=True)
        elif kind == "done":
            count += 1
            click.echo(f"done   {stage.title} in {now - started[stage.key]:.1f} s ({count} of {total})", err=True)
        elif kind == "failed" or (kind == "exit" and "message" in event):
            click.echo(f"FAILED {stage.title}: {event['message']}", err=True)
        elif kind == "note":
            click.echo(f"note   {stage.title}: {event['message']}", err=True)
        elif kind == "progress" and now - told[stage.key] >= _EVERY:
            told[stage.key] = now
            loss = "" if event["loss"] is None else f", loss {event['loss']:.4g}"
            rate = (now - started[stage.key]) / max(event["step"], 1)
            left = "" if not event["steps"] else f", {rate * (event['steps'] - event['step']):.0f} s left"
            click.echo(
                f"...    {stage.title}: {event['name']} {event['step']}/{event['steps']}{loss}{left}",
                err=True,
            )

    return listen


@contextmanager
def _bars(total: int) -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    console = Console(stderr=True)
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console, transient=True) as progress:
        whole = progress.add_task("stages", total=total, note="")
        tasks: dict[str, Any] = {}
        begun: dict[str, float] = {}

        def say(word: str, style: str, sentence: str) -> None:  # a label such as re[strong] is not markup
            console.print(Text.assemble((word, style), " ", sentence), highlight=False)

        def listen(stage: Stage, event: dict[str, Any]) -> None:
            kind = event["event"]
            if kind == "started":
                begun[stage.key] = time.monotonic()
                tasks[stage.key] = progress.add_task(f"  {stage.title}", total=None, note="")
            elif kind == "progress":
                note = "" if event["loss"] is None else f"loss {event['loss']:.4g}"
                name = f"  {stage.title}: {event['name']}"
                progress.update(
                    tasks[stage.key],
                    description=name,
                    completed=event["step"],
                    total=event["steps"] or None,
                    note=note,
                )
            elif kind == "note":
                say("note", "yellow", f"{stage.title}: {event['message']}")
            elif kind == "failed" or (kind == "exit" and "message" in event):
                say("failed", "red", f"{stage.title}: {event['message']}")
            elif kind == "done":
                took = time.monotonic() - begun[stage.key]
                say("done", "green", f"{stage.title} in {took:.1f} s")
            if kind == "exit":
                progress.remove_task(tasks[stage.key])
                progress.advance(whole)

        yield listen
