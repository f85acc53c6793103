"""How networks are trained: the loop of targets and evaluators, that of an attack's own networks, one step of any."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mibench.contracts import Batch, Context, ImageSet, Loop, LoopHooks, PriorContext, Progress, Recipe
from mibench.contracts.loop import Sampler
from mibench.errors import StageFailed
from mibench.images.augment import mirror, resized_crop, shift_flip_warp
from mibench.images.colour import colour_jitter
from mibench.nets.base import Classifier, Output
from mibench.nets.frozen import frozen, laid_out
from mibench.random import Stream, Visit

VALIDATED = 1024  # validation images at once


def shuffled(count: int, batch: int, rng: Stream, smallest: int = 2) -> Iterator[Tensor]:
    """One epoch of index batches in random order; a last batch of fewer than ``smallest`` is left out."""
    for indices in rng.permutation(count).split(batch):
        if len(indices) >= smallest:
            yield indices


class Epochs:
    """The batches of a method that goes through ``count`` images epoch after epoch, each in an order of its own, and
    leaves incomplete batches out. ``stream`` names its random numbers; nothing is remembered that a resumed run lacks.
    """

    def __init__(self, stream: Callable[[str], Stream], name: str, count: int, batch: int) -> None:
        self._stream, self._name, self._count, self._batch = stream, name, count, min(batch, count)
        self._epoch = -1

    def __call__(self, step: int) -> Tensor:
        """(B,) indices of the batch of ``step``, a number from 0."""
        epoch, place = divmod(step, self._count // self._batch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = self._stream(f"{self._name}.order.{epoch}").permutation(self._count)
        return self._order[place * self._batch : (place + 1) * self._batch]


Batches = Literal["replacement", "epochs"]


def public_batches(ctx: PriorContext, kind: Batches, batch: int, name: str) -> Callable[[int, Stream], Tensor]:
    """How a GAN draws public images: ``(step, rng)`` gives the indices of a batch, by themselves from ``rng``
    ("replacement") or the next ones of an epoch of their own ("epochs")."""
    if kind == "replacement":
        return lambda step, rng: rng.integers(len(ctx.public), batch)
    epochs = Epochs(ctx.stream, name, len(ctx.public), batch)
    return lambda step, rng: epochs(step)


LossFunction = Callable[[Batch, Output, Progress], Tensor]
Optimisation = tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]


def mixed(loss: LossFunction, batch: Batch, output: Output, progress: Progress) -> Tensor:
    """share L(labels) + (1 - share) L(others): the loss of a batch that ``Defense.mix`` mixed; of any other, L(labels).
    Scalars."""
    value = loss(batch, output, progress)
    if batch.others is None:
        return value
    return batch.share * value + (1 - batch.share) * loss(replace(batch, labels=batch.others), output, progress)


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


def descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of ``optimiser`` down the gradient of ``loss``, a scalar."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def in_order(
    critic: nn.Module, real: tuple[Tensor, ...], fake: tuple[Tensor, ...], fakes_first: bool
) -> tuple[Any, Any]:
    """What ``critic`` says of reals and of fakes, in this order whichever it sees first: a network that changes while
    it looks (spectral normalisation) is asked in the order of the method."""
    if fakes_first:
        generated = critic(*fake)
        return critic(*real), generated
    return critic(*real), critic(*fake)


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
    mix: Callable[[Batch, Stream], Batch] | None = None,
) -> Classifier:
    """Train ``net`` in place with the recipe's optimiser and schedule, standard augmentation, then ``augment``, then
    ``mix``.

    The last weights are kept. With ``recipe.select == "best"``, ``validation_per_identity`` training images of each
    identity are held out and the weights of the best epoch on them are kept; the test split plays no part.
    """
    inside = inside or LoopHooks()
    train, validation = _split_validation(data, recipe, stream)
    steps = recipe.epochs * steps_per_epoch(recipe, len(train))
    optimiser, schedule = make_optimiser(net, recipe, steps)
    best = _Best(net, validation, inside.state) if recipe.select == "best" else None
    state = {"net": net, "optimiser": optimiser, "schedule": schedule} | ({"best": best} if best else {})
    state |= inside.state
    if inside.optimiser:
        optimiser = inside.optimiser(optimiser)
    images_seed = int(stream(f"{name}.images").integers(2**62, 1)) if augment else 0
    batches = _batches(train, recipe, stream, name, inside.sampler or sampler)
    running = loop(name, steps, state)
    if not inside.optimiser:  # whose own arithmetic on gradients may ask for the usual layout, as Opacus's does
        laid_out(net)
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
        if mix and len(indices):
            batch = mix(batch, stream(f"{name}.mix.{step}"))
        progress = Progress(step * recipe.epochs // steps, recipe.epochs, step, steps)
        if inside.objective:
            value = inside.objective(net, batch, rng, progress)
        else:
            value = mixed(loss, batch, net(batch.images, rng), progress)
        descend(optimiser, value)
        schedule.step()
        running.report(loss=value)
        if (step + 1) * recipe.epochs // steps > progress.epoch:
            if best:
                best.consider()
            if inside.after_epoch:
                inside.after_epoch(net)
    if best:
        best.restore()
    return net.eval()


def _batches(
    train: ImageSet, recipe: Recipe, stream: Callable[[str], Stream], name: str, sampler: Sampler | None
) -> Iterator[Tensor]:
    """Index batches, epoch after epoch, without end. Raises StageFailed for an epoch that has none."""
    smallest = recipe.batch if recipe.drop_last else 2  # batch norm takes no single image
    for epoch in itertools.count():
        rng = stream(f"{name}.order.{epoch}")
        own = sampler(train.labels, recipe.batch, rng) if sampler else None
        batches = iter(own if own is not None else shuffled(len(train), recipe.batch, rng, smallest))
        if (first := next(batches, None)) is None:
            raise StageFailed(f"An epoch of {len(train)} images has no batch of {recipe.batch}.")
        yield first
        yield from batches


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
    laid_out(net).train()
    for step in loop:
        value = loss(step, ctx.stream(f"{name}.{step}"))
        descend(optimiser, value)
        if schedule:
            schedule.step()
        loop.report(loss=value)
    return net.eval().requires_grad_(False)


def pack(**nets: nn.Module) -> dict[str, Tensor]:
    """The tensors of several networks, by name, as an attack's artefact."""
    return {f"{name}/{key}": value for name, net in nets.items() for key, value in net.state_dict().items()}


def unpack(net: nn.Module, artifact: Mapping[str, Tensor], name: str) -> nn.Module:
    """``net`` with what ``pack`` stored under ``name``, frozen."""
    start = f"{name}/"
    net.load_state_dict({key.removeprefix(start): value for key, value in artifact.items() if key.startswith(start)})
    return frozen(net)


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
