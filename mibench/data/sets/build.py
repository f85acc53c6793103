"""Decode a data set into memory-mapped arrays: in several processes, streamed, and resumable after a kill.

The arrays are written in a working folder beside their place, a chunk of images at a time. A line in a journal says
that a chunk's bytes are on the disk; it carries a signature of the chunk's files, so that the next call keeps what is
still true and decodes the rest. When everything is there the folder is renamed into place.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from mibench.data import cache
from mibench.data.sets import imaging
from mibench.data.sets.base import DataSet, Item, Listing, Problems, View, list_digest
from mibench.data.sets.mnist_files import read_idx
from mibench.errors import MissingError
from mibench.identity import digest
from mibench.store.atomic import writing

CHUNK = 64  # images decoded between two lines of the journal
JOURNAL = "journal.jsonl"

Progress = Callable[[str, int, int], None]  # what is being done, done, of
Wrong = tuple[str, str]  # kind of problem, what


@dataclass(frozen=True)
class _Target:
    """Rows of one view of one split, in an .npy file."""

    path: Path
    offset: int  # of the first row's bytes
    view: View


@dataclass(frozen=True)
class _Work:
    """What a decoding process needs to know of one chunk."""

    split: str
    start: int
    items: tuple[Item, ...]
    signature: str
    targets: tuple[_Target, ...]


@dataclass(frozen=True)
class _Decoder:
    """How images become rows; a picklable part of the data set."""

    root: Path
    mode: str
    size: tuple[int, int] | None
    upright: bool

    def run(self, work: _Work) -> tuple[list[str], list[Wrong]]:
        """Write the chunk's rows and force them to the disk; SHA-256 of each source image, and what is wrong."""
        hashes: list[str] = []
        wrong: list[Wrong] = []
        rows: list[list[np.ndarray]] = [[] for _ in work.targets]
        for item in work.items:
            try:
                content, image = self._read(item)
            except imaging.DamagedImage as error:
                wrong.append(("damaged images", f"{self.root / item.path} ({error})"))
                continue
            except OSError as error:
                wrong.append(("images that cannot be read", f"{self.root / item.path} ({error.strerror})"))
                continue
            if self.size and image.size != self.size:
                expected, found = ("x".join(map(str, size)) for size in (self.size, image.size))
                wrong.append((f"images that are not {expected}", f"{self.root / item.path} is {found}"))
                continue
            hashes.append(hashlib.sha256(content).hexdigest())
            for row, target in zip(rows, work.targets, strict=True):
                row.append(imaging.apply(image, target.view.steps, item.box))
        if not wrong:
            for row, target in zip(rows, work.targets, strict=True):
                _write_rows(target, work.start, np.stack(row))
        return hashes, wrong

    def _read(self, item: Item) -> tuple[bytes, Any]:
        path = self.root / item.path
        if item.row is None:
            content = path.read_bytes()
            return content, imaging.decode(content, self.mode, self.upright)
        pixels = read_idx(path)[item.row]
        return pixels.tobytes(), imaging.Image.fromarray(pixels)


def _write_rows(target: _Target, start: int, rows: np.ndarray) -> None:
    data = memoryview(rows.tobytes())
    at = target.offset + start * rows[0].nbytes
    descriptor = os.open(target.path, os.O_WRONLY)
    try:
        while data:
            written = os.pwrite(descriptor, data, at)
            data, at = data[written:], at + written
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def place(home: Path, name: str) -> Path:
    """Where the arrays of the set ``name`` lie once it is prepared."""
    return home / "data" / "sets" / name


def build(
    data_set: DataSet,
    root: Path,
    home: Path,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
    allow_duplicates: bool = False,
    chunk: int = CHUNK,
) -> tuple[Path, bool]:
    """Prepare ``data_set`` from the files in ``root``; its folder, and whether anything had to be done.

    Safe against kills (the next call goes on) and other processes (the second waits). Memory is a chunk per process.
    Raises MissingError that names every wrong file.
    """
    root = root.resolve() if root.is_dir() else root
    tell = progress or (lambda what, done, total: None)
    listing = data_set.read(root)
    folder = place(home, data_set.name)
    work = folder.with_name(f"{folder.name}.work")
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f".{folder.name}.lock"), tell):
        chunks = list(_chunks(data_set, root, listing, chunk))
        signature = digest([data_set.recipe(), [c.signature for c in chunks]])
        if _is_this(folder, signature):
            return folder, False
        try:
            shapes = _shapes(data_set, listing)
            _room(work, shapes, folder.parent)
            works = _open(work, data_set, shapes, chunks)
            decoder = _Decoder(root, data_set.mode, data_set.size, data_set.upright)
            hashes = _decode(decoder, works, work / JOURNAL, jobs, tell)
            facts = _facts(data_set, listing, hashes, root, allow_duplicates)
            _finish(work, folder, listing, hashes, root, facts | {"signature": signature}, tell)
        except OSError as error:
            raise cache.refused(error, folder.parent, None) from error
    return folder, True


