"""A defense, and what its training receives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from mibench.contracts.context import Context
from mibench.contracts.loop import LoopHooks
from mibench.contracts.values import Access, Batch, ImageSet, Progress, TrackInfo
from mibench.nets.base import Classifier, Output
from mibench.protocol.params import BaseParams
from mibench.protocol.tracks import RecipeSection as Recipe
from mibench.random import Rng, Stream, Visit


class TrainContext(Context):
    """What ``Defense.train`` receives. ``net`` is what ``Defense.build`` returned, on the device."""

    net: Classifier
    data: ImageSet
    recipe: Recipe

    def default_train(
        self, recipe: Recipe | None = None, inside: LoopHooks | None = None, name: str = "train"
    ) -> Classifier:
        """Train ``net`` on ``data`` with the defense's hooks and the track's recipe, or with ``recipe``. ``inside`` is
        for a defense that has to reach into the loop: see ``mibench.contracts.LoopHooks``. A defense that trains in
        several parts gives each a ``name``."""
        raise NotImplementedError

    def fit(self, net: Classifier, data: ImageSet, name: str) -> Classifier:
        """Train ``net`` with plain cross-entropy and the track's recipe (for example on public images)."""
        raise NotImplementedError

    def public(self) -> ImageSet:
        """The track's public images; label -1 where the person is not known."""
        raise NotImplementedError

    def public_labelled(self) -> ImageSet | None:
        """The track's public images that carry identity labels, or None if it has none."""
        raise NotImplementedError

    def new_network(self, num_classes: int) -> Classifier:
        """A fresh network of the track's target architecture."""
        raise NotImplementedError

    def protects(self, identities: Sequence[int]) -> None:
        """Say that the defense protects these people alone: figures are then shown apart for them too."""
        raise NotImplementedError

    def note(self, **values: float | str) -> None:
        """Store numbers or words with the target's result: a privacy budget, a trapdoor's accuracy."""
        raise NotImplementedError


class DefenseParams(BaseParams):
    """Base of a defense's ``Params``."""

    recipe: dict[str, Any] | None = Field(
        None, description="fields of the track's training recipe and what this defense sets them to"
    )


class Defense:
    """A way to train a classifier so that it leaks less. Every hook has a default: no defense."""

    version: ClassVar[int] = 1
    deviations: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[dict[str, str]] = {}  # packages to import in a hook, and the extra of mibench that brings each
    served: ClassVar[tuple[str, ...]] = ()  # parameters that ``deploy`` alone reads: other values train nothing anew
    against: ClassVar[Access] = Access.WHITE_BOX  # the most that an attacker may see and still meet the defense

    class Params(DefenseParams):
        pass

    def __init__(self, params: Any, track: TrackInfo) -> None:
        self.params = params
        self.track = track

    def recipe(self, recipe: Recipe) -> Recipe:
        """How its targets are trained: the track's recipe, with the changes in ``params.recipe``. Raises UserError for
        a field that a recipe does not have, or a value that it does not take."""
        changes = getattr(self.params, "recipe", None)
        return recipe.changed(changes) if changes else recipe

    def skip(self) -> str | None:
        """A reason why this defense makes no sense on the track, or None."""
        return None

    def build(self, net: Classifier) -> Classifier:
        """Change the fresh network: a bottleneck, frozen layers, another head."""
        return net

    def augment(self, images: Tensor, rng: Visit) -> Tensor:
        """Change training images, after the standard augmentation, per image, on the device. ``rng`` is an ``Rng`` and
        has numbers that belong to an image or to the run as well, the same in every epoch."""
        return images

    def mix(self, batch: Batch, rng: Stream) -> Batch:
        """Change images and labels of a training batch together, after ``augment``: a batch whose images carry the
        label ``labels`` with the weight ``share`` and ``others`` with the rest."""
        return batch

    def sampler(self, labels: Tensor, batch: int, rng: Stream) -> Iterator[Tensor] | None:
        """One epoch of index batches, or None for a shuffled epoch."""
        return None

    def loss(self, batch: Batch, output: Output, progress: Progress) -> Tensor:
        """The training loss, a scalar. Of a mixed batch it is asked twice, about ``labels`` and about ``others``."""
        return functional.cross_entropy(output.logits, batch.labels)

    def train(self, ctx: TrainContext) -> Classifier:
        """The whole training; override only when hooks do not suffice."""
        return ctx.default_train()

    def deploy(self, net: Classifier) -> Classifier:
        """The network as it is served (noise, rounding, purification)."""
        return net

    def adapt(self, images: Tensor, rng: Rng) -> Tensor | None:
        """What an attacker who knows the defense would average gradients over, or None."""
        return None
