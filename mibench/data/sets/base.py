"""What a data set is: where it comes from, how its files become splits, and how an image becomes pixels.

A reader (one module of this package per owner's layout) turns a folder into a ``Listing`` without decoding an image.
``build`` then decodes. Everything that is wrong is collected in ``Problems`` and said at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mibench.boundary import printable
from mibench.errors import MissingError
from mibench.keys import digest

SHOWN = 10  # of each kind of problem, so many are named

Step = tuple[Any, ...]
"""One operation on an image; see ``imaging.apply``."""

Marks = tuple[tuple[str, ...], ...]
"""What must lie in the root: of each group, any one name; the first is the one that messages name."""


@dataclass(frozen=True)
class Item:
    """One image of a split. ``name`` identifies it in hashes, ``file`` is its path below the root (the owners' folders
    differ between releases), ``box`` a bounding box (left, top, right, bottom), ``row`` its row in an idx file."""

    name: str
    label: int  # -1 where the person is not known
    file: str = ""
    box: tuple[int, int, int, int] | None = None
    row: int | None = None

    @property
    def path(self) -> str:
        return self.file or self.name


@dataclass(frozen=True)
class Listing:
    """The images of ``private_train``, ``private_test`` and ``public`` in the order of the arrays, those of them that
    a set has; names of the private classes by label; facts to record and to tell."""

    splits: Mapping[str, list[Item]]
    identities: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """One resolution of a set: ``side`` pixels square, made by ``steps``. ``splits``: which have it (None: all)."""

    side: int
    steps: tuple[Step, ...]
    splits: tuple[str, ...] | None = None

    def has(self, split: str) -> bool:
        return self.splits is None or split in self.splits


class Problems:
    """What is wrong with a folder: counted by kind, the first ten of each named."""

    def __init__(self) -> None:
        self._by_kind: dict[str, list[str]] = {}

    def add(self, kind: str, what: str) -> None:
        """``kind`` is a plural noun phrase such as ``damaged images``; ``what`` names one, with its path."""
        self._by_kind.setdefault(kind, []).append(what)

    def say(self, sentence: str) -> None:
        """A problem there is only one of."""
        self._by_kind.setdefault(sentence, [])

    def sentences(self) -> list[str]:
        said = []
        for kind, named in self._by_kind.items():
            if not named:
                said.append(kind)
                continue
            more = f"; and {len(named) - SHOWN:,} more" if len(named) > SHOWN else ""
            said.append(f"{len(named):,} {kind}: {'; '.join(named[:SHOWN])}{more}.")
        return said

    def __bool__(self) -> bool:
        return bool(self._by_kind)

    def stop(self) -> None:
        """Raises MissingError if anything was found."""
        if self._by_kind:
            raise MissingError("\n".join(self.sentences()))


Scan = Callable[[Path, Problems], Listing]


@dataclass(frozen=True)
class DataSet:
    """A named split object. ``counts`` are the exact sizes of its splits, where its owners or the split's authors
    publish them; ``size`` is what every image must measure (width, height); ``inputs`` the range of pixel values that
    the networks of its protocol see (images are stored as bytes and handed out in [0, 1])."""

    name: str
    title: str
    get: str  # where to get it, and what one must accept there
    licence: str
    tree: str  # what must lie below --root
    rule: str  # how the split follows from the files
    marks: Marks
    scan: Scan
    views: Mapping[str, View]  # "target" always
    mode: str = "RGB"  # or "L"
    size: tuple[int, int] | None = None
    identities: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    sensitive: bool = True
    publish_private: bool = False
    upright: bool = False  # photos are turned as their cameras noted
    reader: str = "photo"  # one of imaging.READERS
    inputs: tuple[float, float] = (0.0, 1.0)
    version: int = 1  # raised when the same files give other pixels or another split

    @property
    def channels(self) -> int:
        return 3 if self.mode == "RGB" else 1

    def recipe(self) -> dict[str, Any]:
        """What besides the files fixes the arrays."""
        views = {name: [view.side, view.steps, view.splits] for name, view in sorted(self.views.items())}
        reader = {} if self.reader == "photo" else {"reader": self.reader}
        return {"version": self.version, "mode": self.mode, "upright": self.upright, "views": views} | reader

    def read(self, root: Path) -> Listing:
        """The splits of the files below ``root``. Raises MissingError that names all that is wrong."""
        check_root(self, root)
        problems = Problems()
        listing = self.scan(root, problems)
        problems.stop()
        self.check_counts(root, listing, problems)
        problems.stop()
        splits = {split: items for split, items in listing.splits.items() if items}
        return replace(listing, splits=splits, identities=tuple(map(printable, listing.identities)))

    def check_counts(self, root: Path, listing: Listing, problems: Problems) -> None:
        """Add what differs from the published counts, and splits without an image."""
        if self.identities is not None and len(listing.identities) != self.identities:
            problems.say(
                f"{self.name} has {self.identities:,} identities; {root} has {len(listing.identities):,} of them."
            )
        for split, items in listing.splits.items():
            if not items and (split not in self.counts and split != "public"):
                problems.say(f"The files in {root} give no image for {split} of {self.name}.")
        for split, expected in self.counts.items():
            count = len(listing.splits.get(split, ()))
            if count != expected:
                problems.say(f"{self.name} has {expected:,} images in {split}; the files in {root} give {count:,}.")


def check_root(data_set: DataSet, root: Path) -> None:
    """Refuse a folder that is not the set's, and say which one near it is. Raises MissingError."""
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise MissingError(f"{root} {what}. --root must be a folder that holds:\n{data_set.tree}")
    lacking = _lacking(root, data_set.marks)
    if not lacking:
        return
    wanted = " and no ".join(group[0] for group in lacking)
    entries = sorted(path.name + ("/" if path.is_dir() else "") for path in root.iterdir())
    listed = ", ".join(entries[:8]) + (f" and {len(entries) - 8:,} more" if len(entries) > 8 else "")
    near = next((path for path in _near(root) if not _lacking(path, data_set.marks)), None)
    hint = f" {near} holds it: type --root {near}" if near else f" Expected below --root:\n{data_set.tree}"
    raise MissingError(
        f"{root} is not the folder of {data_set.name}: it has no {wanted}. Found: {listed or 'nothing'}.{hint}"
    )


