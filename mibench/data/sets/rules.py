"""Orders that published splits depend on: numpy's seeded shuffle and its old quicksort; and our own shuffle by hash."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from mibench.keys import stream_seed

T = TypeVar("T")
_SMALL = 15  # numpy sorts partitions of up to 16 elements by insertion

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""torchvision's ``IMG_EXTENSIONS``."""


def ppa_split(items: Sequence[T], share: float = 0.9, seed: int = 42) -> tuple[list[T], list[T]]:
    """PPA's split: positions shuffled in place by numpy's RandomState, the first ``int(share * n)`` train."""
    order = list(range(len(items)))
    np.random.RandomState(seed).shuffle(order)
    cut = int(share * len(order))
    return [items[i] for i in order[:cut]], [items[i] for i in order[cut:]]


def by_hash(names: Iterable[str], *where: str) -> list[str]:
    """``names`` in an order that depends on nothing but the names: sorted by hash."""
    return sorted(names, key=lambda name: (stream_seed(*where, name), name))


def image_files(folder: Path) -> list[str]:
    """The images below ``folder`` in the order of torchvision's ``ImageFolder``, as paths relative to it."""
    files = []
    for path, _, names in sorted(_walk(folder)):
        files += [Path(path, name).relative_to(folder).as_posix() for name in sorted(names) if is_image(name)]
    return files


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """``os.walk`` that follows links but not in circles. Raises OSError for a folder that cannot be read."""
    for path, folders, names in os.walk(folder, onerror=_refused, followlinks=True):
        here = Path(path).resolve()
        folders[:] = [name for name in folders if not here.is_relative_to(Path(path, name).resolve())]
        yield path, folders, names


def _refused(error: OSError) -> None:
    raise error


def is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_ENDINGS) and not name.startswith(".")


def numpy_argsort(values: np.ndarray) -> list[int]:
    """``numpy.argsort(values)`` as numpy's scalar code does it, ties included: median of three, the larger partition
    later, insertion up to 16 elements. (numpy also falls back to heapsort after 2 log2 n levels, which these counts
    never reach.) Newer versions sort with vector instructions, so that ties depend on the processor."""
    v = values.tolist()
    order = list(range(len(v)))
    stack = [(0, len(v) - 1)]
    while stack:
        left, right = stack.pop()
        while right - left > _SMALL:
            middle = left + ((right - left) >> 1)
            if v[order[middle]] < v[order[left]]:
                order[middle], order[left] = order[left], order[middle]
            if v[order[right]] < v[order[middle]]:
                order[right], order[middle] = order[middle], order[right]
            if v[order[middle]] < v[order[left]]:
                order[middle], order[left] = order[left], order[middle]
            pivot = v[order[middle]]
            i, j = left, right - 1
            order[middle], order[j] = order[j], order[middle]
            while True:
                i += 1
                while v[order[i]] < pivot:
                    i += 1
                j -= 1
                while pivot < v[order[j]]:
                    j -= 1
                if i >= j:
                    break
                order[i], order[j] = order[j], order[i]
            order[i], order[right - 1] = order[right - 1], order[i]
            if i - left < right - i:
                stack.append((i + 1, right))
                right = i - 1
            else:
                stack.append((left, i - 1))
                left = i + 1
        for i in range(left + 1, right + 1):
            moved, j = order[i], i
            while j > left and v[moved] < v[order[j - 1]]:
                order[j] = order[j - 1]
                j -= 1
            order[j] = moved
    return order
