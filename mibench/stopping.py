"""Ending a stage on request: a worker that gets SIGTERM finishes its step, saves its state and ends."""

from __future__ import annotations

import signal
import threading

_asked = threading.Event()


class Stopped(BaseException):
    """The stage ends here because somebody asked for it; what it saved is where it goes on. Not an ``Exception``, so
    that no method catches it by accident."""


def listen() -> None:
    """From now on SIGTERM is a request, and so is SIGUSR2, a scheduler's warning that the time is nearly up."""
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: _asked.set())


def asked() -> bool:
    return _asked.is_set()


def check() -> None:
    """Called where nothing would be lost. Raises Stopped once it was asked for."""
    if _asked.is_set():
        raise Stopped
