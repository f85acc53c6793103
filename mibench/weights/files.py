"""Checkpoint files as they are distributed: what kind of file it is, and what is in it, without running any of it.

The kind is told from the content, never from the name: the same network comes as ``.tar``, ``.pth``, ``.pt`` and
``.pkl``. Whatever is not a checkpoint (a saved web page, a Git LFS pointer, half a download) is named.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from mibench.boundary import is_leftover, read_bytes, sentences
from mibench.errors import UserError
from mibench.weights.pickles import SAFE_FOR_TORCH, asked_for, read_pickle

_AGAIN = "Download it again, and compare its size with the one on the page it comes from."
_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, 2)  # how torch's format before 1.6 begins
_MOST_PACKED = 4
_ARCHIVES = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7-Zip", b"Rar!": "RAR"}


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises MissingError if it cannot be read."""
    return read_bytes(path, "checkpoint file")


def read_checkpoint(data: bytes) -> Any:
    """The content of a checkpoint file: tensors, numbers and text in dictionaries, and, of a plain pickle, what
    ``read_pickle`` gives.

    Raises UserError, in sentences that begin with "It", if the bytes are no checkpoint, are cut off, or ask for
    anything that tensors do not need.
    """
    with sentences("It is damaged", _AGAIN):
        _refuse_other_files(data)
        if data.startswith(b"PK"):
            return _torch_zip(data)
        if data.startswith(_LEGACY):
            return _torch_legacy(data)
        if data[:1] == b"\x80" and data[1:2] in b"\2\3\4\5":
            return read_pickle(data)
        if data[8:9] == b"{":
            return _safetensors(data)
    raise UserError(
        f"It is no checkpoint: expected a file of torch, a pickle or safetensors; it begins with {data[:16]!r}."
    )


def _refuse_other_files(data: bytes) -> None:
    if not data:
        raise UserError(f"It is empty. {_AGAIN}")
    if not data.strip(b"\0"):
        raise UserError(f"It holds only zeros: the download was not finished. {_AGAIN}")
    head = data[:2048].removeprefix(b"\xef\xbb\xbf").lstrip()
    text = head.lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")) or (text[:1] == b"<" and b"<html" in text):
        title = re.search(rb"<title[^>]*>([^<]{1,80})", head, re.IGNORECASE)
        called = f", {title[1].decode(errors='replace').strip()!r}" if title else ""
        raise UserError(
            f"It is a web page{called}, not a checkpoint: the page of the download, or of a refusal, was saved in its "
            "place. Open the link in a browser and save the file that its download button gives."
        )
    if head.startswith(b"version https://git-lfs"):
        raise UserError("It is a Git LFS pointer, which only names the file. Type `git lfs pull` where it comes from.")
    for magic, name in _ARCHIVES.items():
        if data.startswith(magic):
            raise UserError(f"It is a {name} archive. Unpack it and import the checkpoint inside.")
    if data[257:262] == b"ustar":
        names = _tar_names(data)
        if {"pickle", "storages", "tensors"} <= set(names):
            raise UserError(
                "It is a file of torch 0.1, which cannot be read without running it. Load it with an old torch and "
                "save its state dict again."
            )
        raise UserError(f"It is a tar archive of {_some(names)}. Unpack it and import the checkpoint inside.")
    if head[:1] in b"{[" and data[8:9] != b"{":
        raise UserError(f"It is text, not a checkpoint: {head[:80].decode(errors='replace')!r}.")


def _tar_names(data: bytes) -> list[str]:
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            return [name for name in archive.getnames() if not is_leftover(name)]
    except (tarfile.TarError, EOFError, OSError, ValueError):
        raise UserError(f"It is a tar archive that is cut off. {_AGAIN}") from None


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "nothing"


def _torch_zip(data: bytes) -> Any:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if not is_leftover(name)]
            others = len(names) < len(archive.namelist())
            packed = any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist())
            unpacked = sum(item.file_size for item in archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        raise UserError(f"It is cut off or damaged: its end, the table of contents, is missing. {_AGAIN}") from None
    if not any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        raise UserError(f"It is a zip archive of {_some(names)}. Unpack it and import the checkpoint inside.")
    if any(name.rpartition("/")[2] == "constants.pkl" for name in names):
        raise UserError("It is a TorchScript program, not a state dict. Only tensors are read.")
    if unpacked > _MOST_PACKED * len(data):
        raise UserError(f"It is compressed, to less than a part in {_MOST_PACKED} of its size, which no weights allow.")
    return _torch(_packed_again(data) if others or packed else data)


def _packed_again(data: bytes) -> bytes:
    """What somebody unpacked and packed again as torch packs it: without a Finder's leftovers, and not compressed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as plain:
        names = [item.filename for item in archive.infolist() if not item.is_dir() and not is_leftover(item.filename)]
        inner = next(PurePosixPath(name).parent for name in names if name.rpartition("/")[2] == "data.pkl")
        for name in names:
            if PurePosixPath(name).is_relative_to(inner):
                plain.writestr(f"archive/{PurePosixPath(name).relative_to(inner)}", archive.read(name))
    return stream.getvalue()


def _torch_legacy(data: bytes) -> Any:
    """torch's format before 1.6: five pickles (magic number, version, system, content, storages), then the numbers."""
    stream = io.BytesIO(data)
    try:
        for _ in range(5):
            for _opcode in pickletools.genops(stream):
                pass
    except Exception:  # its way to fail depends on where the file ends
        raise UserError(f"It is cut off or damaged: its list of tensors is not whole. {_AGAIN}") from None
    return _torch(data)


def _torch(data: bytes) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(SAFE_FOR_TORCH):
            warnings.simplefilter("ignore")  # of other pickle protocols
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except UserError:
        raise
    except MemoryError:
        raise UserError("It needs more memory than there is.") from None
    except Exception as error:  # what damaged data lead to is not documented
        if asked := asked_for(error):
            raise UserError(
                f"It asks for {asked}: it holds a Python object, not only tensors, and nothing of it was run. "
                "Expected the state dict of a network."
            ) from None
        first = (str(error).strip().splitlines() or [""])[0][:120]
        raise UserError(f"It is cut off or damaged ({type(error).__name__}: {first}). {_AGAIN}") from None


def _safetensors(data: bytes) -> Mapping[str, Any]:
    try:
        return load_safetensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"It is a safetensors file that is cut off or damaged ({error}). {_AGAIN}") from None
