"""Work in several processes that share what was there when they started."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mibench.resources import cores

MOST = 8  # processes
FEWEST = 100  # items below which starting processes costs more than it saves

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_work: tuple[Callable[[Any], Any], Sequence[Any]] | None = None


def on_all_cores(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """``function`` of each item, in order. With many items and several cores the work is shared among forked
    processes: ``function`` and ``items`` may be anything, results must be picklable, and what it changes in memory is
    lost. An exception is raised here."""
    global _work
    workers = min(cores(), MOST)
    if workers == 1 or len(items) < FEWEST or "fork" not in multiprocessing.get_all_start_methods():
        return [function(item) for item in items]
    _work = function, items
    try:
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            return pool.map(_one, range(len(items)), chunksize=max(1, len(items) // (8 * workers)))
    finally:
        _work = None


def _one(index: int) -> Any:
    assert _work is not None
    function, items = _work
    return function(items[index])
