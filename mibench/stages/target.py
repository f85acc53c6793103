"""Train the target with a defense."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from safetensors.torch import load_file

from mibench.contracts import ImageSet, Loop, LoopHooks, Recipe, TrainContext
from mibench.nets import build_classifier
from mibench.nets.base import Classifier, parameter_count
from mibench.primitives.training import fit_classifier
from mibench.stages.job import Job, existing, image_set, predict, save_weights
from mibench.weights.initial import load_initial


class _Context(TrainContext):
    """Holds the training images, not the job: nothing here leads to the sealed test split."""

    def __init__(self, job: Job, defense: Any) -> None:
        self._tools, self._defense = job.tools, defense
        self.device, self.track, self.recipe = job.device, job.info, defense.recipe(job.recipe)
        self.stream = job.tools.stream  # type: ignore[method-assign]
        self.load_weights = job.tools.load_weights  # type: ignore[method-assign]
        self.data = job.private_train()
        labelled = job.data.public_labelled()
        self._labelled = job.images(*labelled) if labelled else None
        self._public = job.data.public() if job.data.has_public else None
        self.notes: dict[str, float | str] = {}
        self.protected: list[int] | None = None
        self._wanted = _wanted(job)
        job.seed_weights()  # last: what came before may have used torch's global generator
        self.net = defense.build(self.new_network(job.info.num_classes)).to(job.device)

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Loop:
        return self._tools.loop(name, steps, state)

    def default_train(
        self, recipe: Recipe | None = None, inside: LoopHooks | None = None, name: str = "train"
    ) -> Classifier:
        d, recipe = self._defense, recipe or self.recipe
        nearest = Nearest(self.net, *self._wanted) if self._wanted else None
        if nearest:
            inside = LoopHooks(after_epoch=nearest.consider, state={"nearest": nearest})
        net = fit_classifier(
            net=self.net,
            data=self.data,
            recipe=recipe,
            stream=self.stream,
            loop=self.loop,
            name=name,
            loss=d.loss,
            augment=d.augment,
            sampler=d.sampler,
            inside=inside,
            mix=d.mix,
        )
        if nearest:
            self.note(**nearest.restore())
        return net

    def fit(self, net: Classifier, data: ImageSet, name: str) -> Classifier:
        return fit_classifier(net, data, self.recipe, self.stream, self.loop, name)

    def public(self) -> ImageSet:
        images = image_set(*self._public, self.track.num_classes, self.device) if self._public else None
        return existing(images, self.track.id)

    def public_labelled(self) -> ImageSet | None:
        return self._labelled

    def new_network(self, num_classes: int) -> Classifier:
        track, recipe = self.track, self.recipe
        net = build_classifier(recipe.arch, num_classes, track.channels, track.resolution, track.normalisation)
        if sha256 := load_initial(net, recipe.arch, recipe.initial, self._tools.imported):
            self.note(initial_weights=sha256)
        return net.to(self.device)

    def protects(self, identities: Sequence[int]) -> None:
        self.protected = sorted(set(identities))

    def note(self, **values: float | str) -> None:
        self.notes |= values


def _wanted(job: Job) -> tuple[ImageSet, float] | None:
    """Where a control is to be as accurate as another target: on which images (the sealed ones, as no others are new to
    both), and how accurate that is there."""
    if "utility" not in job.stage.inputs:
        return None
    told = load_file(job.parent("utility")[0] / "logits.safetensors")
    accuracy = float((told["logits"].argmax(1) == told["labels"]).float().mean())
    return job.images(*job.data.private_test(), job.track.private.identities), accuracy


class Nearest:
    """The weights after the epoch in which ``net`` is as accurate on ``data`` as ``wanted``, a fraction, or nearest to
    that; of several such epochs the first."""

    def __init__(self, net: Classifier, data: ImageSet, wanted: float) -> None:
        self._net, self._data, self._wanted = net, data, wanted
        self._epochs, self._stopped, self._accuracy = 0, 0, -1.0
        self._weights = copy.deepcopy(net.state_dict())

    def consider(self, net: Classifier) -> None:
        """``net`` after one more epoch."""
        self._epochs += 1
        told, _ = predict(net.eval(), self._data.images)
        net.train()
        accuracy = float((told.argmax(1) == self._data.labels).float().mean())
        if abs(accuracy - self._wanted) < abs(self._accuracy - self._wanted):
            self._stopped, self._accuracy = self._epochs, accuracy
            self._weights = copy.deepcopy(self._net.state_dict())

    def restore(self) -> dict[str, float]:
        """Give the network these weights; what to note of them."""
        self._net.load_state_dict(self._weights)
        return {
            "stopped_after_epoch": self._stopped,
            "stopped_accuracy": self._accuracy,
            "wanted_accuracy": self._wanted,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self._epochs, "stopped": self._stopped, "accuracy": self._accuracy, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._epochs, self._stopped = int(state["epochs"]), int(state["stopped"])
        self._accuracy, self._weights = float(state["accuracy"]), state["weights"]


def run(job: Job) -> dict[str, Any]:
    """Writes ``model.safetensors``; the result holds the training accuracy (for the memorisation gap) and, where the
    defense noted something, ``notes``, or said whom it protects, ``protected``."""
    defense = job.registry.build("defense", job.stage.plugin, job.stage.params, job.track)
    ctx = _Context(job, defense)
    with job.closed():
        net = defense.train(ctx).eval()
    save_weights(net, job.workdir / "model.safetensors")
    logits, _ = predict(net, ctx.data.images, job.stream("train accuracy"))
    notes = {"notes": ctx.notes} if ctx.notes else {}
    protected = {} if ctx.protected is None else {"protected": ctx.protected}
    return (
        notes
        | protected
        | {
            "train_accuracy": float((logits.argmax(1) == ctx.data.labels).float().mean()),
            "parameters": parameter_count(net),
            "trainable": parameter_count(net, trainable=True),
            "select": ctx.recipe.select,
            "largest_logit": float(logits.abs().max()),
        }
    )
