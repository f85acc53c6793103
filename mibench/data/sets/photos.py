"""Which files in somebody's folders are photos, and why others are not.

A photo is what Pillow reads: by the ending of its name, or else by its first bytes. What systems, sync programs and
picture managers leave beside photos (previews, indexes, waste bins) is none, whatever it holds.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

from mibench.data.sets.rules import IMAGE_ENDINGS

LEFT = "left by other programs"
OTHER = "no images"
BESIDE = "beside the class folders"
IRREGULAR = "links to nothing, pipes or devices"
UNREADABLE = "photos in a format that Pillow does not read (convert them to JPEG)"

# Folders and files of NAS systems, Finder, Explorer, sync programs and picture managers; besides all that begin with a
# dot. Case does not matter.
_LEFT = re.compile(
    r"\..*|@eadir|@__thumb|@recycle|@recently-snapshot|@syno\w+|@tmp|#recycle|#snapshot|__macosx|\$recycle\.bin|recycler"
    r"|system volume information|lost\+found|network trash folder|temporary items|_gsdata_|(eh)?thumbs(_.*)?\.db"
    r"|desktop\.ini|icon\r|synofile_thumb.*|synophoto_thumb.*|picasa\.ini|zbthumbnail\.info|~\$.*"
    r"|.*(~|\.(bak|tmp|temp|part|partial|crdownload|download|swp))",
    re.IGNORECASE,
)
_PREVIEWS = re.compile(r"_?(thumb(nail)?s?|previews?)", re.IGNORECASE)  # folders below a class
_NOT_OURS = re.compile(r"\.(hei[cf]|hif|jxl|cr[23]|nef|arw|dng|orf|rw2|raf|pef|srw)")  # of telephones and cameras
_NEVER = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}  # Pillow starts a program for them, or knows only the name
_SIGNED = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")  # told by their first bytes


@dataclass
class Skipped:
    """Files that are not read: names by reason."""

    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        self.names.setdefault(reason, []).append(name)

    def all_of(self, folder: Path, name: str) -> None:
        """Every file below a folder that other programs left."""
        for _, _, files in os.walk(folder):
            for file in files:
                self.add(LEFT, f"{name}/{file}")

    def __len__(self) -> int:
        return sum(map(len, self.names.values()))

    def sentence(self, root: Path, read: int) -> str:
        """``12 files read in photos; 3 skipped: 2 no images (a.txt, b.txt), 1 left by other programs (.DS_Store)``."""
        parts = [f"{len(names):,} {reason} ({_some(names)})" for reason, names in sorted(self.names.items())]
        return f"{read:,} files read in {root.name}; {len(self):,} skipped" + (f": {', '.join(parts)}" if parts else "")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def left_by_programs(name: str) -> bool:
    """Whether a file or folder of this name is nobody's photo."""
    return _LEFT.fullmatch(name) is not None


def photo_files(root: Path, skipped: Skipped, name: str = "") -> list[str]:
    """The photos below ``root``, or its folder ``name``, in the order of torchvision's ``ImageFolder``, as paths
    relative to ``root``. The others are added to ``skipped``."""
    found = []
    for path, left, names in _walk(root / name):
        relative = Path(path).relative_to(root)
        for each in left:
            skipped.all_of(Path(path, each), (relative / each).as_posix())
        for each in names:
            reason = _why_not(Path(path, each))
            if reason is None:
                found.append((relative / each).as_posix())
            else:
                skipped.add(reason, (relative / each).as_posix())
    return found


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """(folder, folders in it that are left out, files) of everything below, sorted; each folder once, whatever links
    lead to it, and none above. Raises OSError for a folder that cannot be read."""
    seen: set[str] = set()
    gathered = []
    for path, below, names in os.walk(folder, onerror=_refused, followlinks=True):
        real = os.path.realpath(path)
        below[:] = [name for name in below if not Path(real).is_relative_to(os.path.realpath(Path(path, name)))]
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        left = [name for name in below if left_by_programs(name) or _PREVIEWS.fullmatch(name)]
        below[:] = sorted(set(below) - set(left))
        gathered.append((path, sorted(left), sorted(names)))
    yield from sorted(gathered)


def _refused(error: OSError) -> None:
    raise error


def _why_not(path: Path) -> str | None:
    """Why a file is not read, or None for a photo."""
    if left_by_programs(path.name):
        return LEFT
    if not path.is_file():  # a pipe would never open
        return IRREGULAR
    ending = path.suffix.lower()
    if ending in IMAGE_ENDINGS or ending in _endings():
        return None
    if _NOT_OURS.fullmatch(ending):
        return UNREADABLE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(path, formats=_SIGNED).close()
    except Exception:  # what no image is fails in as many ways as there are formats
        return OTHER
    return None


@cache
def _endings() -> frozenset[str]:
    """Endings of the formats that Pillow opens here."""
    opened = {ending: name for ending, name in Image.registered_extensions().items() if name in Image.OPEN}
    return frozenset(ending for ending, name in opened.items() if name not in _NEVER)
