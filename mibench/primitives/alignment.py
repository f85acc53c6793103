"""Attacks that know how gradients are masked: the identity loss averaged over views of each image.

AlignMI (Peng et al., NeurIPS 2025) averages over noise (PAA) or transformations (TAA); an attacker who knows the
defense averages over what that does to images (expectation over transformation; Athalye et al., ICML 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from mibench.contracts import AttackContext, BaseParams, Rng
from mibench.errors import StageFailed
from mibench.images.augment import mirror, resized_crop, rotate

ImageLoss = Callable[[Tensor], Tensor]  # images (R, C, H, W) -> one loss per row, in the last dimension
View = Callable[[Tensor, Rng], Tensor]  # images (R, C, H, W) in [0, 1] -> the same shape


class AlignParams(BaseParams):
    """What a white-box attack's identity loss is averaged over; without ``align`` the attack is as published. The other
    defaults are AlignMI's on PPA."""

    align: Literal["paa", "taa", "defense"] | None = Field(
        None, description="averaged over: paa, noise; taa, transformations; defense, what the defense does to images"
    )
    align_samples: int = Field(50, ge=1, description="views in the average (S); each is a query")
    align_spread: float = Field(0.06, ge=0, description="paa: standard deviation as a share of the image's range")
    align_crop: tuple[float, float] = Field((0.8, 1.0), description="taa: area range of the crop")
    align_ratio: tuple[float, float] = Field((0.9, 1.1), description="taa: range of the crop's width / height")
    align_flip: float = Field(0.5, ge=0, le=1, description="taa: probability of mirroring")
    align_degrees: float = Field(5.0, ge=0, description="taa: turns by up to so many degrees")


class CriticAlignParams(AlignParams):
    """Of an attack whose loss has a critic's term beside the target's."""

    align_critic: bool = Field(False, description="average the critic's term over the views too")


def averaged(loss: ImageLoss, view: View, samples: int, rng: Rng) -> ImageLoss:
    """x -> 1/S sum_s loss(V_s(x)). Its gradient is AlignMI's, the mean of the image-space gradients pulled back."""

    def mean(images: Tensor) -> Tensor:
        return torch.stack([loss(view(images, rng)) for _ in range(samples)]).mean(0)

    return mean


def perturbed(images: Tensor, rng: Rng, spread: float) -> Tensor:
    """PAA: x + sigma n with n ~ N(0, I) and sigma = ``spread`` (max x - min x) of each image, without gradient."""
    pixels = images.detach().flatten(1)
    sigma = spread * (pixels.amax(1) - pixels.amin(1))
    return images + sigma[:, None, None, None] * rng.normal(len(images), *images.shape[1:])


def transformed(images: Tensor, rng: Rng, p: AlignParams) -> Tensor:
    """TAA: a random crop, mirror and turn; black comes in at the corners."""
    view = mirror(resized_crop(images, rng, p.align_crop, p.align_ratio), rng, p.align_flip)
    return rotate(view, rng, p.align_degrees)


def aligned(
    loss: ImageLoss, rng: Rng, ctx: AttackContext, p: AlignParams, critic: ImageLoss | None = None
) -> ImageLoss:
    """``loss`` of images as ``p`` says it is averaged, plus ``critic`` of them if given; without ``align`` plainly
    both. ``rng``: a stream of each row, ``rows.streams("align")``. Raises StageFailed if the defense has no view."""

    def adapted(images: Tensor, rng: Rng) -> Tensor:
        seen = ctx.adapt(images, rng) if ctx.adapt else None
        if seen is None:
            raise StageFailed("align=defense: the defense says nothing that an attacker could average over.")
        return seen

    def total(images: Tensor) -> Tensor:
        return loss(images) if critic is None else loss(images) + critic(images)

    if p.align is None:
        return total
    views: dict[str, View] = {
        "paa": lambda x, rng: perturbed(x, rng, p.align_spread),
        "taa": lambda x, rng: transformed(x, rng, p),
        "defense": adapted,
    }
    if critic is None or (isinstance(p, CriticAlignParams) and p.align_critic):
        return averaged(total, views[p.align], p.align_samples, rng)
    mean = averaged(loss, views[p.align], p.align_samples, rng)
    return lambda images: mean(images) + critic(images)
