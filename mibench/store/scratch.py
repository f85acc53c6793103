"""Temporary folders outside of the home. Each holds a lock while its process lives, so that the next one can tell what
killed processes left behind, and removes it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mibench.store import locks

PREFIX = "mibench-"
LOCK = "alive.lock"
ABANDONED = 3600.0  # seconds until a folder without a lock, whose process was killed before it had one, counts as left


@contextmanager
def scratch(what: str) -> Iterator[Path]:
    """A folder that is removed when the block ends, or, after a kill, when the next one is made."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{what}-"))
    try:
        with locks.exclusive(folder / LOCK):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove what killed processes left, as far as it is ours."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        with suppress(OSError):
            if not left.is_dir() or left.is_symlink():
                continue
            lock = left / LOCK
            gone = not locks.held(lock) if lock.exists() else time.time() - left.stat().st_mtime > ABANDONED
            if gone:
                shutil.rmtree(left, ignore_errors=True)
