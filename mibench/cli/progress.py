"""Progress of stages: bars on a terminal, plain lines elsewhere. Always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from mibench.cli.times import describe_time
from mibench.planning.plan import Stage
from mibench.running.coordinator import Listener
from mibench.stages import events

if TYPE_CHECKING:
    from rich.progress import Progress as BarsOfRich
    from rich.progress import TaskID

_EVERY = 10.0  # seconds between plain lines of one stage
_LINES = 4  # stages that may each say something every ten seconds; more take turns


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
    pace = _Pace()

    def tell(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        left = pace.left(what, done, total, now)
        if what in told and now - told[what] < _EVERY and done < total:
            return
        told[what] = now
        click.echo(f"...    {name}: {what} {done:,}/{total:,}{_left(left)}", err=True)

    return tell


class _Pace:
    """How long a phase still takes, at the pace that it had since it was first heard of: what a resumed phase brings
    along and what came before it, a start or another phase, does not count."""

    def __init__(self) -> None:
        self._name, self._since, self._before = "", 0.0, 0

    def left(self, name: str, step: int, steps: int, now: float) -> float | None:
        """Seconds, or None while there is nothing to judge by."""
        if name != self._name or step < self._before:
            self._name, self._since, self._before = name, now, step
        if step <= self._before or now <= self._since or not steps:
            return None
        return (now - self._since) / (step - self._before) * max(steps - step, 0)


def _left(seconds: float | None) -> str:
    return "" if not seconds else f", about {describe_time(seconds)} left"


def _silent(stage: Stage, event: events.Event) -> None:
    """For --quiet."""


def _lines(total: int) -> Listener:
    count = 0
    started: dict[str, float] = {}
    told: dict[str, float] = {}
    paces: dict[str, _Pace] = {}

    def listen(stage: Stage, event: events.Event) -> None:
        nonlocal count
        now, left = time.monotonic(), None
        if isinstance(event, events.Progress):
            left = paces.setdefault(stage.key, _Pace()).left(event.name, event.step, event.steps, now)
        if isinstance(event, events.Started):
            started[stage.key] = told[stage.key] = now
            click.echo(f"start  {stage.title} on {event.device}", err=True)
        elif isinstance(event, events.Last):
            count += isinstance(event, events.Done)
            begun = started.pop(stage.key, None)
            if isinstance(event, events.Failed):
                click.echo(f"FAILED {stage.title}: {event.message}", err=True)
            elif isinstance(event, events.Stopped):
                click.echo(f"stop   {stage.title}; it goes on from here", err=True)
            elif begun is not None:
                click.echo(f"done   {stage.title} in {now - begun:.1f} s ({count} of {total})", err=True)
        elif isinstance(event, events.Elsewhere):
            click.echo(f"wait   {stage.title} is computed by another process", err=True)
        elif isinstance(event, events.Note):
            click.echo(f"note   {stage.title}: {event.message}", err=True)
        elif now - told[stage.key] >= _EVERY * max(1, len(started) // _LINES):
            told[stage.key] = now
            loss = "" if event.loss is None else f", loss {event.loss:.4g}"
            steps = f" {event.step}/{event.steps}" if event.steps else ""
            click.echo(f"...    {stage.title}: {event.name}{steps}{loss}{_left(left)}", err=True)

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
        yield _Bars(progress, total)


class _Bars:
    """A bar for the whole and one for each stage that runs, as many as the terminal has room for."""

    def __init__(self, progress: BarsOfRich, total: int) -> None:
        self._progress = progress
        self._whole = progress.add_task("stages", total=total, note="")
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, float] = {}
        self._phases: dict[str, str] = {}
        self._failures = 0

    def __call__(self, stage: Stage, event: events.Event) -> None:
        if isinstance(event, events.Started):
            self._begun[stage.key] = time.monotonic()
            self._tasks[stage.key] = self._progress.add_task(f"  {stage.title}", total=None, note="")
            self._fit()
        elif isinstance(event, events.Progress):
            if self._phases.get(stage.key) != event.name:  # its time left is not that of what came before
                self._phases[stage.key] = event.name
                self._progress.reset(self._tasks[stage.key], completed=event.step, total=event.steps or None)
            self._progress.update(
                self._tasks[stage.key],
                description=f"  {stage.title}: {event.name}",
                completed=event.step,
                total=event.steps or None,
                note="" if event.loss is None else f"loss {event.loss:.4g}",
            )
        elif isinstance(event, events.Note):
            self._say("note", "yellow", f"{stage.title}: {event.message}")
        elif isinstance(event, events.Elsewhere):
            self._say("wait", "yellow", f"{stage.title} is computed by another process")
        else:
            self._end(stage, event)

    def _end(self, stage: Stage, event: events.Last) -> None:
        if isinstance(event, events.Failed):
            self._failures += 1
            self._say("failed", "red", f"{stage.title}: {event.message}")
        elif isinstance(event, events.Stopped):
            self._say("stopped", "yellow", f"{stage.title}; it goes on from here")
        elif stage.key in self._begun:
            self._say("done", "green", f"{stage.title} in {time.monotonic() - self._begun[stage.key]:.1f} s")
        if stage.key in self._tasks:
            self._progress.remove_task(self._tasks.pop(stage.key))
        if not isinstance(event, events.Stopped):
            self._progress.advance(self._whole)
        self._fit()

    def _say(self, word: str, style: str, sentence: str) -> None:
        """A line above the bars. A label such as re[strong] is not markup."""
        from rich.text import Text

        self._progress.console.print(Text.assemble((word, style), " ", sentence), highlight=False)

    def _fit(self) -> None:
        """The oldest bars come first; how many stages run is said in the first line."""
        room = max(1, self._progress.console.size.height - 4)
        for place, task in enumerate(self._tasks.values()):
            self._progress.update(task, visible=place < room)
        failed = f", {self._failures} failed" if self._failures else ""
        self._progress.update(self._whole, note=f"{len(self._tasks)} running{failed}")
