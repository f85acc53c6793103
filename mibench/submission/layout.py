"""What a submission may consist of: which file may lie where, how large it may be, and how it must begin."""

from __future__ import annotations

import re
import stat
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mibench.protocol.stage_kinds import STAGE_KINDS
from mibench.store.manifest import safe_file

INDEX = "submission.json"
MIB = 2**20
Form = Literal["json", "safetensors", "py", "png"]


class Refused(Exception):
    """Something in a submission is not as it must be; the message is a sentence that says what, and what to do."""


@dataclass(frozen=True)
class Limits:
    """What is read of a submission at most."""

    files: int = 20_000
    file: int = 2048 * MIB  # bytes of one file of an archive
    total: int = 8192 * MIB  # bytes of all files


@dataclass(frozen=True)
class Place:
    """Files whose path matches ``pattern`` are of ``form`` and of at most ``limit`` bytes."""

    pattern: re.Pattern[str]
    form: Form
    limit: int


_KEY = "[0-9a-f]{64}"
_KINDS = "|".join(STAGE_KINDS)
PLACES = (
    Place(re.compile(re.escape(INDEX)), "json", 32 * MIB),
    Place(re.compile(rf"stages/(?:{_KINDS})-{_KEY}\.json"), "json", 8 * MIB),
    Place(re.compile(rf"evaluations/{_KEY}/images\.json"), "json", 64 * MIB),
    Place(re.compile(rf"evaluations/{_KEY}/logits\.safetensors"), "safetensors", 512 * MIB),
    Place(re.compile(r"plugins/(?:defenses|attacks|priors)/[a-z0-9][a-z0-9_.-]{0,99}\.py"), "py", MIB // 16),
    Place(re.compile(rf"weights/{_KEY}\.safetensors"), "safetensors", 2048 * MIB),
    Place(re.compile(rf"images/{_KEY}/[0-9]{{6}}_[0-9]{{3,6}}\.png"), "png", MIB),
)


def place_of(path: str) -> Place | None:
    """Where a file belongs that is called ``path`` in the submission; None: nowhere."""
    return next((place for place in PLACES if place.pattern.fullmatch(path)), None)


def shown(value: object, most: int = 80) -> str:
    """A stranger's text as it may be printed: quoted, without control characters, cut."""
    text = ascii(str(value)[: most + 1])
    return text if len(str(value)) <= most else f"{text[:most]}...'"


def check_names(names: Iterable[str], limits: Limits) -> None:
    """Refuse paths that leave their folder, or that some system takes for the same file or for a file and a folder."""
    seen: dict[str, str] = {}
    for count, name in enumerate(names, 1):
        if count > limits.files:
            raise Refused(f"There are more than {limits.files:,} files.")
        if not safe_file(name) or len(name) > 300:
            raise Refused(f"{shown(name)} is not a plain path inside the submission (no '..', no absolute names).")
        plain = unicodedata.normalize("NFC", name).casefold()
        if plain in seen:
            raise Refused(f"{shown(seen[plain])} and {shown(name)} are the same file on some systems.")
        seen[plain] = name
    for plain, name in seen.items():
        parts = plain.split("/")
        above = next((p for p in ("/".join(parts[:end]) for end in range(1, len(parts))) if p in seen), None)
        if above is not None:
            raise Refused(f"{shown(seen[above])} is a file and, because of {shown(name)}, a folder.")


def walk(folder: Path, limits: Limits) -> dict[str, int]:
    """The plain files below ``folder`` and their bytes. Refuses links, devices and whatever else is no plain file."""
    sizes: dict[str, int] = {}
    pending = [folder]
    while pending:
        for path in sorted(pending.pop().iterdir()):
            name, status = path.relative_to(folder).as_posix(), path.lstat()
            if stat.S_ISDIR(status.st_mode):
                pending.append(path)
            elif stat.S_ISREG(status.st_mode):
                sizes[name] = status.st_size
            else:
                what = "a link" if stat.S_ISLNK(status.st_mode) else "no plain file"
                raise Refused(f"{shown(name)} is {what}. A submission holds plain files only.")
            if len(sizes) + len(pending) > limits.files:
                raise Refused(f"There are more than {limits.files:,} files.")
    check_names(sizes, limits)
    return sizes


def check_places(sizes: dict[str, int], limits: Limits) -> None:
    """Refuse files that do not belong into a submission, and too large ones."""
    if INDEX not in sizes:
        raise Refused(f"There is no {INDEX}: this is not what `mibench submit pack` writes.")
    for name, size in sizes.items():
        place = place_of(name)
        if place is None:
            raise Refused(
                f"{shown(name)} does not belong into a submission. Remove it; `mibench submit pack` adds none."
            )
        if size > min(place.limit, limits.file):
            raise Refused(f"{name} has {size:,} bytes; at most {min(place.limit, limits.file):,} are allowed there.")
    if sum(sizes.values()) > limits.total:
        raise Refused(f"All files together have {sum(sizes.values()):,} bytes; at most {limits.total:,} are allowed.")
