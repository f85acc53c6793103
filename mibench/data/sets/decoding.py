"""Decode chunks of images into rows of arrays, in several processes, with a journal of what is on the disk."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from mibench.boundary import read_bytes
from mibench.data.sets import imaging
from mibench.data.sets.base import Item, Problems, View
from mibench.data.sets.mnist_files import read_idx
from mibench.errors import MissingError

Progress = Callable[[str, int, int], None]  # what is being done, done, of
Wrong = tuple[str, str]  # kind of problem, what
DAMAGED, UNREADABLE = "damaged images", "images that cannot be read"


@dataclass(frozen=True)
class Target:
    """Rows of one view of one split, in an .npy file."""

    path: Path
    offset: int  # of the first row's bytes
    view: View


@dataclass(frozen=True)
class Work:
    """What a decoding process needs to know of one chunk."""

    split: str
    start: int
    items: tuple[Item, ...]
    signature: str
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Decoded:
    """What came of a chunk: SHA-256 of each source image, what is wrong, and the images that could be left out, each
    with its fault."""

    hashes: list[str]
    wrong: list[Wrong]
    damaged: list[tuple[str, str]]


class DamagedFiles(MissingError):
    """Nothing is wrong but that some images cannot be read: ``files``, by path, each with its fault."""

    def __init__(self, problems: Problems, files: dict[str, str]) -> None:
        super().__init__("\n".join(problems.sentences()))
        self.files = files


@dataclass(frozen=True)
class Decoder:
    """How images become rows; a picklable part of the data set."""

    root: Path
    mode: str
    size: tuple[int, int] | None
    upright: bool
    reader: str

    def run(self, work: Work) -> Decoded:
        """Write the chunk's rows and force them to the disk, if nothing is wrong."""
        hashes: list[str] = []
        damaged: list[tuple[str, str]] = []
        wrong: list[Wrong] = []
        rows: list[list[np.ndarray]] = [[] for _ in work.targets]
        for item in work.items:
            try:
                content, image = self._read(item)
                if self.size and image.size != self.size:
                    expected, measured = ("x".join(map(str, size)) for size in (self.size, image.size))
                    wrong.append((f"images that are not {expected}", f"{self.root / item.path} is {measured}"))
                    continue
                views = [imaging.apply(image, target.view.steps, item.box) for target in work.targets]
            except imaging.DamagedImage as error:
                wrong.append((DAMAGED, f"{self.root / item.path} ({error})"))
                damaged.append((item.path, str(error)))
                continue
            except MissingError as error:
                wrong.append((UNREADABLE, str(error).rstrip(".")))
                damaged.append((item.path, str(error)))
                continue
            hashes.append(hashlib.sha256(content).hexdigest())
            for row, pixels in zip(rows, views, strict=True):
                row.append(pixels)
        if not wrong:
            for row, target in zip(rows, work.targets, strict=True):
                _write_rows(target, work.start, np.stack(row))
        return Decoded(hashes, wrong, damaged)

    def _read(self, item: Item) -> tuple[bytes, Any]:
        path = self.root / item.path
        if item.row is None:
            content = read_bytes(path, "photo")
            return content, imaging.decode(content, self.mode, self.upright, self.reader)
        pixels = read_idx(path)[item.row]
        return pixels.tobytes(), imaging.Image.fromarray(pixels)


def _write_rows(target: Target, start: int, rows: np.ndarray) -> None:
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


def decode(decoder: Decoder, works: list[Work], journal: Path, jobs: int, tell: Progress) -> dict[str, list[str]]:
    """Decode what the journal does not have. SHA-256 of every source image, by split, in order. Raises MissingError for
    all that is wrong, DamagedFiles if that is only images that cannot be read."""
    known = _read_journal(journal)
    hashes = {work.signature: known[work.signature] for work in works if work.signature in known}
    todo = [work for work in works if work.signature not in hashes]
    total = sum(len(work.items) for work in works)
    done = total - sum(len(work.items) for work in todo)
    problems, damaged, kinds = Problems(), dict[str, str](), set[str]()
    tell("decoding", done, total)
    with journal.open("a", encoding="utf-8") as file:
        file.write("\n")  # ends a line that a kill cut off
        for work, result in _results(decoder, todo, jobs):
            damaged.update(result.damaged)
            for kind, what in result.wrong:
                problems.add(kind, what)
                kinds.add(kind)
            if not result.wrong:
                hashes[work.signature] = result.hashes
                file.write(json.dumps([work.signature, result.hashes]) + "\n")
                file.flush()
                os.fsync(file.fileno())
            done += len(work.items)
            tell("decoding", done, total)
    if kinds and kinds <= {DAMAGED, UNREADABLE}:
        raise DamagedFiles(problems, damaged)
    problems.stop()
    by_split: dict[str, list[str]] = {}
    for work in works:
        by_split.setdefault(work.split, []).extend(hashes[work.signature])
    return by_split


def _results(decoder: Decoder, todo: list[Work], jobs: int) -> Iterator[tuple[Work, Decoded]]:
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
    known: dict[str, list[str]] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # an empty line, or one that a kill cut off
                signature, hashes = json.loads(line)
                known[signature] = hashes
    return known
