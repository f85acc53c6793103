"""A classifier of another family than all others here: fixed histograms of oriented gradients and a linear rule on them
(Dalal and Triggs, CVPR 2005). It has no learned filter that a pattern made against a convolutional network could fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from mibench.nets.base import Classifier

ORIENTATIONS = 9  # of unsigned gradients, over 180 degrees
CELLS = 8  # along a side
CLIP = 0.2  # of a block's normalised histogram


class OrientedGradients(nn.Module):
    """(N, 1 or 3, S, S) images -> (N, 36 (CELLS - 1)^2).

    Each pixel's gradient votes for the two nearest orientations of its cell, with its magnitude; blocks of 2x2
    cells are normalised to length 1, clipped at 0.2 and normalised again."""

    def forward(self, images: Tensor) -> Tensor:
        grey = functional.pad(images.mean(1, keepdim=True), [1] * 4, mode="replicate")
        across = grey[:, 0, 1:-1, 2:] - grey[:, 0, 1:-1, :-2]
        down = grey[:, 0, 2:, 1:-1] - grey[:, 0, :-2, 1:-1]
        magnitude = (across.square() + down.square() + 1e-12).sqrt()
        turn = torch.atan2(down, across) / math.pi % 1 * ORIENTATIONS  # in bins; 0 and ORIENTATIONS are one
        bins = torch.arange(ORIENTATIONS, device=images.device).view(1, -1, 1, 1)
        apart = (turn[:, None] - bins).abs()
        votes = (1 - torch.minimum(apart, ORIENTATIONS - apart)).clamp(min=0) * magnitude[:, None]
        cells = functional.adaptive_avg_pool2d(votes, CELLS)
        blocks = functional.unfold(cells, 2)  # (N, 36, blocks)
        blocks = functional.normalize(blocks, dim=1, eps=1e-2).clamp(max=CLIP)
        return functional.normalize(blocks, dim=1, eps=1e-2).flatten(1)


class GradientClassifier(Classifier):
    """Histograms of oriented gradients, standardised over the batch in training and over all batches afterwards, and a
    linear head."""

    def __init__(self, num_classes: int, channels: int = 1, resolution: int = 32) -> None:
        super().__init__()
        self.histograms = OrientedGradients()
        self.feature_dim = 4 * ORIENTATIONS * (CELLS - 1) ** 2
        self.standardised = nn.BatchNorm1d(self.feature_dim, affine=False)
        self.head: nn.Module = nn.Linear(self.feature_dim, num_classes)

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        yield "histograms", self.histograms
        yield "features", self.standardised
