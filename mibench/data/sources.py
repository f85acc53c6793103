"""What the data sources share: finding packages without importing them, fixed shuffles, hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from mibench.errors import UserError
from mibench.keys import stream_seed
from mibench.protocol.tracks import Track

Arrays = dict[str, np.ndarray]
"""A source's result: ``<split>_images`` uint8 (N, C, H, W) and ``<split>_labels`` int64 (N,) for each of
``private_train``, ``private_test``, ``public`` and, where public people are known, ``labelled``."""


class Source(Protocol):
    """A module of this package that provides a track's images."""

    def describe(self, track: Track) -> dict[str, Any]:
        """Source hashes, split and recipe: what the fingerprint covers. Raises MissingError."""

    def build(self, track: Track) -> Arrays: ...

    def problems(self, track: Track) -> list[str]:
        """What is missing or damaged, in sentences."""


class Counts(NamedTuple):
    """How many identities, images of each and public images a track asks its source for."""

    identities: int
    train: int
    test: int
    public: int


def counts(track: Track) -> Counts:
    """The track's counts, which a source that comes with a package needs. Raises UserError if one is not given."""
    private, public = track.private, track.public
    if private.train_per_identity is None or private.test_per_identity is None or public.images is None:
        raise UserError(
            f"Track {track.id!r} needs private.train_per_identity, private.test_per_identity and public.images: its "
            f"source {track.source!r} does not say how many. Add them in registry.yaml."
        )
    return Counts(private.identities, private.train_per_identity, private.test_per_identity, public.images)


def package_folder(name: str) -> Path | None:
    """Where an installed package lies, without importing it; None if it is not installed."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def shuffled(items: Iterable[int], *name: str | int) -> list[int]:
    """``items`` in an order given by ``name`` alone: sorted by hash, which no library's update can change."""
    return sorted(items, key=lambda item: stream_seed(*name, item))


def at_most(track: Track, what: str, wanted: int, available: int) -> None:
    """Refuse a track that asks more of its source than there is."""
    if wanted > available:
        raise UserError(
            f"Track {track.id!r} asks for {wanted} {what}, but its source {track.source!r} has {available}. "
            f"Lower the track's counts in registry.yaml."
        )


def one_channel(track: Track) -> None:
    """Refuse a track that asks a grey source for colour."""
    if track.channels != 1:
        raise UserError(
            f"Track {track.id!r} asks for {track.channels} channels, but its source {track.source!r} is "
            f"grey. Set `channels: 1` in registry.yaml."
        )


def nothing_generated(track: Track) -> None:
    """Refuse ``generated_share`` where the source has no public generator."""
    if track.public.generated_share:
        raise UserError(
            f"Track {track.id!r} sets `generated_share`, but its source {track.source!r} has no public "
            f"generator. Remove it from registry.yaml."
        )


def stack(images: Sequence[np.ndarray]) -> np.ndarray:
    """(H, W) uint8 images to one (N, 1, H, W) array."""
    return np.stack(images)[:, None]
