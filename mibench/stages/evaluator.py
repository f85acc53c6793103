"""Train the track's evaluator on private images. It judges reconstructions and is never shown to an attack."""

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
    """Writes ``model.safetensors``. Unless the recipe says ``photos: train``, the evaluator sees the sealed test images
    too: it judges, it is not judged. Accuracies in the result are those of the reading in which it judges."""
    recipe, private = job.track.evaluator, job.track.private.identities
    known: list[tuple[np.ndarray, np.ndarray]] = [job.data.private_train("evaluator")]
    sealed = job.data.private_test("evaluator")
    if recipe.photos == "all":
        known.append(sealed)
    if recipe.classes not in (None, private):
        known.append(_further_classes(job, recipe.classes - private))
    data = _images(job, *(np.concatenate(parts) for parts in zip(*known, strict=True)))
    job.seed_weights()
    net = job.evaluator()
    sha256 = load_initial(net, recipe.arch, recipe.initial, job.tools.imported)
    net.to(job.device)
    fit_classifier(net, data, recipe, job.stream, job.loop, "evaluator")
    save_weights(net, job.workdir / "model.safetensors")
    judge = job.judging(net)
    result: dict[str, Any] = {"accuracy_on_its_training_images": _accuracy(judge, data)}
    if recipe.photos == "train":
        result["accuracy_on_sealed_images"] = _accuracy(judge, _images(job, *sealed))
    return result | ({"notes": {"initial_weights": sha256}} if sha256 else {})


def _images(job: Job, arrays: np.ndarray, labels: np.ndarray) -> ImageSet:
    """As the evaluator takes them."""
    recipe = job.track.evaluator
    images = job.evaluator_inputs(Pixels.of(arrays, job.device))
    truth = torch.from_numpy(np.array(labels)).to(job.device)
    return ImageSet(images, truth, recipe.classes or job.track.private.identities)


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
