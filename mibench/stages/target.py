"""Train the target with a defense."""

from __future__ import annotations

from typing import Any

from mibench.contracts import ImageSet, TrainContext
from mibench.nets import build_classifier
from mibench.nets.base import Classifier, parameter_count
from mibench.stages.job import Job, predict, save_weights
from mibench.training import Loop, fit_classifier


class _Context(TrainContext):
    """Holds the training images, not the job: nothing here leads to the sealed test split."""

    def __init__(self, job: Job, defense: Any) -> None:
        self._tools, self._defense = job.tools, defense
        self.device, self.track, self.recipe = job.device, job.info, job.recipe
        self.stream = job.tools.stream  # type: ignore[method-assign]
        self.load_weights = job.tools.load_weights  # type: ignore[method-assign]
        self.data = job.private_train()
        labelled = job.data.public_labelled()
        self._public = job.images(*labelled) if labelled else None
        job.seed_weights()  # last: what came before may have used torch's global generator
        self.net = defense.build(self.new_network(job.info.num_classes)).to(job.device)

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Loop:
        return self._tools.loop(name, steps, state)

    def default_train(self) -> Classifier:
        d = self._defense
        return fit_classifier(
            self.net, self.data, self.recipe, self.stream, self.loop, "train", d.loss, d.augment, d.sampler
        )

    def fit(self, net: Classifier, data: ImageSet, name: str) -> Classifier:
        return fit_classifier(net, data, self.recipe, self.stream, self.loop, name)

    def public_labelled(self) -> ImageSet | None:
        return self._public

    def new_network(self, num_classes: int) -> Classifier:
        net = build_classifier(self.recipe.arch, num_classes, self.track.channels, self.track.resolution)
        return net.to(self.device)


def run(job: Job) -> dict[str, Any]:
    """Writes ``model.safetensors``; the result holds the training accuracy (for the memorisation gap)."""
    defense = job.registry.build("defense", job.stage.plugin, job.stage.params, job.track)
    ctx = _Context(job, defense)
    net = defense.train(ctx).eval()
    save_weights(net, job.workdir / "model.safetensors")
    logits, _ = predict(net, ctx.data.images, job.stream("train accuracy"))
    return {
        "train_accuracy": float((logits.argmax(1) == ctx.data.labels).float().mean()),
        "parameters": parameter_count(net),
        "trainable": parameter_count(net, trainable=True),
        "select": job.recipe.select,
        "largest_logit": float(logits.abs().max()),
    }