def _is_this(folder: Path, signature: str) -> bool:
    return (
        cache.exists(folder)
        and not cache.problems(folder)
        and cache.read_index(folder)["meta"].get("signature") == signature
    )


# --- what there is to do -------------------------------------------------------------------------------------------


def _chunks(data_set: DataSet, root: Path, listing: Listing, size: int) -> Iterator[_Work]:
    """The listing cut into chunks, each with a signature of its files: names, labels, sizes, times."""
    stamps: dict[str, tuple[int, int]] = {}
    for split, items in listing.splits.items():
        for start in range(0, len(items), size):
            part = tuple(items[start : start + size])
            facts = []
            for item in part:
                if item.path not in stamps:
                    stat = (root / item.path).stat()
                    stamps[item.path] = (stat.st_size, stat.st_mtime_ns)
                facts.append([item.name, item.label, item.box, item.row, *stamps[item.path]])
            yield _Work(split, start, part, digest([split, start, facts]), ())


def _shapes(data_set: DataSet, listing: Listing) -> dict[str, tuple[View, tuple[int, ...]]]:
    """Array name -> its view and shape. The target's view is the split's plain name."""
    found: dict[str, tuple[View, tuple[int, ...]]] = {}
    for split, items in listing.splits.items():
        for name, view in data_set.views.items():
            if view.has(split):
                array = f"{split}_images" if name == "target" else f"{split}_{name}_images"
                found[array] = (view, (len(items), data_set.channels, view.side, view.side))
    return found


def _room(work: Path, shapes: dict[str, tuple[View, tuple[int, ...]]], parent: Path) -> None:
    needed = sum(int(np.prod(shape, dtype=np.int64)) for _, shape in shapes.values())
    there = sum(path.stat().st_blocks * 512 for path in work.glob("*.npy"))
    free = shutil.disk_usage(parent).free
    if needed - there > free:
        raise MissingError(
            f"{needed / 2**30:.1f} GiB of images do not fit on the disk of {parent}, which has {free / 2**30:.1f} GiB "
            f"free. Free some, or set MIBENCH_HOME to a folder on a larger disk."
        )


def _open(
    work: Path, data_set: DataSet, shapes: dict[str, tuple[View, tuple[int, ...]]], chunks: Iterable[_Work]
) -> list[_Work]:
    """The working folder with arrays of the right shapes, those of an earlier call if they are; chunks with targets."""
    plan = {"recipe": data_set.recipe(), "shapes": {name: shape for name, (_, shape) in shapes.items()}}
    header = json.dumps(plan, sort_keys=True)
    mark = work / "plan.json"
    if not mark.is_file() or mark.read_text(encoding="utf-8") != header:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        for name, (_, shape) in shapes.items():
            np.lib.format.open_memmap(work / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape).flush()
        mark.write_text(header, encoding="utf-8")
    targets: dict[str, list[_Target]] = {}
    for name, (view, shape) in shapes.items():
        path = work / f"{name}.npy"
        offset = path.stat().st_size - int(np.prod(shape, dtype=np.int64))
        split = next(split for split in ("private_train", "private_test", "public") if name.startswith(split))
        targets.setdefault(split, []).append(_Target(path, offset, view))
    return [_Work(c.split, c.start, c.items, c.signature, tuple(targets[c.split])) for c in chunks]


# --- decoding ------------------------------------------------------------------------------------------------------


