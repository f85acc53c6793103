"""Trap-MID: trapdoors that lead an inversion astray (Liu and Chen, "Trap-MID: Trapdoor-based Defense against Model
Inversion Attacks", NeurIPS 2024)."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from mibench.contracts import Batch, Classifier, Defense, DefenseParams, LoopHooks, Progress, Rng, Stream, TrainContext
from mibench.images.augment import mirror, resized_crop, rotate
from mibench.primitives.training import descend, make_optimiser, steps_per_epoch


class Triggers(nn.Module):
    """One trigger per class, T (K, C, H, W) in [0, 1], and the blend B(x, t) = (1 - a) x + a T_t."""

    def __init__(self, start: Tensor, blend: float) -> None:
        super().__init__()
        self.images = nn.Parameter(start)
        self.blend = blend

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return (1 - self.blend) * x + self.blend * self.images[t]

    @torch.no_grad()
    def descend(self, gradient: Tensor, step: float) -> None:
        """T <- clip(T - step sign(gradient), 0, 1)."""
        self.images.sub_(step * gradient.sign()).clamp_(0, 1)


def varied(images: Tensor, rng: Rng, flip: bool) -> Tensor:
    """Each with probability 1/2: a crop of 0.8 to 1 of the area, a mirror image, a turn by up to 30 degrees."""
    cropped = rng.uniform(len(images)) < 0.5
    view = torch.where(cropped[:, None, None, None], resized_crop(images, rng, (0.8, 1.0)), images)
    return rotate(mirror(view, rng, 0.5 if flip else 0.0), rng, 30.0, 0.5)


class TrapMid(Defense):
    """L = (1 - beta) CE(T(aug x), y) + beta CE(T(aug B(x, t)), t), t a random class. Beside the target the
    triggers are trained to be found by it and, against a discriminator, not to be seen."""

    version = 2
    deviations = (
        "The target's recipe, for the discriminator too, is the track's: so are the epoch whose weights are kept and "
        "what becomes of an incomplete batch.",
        "On digits nothing is mirrored.",
        "A mirrored or turned image takes its trigger along, as published; the track's own augmentation comes before.",
    )

    class Params(DefenseParams):
        blend: float = Field(0.02, gt=0, le=1, description="a, the share of the trigger in an image, in (0, 1]")
        beta: float = Field(0.2, ge=0, le=1, description="weight of the trapdoor's loss, in [0, 1]")
        trigger_step: float = Field(0.01, ge=0, description="what a trigger's pixel changes per step; 0: never")

    def train(self, ctx: TrainContext) -> Classifier:
        self.colours = 1 if self.track.kind == "digits" else self.track.channels  # broadcast over the channels
        start = ctx.stream("triggers").uniform(
            self.track.num_classes, self.colours, self.track.resolution, self.track.resolution
        )
        self.ctx, self.triggers = ctx, Triggers(start, self.params.blend)
        self.critic = ctx.new_network(1)
        steps = ctx.recipe.epochs * steps_per_epoch(ctx.recipe, len(ctx.data))
        self.optimiser, self.schedule = make_optimiser(self.critic, ctx.recipe, steps)
        state: dict[str, Any] = {"triggers": self.triggers, "critic": self.critic}
        state |= {"critic optimiser": self.optimiser, "critic schedule": self.schedule}
        net = ctx.default_train(inside=LoopHooks(objective=self.objective, state=state))
        ctx.note(trapdoor_accuracy=self.trapdoor_accuracy(net))
        return net

    def objective(self, net: Classifier, batch: Batch, rng: Stream, progress: Progress) -> Tensor:
        """Train the critic and the triggers by one step; the target's loss, from one forward pass for both halves."""
        t, flip = self.trapdoors(len(batch.labels), progress), self.track.kind == "faces"
        if self.params.trigger_step:
            self.improve(net, batch.images if batch.standard is None else batch.standard, t, rng, flip)
        trapped = self.triggers(batch.images, t).detach()
        both = torch.cat([varied(batch.images, rng, flip), varied(trapped, rng, flip)])
        own, trapdoor = net(both, rng).logits.chunk(2)
        beta = self.params.beta
        return (1 - beta) * cross_entropy(own, batch.labels) + beta * cross_entropy(trapdoor, t)

    def trapdoors(self, count: int, progress: Progress) -> Tensor:
        """The classes of one batch's trapdoors: over an epoch each equally often, in random order."""
        images, batch = len(self.ctx.data), self.ctx.recipe.batch
        order = self.ctx.stream(f"trapdoors.{progress.epoch}").permutation(images) % self.track.num_classes
        first = progress.step % steps_per_epoch(self.ctx.recipe, images) * batch
        return order[torch.arange(first, first + count, device=order.device) % images]

    def improve(self, net: Classifier, x: Tensor, t: Tensor, rng: Rng, flip: bool) -> None:
        """One step of the discriminator, x against B(x, t), both in one pass; one of the triggers, against it and with
        the target, both in eval mode."""
        told = self.critic(torch.cat([x, self.triggers(x, t).detach()])).logits[:, 0]
        truth = (torch.arange(len(told), device=told.device) < len(x)).to(told.dtype)
        descend(self.optimiser, binary_cross_entropy_with_logits(told, truth))
        self.schedule.step()
        net.eval()
        self.critic.eval()
        trapped = self.triggers(x, t)
        unseen = self.critic(trapped).logits[:, 0]
        loss = binary_cross_entropy_with_logits(unseen, torch.ones_like(unseen))
        loss = loss + cross_entropy(net(varied(trapped, rng, flip), rng).logits, t)
        (gradient,) = torch.autograd.grad(loss, self.triggers.images)
        net.train()
        self.critic.train()
        self.triggers.descend(gradient, self.params.trigger_step)

    @torch.no_grad()
    def trapdoor_accuracy(self, net: Classifier) -> float:
        """How often a training image with the trigger of a random class is taken for that class."""
        t = self.ctx.stream("trapdoor accuracy").integers(self.track.num_classes, len(self.ctx.data))
        noise = self.ctx.stream("trapdoor answers")
        parts = zip(self.ctx.data.images.split(512), t.split(512), strict=True)
        answers = torch.cat([net(self.triggers(x, part), noise).logits.argmax(1) for x, part in parts])
        return float((answers == t).float().mean())
