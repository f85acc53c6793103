"""Cutout (DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017), a control
of random erasing: always a square of the same size, which may reach over the border."""

import torch
from pydantic import Field
from torch import Tensor

from mibench.contracts import Defense, Rng
from mibench.images.augment import cover
from mibench.primitives.erasing import FillParams


def squares(size: int, row: Tensor, column: Tensor, length: int, literal: bool = False) -> Tensor:
    """(N, 1, H, W), H = W = ``size``: true in the square of side ``length`` that begins length // 2 before the centre
    (row, column), (N,) each, and is cut off at the border. ``literal``: ``length`` to each side, as released."""
    first, side = (length, 2 * length) if literal else (length // 2, length)
    at = torch.arange(size, device=row.device)

    def inside(centre: Tensor) -> Tensor:
        start = (centre - first)[:, None]
        return (at >= start) & (at < start + side)

    return (inside(row)[:, None, :, None]) & (inside(column)[:, None, None, :])


class Cutout(Defense):
    """Hide one square of every training image, its centre uniform over the pixels, drawn anew at every visit. Of its
    area s^2 the border leaves (s - s^2 / 4)^2 of the image, on average: 0.19 at s = 1/2, 0.25 at s = 0.586."""

    deviations = (
        "The square is as wide as the paper says; the released code reaches as far to each side (literal).",
        "The fill is the track's constant.",
    )

    class Params(FillParams):
        side: float = Field(0.5, gt=0, le=1, description="s, the square's side as a fraction of the image's, in (0, 1]")
        literal: bool = Field(False, description="the side to each side of the centre, as released")

    def augment(self, images: Tensor, rng: Rng) -> Tensor:
        size, p = images.shape[-1], self.params
        row, column = (rng.uniform(len(images), 2) * size).long().unbind(1)
        mask = squares(size, row, column, max(1, round(p.side * size)), p.literal)
        return cover(images, mask, rng, *p.filling(self.track))

    def adapt(self, images: Tensor, rng: Rng) -> Tensor:
        return self.augment(images, rng)
