"""The training loop of targets and evaluators, and the resumable loop that every trainer uses."""

from __future__ import annotations

import copy
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from mibench import stopping
from mibench.augment import mirror, resized_crop, shift_flip_warp
from mibench.contracts import Batch, Context, ImageSet, Progress
from mibench.errors import StageFailed
from mibench.identity import stream_seed
from mibench.nets.base import Classifier, Output
from mibench.photometric import colour_jitter
from mibench.random import Stream, Visit
from mibench.store.state import load_state, save_state
from mibench.tracks import RecipeSection as Recipe

__all__ = [
    "Loop",
    "LoopHooks",
    "Recipe",
    "fit_classifier",
    "fit_student",
    "make_optimiser",
    "pack",
    "shuffled",
    "standard_augmentation",
    "steps_per_epoch",
    "unpack",
]

VALIDATED = 1024  # validation images at once

# How often a loop saves its state; tests and machines that take jobs away at short notice set the variable.
CHECKPOINT_SECONDS = float(os.environ.get("MIBENCH_CHECKPOINT_SECONDS") or 20)


class Reporter(Protocol):
    """Who hears about progress."""

    def __call__(self, step: int, steps: int, loss: float | None, name: str) -> None: ...


class Loop:
    """The steps of a training loop: reports progress, refuses a loss that is not finite, saves state to resume from.

    Everything random inside step ``i`` must come from streams named after ``i`` (torch's global generator is seeded
    with it and ``seed``), so that ``state``, networks and optimisers, is all that a resumed loop needs to give the
    same numbers.
    """

    def __init__(
        self,
        name: str,
        steps: int,
        state: dict[str, Any],
        folder: Path | None,
        reporter: Reporter | None,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.steps = steps
        self._state = state
        self._folder = folder / f"state-{name}" if folder else None
        self._reporter = reporter
        self._seed = seed
        self._loss: Tensor | None = None
        self._step = 0

    def report(self, loss: Tensor) -> None:
        """Tell the loop this step's loss, a scalar. Raises StageFailed at the step where it is not finite."""
        self._loss = loss.detach()
        if self._loss.device.type == "cpu" or self._step % 20 == 0:
            self._check()

    def _check(self) -> None:
        if self._loss is not None and not math.isfinite(value := float(self._loss)):
            raise StageFailed(f"The loss of {self.name!r} became {value} at step {self._step} of {self.steps}.")

    def __iter__(self) -> Iterator[int]:
        start = self._resume()
        saved = told = time.monotonic()
        for step in range(start, self.steps):
            self._step = step
            torch.manual_seed(stream_seed(self.name, self._seed, step))  # dropout, whatever came before
            yield step
            now = time.monotonic()
            if stopping.asked() and step + 1 < self.steps:
                self._check()
                if self._folder:
                    self._save(step + 1)
                raise stopping.Stopped
            if self._reporter and (now - told > 0.25 or step + 1 == self.steps):
                told = now
                self._reporter(step + 1, self.steps, None if self._loss is None else float(self._loss), self.name)
            if self._folder and now - saved > CHECKPOINT_SECONDS:
                saved = now
                self._check()
                self._save(step + 1)
        self._check()
        torch.manual_seed(stream_seed(self.name, self._seed, self.steps))  # the same after a resumed loop
        if self._folder:
            self._save(self.steps)

    def _save(self, step: int) -> None:
        assert self._folder is not None
        save_state(self._folder, step, {name: item.state_dict() for name, item in self._state.items()})

    def _resume(self) -> int:
        found = load_state(self._folder) if self._folder else None
        if found is None:
            return 0
        step, tree = found
        for name, item in self._state.items():
            item.load_state_dict(tree[name])
        return step


def shuffled(count: int, batch: int, rng: Stream, smallest: int = 2) -> Iterator[Tensor]:
    """One epoch of index batches in random order; a last batch of fewer than ``smallest`` is left out."""
    for indices in rng.permutation(count).split(batch):
        if len(indices) >= smallest:
            yield indices


LossFunction = Callable[[Batch, Output, Progress], Tensor]
Sampler = Callable[[Tensor, int, Stream], Iterator[Tensor] | None]
Optimisation = tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]


