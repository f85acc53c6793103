"""Locks between processes: files that the system lets somebody hold until it lets go or dies, by whatever signal.

A lock file says nothing by being there. Whoever takes a lock makes the file and its folder, and holds the file that
lies at that path afterwards: one that was removed or replaced in the meantime does not count.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(
    file: Path,
    *,
    wait: bool = True,
    on_wait: Callable[[], None] | None = None,
    remove: Callable[[], bool] | None = None,
) -> Iterator[bool]:
    """Hold ``file`` alone; yields whether it is held, which without ``wait`` is False while others hold it.

    ``on_wait`` is called once before waiting. ``remove`` is asked when the block ends: if it says so the file goes too,
    and who waits for it takes the next one.
    """
    with _taken(file, fcntl.LOCK_EX, wait, on_wait) as held:
        try:
            yield held
        finally:
            if held and remove is not None and remove():
                file.unlink(missing_ok=True)


@contextmanager
def shared(file: Path) -> Iterator[None]:
    """Hold ``file`` together with others who share it; waits while somebody holds it alone."""
    with _taken(file, fcntl.LOCK_SH, True, None):
        yield


def held(file: Path) -> bool:
    """Whether somebody on this machine holds ``file`` now, alone or shared. A guess: it may change at once."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


@contextmanager
def _taken(file: Path, mode: int, wait: bool, on_wait: Callable[[], None] | None) -> Iterator[bool]:
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            taken = _flock(descriptor, mode | fcntl.LOCK_NB)
            if not taken and wait:
                if on_wait is not None:
                    on_wait()
                    on_wait = None
                taken = _flock(descriptor, mode)
            if not taken or _lies_at(file, descriptor):
                yield taken
                return
        finally:
            os.close(descriptor)


def _flock(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode)
    except BlockingIOError:
        return False
    return True


def _lies_at(file: Path, descriptor: int) -> bool:
    """Whether the open file is still the one at that path: its last holder may have removed it while we waited."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False
