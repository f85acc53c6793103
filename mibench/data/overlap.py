"""Private images among the public ones: equal pixels, and what was saved again, resized, relit, mirrored or turned.

An image is compared by 16 x 16 means of its grey values, less their mean and divided by their length: brightness and
contrast do not matter, and the correlation of two images is one product. Of tens of thousands on each side the coarse
means (8 x 8) are multiplied first, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mibench.data import cache
from mibench.data.sets.decoding import Progress

VERSION = 1
COARSE, FINE = 0.997, 0.995
"""Correlations from which two images count as one. Different photos of a person who sits still reach 0.993 at 16 x 16
in the AT&T/ORL faces; the same photo at three quarters of its size and JPEG quality 40 keeps 0.997."""
SHOWN = 5
_ROWS = 1024  # compared at a time: what fits into a processor's cache

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Copy:
    """A private image and a public one; ``equal``: in every pixel."""

    private: str
    public: str
    equal: bool


def between(private: Path, public: Path, progress: Progress | None = None) -> list[Copy]:
    """The private images in the arrays of one folder that are among the public images of another."""
    tell = progress or (lambda what, done, total: None)
    images, names = cache.open_array(public, "public_images"), cache.open_array(public, "public_files")
    coarse, fine = _vectors(images, 8), _vectors(images, 16)
    found: list[Copy] = []
    for split in ("private_train", "private_test"):
        if not (private / f"{split}_images.npy").exists():
            continue
        own, own_names = cache.open_array(private, f"{split}_images"), cache.open_array(private, f"{split}_files")
        for start in range(0, len(own), _ROWS):
            tell("comparing private with public images", start, len(own))
            part = own[start : start + _ROWS]
            for row, other in _matches(part, coarse, fine):
                equal = np.array_equal(part[row], images[other])
                found.append(Copy(str(own_names[start + row]), str(names[other]), equal))
    return found


def sentence(found: list[Copy], track: str) -> str:
    """What is wrong and what to do."""
    equal = sum(copy.equal for copy in found)
    named = "; ".join(f"{copy.private} is {copy.public}" for copy in found[:SHOWN])
    more = f"; and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    return (
        f"{len(found):,} private images of {track!r} are among its public ones ({equal:,} in every pixel, the others "
        f"nearly): {named}{more}. An attacker who has them needs no attack, and every figure would be too high. Take "
        f"them out of the public folder. If they only look alike, say so: `copies: allowed` in a track file, "
        f"--allow-copies for an audit."
    )


def _matches(images: np.ndarray, coarse: Vectors, fine: Vectors) -> Iterator[tuple[int, int]]:
    """(private row, public row) for each of ``images`` (n, C, H, W) that is among the public ones in any position."""
    seen: set[int] = set()
    for turns in range(4):
        for mirrored in (False, True):
            view = np.rot90(images, turns, (2, 3))
            view = view[..., ::-1] if mirrored else view
            near, exact = _vectors(view, 8), _vectors(view, 16)
            for first in range(0, len(coarse), _ROWS):
                block = slice(first, first + _ROWS)
                alike = near @ coarse[block].T
                if alike.max() < COARSE:
                    continue
                rows, others = np.nonzero(alike >= COARSE)
                close = np.einsum("ij,ij->i", exact[rows], fine[block][others]) >= FINE
                for row, other in zip(rows[close].tolist(), others[close].tolist(), strict=True):
                    if row not in seen:
                        seen.add(row)
                        yield row, first + other


def _vectors(images: np.ndarray, side: int) -> Vectors:
    """(n, side * side): means over a grid, centred, of length 1; zeros for an image without content."""
    means = np.empty((len(images), side * side), np.float32)
    rows, columns = (_averages(size, side) for size in images.shape[2:])
    for start in range(0, len(images), 256):
        grey = np.asarray(images[start : start + 256], np.float32).mean(1)
        means[start : start + 256] = (rows @ grey @ columns.T).reshape(len(grey), -1)
    means -= means.mean(1, keepdims=True)
    length = np.linalg.norm(means, axis=1, keepdims=True)
    return np.where(length >= side, means / np.maximum(length, 1e-6), 0).astype(np.float32)


def _averages(size: int, side: int) -> Vectors:
    """(side, size): a row averages its share of ``size`` pixels."""
    edges = np.linspace(0, size, side + 1)
    low, high = edges[:-1, None], edges[1:, None]
    pixels = np.arange(size)
    covered = np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0, None)
    return (covered / (high - low)).astype(np.float32)