@dataclass(frozen=True)
class LoopHooks:
    """What a defense may change inside the loop beyond its usual hooks; a field left out changes nothing.

    objective: (net, batch, rng, progress) -> the scalar to minimise, in place of the loss of one forward pass.
    optimiser: wraps the recipe's optimiser; ``zero_grad`` and ``step`` are called on what it returns.
    sampler: in place of the defense's; its batches may have any size, also 0 where ``objective`` knows what to do.
    state: what else changes in a step, by name (anything with ``state_dict``): resumed, and kept with the best epoch.
    """

    objective: Callable[[Classifier, Batch, Stream, Progress], Tensor] | None = None
    optimiser: Callable[[torch.optim.Optimizer], torch.optim.Optimizer] | None = None
    sampler: Sampler | None = None
    state: Mapping[str, Any] = field(default_factory=dict)


def plain_loss(batch: Batch, output: Output, progress: Progress) -> Tensor:
    """Cross-entropy, the mean over the batch; plus that of an auxiliary head, if the network has one."""
    loss = functional.cross_entropy(output.logits, batch.labels)
    return loss + functional.cross_entropy(output.hidden["aux"], batch.labels) if "aux" in output.hidden else loss


def steps_per_epoch(recipe: Recipe, images: int) -> int:
    """Batches in an epoch of so many training images."""
    return images // recipe.batch if recipe.drop_last else math.ceil(images / recipe.batch)


def make_optimiser(net: nn.Module, recipe: Recipe, steps: int) -> Optimisation:
    """The recipe's optimiser over what trains in ``net``, and its schedule, to be advanced every step."""
    trainable = [p for p in net.parameters() if p.requires_grad]
    shared: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    optimiser: torch.optim.Optimizer
    if recipe.optimiser == "sgd":
        optimiser = torch.optim.SGD(trainable, momentum=recipe.momentum, nesterov=recipe.nesterov, **shared)
    else:
        optimiser = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[recipe.optimiser](trainable, **shared)
    if recipe.schedule == "one_cycle":
        return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=recipe.lr, total_steps=steps)

    def factor(step: int) -> float:
        epoch = step * recipe.epochs // steps
        return float(recipe.gamma ** sum(epoch >= milestone for milestone in recipe.milestones))

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def standard_augmentation(images: Tensor, rng: Stream, recipe: Recipe) -> Tensor:
    """What the recipe does to training images before a defense does: either crop, colour jitter and mirror, in this
    order (PPA's recipe), or shift, turn, zoom, light and mirror."""
    if not (recipe.crop or recipe.jitter):
        return shift_flip_warp(images, rng, recipe.shift, recipe.flip, recipe.rotate, recipe.scale, recipe.light)
    if recipe.crop:
        images = resized_crop(images, rng, recipe.crop)
    if recipe.jitter:
        images = colour_jitter(images, rng, recipe.jitter)
    return mirror(images, rng) if recipe.flip else images


