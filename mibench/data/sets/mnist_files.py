"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017) as distributed: idx files, or MNIST as PNG files.

Classes 0 to 4 are private (training part trains, test part tests); 5 to 9 of both parts are public, with
labels 0 to 4 for whoever asks what they show.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from mibench.data.sets.base import DataSet, Item, Listing, Problems, View, first_of, must
from mibench.data.sets.rules import image_files
from mibench.errors import MissingError

PRIVATE = 5
PARTS = ("train", "t10k")
TRAIN = 60_000
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat")
_FOLDERS = ("", "MNIST/raw/", "raw/", "FashionMNIST/raw/")
_PNG_PATTERNS = ("*_[0-9].png", "Img/*_[0-9].png", "images/*_[0-9].png")


def _names(part: str, kind: str) -> tuple[str, ...]:
    """Where a file may lie: as distributed, unpacked, and in torchvision's folders."""
    dimensions = {"images": 3, "labels": 1}[kind]
    stems = [f"{part}-{kind}-idx{dimensions}-ubyte", f"{part}-{kind}.idx{dimensions}-ubyte"]
    return tuple(f"{folder}{stem}{end}" for folder in _FOLDERS for stem in stems for end in (".gz", ""))


_IDX_TREE = (
    "  train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz\n  t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz"
)


def mnist(train: int = TRAIN, counts: Mapping[str, int] | None = None) -> DataSet:
    """The split of GMI, KED-MI and BiDO. ``train``: the largest index of a PNG file of the training part."""
    published = {"private_train": 30_596, "private_test": 5_139, "public": 34_265}
    return DataSet(
        name="mnist-gmi",
        title="MNIST, digits 0-4 private and 5-9 public, 32x32 grey",
        get="http://yann.lecun.com/exdb/mnist/, or the same four files from any mirror",
        licence="CC BY-SA 3.0",
        tree=_IDX_TREE + "\n  or <index>_<digit>.png, 1 to 60000 the training part and 60001 to 70000 the test part",
        rule="digits 0-4 private: training part trains, test part tests; digits 5-9 of both parts public",
        marks=((*_names("train", "images"), *_PNG_PATTERNS),),
        scan=partial(_scan, train=train, names=tuple("01234")),
        views={"target": View(32, (("resize", 32),))},
        mode="L",
        size=(28, 28),
        identities=PRIVATE,
        counts=published if counts is None else counts,
        sensitive=False,
        publish_private=True,
        version=2,
    )


def fashion(counts: Mapping[str, int] | None = None) -> DataSet:
    """Fashion-MNIST in the way of ``mnist-gmi``: no published protocol uses it."""
    published = {"private_train": 30_000, "private_test": 5_000, "public": 35_000}
    return DataSet(
        name="fashion-mnist",
        title="Fashion-MNIST, classes 0-4 private and 5-9 public, 32x32 grey",
        get="https://github.com/zalandoresearch/fashion-mnist, or Debian's package `dataset-fashion-mnist`",
        licence="MIT",
        tree=_IDX_TREE,
        rule="as mnist-gmi (our choice, no published protocol uses it): classes 0-4 private, 5-9 of both parts public",
        marks=(_names("train", "images"),),
        scan=partial(_scan, train=TRAIN, names=CLOTHES),
        views={"target": View(32, (("resize", 32),))},
        mode="L",
        size=(28, 28),
        identities=PRIVATE,
        counts=published if counts is None else counts,
        sensitive=False,
        publish_private=True,
        version=2,
    )


def _scan(root: Path, problems: Problems, train: int, names: tuple[str, ...]) -> Listing:
    idx = first_of(root, _names("train", "images"))
    rows = _idx_rows(root, problems) if idx else _png_rows(root, train, problems)
    problems.stop()
    splits: dict[str, list[Item]] = {"private_train": [], "private_test": [], "public": []}
    for part, label, item in rows:
        if label >= PRIVATE:
            splits["public"].append(Item(item.name, label - PRIVATE, item.file, row=item.row))
        else:
            splits["private_train" if part == "train" else "private_test"].append(item)
    there = {item.label for item in splits["private_train"]}
    return Listing(splits, tuple(name for label, name in enumerate(names) if label in there))


def _idx_rows(root: Path, problems: Problems) -> list[tuple[str, int, Item]]:
    rows = []
    for part in PARTS:
        paths = [first_of(root, _names(part, kind)) for kind in ("images", "labels")]
        for kind, path in zip(("images", "labels"), paths, strict=True):
            if path is None:
                problems.say(f"{root} has no {_names(part, kind)[0]}.")
        if paths[0] is None or paths[1] is None:
            continue
        try:
            images, labels = read_idx(paths[0]), read_idx(paths[1])
        except MissingError as error:
            problems.say(str(error))
            continue
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or labels.max(initial=0) > 9:
            problems.say(
                f"{paths[0]} holds {list(images.shape)} and {paths[1]} {list(labels.shape)} with labels up to "
                f"{labels.max(initial=0)}: expected N images and N labels of 0 to 9."
            )
            continue
        file = paths[0].relative_to(root).as_posix()
        rows += [
            (part, label, Item(f"{part}#{row}", label, file, row=row)) for row, label in enumerate(labels.tolist())
        ]
    return rows


def _png_rows(root: Path, train: int, problems: Problems) -> list[tuple[str, int, Item]]:
    folder = must(root, _PNG_PATTERNS).parent
    rows: dict[int, tuple[str, int, Item]] = {}
    for file in image_files(folder):
        index, _, digit = Path(file).stem.partition("_")
        if not (index.isdigit() and digit.isdigit() and len(digit) == 1):
            problems.add("PNG files that are not named <index>_<digit>.png", file)
            continue
        number, label = int(index), int(digit)
        if number in rows:
            problems.add("indices with two files", f"{rows[number][2].name} and {file}")
        path = (folder / file).relative_to(root).as_posix()
        rows[number] = ("train" if number <= train else "t10k", label, Item(Path(file).name, label, path))
    return [rows[number] for number in sorted(rows)]


@lru_cache(maxsize=4)
def _cached(path: Path, _stamp: tuple[int, int]) -> np.ndarray:
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        zero, kind, dimensions = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
        if zero or kind != 8:
            raise ValueError("its first bytes are not those of an idx file of bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise MissingError(f"{path} is damaged ({error}). Download it again.") from None


def read_idx(path: Path) -> np.ndarray:
    """The array of an idx file, gzipped or not. Raises MissingError if it is damaged or cut off."""
    stat = path.stat()
    return _cached(path, (stat.st_size, stat.st_mtime_ns))
