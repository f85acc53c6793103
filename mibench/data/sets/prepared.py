"""What is prepared on this machine, and whether it still is what it was."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from mibench.data import cache
from mibench.data.sets.base import DataSet, Problems
from mibench.data.sets.build import place, still_damaged
from mibench.data.sets.decoding import Progress
from mibench.errors import MissingError


def facts(name: str, home: Path) -> dict[str, Any] | None:
    """What the index of the prepared set records (``split``, ``counts``, ``identities``, ...), or None."""
    folder = place(home, name)
    try:
        meta = cache.read_index(folder)["meta"]
    except (OSError, ValueError, KeyError):
        return None
    return meta if isinstance(meta, dict) and "split" in meta else None


def not_prepared(data_set: DataSet, track: str | None = None) -> str:
    """What to type and what to get; ``track``: who needs it."""
    what = f"Track {track!r} needs {data_set.name}, which" if track else data_set.name
    return (
        f"{what} is not prepared here. Type: mibench data prepare {data_set.name} --root DIR\n"
        f"Get it from {data_set.get}. Licence: {data_set.licence}. DIR holds:\n{data_set.tree}"
    )


def check(data_set: DataSet, home: Path, root: Path | None, progress: Progress | None = None) -> list[str]:
    """What is wrong with the prepared arrays (every byte is read) and, given ``root``, with the source files, which
    are compared with what the arrays were made from. Sentences."""
    tell = progress or (lambda what, done, total: None)
    folder = place(home, data_set.name)
    meta = facts(data_set.name, home)
    problems: list[str] = []
    if not cache.exists(folder):
        problems.append(not_prepared(data_set))
    else:
        again = f"Type: mibench data prepare {data_set.name} --root DIR"
        problems += [f"{problem} {again}" for problem in cache.problems(folder, contents=True)]
        if meta is not None and meta["recipe"] != _plain(data_set.recipe()):
            problems.append(f"{data_set.name} was prepared by another version of mibench. {again}")
    if root is not None:
        problems += differences(data_set, root, folder if meta and not problems else None, tell)
    return problems


def _plain(value: Any) -> Any:
    """``value`` as it comes back from JSON."""
    import json

    return json.loads(json.dumps(value))


def differences(data_set: DataSet, root: Path, folder: Path | None, progress: Progress | None = None) -> list[str]:
    """What is wrong with the source files in ``root`` and, byte by byte, in what they are not those that the arrays in
    ``folder`` were made from. Sentences."""
    tell = progress or (lambda what, done, total: None)
    try:
        listing = data_set.read(root)
    except MissingError as error:
        return str(error).splitlines()
    if folder is None:
        return []
    problems = Problems()
    left_out = still_damaged(folder, root)
    total = sum(len(items) for items in listing.splits.values())
    done = 0
    for split, listed in listing.splits.items():
        items = [item for item in listed if item.path not in left_out]
        names = np.load(folder / f"{split}_files.npy", allow_pickle=False).tolist()
        hashes = np.load(folder / f"{split}_sha256.npy", allow_pickle=False)
        labels = np.load(folder / f"{split}_labels.npy", allow_pickle=False).tolist()
        if [(item.path, item.label) for item in items] != list(zip(names, labels, strict=True)):
            there = {item.path for item in items}
            for name in sorted(set(names) - there):
                problems.add(f"images of {split} that are not there any more", str(root / name))
            for name in sorted(there - set(names)):
                problems.add(f"images of {split} that were not there before", str(root / name))
            if there == set(names):
                problems.say(f"The order or the labels of {split} are not those of the prepared set.")
            continue
        for item, expected in zip(items, hashes, strict=True):
            if item.row is None and hashlib.sha256((root / item.path).read_bytes()).digest() != expected.tobytes():
                problems.add("files whose bytes changed", str(root / item.path))
            elif item.row is not None:
                from mibench.data.sets.mnist_files import read_idx

                if hashlib.sha256(read_idx(root / item.path)[item.row].tobytes()).digest() != expected.tobytes():
                    problems.add("images whose bytes changed", f"row {item.row} of {root / item.path}")
            done += 1
            if done % 1000 == 0:
                tell("comparing", done, total)
    return problems.sentences()
