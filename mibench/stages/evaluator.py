"""Train the track's evaluator on all private images. It judges reconstructions and is never shown to an attack."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mibench.contracts import ImageSet
from mibench.images.pixels import Pixels
from mibench.primitives.training import fit_classifier
from mibench.stages.job import Job, predict, save_weights
from mibench.weights.initial import load_initial


def run(job: Job) -> dict[str, Any]:
    """Writes ``model.safetensors``. The evaluator sees the sealed test images too: it judges, it is not judged."""
    splits = [job.data.private_train("evaluator"), job.data.private_test("evaluator")]
    arrays, labels = (np.concatenate(parts) for parts in zip(*splits, strict=True))
    images = job.evaluator_inputs(Pixels.of(arrays, job.device))
    data = ImageSet(images, torch.from_numpy(labels).to(job.device), job.track.private.identities)
    job.seed_weights()
    recipe = job.track.evaluator
    net = job.evaluator()
    sha256 = load_initial(net, recipe.arch, recipe.initial, job.tools.imported)
    net.to(job.device)
    fit_classifier(net, data, recipe, job.stream, job.loop, "evaluator")
    save_weights(net, job.workdir / "model.safetensors")
    logits, _ = predict(net, images)
    notes = {"notes": {"initial_weights": sha256}} if sha256 else {}
    return notes | {"accuracy_on_its_training_images": float((logits.argmax(1) == data.labels).float().mean())}
