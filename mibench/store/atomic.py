"""Files and folders that appear whole or not at all: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mibench.errors import MissingError

FULL = {errno.ENOSPC, errno.EDQUOT}
FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
# ours, and what a killed process leaves that was inside safetensors' own atomic save
TEMPORARY = re.compile(r"(?:\..*\.[0-9a-f]{12}\.tmp)|\.tmp[A-Za-z0-9]{6}")
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux' renameat2
_HERE = -100  # AT_FDCWD


@contextmanager
def filling(path: Path) -> Iterator[None]:
    """Turn a full disk met inside the block, whatever wrote there, into a sentence naming ``path``.

    Raises:
        MissingError: no space, or no quota.
    """
    try:
        yield
    except Exception as error:
        if _os_code(error) not in FULL:
            raise
        raise MissingError(
            f"Cannot write {path}: the disk is full. Free some space, or set MIBENCH_HOME to a folder on "
            "another disk, and run the command again; what was stored before is intact."
        ) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk met inside the block into a sentence naming ``path``.

    Raises:
        MissingError: no space, no quota, a read-only file system or no permission.
    """
    try:
        with filling(path):
            yield
    except Exception as error:
        code = _os_code(error)
        if code in FORBIDDEN:
            raise MissingError(
                f"Cannot write {path}: {os.strerror(code)}. Make the folder writable, or set MIBENCH_HOME "
                "to a folder you may write to; what was stored before is intact."
            ) from error
        raise


def _os_code(error: Exception) -> int:
    """The errno behind an error; safetensors only says it in its message."""
    if isinstance(error, OSError):
        return error.errno or 0
    match = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(match.group(1)) if match else 0


def writable(path: Path) -> bool:
    """Whether a file can be written, or made where it is not there."""
    if path.exists() and not os.access(path, os.W_OK):
        return False
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    return os.access(folder, os.W_OK | os.X_OK)


def temporary(path: Path) -> Path:
    """A fresh hidden name beside ``path``; ``TEMPORARY`` recognises one that a killed process left behind."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def sync(path: Path) -> None:
    """Force a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Force every file and folder below ``folder``, and itself, to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


@contextmanager
def write_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name to write to; it becomes ``path`` when the block ends well."""
    scratch = temporary(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield scratch
            sync(scratch)
            scratch.replace(path)
            sync(path.parent)
    finally:
        with suppress(OSError):
            scratch.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    with write_file(path) as scratch:
        scratch.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode(errors="backslashreplace"))  # for names of files that are not UTF-8


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON; NaN and infinities are refused (``ValueError``)."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def write_folder(path: Path, *, keep: Callable[[], bool] | None = None, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary folder to fill; it becomes ``path`` when the block ends well, as ``move_folder`` has it.

    What the disk refuses stays an ``OSError``, of which ``writing`` makes a sentence if the caller has none of its own.
    """
    scratch = temporary(path)
    try:
        scratch.mkdir(parents=True)
        yield scratch
        move_folder(scratch, path, keep=keep, durable=durable)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def move_folder(source: Path, target: Path, *, keep: Callable[[], bool] | None = None, durable: bool = True) -> None:
    """Rename ``source`` to ``target``; a folder that is there already changes places with it.

    ``keep``: asked when there is one; if it says so, both stay where they are. ``durable``: what is in ``source`` is on
    the disk first; without that a kill does no harm but a power cut may, which suits what is easily made again.
    """
    if durable:
        sync_tree(source)
    while True:
        target.parent.mkdir(parents=True, exist_ok=True)
        there = target.exists()
        if there and keep is not None and keep():
            return
        try:
            if there:
                _exchange(source, target)
            else:
                source.rename(target)
            break
        except OSError as error:  # another process has just put one there, or taken it away
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT) or not source.exists():
                raise
    if durable:
        sync(target.parent)
        sync(source.parent)


def remove_folder(path: Path) -> None:
    """Delete a folder, if it is there. It disappears at once: it is renamed before its files go."""
    aside = temporary(path)
    with suppress(FileNotFoundError):
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def leftovers(path: Path) -> list[Path]:
    """What killed processes left that were writing ``path``. Only who holds a lock on it knows that they are gone."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}\.tmp")
    return [file for file in sorted(path.parent.iterdir()) if ours.fullmatch(file.name)]


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders in one step where the system can (Linux), else in two."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is not None and rename(_HERE, os.fsencode(new), _HERE, os.fsencode(old), _EXCHANGE) == 0:
        return
    aside = temporary(old)
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    aside.rename(new)
