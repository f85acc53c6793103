"""DCD: a data-centric defense (Chen et al., "Data-Centric Defense: Shaping Loss Landscape with Augmentations to Counter
Model Inversion", TMLR 2024)."""

import math

import torch
from pydantic import Field
from torch import Tensor

from mibench.contracts import Classifier, Defense, DefenseParams, ImageSet, Stream, TrainContext
from mibench.images.pixels import Pixels


def noisy_copy(x: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """clip(x + sigma n), cut down to 8 bits. (N, C, H, W) in [0, 1] -> the same; below 1/255 noise can vanish."""
    return ((x + sigma * noise).clamp(0, 1) * 255).floor() / 255


def own_images(labels: Tensor, protected: list[int]) -> Tensor:
    """The indices of the protected people's images, class by class."""
    return torch.cat([(labels == c).nonzero()[:, 0] for c in protected])


def training_set(
    labels: Tensor, surrogates: Tensor, protected: list[int], flipped: Tensor, flipped_to: Tensor, copies_to: Tensor
) -> tuple[Tensor, Tensor]:
    """For every row of the final set: which image it shows, training images first, then surrogates; and its label.

    The images, of which ``flipped`` have the labels ``flipped_to``; the surrogates under their protected class; a copy
    of each surrogate; a copy of each protected person's image, under ``copies_to``. All (n,) int64.
    """
    n, s = len(labels), len(surrogates)
    there = torch.arange(n + s, device=labels.device)
    changed = labels.clone()
    changed[flipped] = flipped_to
    source = torch.cat([there, there[n:], own_images(labels, protected)])
    return source, torch.cat([changed, surrogates, surrogates, copies_to])


class DataCentricDefense(Defense):
    """Each protected class gets images of another person, its surrogate. Loss control: a share of its own images gets
    wrong labels; curvature control: noisy copies, of the surrogate (small noise, its label) and of the person's own
    images (more noise, mostly wrong labels). An inversion is drawn to the surrogate."""

    deviations = (
        "Surrogates are drawn at random from the labelled public people, not matched by sex and hair.",
        "The protected are the first classes, as many as there are public people to stand in for them.",
        "Copies start from the clean labels, as in the code for FaceScrub; that for CelebA takes the changed ones.",
        "The recipe is the track's.",
    )

    class Params(DefenseParams):
        protected: int = Field(10, ge=1, description="how many of the classes are protected, the first ones")
        surrogate_images: int = Field(5, ge=1, description="images of a surrogate that are used, at least 1")
        repeats: int = Field(1, ge=1, description="how often each of them is in the set")
        loss_control: float = Field(0.2, ge=0, le=1, description="rho_1, share of own images that are relabelled")
        curvature_control: float = Field(1.0, ge=0, le=1, description="rho_2, share of own copies that are relabelled")
        surrogate_noise: float = Field(0.003, ge=0, description="sigma of the surrogates' copies, in [0, 1] units")
        own_noise: float = Field(8 / 255, ge=0, description="sigma of the copies of own images, in [0, 1] units")

    def skip(self) -> str | None:
        return None if self.track.public_labelled else "the track has no labelled public people to stand in for others"

    def train(self, ctx: TrainContext) -> Classifier:
        public, data, rng = ctx.public_labelled(), ctx.data, ctx.stream("poison")
        assert public is not None  # skip() says so where there is none
        people = public.labels.unique()
        people = people[rng.permutation(len(people))][: min(self.params.protected, self.track.num_classes)]
        protected = list(range(len(people)))
        stand_ins = torch.cat([(public.labels == p).nonzero()[: self.params.surrogate_images, 0] for p in people])
        classes = torch.cat([torch.full(((public.labels[stand_ins] == p).sum(),), c) for c, p in enumerate(people)])
        stand_ins, classes = (part.to(ctx.device).repeat(self.params.repeats) for part in (stand_ins, classes))
        ctx.data = self.poisoned(data, public.images[stand_ins], classes, protected, rng)
        net, ctx.data = ctx.default_train(), data
        ctx.protects(protected)
        return net

    def poisoned(
        self, data: ImageSet, surrogates: Tensor, classes: Tensor, protected: list[int], rng: Stream
    ) -> ImageSet:
        """The training set with the ``surrogates`` (s, C, H, W) of ``classes`` (s,)."""
        own = own_images(data.labels, protected)
        flipped = own[self.some(data.labels[own], self.params.loss_control, rng)]
        copies = self.some(data.labels[own], self.params.curvature_control, rng)
        copies_to = data.labels[own].clone()
        copies_to[copies] = self.others(copies_to[copies], rng)
        to = self.others(data.labels[flipped], rng)
        source, labels = training_set(data.labels, classes, protected, flipped, to, copies_to)
        images, n, s = torch.cat([data.images[:], surrogates])[source], len(data), len(surrogates)
        for rows, sigma in (
            (slice(n + s, n + 2 * s), self.params.surrogate_noise),
            (slice(n + 2 * s, None), self.params.own_noise),
        ):
            images[rows] = noisy_copy(images[rows], rng.normal(*images[rows].shape), sigma)
        return ImageSet(Pixels((images * 255).round().byte(), images.device), labels, data.num_classes)

    def some(self, labels: Tensor, share: float, rng: Stream) -> Tensor:
        """The places of floor(share n) of the n images of each class, at random."""
        own = [(labels == c).nonzero()[:, 0] for c in labels.unique()]
        return torch.cat([mine[rng.permutation(len(mine))[: math.floor(share * len(mine))]] for mine in own])

    def others(self, labels: Tensor, rng: Stream) -> Tensor:
        """A random other class for each."""
        return (labels + 1 + rng.integers(self.track.num_classes - 1, len(labels))) % self.track.num_classes
