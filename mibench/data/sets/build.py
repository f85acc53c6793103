"""Decode a data set into memory-mapped arrays: in several processes, streamed, and resumable after a kill.

The arrays are written in a working folder beside their place, a chunk of images at a time. A line in a journal says
that a chunk's bytes are on the disk; it carries a signature of the chunk's files, so that the next call keeps what is
still true and decodes the rest. When everything is there the folder is renamed into place.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mibench.data import cache
from mibench.data.sets.base import DataSet, Item, Listing, Problems, View, list_digest
from mibench.data.sets.decoding import DamagedFiles, Decoder, Progress, Target, Work, decode
from mibench.errors import MissingError
from mibench.keys import digest
from mibench.store import locks
from mibench.store.atomic import writing

CHUNK = 64  # images decoded between two lines of the journal
JOURNAL = "journal.jsonl"


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
    skip_damaged: bool = False,
    command: str = "",
    chunk: int = CHUNK,
) -> tuple[Path, bool]:
    """Prepare ``data_set`` from the files in ``root``; its folder, and whether anything had to be done.

    Safe against kills (the next call goes on) and other processes (the second waits). Memory is a chunk per process.
    ``skip_damaged``: images that cannot be read are left out and listed in the index; later calls leave the same files
    out without being told, as long as they stay as they were. ``command``: what to type with further options. Raises
    MissingError that names every wrong file.
    """
    root = root.resolve() if root.is_dir() else root
    tell = progress or (lambda what, done, total: None)
    listing = data_set.read(root)
    folder = place(home, data_set.name)
    work = folder.with_name(f"{folder.name}.work")
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    waiting = partial(tell, "waiting for another process", 0, 0)
    with locks.exclusive(folder.with_name(f".{folder.name}.lock"), on_wait=waiting):
        skipped = still_damaged(folder, root)
        while True:
            kept = _without(data_set, root, listing, skipped)
            chunks = list(_chunks(data_set, root, kept, chunk))
            signature = digest([data_set.recipe(), [c.signature for c in chunks]])
            if _is_this(folder, signature):
                return folder, False
            try:
                shapes = _shapes(data_set, kept)
                _room(work, shapes, folder.parent)
                works = _open(work, data_set, shapes, chunks)
                decoder = Decoder(root, data_set.mode, data_set.size, data_set.upright, data_set.reader)
                hashes = decode(decoder, works, work / JOURNAL, jobs, tell)
                facts = _facts(data_set, kept, hashes, root, allow_duplicates, command)
                facts |= {"signature": signature} | ({"skipped": skipped} if skipped else {})
                _finish(work, folder, kept, hashes, root, facts, tell)
                return folder, True
            except DamagedFiles as error:
                if not skip_damaged:
                    raise MissingError(f"{error}\n{_leaving_out(data_set, command)}") from None
                found = {path: {"fault": fault, "stamp": _stamp(root / path)} for path, fault in error.files.items()}
                skipped = dict(sorted((skipped | found).items()))
            except OSError as error:
                raise cache.refused(error, folder.parent, None) from error


Skipped = dict[str, dict[str, Any]]  # by path below the root: its fault, size and time


def still_damaged(folder: Path, root: Path) -> Skipped:
    """What an earlier call left out and is still as it was."""
    try:
        known: Skipped = cache.read_index(folder)["meta"].get("skipped", {})
        return {path: facts for path, facts in known.items() if facts["stamp"] == _stamp(root / path)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _without(data_set: DataSet, root: Path, listing: Listing, skipped: Skipped) -> Listing:
    """The listing without those files. Raises MissingError if too few are left."""
    if not skipped:
        return listing
    splits = {split: [i for i in items if i.path not in skipped] for split, items in listing.splits.items()}
    kept = replace(listing, splits=splits)
    problems = Problems()
    data_set.check_counts(root, kept, problems)
    for split, items in splits.items():
        for label in sorted({i.label for i in listing.splits[split]} - {i.label for i in items}):
            name = listing.identities[label] if 0 <= label < len(listing.identities) else str(label)
            problems.add(f"classes without an undamaged image in {split}", name)
    problems.stop()
    return kept


def _leaving_out(data_set: DataSet, command: str) -> str:
    """What to do about damaged files; a set whose counts are published cannot do without them."""
    if data_set.counts:
        return "Get these files again."
    return f"Mend or remove them. Or leave them out, which is written down: {_with(command, '--skip-damaged')}"


def _with(command: str, option: str) -> str:
    return f"type {command} {option}" if command else f"add {option}"


def _stamp(path: Path) -> list[int]:
    """Size, times and identity of a file; nothing where it cannot be looked at, which decoding will say."""
    try:
        facts = path.stat()
    except OSError:
        return []
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]


def _is_this(folder: Path, signature: str) -> bool:
    return (
        cache.exists(folder)
        and not cache.problems(folder)
        and cache.read_index(folder)["meta"].get("signature") == signature
    )


# --- what there is to do -------------------------------------------------------------------------------------------


def _chunks(data_set: DataSet, root: Path, listing: Listing, size: int) -> Iterator[Work]:
    """The listing cut into chunks, each with a signature of its files: names, labels, sizes, times (that of the last
    change of anything about a file cannot be set back, so an exchanged file is noticed), which file it is."""
    stamps: dict[str, list[int]] = {}
    for split, items in listing.splits.items():
        for start in range(0, len(items), size):
            part = tuple(items[start : start + size])
            facts = []
            for item in part:
                if item.path not in stamps:
                    stamps[item.path] = _stamp(root / item.path)
                facts.append([item.name, item.label, item.box, item.row, *stamps[item.path]])
            yield Work(split, start, part, digest([split, start, facts]), ())


def _shapes(data_set: DataSet, listing: Listing) -> dict[str, tuple[View, tuple[int, ...]]]:
    """Array name -> its view and shape. The target's view is the split's plain name."""
    shapes: dict[str, tuple[View, tuple[int, ...]]] = {}
    for split, items in listing.splits.items():
        for name, view in data_set.views.items():
            if view.has(split):
                array = f"{split}_images" if name == "target" else f"{split}_{name}_images"
                shapes[array] = (view, (len(items), data_set.channels, view.side, view.side))
    return shapes


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
    work: Path, data_set: DataSet, shapes: dict[str, tuple[View, tuple[int, ...]]], chunks: Iterable[Work]
) -> list[Work]:
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
    targets: dict[str, list[Target]] = {}
    for name, (view, shape) in shapes.items():
        path = work / f"{name}.npy"
        offset = path.stat().st_size - int(np.prod(shape, dtype=np.int64))
        split = next(split for split in ("private_train", "private_test", "public") if name.startswith(split))
        targets.setdefault(split, []).append(Target(path, offset, view))
    return [Work(c.split, c.start, c.items, c.signature, tuple(targets[c.split])) for c in chunks]


# --- finishing -----------------------------------------------------------------------------------------------------


def _facts(
    data_set: DataSet, listing: Listing, hashes: dict[str, list[str]], root: Path, allow_duplicates: bool, command: str
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
        allow = _with(command, "--allow-duplicates")
        problems.say(f"Remove one of each. Or, if they are meant to be there twice, {allow}")
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