def _lacking(root: Path, marks: Marks) -> list[tuple[str, ...]]:
    return [group for group in marks if first_of(root, group) is None]


def _near(root: Path) -> Iterable[Path]:
    """Folders up to two levels below and above ``root``."""
    try:
        below = sorted(path for path in root.iterdir() if path.is_dir())[:100]
        yield from below
        for folder in below:
            yield from sorted(path for path in folder.iterdir() if path.is_dir())[:100]
    except PermissionError:
        pass
    yield from root.resolve().parents[:2]


def first_of(root: Path, names: Iterable[str]) -> Path | None:
    """The first of ``names`` that exists below ``root``; a name with a star is a pattern."""
    paths = (next(root.glob(name), None) if "*" in name else root / name for name in names)
    return next((path for path in paths if path is not None and path.exists()), None)


def must(root: Path, names: Iterable[str]) -> Path:
    """``first_of`` for names that ``marks`` has checked."""
    path = first_of(root, names)
    assert path is not None
    return path


def list_digest(listing: Listing) -> str:
    """SHA-256 of the sorted file list with labels: which image is where, whatever its bytes."""
    return digest(sorted([split, i.name, i.label] for split, items in listing.splits.items() for i in items))


def text_lines(path: Path) -> list[str]:
    """The lines of a list file that are not empty. Raises MissingError if it is not text."""
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise MissingError(f"{path} cannot be read as a list of lines ({error}).") from None
