"""Unpack a stranger's archive: every member is looked at before it is written, and sizes count as they are read."""

from __future__ import annotations

import gzip
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from mibench.boundary import is_leftover
from mibench.submission.layout import INDEX, MIB, Limits, Refused, check_names, shown

_CHUNK = MIB
_HEADERS = MIB  # what a tar archive may spend on one member's headers
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, ValueError, NotImplementedError)


def unpack(archive: Path, into: Path, limits: Limits) -> Path:
    """Unpack a .zip, .tar or .tar.gz into the empty folder ``into``; the folder that holds ``submission.json``.

    Raises Refused, before a member is written, for a link, a device, a path that leads out, names that clash, too many
    members or too many bytes.
    """
    with archive.open("rb") as stream:
        head = stream.read(512)
    try:
        if head.startswith(b"PK"):
            _unzip(archive, into, limits)
        elif head.startswith(b"\x1f\x8b"):
            with gzip.open(archive) as plain:
                _untar(cast(IO[bytes], plain), into, limits)
        elif head[257:262] == b"ustar":
            with archive.open("rb") as plain:
                _untar(plain, into, limits)
        else:
            raise Refused(f"It is no .zip, .tar or .tar.gz archive; it begins with {head[:8]!r}.")
    except _BROKEN as error:
        raise Refused(f"The archive is damaged or cut off ({type(error).__name__}). Pack it again.") from None
    inside = list(into.iterdir())
    nested = len(inside) == 1 and inside[0].is_dir() and not (into / INDEX).exists()
    return inside[0] if nested else into


class _Budget:
    """Writes members until the limits are reached."""

    def __init__(self, into: Path, limits: Limits) -> None:
        self._into, self._limits, self._left = into, limits, limits.total

    def write(self, name: str, chunks: Iterator[bytes]) -> None:
        path = self._into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        size = 0
        with path.open("xb") as file:
            for chunk in chunks:
                size += len(chunk)
                self._left -= len(chunk)
                if size > self._limits.file:
                    raise Refused(f"{shown(name)} unpacks to more than {self._limits.file:,} bytes.")
                if self._left < 0:
                    raise Refused(f"The archive unpacks to more than {self._limits.total:,} bytes.")
                file.write(chunk)


def _chunks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while chunk := read(_CHUNK):
        yield chunk


def _plain(name: str) -> str:
    """A member's name without what tar and zip add: ``./`` before it, ``/`` after a folder's."""
    if name == ".":
        return "here"
    return name.removeprefix("./").removesuffix("/") or "here"


def _unzip(archive: Path, into: Path, limits: Limits) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = [member for member in opened.infolist() if not is_leftover(member.filename)]
        if len(members) > 2 * limits.files:
            raise Refused(f"There are more than {limits.files:,} files.")
        for member in members:
            check_names([_plain(member.filename)], limits)
        check_names((_plain(member.filename) for member in members if not member.is_dir()), limits)
        for member in members:
            mode = stat.S_IFMT(member.external_attr >> 16)
            if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
                what = "a link" if mode == stat.S_IFLNK else "no plain file"
                raise Refused(f"{shown(member.filename)} is {what}. A submission holds plain files only.")
            if member.flag_bits & 1:
                raise Refused(f"{shown(member.filename)} is encrypted.")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Refused(f"{shown(member.filename)} is compressed in a way that is not read here; use deflate.")
        budget = _Budget(into, limits)
        for member in members:
            if not member.is_dir():
                with opened.open(member) as file:
                    budget.write(_plain(member.filename), _chunks(file.read))


class _Granted:
    """A stream of which no more can be read than was granted, whatever sizes the archive claims."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.left = stream, 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(min(size, _CHUNK) if size >= 0 else _CHUNK)
        self.left -= len(data)
        if self.left < 0:
            raise Refused("A member of the archive has more in its headers than a submission needs.")
        return data


def _untar(stream: IO[bytes], into: Path, limits: Limits) -> None:
    granted, budget, files = _Granted(stream), _Budget(into, limits), []
    granted.left = _HEADERS
    with tarfile.open(fileobj=cast(Any, granted), mode="r|") as opened:
        while (member := opened.next()) is not None:
            opened.members.clear()  # type: ignore[attr-defined]  # it would remember every one
            if is_leftover(member.name):
                granted.left = min(member.size, limits.file) + _HEADERS  # it is read over
                continue
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or member.issparse():
                what = "a link" if member.issym() or member.islnk() else "no plain file"
                raise Refused(f"{shown(member.name)} is {what}. A submission holds plain files only.")
            name = _plain(member.name)
            check_names([name], limits)
            if member.isfile():
                files.append(name)
                if (into / name).exists() or len(files) > limits.files:
                    check_names(files, limits)
                granted.left = min(member.size, limits.file) + _HEADERS
                file = opened.extractfile(member)
                assert file is not None
                budget.write(name, _chunks(file.read))
            granted.left = _HEADERS
    check_names(files, limits)
