"""The values that plugins receive and return."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from torch import Tensor

from mibench.images.pixels import Pixels


@dataclass(frozen=True)
class TrackInfo:
    """What a plugin may know of a track. ``kind`` is ``faces`` or ``digits``; ``fill`` the grey value of an erased
    patch, one per channel (the track's declared mean of natural images)."""

    id: str
    kind: str
    resolution: int
    channels: int
    num_classes: int
    fill: tuple[float, ...]
    public_labelled: bool = False  # whether the public people's own photos carry identity labels
    normalisation: tuple[float, float] | None = None  # (mean, std) that the target applies to pixels, if any
    arch: str = ""  # the target's architecture (mibench.nets)
    initial: str = "scratch"  # the weights that targets start from


@dataclass(frozen=True)
class ImageSet:
    """Images (N, C, H, W) in [0, 1] on the device, and their labels (N,) int64; -1 where there is none.

    ``images`` is indexed, split or counted; ``images[:]`` is one tensor of all. It may keep bytes and make floats of
    what is looked at (``mibench.images.pixels.Pixels``), which for large sets is the only way."""

    images: Tensor | Pixels
    labels: Tensor
    num_classes: int

    def subset(self, index: Tensor) -> ImageSet:
        """Those at ``index``, or where a mask is true."""
        images = self.images.subset(index) if isinstance(self.images, Pixels) else self.images[index]
        return ImageSet(images, self.labels[index], self.num_classes)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Batch:
    """One training batch as the network sees it, after all augmentation, with its labels. ``standard`` holds the same
    images after the standard augmentation only, without the defense's.

    Where images were mixed (``Defense.mix``), a share of each, in [0, 1], carries its label in ``labels`` and the rest
    the one in ``others`` (N,); ``standard`` is not mixed.
    """

    images: Tensor
    labels: Tensor
    standard: Tensor | None = None
    others: Tensor | None = None
    share: float = 1.0


@dataclass(frozen=True)
class Progress:
    """Where training stands; both count from 0. Schedules published in epochs use ``epoch`` of ``epochs``."""

    epoch: int
    epochs: int
    step: int
    steps: int


class Access(StrEnum):
    """What an attack may see of the target."""

    WHITE_BOX = "white_box"  # logits and features, with gradients
    SCORES = "scores"  # softmax scores
    LABELS = "labels"  # the predicted class
    PRIVATE = "private"  # of a control that the engine brings: the private training images too


@dataclass(frozen=True)
class PriorRef:
    """Which generative model an attack searches; two attacks that name the same one share it."""

    id: str
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class Reconstruction:
    """What an attack returns for one identity.

    images: (n, C, H, W) in [0, 1], n = ``ctx.images_per_identity``: as many as the track asks of every attack. A method
    that gives one image runs again from other seeds. initial: the same before optimisation (step 0).
    score: (n,) the target-side score that selection used, or None. selected: (n,) bool, what the attack keeps by
    looking only at the target; None when it keeps everything. notes: further numbers to store, such as a fitted sigma.
    shown: ``ctx.shown(...)``, (n, C, S, S) floats that the evaluator sees in place of ``images``; None: those, resized.
    """

    label: int
    images: Tensor
    initial: Tensor
    score: Tensor | None = None
    selected: Tensor | None = None
    notes: dict[str, float] = field(default_factory=dict)
    shown: Tensor | None = None
