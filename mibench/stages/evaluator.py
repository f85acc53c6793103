"""Train the track's evaluator on all private images. It judges reconstructions and is never shown to an attack."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mibench.contracts import ImageSet
from mibench.errors import MissingError
from mibench.images.pixels import Pixels
from mibench.nets.base import Classifier
from mibench.primitives.training import fit_classifier
from mibench.stages.job import Job, predict, save_weights
from mibench.weights.initial import load_initial


def run(job: Job) -> dict[str, Any]:
    """Writes ``model.safetensors``. The evaluator sees the sealed test images too: it judges, it is not judged."""
    recipe, private = job.track.evaluator, job.track.private.identities
    splits: list[tuple[np.ndarray, np.ndarray]] = [
        job.data.private_train("evaluator"),
        job.data.private_test("evaluator"),
    ]
    if recipe.classes not in (None, private):
        splits.append(_further_classes(job, recipe.classes - private))
    arrays, labels = (np.concatenate(parts) for parts in zip(*splits, strict=True))
    images = job.evaluator_inputs(Pixels.of(arrays, job.device))
    data = ImageSet(images, torch.from_numpy(labels).to(job.device), recipe.classes or private)
    job.seed_weights()
    net = job.evaluator()
    sha256 = load_initial(net, recipe.arch, recipe.initial, job.tools.imported)
    net.to(job.device)
    fit_classifier(net, data, recipe, job.stream, job.loop, "evaluator")
    save_weights(net, job.workdir / "model.safetensors")
    notes = {"notes": {"initial_weights": sha256}} if sha256 else {}
    return notes | {"accuracy_on_its_training_images": _accuracy(job.judging(net), data)}


def _accuracy(net: Classifier, data: ImageSet) -> float:
    logits, _ = predict(net, data.images)
    return float((logits.argmax(1) == data.labels).float().mean())


def _further_classes(job: Job, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The public people's photos, their labels after the private ones. Raises MissingError if not so many are known."""
    images, labels = job.data.public()
    if set(np.unique(labels)) != set(range(count)):
        raise MissingError(
            f"The evaluator of track {job.track.id!r} knows {job.track.evaluator.classes} classes, but the public "
            f"images are not of {count} people with labels 0 to {count - 1}. Remove evaluator.classes, or prepare the "
            f"data again."
        )
    return images, job.track.private.identities + labels
