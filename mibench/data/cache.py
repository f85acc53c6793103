"""Named numpy arrays in a folder that is either complete or absent.

A crash leaves a temporary folder and never half a cache; of two processes that write the same folder one wins and the
other takes the winner's.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from mibench.errors import MissingError
from mibench.store.atomic import move_folder, remove_folder, write_folder

INDEX = "index.json"
SCHEMA = 1
_ABANDONED_AFTER = 3600.0  # seconds until another process's temporary folder counts as left over from a crash


def exists(folder: Path) -> bool:
    return folder.is_dir()


def read_index(folder: Path) -> dict[str, Any]:
    """The folder's index: ``arrays``: shape, dtype, bytes and sha256 by name; ``meta`` is the writer's."""
    return json.loads((folder / INDEX).read_text(encoding="utf-8"))


def open_array(folder: Path, name: str) -> np.memmap:
    """One array, memory-mapped and read-only: its bytes are read when they are used."""
    return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)


def problems(folder: Path, *, contents: bool = False) -> list[str]:
    """What is wrong with a folder, in sentences. ``contents`` also compares each file's stored SHA-256."""
    try:
        index = read_index(folder)
        entries = {name: dict(entry) for name, entry in index["arrays"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{folder / INDEX} cannot be read ({error})."]
    if index.get("schema") != SCHEMA:
        return [f"{folder / INDEX} has schema {index.get('schema')}, this version of mibench reads {SCHEMA}."]
    return [problem for name, entry in entries.items() if (problem := _problem(folder, name, entry, contents))]


def _problem(folder: Path, name: str, entry: dict[str, Any], contents: bool) -> str | None:
    path = folder / f"{name}.npy"
    try:
        size = path.stat().st_size
        if size != entry["bytes"]:
            return f"{path} has {size} bytes, expected {entry['bytes']}."
        array = open_array(folder, name)
    except (OSError, ValueError) as error:
        return f"{path} cannot be read ({error})."
    if list(array.shape) != entry["shape"] or array.dtype.str != entry["dtype"]:
        return f"{path} holds {array.dtype.str} {list(array.shape)}, expected {entry['dtype']} {entry['shape']}."
    if contents and _hash_file(path) != entry["sha256"]:
        return f"{path} is damaged: its bytes do not have the SHA-256 they were written with."
    return None


def write(folder: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Write ``folder`` atomically. If a sound folder is there already it stays; a damaged one is replaced."""
    try:
        sweep(folder.parent)
        with write_folder(folder, keep=lambda: not problems(folder)) as temporary:
            _fill(temporary, arrays, meta)
    except OSError as error:
        raise refused(error, folder.parent, sum(array.nbytes for array in arrays.values())) from error


def refused(error: OSError, parent: Path, needed: int | None) -> Exception:
    """A full or forbidden disk as a sentence; any other error as it is. ``needed``: bytes, if known."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        size = "the" if needed is None else f"{needed / 2**20:.0f} MB of"
        return MissingError(
            f"No space left for {size} images in {parent}. Free some, or set MIBENCH_HOME to a folder on a larger disk."
        )
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return MissingError(
            f"{parent} cannot be written ({error.strerror}). Set MIBENCH_HOME to a folder that you may write to."
        )
    return error


def adopt(
    work: Path, folder: Path, meta: dict[str, Any], progress: Callable[[int, int], None], leave: Collection[str] = ()
) -> None:
    """Publish the arrays that lie in ``work``, made piece by piece, as ``folder``, which is replaced if it exists.

    They are hashed where they lie, never loaded. Files named in ``leave`` are deleted at last: until the folder is in
    its place a killed call can be repeated. ``progress``: arrays done, of.
    """
    arrays = sorted(work.glob("*.npy"))
    entries = {}
    for number, path in enumerate(arrays):
        progress(number, len(arrays))
        array = open_array(work, path.stem)
        entries[path.stem] = _entry(path, array.shape, array.dtype)
    progress(len(arrays), len(arrays))
    _write_index(work, entries, meta)
    move_folder(work, folder)
    remove_folder(work)  # now what lay at ``folder``; arrays mapped from it stay readable until they are closed
    for name in leave:
        (folder / name).unlink(missing_ok=True)


def sweep(parent: Path) -> None:
    """Remove temporary folders that crashed processes left behind."""
    for left in parent.glob(".*.tmp"):
        try:
            abandoned = time.time() - left.stat().st_mtime > _ABANDONED_AFTER
        except OSError:  # its owner has just renamed it
            continue
        if abandoned:
            shutil.rmtree(left, ignore_errors=True)


def _fill(folder: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    entries = {}
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        np.save(path, np.ascontiguousarray(array), allow_pickle=False)
        entries[name] = _entry(path, array.shape, array.dtype)
    _write_index(folder, entries, meta)


def _entry(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> dict[str, Any]:
    return {"shape": list(shape), "dtype": dtype.str, "bytes": path.stat().st_size, "sha256": _hash_file(path)}


def _write_index(folder: Path, entries: dict[str, Any], meta: dict[str, Any]) -> None:
    with (folder / INDEX).open("w", encoding="utf-8") as file:
        json.dump({"schema": SCHEMA, "arrays": entries, "meta": meta}, file, indent=1)


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
