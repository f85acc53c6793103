"""Train the target with a defense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
        job.seed_weights()  # last: what came before may have used torch's global generator
        self.net = defense.build(self.new_network(job.info.num_classes)).to(job.device)

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Loop:
        return self._tools.loop(name, steps, state)

    def default_train(
        self, recipe: Recipe | None = None, inside: LoopHooks | None = None, name: str = "train"
    ) -> Classifier:
        d, recipe = self._defense, recipe or self.recipe
        return fit_classifier(
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
