"""Random erasing against model inversion (MIDRE; Tran et al., "Random Erasing vs. Model Inversion", TMLR 2025)."""

from typing import Literal

from pydantic import Field, field_validator
from torch import Tensor

from mibench.augment import Fill, erase_rectangles
from mibench.contracts import BaseParams, Defense, Rng


class RandomErasing(Defense):
    """Erase one random square of every training image, last in the pipeline, drawn anew at every visit."""

    deviations = ("The fill of greyscale tracks is one constant, the luminance of the published colour fill.",)

    class Params(BaseParams):
        area: tuple[float, float] = Field((0.1, 0.4), description="range of the erased area, 0 < low <= high < 1")
        p: float = Field(1.0, ge=0, le=1, description="probability of erasing an image, in [0, 1]")
        ratio: tuple[float, float] = Field((1.0, 1.0), description="range of height / width, 0 < low <= high")
        fill: Literal["mean", "zero", "image_mean", "patch", "noise"] | float = Field(
            "mean", description="mean (the track's constant), zero, image_mean, patch, noise, or a number"
        )
        fill_space: Literal["model_input", "pixel"] = Field(
            "model_input",
            description="where the fill constant lives: after the target's normalisation, as released, or before it",
        )

        @field_validator("area", "ratio")
        @classmethod
        def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
            if not 0 < value[0] <= value[1]:
                raise ValueError("expected 0 < low <= high")
            return value

        @field_validator("area")
        @classmethod
        def _fraction(cls, value: tuple[float, float]) -> tuple[float, float]:
            if value[1] >= 1:
                raise ValueError("expected high < 1: a fraction of the image")
            return value

    def augment(self, images: Tensor, rng: Rng) -> Tensor:
        p = self.params
        constant = isinstance(p.fill, float)
        fill: Fill | tuple[float, ...] = self.pixels((p.fill,) * self.track.channels) if constant else p.fill
        return erase_rectangles(images, rng, p.area, p.p, p.ratio, fill, self.pixels(self.track.fill))

    def adapt(self, images: Tensor, rng: Rng) -> Tensor:
        return self.augment(images, rng)

    def pixels(self, fill: tuple[float, ...]) -> tuple[float, ...]:
        """A constant fill in [0, 1] pixel space. Released code writes it after (x - mean) / std."""
        if self.params.fill_space == "pixel" or self.track.normalisation is None:
            return fill
        mean, std = self.track.normalisation
        return tuple(value * std + mean for value in fill)