def _decode(decoder: _Decoder, works: list[_Work], journal: Path, jobs: int, tell: Progress) -> dict[str, list[str]]:
    """Decode what the journal does not have. SHA-256 of every source image, by split, in order."""
    known = _read_journal(journal)
    hashes = {work.signature: known[work.signature] for work in works if work.signature in known}
    todo = [work for work in works if work.signature not in hashes]
    total = sum(len(work.items) for work in works)
    done = total - sum(len(work.items) for work in todo)
    problems = Problems()
    tell("decoding", done, total)
    with journal.open("a", encoding="utf-8") as file:
        file.write("\n")  # ends a line that a kill cut off
        for work, (found, wrong) in _results(decoder, todo, jobs):
            for kind, what in wrong:
                problems.add(kind, what)
            if not wrong:
                hashes[work.signature] = found
                file.write(json.dumps([work.signature, found]) + "\n")
                file.flush()
                os.fsync(file.fileno())
            done += len(work.items)
            tell("decoding", done, total)
    problems.stop()
    by_split: dict[str, list[str]] = {}
    for work in works:
        by_split.setdefault(work.split, []).extend(hashes[work.signature])
    return by_split


def _results(decoder: _Decoder, todo: list[_Work], jobs: int) -> Iterator[tuple[_Work, tuple[list[str], list[Wrong]]]]:
    if jobs == 1 or len(todo) < 2:  # a folder of a few images is decoded before processes have started
        for work in todo:
            yield work, decoder.run(work)
        return
    count = min(jobs, len(todo))
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_end_with_parent)
    try:
        futures = {pool.submit(decoder.run, work): work for work in todo}
        for future in as_completed(futures):
            yield futures.pop(future), future.result()
    except BrokenProcessPool:
        raise MissingError(
            f"A decoding process was ended from outside, perhaps for want of memory. What it had done is kept: type "
            f"the same command with --jobs {max(1, count // 2)}."
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """A decoding process must not outlive a killed parent."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _read_journal(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # an empty line, or one that a kill cut off
                signature, hashes = json.loads(line)
                found[signature] = hashes
    return found


# --- finishing -----------------------------------------------------------------------------------------------------


def _facts(
    data_set: DataSet, listing: Listing, hashes: dict[str, list[str]], root: Path, allow_duplicates: bool
) -> dict[str, Any]:
    """What the index records. Raises MissingError for duplicates, unless they are allowed."""
    first: dict[str, tuple[str, Item]] = {}
    problems = Problems()
    duplicates = 0
    for split, items in listing.splits.items():
        for item, value in zip(items, hashes[split], strict=True):
            if item.row is not None:
                continue
            other_split, other = first.setdefault(value, (split, item))
            if other is not item:
                duplicates += 1
                where = f"both in {split}" if split == other_split else f"in {other_split} and {split}"
                problems.add(
                    "files with the same bytes as another", f"{root / other.path} and {root / item.path} ({where})"
                )
    if problems and not allow_duplicates:
        problems.say("Remove one of each, or, if the owners distribute them so, add --allow-duplicates.")
        problems.stop()
    files = [
        [split, item.name, item.label, item.box, value]
        for split, items in listing.splits.items()
        for item, value in zip(items, hashes[split], strict=True)
    ]
    return {
        "set": data_set.name,
        "title": data_set.title,
        "recipe": data_set.recipe(),
        "split": digest({"recipe": data_set.recipe(), "files": sorted(files, key=lambda f: (f[0], f[1]))}),
        "list": list_digest(listing),
        "counts": {split: len(items) for split, items in listing.splits.items()},
        "identities": list(listing.identities),
        "notes": list(listing.notes),
        "duplicates": duplicates,
    }


def _finish(
    work: Path,
    folder: Path,
    listing: Listing,
    hashes: dict[str, list[str]],
    root: Path,
    facts: dict[str, Any],
    tell: Progress,
) -> None:
    """Labels and the table of source files beside the images; then the folder is published."""
    for split, items in listing.splits.items():
        np.save(work / f"{split}_labels.npy", np.array([item.label for item in items], np.int64))
        np.save(work / f"{split}_files.npy", np.array([item.path for item in items], np.str_))
        table = np.frombuffer(bytes.fromhex("".join(hashes[split])), np.uint8).reshape(-1, 32)
        np.save(work / f"{split}_sha256.npy", table)
    cache.adopt(work, folder, facts, partial(tell, "checking"), leave={JOURNAL, "plan.json"})


@contextmanager
def _locked(path: Path, tell: Progress) -> Iterator[None]:
    """One process at a time prepares a set; a second one waits."""
    import fcntl

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("waiting for another process", 0, 0)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
