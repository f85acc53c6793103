"""Ending a stage on request: a worker that gets SIGTERM finishes its step, saves its state and ends."""

from __future__ import annotations

import signal

_requests: list[int] = []  # signals; not a threading.Event, whose lock two signals in a row would wait for for ever


class Stopped(BaseException):
    """The stage ends here because somebody asked for it; what it saved is where it goes on. Not an ``Exception``, so
    that no method catches it by accident."""


def listen() -> None:
    """From now on SIGTERM is a request, and so is SIGUSR2, a scheduler's warning that the time is nearly up."""
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: _requests.append(number))


def asked() -> bool:
    """Whether the stage should end as soon as nothing would be lost."""
    return bool(_requests)


def check() -> None:
    """Called where nothing would be lost. Raises Stopped once it was asked for."""
    if asked():
        raise Stopped
