"""What a study needs from the store: reconstructions of runs, photos of private people, and who looks like whom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mibench.data import TrackData, load
from mibench.errors import MissingError, UserError
from mibench.protocol.tracks import Track
from mibench.records import RunRecord
from mibench.registry import Registry
from mibench.running.recording import image_file
from mibench.store.artifacts import Store
from mibench.study.design import LOOKALIKES, ImageRef, Person, Subject, order_photos


@dataclass
class Album:
    """Where the bytes of each image are: the file of a reconstruction, or a track's arrays and an index."""

    files: dict[ImageRef, Path] = field(default_factory=dict)
    arrays: dict[ImageRef, tuple[NDArray[np.uint8], int]] = field(default_factory=dict)

    def png(self, source: ImageRef) -> bytes:
        """The image as a PNG without metadata. All images of a study are written alike, so that neither their size
        nor their headers tell a reconstruction from a photo."""
        if source in self.arrays:
            images, index = self.arrays[source]
            pixels = np.asarray(images[index])
            picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        else:
            with Image.open(self.files[source]) as stored:
                picture = Image.fromarray(np.asarray(stored))
        out = BytesIO()
        picture.save(out, "PNG", optimize=False, compress_level=9)
        return out.getvalue()


def subject(store: Store, record: RunRecord, album: Album) -> Subject:
    """A run's reconstructions by identity. Raises MissingError if their files are not in the store."""
    images: dict[int, list[ImageRef]] = defaultdict(list)
    for entry in sorted(record.images, key=lambda entry: (int(entry["label"]), int(entry["index"]))):
        path = image_file(store, record, entry)
        if path is None:
            raise MissingError(
                f"The reconstructions of run {record.run} ({record.name}) are not in this store. Type: {record.command}"
            )
        source = ImageRef(record.run, str(entry["file"]))
        album.files[source] = path
        images[int(entry["label"])].append(source)
    if not images:
        raise UserError(f"Run {record.run} ({record.name}) has no reconstructions to judge.")
    return Subject(record.run, record.name, record.track, images)


def people(
    registry: Registry, store: Store, record: RunRecord, labels: Sequence[int], seed: int, album: Album
) -> dict[int, Person]:
    """The private people of the run's track, with photos of both splits and the five who look most alike to the
    track's evaluator: nearest by the distance of their mean features. None look alike where there are fewer."""
    track = registry.track(record.track)
    if track.version != record.track_version:
        raise UserError(
            f"Run {record.run} is of version {record.track_version} of track {record.track!r}, this registry has "
            f"version {track.version}."
        )
    data = load(track, store.home)
    photos = {split: _photos(track, data, split, album) for split in ("train", "test")}
    persons = {}
    nearest = _lookalikes(registry, store, record, track, data, labels)
    for label in labels:
        person = order_photos(track.id, label, photos["train"][label], photos["test"][label], seed)
        persons[label] = Person(person.photos, nearest.get(label, ()))
    return persons


def _photos(track: Track, data: TrackData, split: str, album: Album) -> dict[int, list[ImageRef]]:
    images, labels = data.private_train() if split == "train" else data.private_test()
    by_label: dict[int, list[ImageRef]] = defaultdict(list)
    for index, label in enumerate(np.asarray(labels).tolist()):
        source = ImageRef(f"{track.id}/{split}", f"{index}.png")
        album.arrays[source] = images, index
        by_label[label].append(source)
    return by_label


def _lookalikes(
    registry: Registry, store: Store, record: RunRecord, track: Track, data: TrackData, labels: Sequence[int]
) -> dict[int, tuple[int, ...]]:
    """Of each label the ``LOOKALIKES`` nearest others among ``labels``, sorted by label so that the order says
    nothing; empty if there are not so many others."""
    if len(labels) <= LOOKALIKES:
        return {}
    features, of = _features(registry, store, record, track, data)
    means = np.stack([features[of == label].mean(0) for label in labels])
    return nearest_others(means, labels, LOOKALIKES)


def nearest_others(means: NDArray[np.float64], labels: Sequence[int], count: int) -> dict[int, tuple[int, ...]]:
    """``means`` (I, F) in the order of ``labels``; by Euclidean distance, of equal ones the lower label."""
    distances = ((means[:, None] - means[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return {label: tuple(sorted(labels[i] for i in row)) for label, row in zip(labels, order.tolist(), strict=True)}


def _features(
    registry: Registry, store: Store, record: RunRecord, track: Track, data: TrackData
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    import torch

    from mibench.images.pixels import Pixels
    from mibench.nets import build_classifier
    from mibench.stages.job import load_weights, predict

    key = next(stage.key for stage in record.stages if stage.kind == "evaluator")
    if store.manifest("evaluator", key, verify=True) is None:
        raise MissingError(
            f"The evaluator of run {record.run}, which finds look-alikes, is not in this store. Type: {record.command}"
        )
    recipe, side = track.evaluator, track.evaluator.resolution or track.resolution
    net = build_classifier(recipe.arch, track.private.identities, track.channels, side, track.normalisation)
    load_weights(net, store.path("evaluator", key) / "model.safetensors")
    images, labels = data.private_train("evaluator")
    _, features = predict(net.eval(), Pixels.of(images, torch.device("cpu")).resized(side, recipe.resize))
    return features.double().numpy(), np.asarray(labels)
