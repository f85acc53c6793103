"""The images of a track: decoded once into memory-mapped uint8 arrays, and checked against the pinned split.

Images are (N, C, H, W) uint8, labels (N,) int64. No torch here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

import numpy as np

from mibench.data import cache
from mibench.data.sources import Source
from mibench.errors import MissingError, unknown
from mibench.identity import digest
from mibench.tracks import Track

__all__ = ["TrackData", "check", "fingerprint", "load", "prepare"]

SOURCES = {
    "orl": "mibench.data.orl",
    "synthfaces": "mibench.data.synthfaces",
    "mnist": "mibench.data.mnist",
}

log = logging.getLogger(__name__)

Split = tuple[np.memmap, np.memmap]


@dataclass(frozen=True)
class TrackData:
    """A track's arrays, memory-mapped and read-only. A split's files are opened when it is asked for."""

    folder: Path
    split: str  # the fingerprint of what the arrays were made from

    def private_train(self) -> Split:
        """Images and labels (0 to identities - 1) that a target is trained on."""
        return self._open("private_train")

    def private_test(self) -> Split:
        """The sealed test split, for metrics and evaluators only."""
        return self._open("private_test")

    def public(self) -> Split:
        """Images of other people, shuffled; label -1 where the person is not known (generated images)."""
        return self._open("public")

    def public_labelled(self) -> tuple[np.memmap, np.memmap, int] | None:
        """Un-augmented photos of the public people, labels 0 to k - 1, and k; None if there are none."""
        if not (self.folder / "labelled_images.npy").exists():
            return None
        images, labels = self._open("labelled")
        return images, labels, int(labels.max()) + 1

    def _open(self, name: str) -> Split:
        return cache.open_array(self.folder, f"{name}_images"), cache.open_array(self.folder, f"{name}_labels")


def load(track: Track, home: Path) -> TrackData:
    """The track's arrays, from the cache under ``home``; built first if they are not there or damaged."""
    return prepare(track, home)


def prepare(track: Track, home: Path) -> TrackData:
    """Decode the track's images into ``home/data``, once. Safe against crashes and other processes.

    Raises MissingError if a source is missing, damaged or not the one that the track pins.
    """
    folder = cache_folder(track, home)
    if cache.exists(folder):
        damage = cache.problems(folder)
        if not damage:
            return TrackData(folder, cache.read_index(folder)["meta"]["split"])
        log.warning("The image cache of track %r is damaged and is built again: %s", track.id, " ".join(damage))
    split = fingerprint(track)
    difference = _difference(track, split)
    if difference:
        raise MissingError(difference)
    cache.write(folder, _source(track).build(track), {"track": track.id, "split": split})
    return TrackData(folder, split)


def fingerprint(track: Track) -> str:
    """SHA-256 of the source files' bytes, of the split, and of the recipe of generated and augmented images.

    Not of generated pixels, which may differ in the last bit between machines. Raises MissingError.
    """
    return digest(_source(track).describe(track))


def check(track: Track, home: Path) -> list[str]:
    """What is wrong with the track's sources, split and cached arrays (every byte is read), in sentences."""
    found = _source(track).problems(track)
    if not found:
        difference = _difference(track, fingerprint(track))
        found += [difference] if difference else []
    if track.split or not found:
        folder = cache_folder(track, home)
        if cache.exists(folder):
            damage = cache.problems(folder, contents=True)
            found += [f"{problem} Delete {folder}; the next run builds it again." for problem in damage]
    return found


def cache_folder(track: Track, home: Path) -> Path:
    """Where the track's arrays lie. With a pinned split the name needs no look at the sources."""
    part = track.part("private", "public")
    key = {name: part[name] for name in ("source", "resolution", "channels", "private", "public")}
    return home / "data" / digest(key | {"schema": cache.SCHEMA, "split": track.split or fingerprint(track)})[:32]


def _difference(track: Track, split: str) -> str | None:
    if track.split is None or track.split == split:
        return None
    return (
        f"The data of track {track.id!r} is not the pinned split: expected SHA-256 {track.split}, "
        f"found {split}. Its source package or its section in registry.yaml differs from the published "
        f"protocol. Reinstall the package, or give a changed track its own id and no `split`."
    )


def _source(track: Track) -> Source:
    if track.source not in SOURCES:
        raise unknown("data source", track.source, SOURCES)
    return cast(Source, import_module(SOURCES[track.source]))
