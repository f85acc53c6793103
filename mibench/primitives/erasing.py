"""What random erasing and its controls share: their parameters, the fill's colour, and the budget of hidden pixels.

The study of random erasing (Tran et al., TMLR 2025) compares ways to hide the same number of pixels: another square at
every visit, a square that stays where it is, whole images. They are comparable at equal ``concealed``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from mibench.contracts import DefenseParams, TrackInfo
from mibench.images.augment import Fill


class FillParams(DefenseParams):
    """With what pixels are hidden."""

    fill: Literal["mean", "zero", "image_mean", "patch", "noise"] | float = Field(
        "mean", description="mean (the track's constant), zero, image_mean, patch, noise, or a number"
    )
    fill_space: Literal["model_input", "pixel"] = Field(
        "model_input",
        description="where the fill constant lives: after the target's normalisation, as released, or before it",
    )

    def filling(self, track: TrackInfo) -> tuple[Fill | tuple[float, ...], tuple[float, ...]]:
        """``fill`` and ``mean`` as ``mibench.images.augment`` takes them, constants in [0, 1] pixel space."""
        mean = self.pixels(track.fill, track)
        if isinstance(self.fill, float):
            return self.pixels((self.fill,) * track.channels, track), mean
        return self.fill, mean

    def pixels(self, fill: tuple[float, ...], track: TrackInfo) -> tuple[float, ...]:
        """A constant fill in [0, 1] pixel space. Released code writes it after (x - mean) / std."""
        if self.fill_space == "pixel" or track.normalisation is None:
            return fill
        mean, std = track.normalisation
        return tuple(value * std + mean for value in fill)


class AreaParams(FillParams):
    """How much of an image is hidden."""

    area: tuple[float, float] = Field((0.1, 0.4), description="range of the erased area, 0 < low <= high < 1")

    @field_validator("area")
    @classmethod
    def _fraction(cls, value: tuple[float, float]) -> tuple[float, float]:
        ordered(value)
        if value[1] >= 1:
            raise ValueError("expected high < 1: a fraction of the image")
        return value


def ordered(value: tuple[float, float]) -> tuple[float, float]:
    """Raises ValueError unless 0 < low <= high."""
    if not 0 < value[0] <= value[1]:
        raise ValueError("expected 0 < low <= high")
    return value


def concealed(area: tuple[float, float], p: float = 1.0) -> float:
    """The expected share of pixels that erasing hides, b = p (low + high) / 2, if every drawn shape fits the image."""
    return p * (area[0] + area[1]) / 2
