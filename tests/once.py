"""Preparations that all workers of a test session share: made by the first that asks, read by the others."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mibench.store import locks


class Once:
    """Makes folders below ``folder``, which all workers of the session have in common."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder ``name``. It does not exist when ``make`` gets its path; nobody changes what ``make`` put there.
        If ``make`` raises, the next that asks tries again."""
        folder, made = self._folder / name, self._folder / f"{name}.made"
        with self.alone(name):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                made.touch()
        return folder

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Hold what there is but one of on the machine; other workers wait for it."""
        with locks.exclusive(self._folder / f"{name}.lock"):
            yield
