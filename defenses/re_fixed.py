"""Erasing without the randomness, a control of random erasing (Tran et al., "Random Erasing vs. Model Inversion", TMLR
2025). The paper's code for it is not released: the forms here are reconstructed from its text."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from mibench.contracts import Defense, Rng, Visit
from mibench.images.augment import erase_rectangles
from mibench.primitives.erasing import AreaParams, concealed


class Middle:
    """An ``Rng`` for places: every uniform number is one half, the middle of what it decides."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def uniform(self, n: int, *shape: int) -> Tensor:
        return torch.full((n, *shape), 0.5, device=self.device)

    def normal(self, n: int, *shape: int) -> Tensor:
        return torch.zeros(n, *shape, device=self.device)


class FixedErasing(Defense):
    """Erase a square of every training image, last in the pipeline, always the same one.

    ``image``: size and place are drawn once per training image (FE-image). ``run``: one square of the mean area for
    all images, its place drawn once per run; ``centre``: the same in the middle (FE-global). All hide as many pixels
    as random erasing with the same ``area``.
    """

    deviations = (
        "Reconstructed from the paper's text; no code of this control is released.",
        "The square is fixed in the augmented image: where the standard augmentation mirrors or shifts, other parts of "
        "the face come to lie under it.",
    )

    class Params(AreaParams):
        square: Literal["image", "run", "centre"] = Field("image", description="what the square belongs to")

    def augment(self, images: Tensor, rng: Visit) -> Tensor:
        if self.params.square == "centre":
            return self.erase(images, rng, Middle(images.device))
        return self.erase(images, rng, rng.of_run("erase") if self.params.square == "run" else rng.of_images("erase"))

    def adapt(self, images: Tensor, rng: Rng) -> Tensor:
        """The attacker knows the middle; any other square he has to guess anew."""
        return self.erase(images, rng, Middle(images.device) if self.params.square == "centre" else rng)

    def erase(self, images: Tensor, rng: Rng, place: Rng) -> Tensor:
        p = self.params
        area = p.area if p.square == "image" else (concealed(p.area),) * 2
        fill, mean = p.filling(self.track)
        return erase_rectangles(images, rng, area, fill=fill, mean=mean, place=place)
