"""Compute a graph of stages with an executor: start what is ready, go on around failures, stop in two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from mibench.errors import EXIT_ENVIRONMENT, EXIT_FAILED
from mibench.planning.plan import Stage
from mibench.planning.schedule import Schedule
from mibench.running.executors import Executor
from mibench.stages.events import Done, Elsewhere, Event, Failed, Last, Note, Started, Stopped

Listener = Callable[[Stage, Event], None]
State = Literal["done", "busy", "free"]

ASKED = "asked to save where it is and to end; Ctrl-C again ends it at once"
POLL = 0.5  # seconds between looks at stages that another coordinator computes


@dataclass
class Outcome:
    """What became of the stages that were asked for."""

    done: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)  # key -> sentence
    blocked: dict[str, str] = field(default_factory=dict)  # key -> key of the parent that failed or is blocked
    stopped: set[str] = field(default_factory=set)  # ended on request; they go on from there
    exit_code: int = 0
    interrupted: bool = False

    def fail(self, key: str, message: str, exit_code: int = EXIT_FAILED) -> None:
        self.failed[key] = message
        if exit_code == EXIT_ENVIRONMENT or not self.exit_code:
            self.exit_code = EXIT_ENVIRONMENT if exit_code == EXIT_ENVIRONMENT else EXIT_FAILED


def coordinate(
    schedule: Schedule,
    executor: Executor,
    listener: Listener,
    look: Callable[[Stage], State] = lambda stage: "free",
    on_done: Callable[[Stage], None] = lambda stage: None,
) -> Outcome:
    """Compute everything in ``schedule``.

    ``look`` says of a stage that could start whether somebody else has done it meanwhile or is computing it; such a
    stage is left to the other one and looked at again. ``on_done`` is called for each stage once it is done, whoever
    computed it. A failure blocks what depends on it and nothing else. After the first Ctrl-C or SIGTERM nothing new
    starts and what runs is asked to write down where it is; the second ends it.
    """
    outcome = Outcome()
    running: dict[str, Stage] = {}
    elsewhere: dict[str, Stage] = {}

    def finish(stage: Stage) -> None:
        outcome.done.add(stage.key)
        schedule.finish(stage.key)
        on_done(stage)

    with _interrupts(executor.wake) as asked:
        obeyed = 0
        while schedule.unfinished:
            if not asked:
                _look_again(schedule, elsewhere, look, finish)
                _start(schedule, executor, listener, look, finish, running, elsewhere)
            while obeyed < len(asked):
                obeyed += 1
                outcome.interrupted = True
                (executor.stop if obeyed == 1 else executor.kill)()
                for stage in running.values() if obeyed == 1 else ():
                    listener(stage, Note(message=ASKED))
            if not running and (asked or not elsewhere):
                break
            for key, event in executor.wait(POLL if elsewhere and not asked else None):
                stage = running[key]
                if isinstance(event, Last):
                    del running[key]
                if isinstance(event, Failed) and event.ended and asked:
                    event = Stopped()  # by us
                if isinstance(event, Failed) and look(stage) == "done":
                    event = Done()  # another coordinator's worker was faster, whatever became of ours
                if isinstance(event, Done):
                    finish(stage)
                elif isinstance(event, Failed):
                    outcome.fail(key, event.message, event.exit_code)
                    outcome.blocked |= schedule.fail(key)
                elif isinstance(event, Stopped):
                    if asked:
                        outcome.stopped.add(key)
                    else:
                        schedule.put_back(key)  # it gave way to somebody else; now it is our turn again
                listener(stage, event)
    return outcome


def _look_again(
    schedule: Schedule,
    elsewhere: dict[str, Stage],
    look: Callable[[Stage], State],
    finish: Callable[[Stage], None],
) -> None:
    for key, stage in list(elsewhere.items()):
        state = look(stage)
        if state == "busy":
            continue
        del elsewhere[key]
        if state == "done":
            finish(stage)
        else:
            schedule.put_back(key)


def _start(
    schedule: Schedule,
    executor: Executor,
    listener: Listener,
    look: Callable[[Stage], State],
    finish: Callable[[Stage], None],
    running: dict[str, Stage],
    elsewhere: dict[str, Stage],
) -> None:
    free = executor.free()
    while free and (stage := schedule.pop()) is not None:
        state = look(stage)
        if state == "done":
            finish(stage)
        elif state == "busy":
            elsewhere[stage.key] = stage
            listener(stage, Elsewhere())
        else:
            where = executor.start(stage)
            running[stage.key] = stage
            listener(stage, Started(device=where))
            free -= 1


@contextmanager
def _interrupts(wake: Callable[[], None]) -> Iterator[list[int]]:
    """The signals that asked us to stop so far, instead of an exception in the middle of something."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked  # whoever called us from a thread gets the signals
        return

    def note(number: int, frame: object) -> None:
        asked.append(number)
        wake()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
