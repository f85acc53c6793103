"""The class-conditional GAN of PLG-MI (Yuan et al., AAAI 2023) and LOKT (Nguyen et al., NeurIPS 2023): residual
networks in the manner of SNGAN with projection (Miyato and Koyama, ICLR 2018).

At 64 pixels and width 64 they are the published ones; 32 pixels take one stage fewer, the widest one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import spectral_norm

from mibench.nets.gan import up_stages
from mibench.nets.generator import Generator


def _channels_last(x: Tensor) -> Tensor:
    """The layout in which a CPU convolves twice as fast; it stays until the last layer."""
    return x.contiguous(memory_format=torch.channels_last)


class ConditionalBatchNorm(nn.BatchNorm2d):
    """Batch normalisation whose gain and bias belong to the class: gain 1 and bias 0 at the start."""

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__(features, affine=False)
        self.gain = nn.Embedding(num_classes, features)
        self.shift = nn.Embedding(num_classes, features)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        gain, shift = self.gain(labels)[..., None, None], self.shift(labels)[..., None, None]
        return torch.addcmul(shift, gain, super().forward(x))


def _doubling(size: int, like: Tensor) -> Tensor:
    """(2 size, size): bilinear interpolation as a matrix."""
    pixel = torch.arange(size, device=like.device, dtype=like.dtype)
    at = (torch.arange(2 * size, device=like.device) / 2 - 0.25).clamp(0, size - 1)
    return (1 - (at[:, None] - pixel).abs()).clamp(min=0)


def _upsample(x: Tensor) -> Tensor:
    """Bilinear x2, as two products with small matrices: faster than ``interpolate`` on a CPU, and with a gradient that
    is the same in every run on a GPU."""
    n, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(n, height, width * channels)
    pixels = (_doubling(height, x) @ rows).reshape(n * 2 * height, width, channels)
    return (_doubling(width, x) @ pixels).reshape(n, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


class UpBlock(nn.Module):
    """Twice the resolution: CBN, ReLU, bilinear x2, conv3x3, CBN, ReLU, conv3x3, beside bilinear x2, conv1x1."""

    def __init__(self, channels_in: int, channels_out: int, num_classes: int) -> None:
        super().__init__()
        self.norm1 = ConditionalBatchNorm(channels_in, num_classes)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = ConditionalBatchNorm(channels_out, num_classes)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        h = self.conv1(_upsample(functional.relu(self.norm1(x, labels))))
        h = self.conv2(functional.relu(self.norm2(h, labels)))
        # A 1x1 convolution and interpolation commute; this order costs a quarter.
        return h + _upsample(self.shortcut(x))


def _published_blocks(numbers: range, ours: str, parts: Mapping[str, str]) -> dict[str, str]:
    """block2.c1 -> ups.0.conv1, and so on."""
    pairs = [(f"block{number}", f"{ours}.{index}") for index, number in enumerate(numbers)]
    return {f"{block}.{theirs}": f"{mine}.{part}" for block, mine in pairs for theirs, part in parts.items()}


class ConditionalGenerator(Generator):
    """G(z, y): linear to 4x4, then blocks that double, each normalised by its class; tanh.

    What it makes lies in [-1, 1] and is compared with real pixels in [0, 1] as it is: nothing is rescaled, and an
    attack clamps what it returns. At 64 pixels and width 64: 1024x4x4, 512, 256, 128, 64.
    """

    conditional = True
    published_names: ClassVar[dict[str, str]] = {"l1": "start", "b6": "norm", "conv6": "image"} | _published_blocks(
        range(2, 6),
        "ups",
        {
            "b1": "norm1",
            "b1.weights": "norm1.gain",
            "b1.biases": "norm1.shift",
            "c1": "conv1",
            "b2": "norm2",
            "b2.weights": "norm2.gain",
            "b2.biases": "norm2.shift",
            "c2": "conv2",
            "c_sc": "shortcut",
        },
    )

    def __init__(
        self, num_classes: int, resolution: int, channels: int, width: int = 64, latent_dim: int = 128
    ) -> None:
        super().__init__()
        sizes = [width * 2**power for power in reversed(range(up_stages(resolution) + 1))]
        self.latent_dim = latent_dim
        self.start = nn.Linear(latent_dim, sizes[0] * 16)
        self.ups = nn.ModuleList(UpBlock(a, b, num_classes) for a, b in pairwise(sizes))
        self.norm = nn.BatchNorm2d(width)
        self.image = nn.Conv2d(width, channels, 1)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """(N, latent_dim) and labels (N,) -> (N, C, H, W) in [-1, 1]."""
        if labels is None or labels.shape != latents.shape[:1]:
            raise ValueError(f"{type(self).__name__} takes one label for each latent")
        x = _channels_last(self.start(self.checked(latents)).unflatten(1, (-1, 4, 4)))
        for up in self.ups:
            x = up(x, labels)
        return torch.tanh(self.image(functional.relu(self.norm(x))))


def for_every_class(single: Mapping[str, Tensor], num_classes: int) -> dict[str, Tensor]:
    """The weights of a generator of one class as those of ``num_classes`` classes, all of them equal."""
    of_class = (".gain.weight", ".shift.weight")
    return {name: t.expand(num_classes, -1) if name.endswith(of_class) else t for name, t in single.items()}


Layer = Callable[[nn.Module], nn.Module]


def _layer(normalised: bool) -> Layer:
    """What a discriminator does with its layers: Xavier's weights, with gain sqrt(2) on 3x3 kernels, and spectral
    normalisation unless it goes without."""

    def prepare(layer: nn.Module) -> nn.Module:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        nn.init.xavier_uniform_(weight, math.sqrt(2) if weight.ndim == 4 and weight.shape[-1] > 1 else 1.0)
        return spectral_norm(layer) if normalised else layer

    return prepare


class DownBlock(nn.Module):
    """Half the resolution: ReLU (not in the first block), conv3x3, ReLU, conv3x3, mean of 2x2, beside conv1x1 and the
    mean of 2x2."""

    def __init__(self, channels_in: int, channels_out: int, layer: Layer, first: bool = False) -> None:
        super().__init__()
        self.first = first
        hidden = channels_out if first else channels_in
        self.conv1 = layer(nn.Conv2d(channels_in, hidden, 3, padding=1))
        self.conv2 = layer(nn.Conv2d(hidden, channels_out, 3, padding=1))
        self.shortcut = layer(nn.Conv2d(channels_in, channels_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = _channels_last(self.conv1(x if self.first else functional.relu(x)))
        h = self.conv2(functional.relu(h))
        # A 1x1 convolution and the mean commute; this order costs a quarter.
        return functional.avg_pool2d(h, 2) + self.shortcut(functional.avg_pool2d(x, 2))


class _Trunk(nn.Module):
    """Images -> (N, F): down-blocks, ReLU, sum over the 2x2 map. F is 16 times ``width`` at 64 pixels."""

    def __init__(self, resolution: int, channels: int, width: int, layer: Layer) -> None:
        super().__init__()
        sizes = [width * 2**power for power in range(up_stages(resolution) + 1)]
        first = DownBlock(channels, width, layer, first=True)
        self.downs = nn.ModuleList([first, *(DownBlock(a, b, layer) for a, b in pairwise(sizes))])
        self.feature_dim = sizes[-1]

    def features(self, images: Tensor) -> Tensor:
        """h, (N, F)."""
        x = images
        for down in self.downs:
            x = down(x)
        return functional.relu(x).sum((2, 3))


class ProjectionDiscriminator(_Trunk):
    """D(x, y) = l(h) + <e_y, h>, (N,), higher for images that look real; every layer spectrally normalised
    (unless not ``normalised``). In training mode a forward pass makes one power iteration first."""

    published_names: ClassVar[dict[str, str]] = {"l6": "linear", "l_y": "embedding"} | _published_blocks(
        range(1, 6), "downs", {"c1": "conv1", "c2": "conv2", "c_sc": "shortcut"}
    )

    def __init__(
        self, num_classes: int, resolution: int, channels: int, width: int = 64, normalised: bool = True
    ) -> None:
        layer = _layer(normalised)
        super().__init__(resolution, channels, width, layer)
        self.linear = layer(nn.Linear(self.feature_dim, 1))
        self.embedding = layer(nn.Embedding(num_classes, self.feature_dim))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        h = self.features(images)
        score: Tensor = self.linear(h)[:, 0] + (self.embedding(labels) * h).sum(1)
        return score


class Judgement(NamedTuple):
    """real: (N,) logits of being real. logits: (N, K) of the classes."""

    real: Tensor
    logits: Tensor


class AuxiliaryDiscriminator(_Trunk):
    """LOKT's: the same trunk, unconditional, with two plain heads, real or fake and the class."""

    def __init__(
        self, num_classes: int, resolution: int, channels: int, width: int = 64, normalised: bool = True
    ) -> None:
        super().__init__(resolution, channels, width, _layer(normalised))
        self.real = nn.Linear(self.feature_dim, 1)
        self.head = nn.Linear(self.feature_dim, num_classes)

    def forward(self, images: Tensor) -> Judgement:
        h = self.features(images)
        return Judgement(self.real(h)[:, 0], self.head(h))
