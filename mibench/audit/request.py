"""What ``mibench model audit`` is asked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path

from mibench.data.sets.folder import classes
from mibench.errors import MissingError, UserError

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Means and standard deviations: one for all channels, or one each."""

NORMALISATIONS: dict[str, Normalisation] = {
    "none": ((0.0,), (1.0,)),
    "half": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """A network that somebody trained elsewhere, and how to attack it. What needs neither the network nor the images
    is checked when it is made: MissingError for folders without classes or images, UserError for the rest."""

    checkpoint: str  # a file of weights for ``arch``, or ``module:function``
    arch: str | None = None
    data: Path  # its images, a folder for each class
    public: Path | None = None  # images of others
    attacks: tuple[str, ...] = ()  # those of registry.yaml
    defense: str | None = None  # that of registry.yaml
    resolution: int  # side of the images
    channels: int
    network_resolution: int | None = None  # what they are resized to for the network
    normalise: str  # a key of NORMALISATIONS, or MEAN:STD
    transform_input: bool | None = None  # of torchvision's Inception-v3 and GoogLeNet: whether they do
    epochs: int  # of what is trained for comparison
    identities: int | None = None  # only the first so many classes
    images: int  # reconstructions of each class
    out: Path

    def __post_init__(self) -> None:
        if not self.data.is_dir():
            raise MissingError(
                f"There is no folder {self.data}. Expected --data DIR with a folder of images for each class."
            )
        count = len(self.classes)
        if count < 2:
            raise MissingError(f"{self.data} has {count} class folder(s). Expected two or more: DIR/<class>/*.jpg.")
        if self.public is not None and not self.public.is_dir():
            raise MissingError(
                f"There is no folder {self.public}. Expected --public DIR with images of other people or things."
            )
        if self.identities is not None and self.identities > count:
            raise UserError(f"--identities {self.identities}: there are {count} classes.")
        _ = self.normalisation
        if self.factory and self.arch is not None:
            raise UserError("A factory makes its own network: leave --arch out.")
        if self.factory and self.transform_input is not None:
            raise UserError("A factory makes its own network: leave --transform-input out.")
        if not self.factory and self.arch is None:
            raise UserError("Which network do the weights belong to? Add --arch, such as --arch resnet18.")

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the network's logits."""
        return classes(self.data)

    @cached_property
    def normalisation(self) -> Normalisation:
        return normalisation(self.normalise, self.channels)

    @cached_property
    def factory(self) -> bool:
        """Whether the checkpoint is a Python function that returns the network."""
        return re.fullmatch(r"[\w.]+:\w+", self.checkpoint) is not None and not Path(self.checkpoint).exists()

    @property
    def name(self) -> str:
        """What the model is called in the report."""
        return Path(self.checkpoint.partition(":")[0]).name


def normalisation(text: str, channels: int) -> Normalisation:
    """``imagenet``, ``half``, ``none``, or ``MEAN:STD`` with one number, or one for each channel, on each side.
    Raises UserError."""
    if text in NORMALISATIONS:
        mean, std = NORMALISATIONS[text]
    else:
        parts = text.split(":")
        try:
            mean, std = (tuple(float(number) for number in part.split(",")) for part in parts)
        except ValueError:
            raise UserError(
                f"Cannot read --normalise {text!r}. Expected {', '.join(NORMALISATIONS)}, or MEAN:STD such as 0.5:0.2."
            ) from None
    if not {len(mean), len(std)} <= {1, channels} or not all(map(isfinite, mean + std)) or min(std) <= 0:
        raise UserError(f"--normalise {text} does not fit images of {channels} channel(s) with positive deviations.")
    return mean, std
