"""The default track's networks: small enough for two CPU cores, with the interface of the large ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar, cast

from torch import Tensor, nn

from mibench.errors import UserError
from mibench.nets.base import Classifier


def _conv_stage(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


class ConvNet(Classifier):
    """Four times conv3x3-BN-ReLU-maxpool, widths 16/32/64/128, then a linear head on the flattened map."""

    widths = (16, 32, 64, 128)

    def __init__(self, num_classes: int, channels: int = 1, resolution: int = 32) -> None:
        super().__init__()
        sizes = (channels, *self.widths)
        self.convs = nn.ModuleList(_conv_stage(a, b) for a, b in pairwise(sizes))
        self.flatten = nn.Flatten()
        self.feature_dim = self.widths[-1] * (resolution // 16) ** 2
        self.head: nn.Module = nn.Linear(self.feature_dim, num_classes)

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        for index, stage in enumerate(self.convs, start=1):
            yield f"stage{index}", stage
        yield "features", self.flatten


class _Residual(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        same = stride == 1 and channels_in == channels_out
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )
        )
        self.relu = nn.ReLU()
        self.factor = 1.0  # of the shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.branch(x) + self.factor * self.shortcut(x))


class SmallResNet(Classifier):
    """The evaluator of the small tracks: stem 5x5, residual stages 24/48/96/128, global average (0.45 M)."""

    widths = (24, 48, 96, 128)
    shortcuts = True

    def __init__(self, num_classes: int, channels: int = 1, resolution: int = 32) -> None:
        super().__init__()
        first = self.widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(channels, first, 5, 1 if resolution <= 32 else 2, 2, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
        )
        sizes = (first, *self.widths)
        self.blocks = nn.ModuleList(
            _Residual(a, b, 1 if index == 0 else 2) for index, (a, b) in enumerate(pairwise(sizes))
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.feature_dim = self.widths[-1]
        self.head: nn.Module = nn.Linear(self.feature_dim, num_classes)

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        yield "stem", self.stem
        for index, block in enumerate(self.blocks, start=1):
            yield f"stage{index}", block
        yield "features", self.pool

    def scale_shortcuts(self, factor: float) -> Classifier:
        self.blocks[-1].factor = factor  # type: ignore[assignment]
        return self


class _Digits(Classifier):
    """Convolutions, each with BN and LeakyReLU 0.2 and the first two with a 2x2 maxpool, on one channel of 32 pixels:
    32 -> 14 -> 5 -> 1. ``convs``: width, kernel size, padding."""

    convs: ClassVar[tuple[tuple[int, int, int], ...]]
    hidden_convs: ClassVar[int]  # the stages before the features; what follows belongs to the features

    def __init__(self, num_classes: int, channels: int = 1, resolution: int = 32) -> None:
        super().__init__()
        if (channels, resolution) != (1, 32):
            raise UserError(
                f"{type(self).__name__} takes grey images of 32 pixels; found {channels} channels of {resolution} "
                "pixels. Use another track or another architecture."
            )
        widths = (channels, *(width for width, _, _ in self.convs))
        self.parts = nn.ModuleList()
        for index, (width, kernel, padding) in enumerate(self.convs):
            conv = nn.Conv2d(widths[index], width, kernel, padding=padding)
            pool = [nn.MaxPool2d(2)] if index < 2 else []
            self.parts.append(nn.Sequential(conv, nn.BatchNorm2d(width), nn.LeakyReLU(0.2), *pool))
        self.flatten = nn.Flatten()
        self.feature_dim = widths[-1]
        self.head: nn.Module = nn.Linear(self.feature_dim, num_classes)

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        for index, part in enumerate(self.parts[: self.hidden_convs], start=1):
            yield f"stage{index}", part
        yield "features", nn.Sequential(*self.parts[self.hidden_convs :], self.flatten)


class MCNN(_Digits):
    """The MNIST target of KED-MI and BiDO: 256 features."""

    convs, hidden_convs = ((64, 7, 1), (128, 5, 0), (256, 5, 0)), 2
    published_names: ClassVar[dict[str, str]] = {
        "fc_layer": "head",
        "layer1": "parts.0",
        "layer2": "parts.1",
        "layer3": "parts.2",
    }


class SCNN(_Digits):
    """The MNIST evaluator of BiDO: 512 features."""

    convs, hidden_convs = ((32, 7, 1), (64, 5, 0), (128, 5, 0), (256, 3, 1), (512, 3, 1)), 2

    @property
    def published_names(self) -> dict[str, str]:
        """There all layers stand in one row."""
        layers = [f"parts.{i}.{j}" for i, part in enumerate(self.parts) for j in range(len(cast(nn.Sequential, part)))]
        return {"fc_layer": "head"} | {f"feature.{n}": name for n, name in enumerate(layers)}
