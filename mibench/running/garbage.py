"""What can be deleted from a home without losing anything that a listed run needs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mibench.records import RunRecord
from mibench.running import grids
from mibench.store import atomic
from mibench.store.artifacts import Store

DAY = 86400.0


@dataclass(frozen=True)
class Item:
    """A file or folder to delete, and why."""

    path: Path
    why: str

    @property
    def bytes(self) -> int:
        files = [self.path] if self.path.is_file() else [f for f in self.path.rglob("*") if f.is_file()]
        return sum(file.stat().st_size for file in files)


def garbage(store: Store, records: Iterable[RunRecord], days: float, unused: bool) -> list[Item]:
    """What is older than ``days``: unfinished work that no process holds and no begun grid waits for, artefacts that
    were set aside, records of runs that a fuller record replaced, temporary files, logs and job files of stages that
    are gone. With ``unused`` also finished stages that no run among ``records`` and no begun grid needs.
    """
    wanted = {stage.key for record in records for stage in record.stages}
    for name in grids.names(store.home):
        grid = grids.summary(store.home, name)
        wanted |= set() if grid is None else {line.key for line in grid.stages}
    return [item for item in _candidates(store, wanted, unused) if _age(item.path) >= days * DAY]


def _candidates(store: Store, wanted: set[str], unused: bool) -> Iterator[Item]:
    for folder, why in (("damaged", "was set aside as damaged"), ("discarded", "was computed again")):
        for path in sorted((store.home / folder).glob("*")):
            yield Item(path, why)
    for path in sorted(store.work.glob("*")):
        if path.is_dir() and path.name not in wanted and not store.held(path.name):
            yield Item(path, "unfinished work of a stage that nothing waits for")
    for manifest in _replaced(store):
        yield Item(store.path("run", manifest), "a run's record that a fuller one replaced")
    for path in sorted(store.home.rglob(".*.tmp")):
        if atomic.TEMPORARY.fullmatch(path.name):
            yield Item(path, "left by a process that was killed")
    known = {folder.name for folder in store.root.glob("*/??/*")}
    short = {key[:16] for key in known | wanted}
    for path in sorted((store.home / "logs").glob("*.txt")):
        if path.stem.rpartition("-")[2] not in short:
            yield Item(path, "the log of a stage that is gone")
    for path in sorted((store.home / "jobs").glob("*")):
        if path.name not in wanted - known:
            yield Item(path, "what a finished job was given")
    if unused:
        for path in sorted(store.root.glob("*/??/*")):
            kind = path.parts[-3]
            if kind != "run" and path.name not in wanted and not store.held(path.name):
                yield Item(path, "a finished stage that no run needs")


def delete(item: Item) -> None:
    """Remove it; an artefact at once."""
    if item.path.is_dir():
        atomic.remove_folder(item.path)
    else:
        item.path.unlink(missing_ok=True)


def _replaced(store: Store) -> Iterator[str]:
    """Keys of run records that do not count, because another of the same run does. What a reproduced record was made
    of is kept: without it the next `mibench run` would record the run anew."""
    records = [(RunRecord.from_json(manifest.result["record"]), manifest.key) for manifest in store.manifests("run")]
    best: dict[str, tuple[RunRecord, str]] = {}
    for record, key in records:
        if record.run not in best or record.replaces(best[record.run][0]):
            best[record.run] = record, key
    for record, key in records:
        counts, its_key = best[record.run]
        origin = counts.reproduced and not record.reproduced and record.created == counts.created
        if key != its_key and not origin:
            yield key


def _age(path: Path) -> float:
    with suppress(OSError):
        return time.time() - path.stat().st_mtime
    return 0.0