def fit_classifier(
    net: Classifier,
    data: ImageSet,
    recipe: Recipe,
    stream: Callable[[str], Stream],
    loop: Callable[[str, int, dict[str, Any]], Loop],
    name: str,
    loss: LossFunction = plain_loss,
    augment: Callable[[Tensor, Visit], Tensor] | None = None,
    sampler: Sampler | None = None,
    inside: LoopHooks | None = None,
) -> Classifier:
    """Train ``net`` in place with the recipe's optimiser and schedule, standard augmentation, then ``augment``.

    The last weights are kept. With ``recipe.select == "best"``, ``validation_per_identity`` training images of each
    identity are held out and the weights of the best epoch on them are kept; the test split plays no part.
    """
    inside = inside or LoopHooks()
    sampler = inside.sampler or sampler
    train, validation = _split_validation(data, recipe, stream)
    steps = recipe.epochs * steps_per_epoch(recipe, len(train))
    smallest = recipe.batch if recipe.drop_last else 2  # batch norm takes no single image
    optimiser, schedule = make_optimiser(net, recipe, steps)
    best = _Best(net, validation, inside.state) if recipe.select == "best" else None
    state = {"net": net, "optimiser": optimiser, "schedule": schedule} | ({"best": best} if best else {})
    state |= inside.state
    if inside.optimiser:
        optimiser = inside.optimiser(optimiser)
    images_seed = int(stream(f"{name}.images").integers(2**62, 1)) if augment else 0

    def epoch(index: int) -> Iterator[Tensor]:
        rng = stream(f"{name}.order.{index}")
        own = sampler(train.labels, recipe.batch, rng) if sampler else None
        return own if own is not None else shuffled(len(train), recipe.batch, rng, smallest)

    def endless() -> Iterator[Tensor]:
        for index in itertools.count():
            rest = iter(epoch(index))
            if (first := next(rest, None)) is None:
                raise StageFailed(f"An epoch of {len(train)} images has no batch of {recipe.batch}.")
            yield first
            yield from rest

    batches = endless()
    running = loop(name, steps, state)
    net.train()
    position = 0
    for step in running:
        indices = next(itertools.islice(batches, step - position, None))
        position = step + 1
        rng = stream(f"{name}.augment.{step}")
        images = standard = standard_augmentation(train.images[indices], rng, recipe)
        if augment:
            images = augment(images, Visit(rng, images_seed, indices))
        batch = Batch(images, train.labels[indices], standard)
        progress = Progress(step * recipe.epochs // steps, recipe.epochs, step, steps)
        if inside.objective:
            value = inside.objective(net, batch, rng, progress)
        else:
            value = loss(batch, net(batch.images, rng), progress)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()
        schedule.step()
        running.report(loss=value)
        if best and (step + 1) * recipe.epochs // steps > progress.epoch:
            best.consider()
    if best:
        best.restore()
    return net.eval()


def fit_student(
    ctx: Context,
    name: str,
    net: nn.Module,
    steps: int,
    loss: Callable[[int, Stream], Tensor],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> nn.Module:
    """Train a network of an attack's own (a student, a surrogate, an inverse map) in place; eval mode, frozen.

    ``loss(step, rng)`` is the scalar of one step, everything random from ``rng``. ``schedule`` advances every step.
    """
    state = {"net": net, "optimiser": optimiser} | ({"schedule": schedule} if schedule else {})
    loop = ctx.loop(name, steps, state)
    net.train()
    for step in loop:
        value = loss(step, ctx.stream(f"{name}.{step}"))
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()
        if schedule:
            schedule.step()
        loop.report(loss=value)
    return net.eval().requires_grad_(False)


def pack(**nets: nn.Module) -> dict[str, Tensor]:
    """The tensors of several networks, by name, as an attack's artefact."""
    return {f"{name}/{key}": value for name, net in nets.items() for key, value in net.state_dict().items()}


def unpack(net: nn.Module, artifact: Mapping[str, Tensor], name: str) -> nn.Module:
    """Fill ``net`` with what ``pack`` stored under ``name``; eval mode, frozen."""
    start = f"{name}/"
    net.load_state_dict({key.removeprefix(start): value for key, value in artifact.items() if key.startswith(start)})
    return net.eval().requires_grad_(False)


def _split_validation(
    data: ImageSet, recipe: Recipe, stream: Callable[[str], Stream]
) -> tuple[ImageSet, ImageSet | None]:
    if recipe.select != "best":
        return data, None
    held = torch.zeros(len(data), dtype=torch.bool, device=data.labels.device)
    rng = stream("validation")
    for label in range(data.num_classes):
        own = (data.labels == label).nonzero().flatten()
        held[own[rng.permutation(len(own))[: recipe.validation_per_identity]]] = True
    return (
        data.subset(~held),
        data.subset(held),
    )


class _Best:
    """The weights that did best on validation images, and with them the state of ``others`` by name."""

    def __init__(self, net: Classifier, validation: ImageSet | None, others: Mapping[str, Any] | None = None) -> None:
        if validation is None or not len(validation):
            raise StageFailed("A recipe that selects the best epoch needs validation_per_identity >= 1.")
        self._net, self._data, self._others = net, validation, others or {}
        self._accuracy = -1.0
        self._keep()

    def _keep(self) -> None:
        self._weights = copy.deepcopy(self._net.state_dict())
        self._other_states = {name: copy.deepcopy(item.state_dict()) for name, item in self._others.items()}

    @torch.no_grad()
    def consider(self) -> None:
        self._net.eval()
        predicted = torch.cat([self._net(part).logits.argmax(1) for part in self._data.images.split(VALIDATED)])
        self._net.train()
        accuracy = float((predicted == self._data.labels).float().mean())
        if accuracy > self._accuracy:
            self._accuracy = accuracy
            self._keep()

    def restore(self) -> None:
        self._net.load_state_dict(self._weights)
        for name, item in self._others.items():
            item.load_state_dict(self._other_states[name])

    def state_dict(self) -> dict[str, Any]:
        return {"accuracy": self._accuracy, "weights": self._weights, "others": self._other_states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._accuracy, self._weights, self._other_states = state["accuracy"], state["weights"], state["others"]
