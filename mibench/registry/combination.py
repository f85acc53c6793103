"""Several defenses in one target: ``re+bido``. A row of its own, with an id of its own.

What may be combined: ``mibench.protocol.methods.combined``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from mibench.contracts import Batch, Classifier, Defense, Output, Progress, Rng, Stream, TrainContext, Visit
from mibench.protocol.methods import ONE_OF
from mibench.protocol.tracks import RecipeSection as Recipe


class Combined(Defense):
    """Networks are built, images augmented and targets served by one part after the other; the loss, the sampler, the
    mixing and the training are those of the part that has its own. Where a part trains networks of its own (a
    pretraining), the others take no part in it."""

    def __init__(self, parts: Sequence[Defense]) -> None:
        super().__init__(None, parts[0].track)
        self.parts = tuple(parts)

    def _first(self, hook: str) -> Defense:
        return next((part for part in self.parts if hook in brings(type(part))), self.parts[0])

    def recipe(self, recipe: Recipe) -> Recipe:
        for part in self.parts:
            recipe = part.recipe(recipe)
        return recipe

    def skip(self) -> str | None:
        return next((reason for part in self.parts if (reason := part.skip())), None)

    def build(self, net: Classifier) -> Classifier:
        for part in self.parts:
            net = part.build(net)
        return net

    def augment(self, images: Tensor, rng: Visit) -> Tensor:
        for part in self.parts:
            images = part.augment(images, rng)
        return images

    def mix(self, batch: Batch, rng: Stream) -> Batch:
        return self._first("mix").mix(batch, rng)

    def sampler(self, labels: Tensor, batch: int, rng: Stream) -> Iterator[Tensor] | None:
        return self._first("sampler").sampler(labels, batch, rng)

    def loss(self, batch: Batch, output: Output, progress: Progress) -> Tensor:
        return self._first("loss").loss(batch, output, progress)

    def train(self, ctx: TrainContext) -> Classifier:
        return self._first("train").train(ctx)

    def deploy(self, net: Classifier) -> Classifier:
        for part in self.parts:
            net = part.deploy(net)
        return net

    def adapt(self, images: Tensor, rng: Rng) -> Tensor | None:
        changed = None
        for part in self.parts:
            adapted = part.adapt(images if changed is None else changed, rng)
            changed = changed if adapted is None else adapted
        return changed


def adapts(defense: Defense) -> bool:
    """Whether the defense, or a part of it, says what an adaptive attacker would average over."""
    if isinstance(defense, Combined):
        return any(adapts(part) for part in defense.parts)
    return type(defense).adapt is not Defense.adapt


def brings(cls: type[Defense]) -> tuple[str, ...]:
    """Which of the hooks that only one defense can have the class overrides."""
    return tuple(hook for hook in ONE_OF if getattr(cls, hook) is not getattr(Defense, hook))
