"""What ``mibench model audit`` is asked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path

from mibench.boundary import read_text
from mibench.data.sets.folder import apart, classes, ordered
from mibench.errors import MissingError, UserError

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Means and standard deviations: one for all channels, or one each."""

NORMALISATIONS: dict[str, Normalisation] = {
    "none": ((0.0,), (1.0,)),
    "half": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "bytes": ((0.0,), (1 / 255,)),
}


ORDERS = ("lexicographic", "natural")


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """A network that somebody trained elsewhere, and how to attack it. What needs neither the network nor the images
    is checked when it is made: MissingError for folders without classes or images, UserError for the rest."""

    checkpoint: str  # a file of weights for ``arch``, or ``module:function``
    arch: str | None = None
    data: Path  # its images, a folder for each class
    val: Path | None = None  # images of the same classes that it was not trained on
    public: Path | None = None  # images of others
    attacks: tuple[str, ...] = ()  # those of registry.yaml
    defense: str | None = None  # that of registry.yaml
    resolution: int  # side of the images
    channels: int
    network_resolution: int | None = None  # what they are resized to for the network
    normalise: str  # a key of NORMALISATIONS, or MEAN:STD
    bgr: bool = False  # whether it takes blue before green before red
    transform_input: bool | None = None  # of torchvision's Inception-v3 and GoogLeNet: whether they do
    decode: str = "photo"  # how files become pixels, see mibench/data/sets/imaging.py
    class_order: str = "lexicographic"  # or natural, or a file that lists the classes
    entry: str | None = None  # which of the sets of weights in the file
    expect_accuracy: float | None = None  # what its owner states
    allow_copies: bool = False  # private images among the public ones
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
        others = {"--public": (self.public, "other people or things"), "--val": (self.val, "the same classes")}
        for option, (folder, what) in others.items():
            if folder is not None and not folder.is_dir():
                raise MissingError(f"There is no folder {folder}. Expected {option} DIR with images of {what}.")
            if folder is not None:
                apart(self.data, folder, f"images of {option}")
        if self.identities is not None and self.identities > count:
            raise UserError(f"--identities {self.identities}: there are {count} classes.")
        _ = self.normalisation
        if self.expect_accuracy is not None and not 0 <= self.expect_accuracy <= 1:
            raise UserError(
                f"--expect-accuracy {self.expect_accuracy}: expected a share between 0 and 1, such as 0.95."
            )
        if self.factory and self.entry is not None:
            raise UserError("A factory loads its own weights: leave --entry out.")
        if self.factory and self.arch is not None:
            raise UserError("A factory makes its own network: leave --arch out.")
        if self.factory and self.transform_input is not None:
            raise UserError("A factory makes its own network: leave --transform-input out.")
        if not self.factory and self.arch is None:
            raise UserError("Which network do the weights belong to? Add --arch, such as --arch resnet18.")

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the network's logits."""
        if self.class_order in ORDERS:
            return ordered(classes(self.data), self.class_order)
        return ordered(classes(self.data), read_order(Path(self.class_order)))

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


def read_order(path: Path) -> list[str]:
    """The classes in a file, first to last: a line each, or JSON: a list, {class: number} or {number: class}. Raises
    UserError."""
    try:
        text = read_text(path, "list of classes")
    except UserError as error:
        raise UserError(f"--class-order takes {', '.join(ORDERS)}, or a file that lists the classes. {error}") from None
    if text.lstrip()[:1] not in ("[", "{"):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            named = {int(value): key for key, value in content.items()} if _numbers(content.values()) else None
            named = named or {int(key): str(value) for key, value in content.items()}
            if sorted(named) != list(range(len(content))):
                raise ValueError(f"its numbers are not 0 to {len(content) - 1}")
            content = [named[number] for number in sorted(named)]
        return [str(name) for name in content]
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is no order of classes: {error}.") from None


def _numbers(values: Iterable[object]) -> bool:
    return all(isinstance(value, int) for value in values)


def normalisation(text: str, channels: int) -> Normalisation:
    """``imagenet``, ``half``, ``none``, ``bytes`` (pixels stay in 0 to 255), or ``MEAN:STD`` with one number, or one
    for each channel, on each side; numbers above 1 are of pixels in 0 to 255. Raises UserError."""
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
    if not all(map(isfinite, mean + std)) or not {len(mean), len(std)} <= {1, channels} or min(std) <= 0:
        raise UserError(f"--normalise {text} does not fit images of {channels} channel(s) with positive deviations.")
    if max(mean + std) > 1:
        if max(mean) <= 1 and max(std) < 10:
            raise UserError(f"--normalise {text}: of pixels in 0 to 1, or in 0 to 255? Give both numbers for 0 to 1.")
        mean, std = (tuple(number / 255 for number in part) for part in (mean, std))
    return mean, std
