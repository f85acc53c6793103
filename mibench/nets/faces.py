"""The targets of the 64-pixel face protocol (VGG16, IR152, FaceNet64) and its evaluator (FaceNet112).

The architectures of KED-MI (Chen et al., ICCV 2021), which every later 64-pixel attack and defense uses; the
IR backbones are those of face.evoLVe. They take pixels in [0, 1] as they are, without normalisation, and load
the published checkpoints with ``mibench.weights.fit.load_published``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn
from torchvision.models import vgg16_bn

from mibench.errors import UserError
from mibench.nets.base import Classifier


def _require_resolution(net: Classifier, expected: int, resolution: int) -> None:
    if resolution != expected:
        raise UserError(
            f"{type(net).__name__} takes {expected}x{expected} images, found {resolution}x{resolution}. "
            f"Use a track of {expected} pixels or another architecture."
        )


def _initialise(*backbone: nn.Module) -> None:
    """Xavier-uniform convolutions and linear layers with zero bias; BatchNorm starts at gain 1, bias 0. What the
    released code adds to a backbone (neck and head at 64 pixels, the head at 112) keeps PyTorch's initial weights."""
    for module in nn.ModuleList(backbone).modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class VGG16(Classifier):
    """VGG16 with BatchNorm at 64 pixels: 64x64 -> 2x2x512 -> 2048 features (16.78 M parameters for K = 1000).

    The flattened features pass a BatchNorm1d whose bias is fixed at 0. ``convs`` is torchvision's
    ``features``, layer by layer.
    """

    published_names: ClassVar[dict[str, str]] = {"feature": "convs", "bn": "norm", "fc_layer": "head"}

    def __init__(self, num_classes: int, channels: int = 3, resolution: int = 64) -> None:
        super().__init__()
        _require_resolution(self, 64, resolution)
        self.convs: nn.Sequential = vgg16_bn(weights=None, init_weights=False).features
        if channels != 3:
            self.convs[0] = nn.Conv2d(channels, 64, 3, padding=1)
        self.flatten = nn.Flatten()
        self.feature_dim = 512 * 2 * 2
        self.norm = nn.BatchNorm1d(self.feature_dim)
        self.norm.bias.requires_grad_(False)
        self.head: nn.Module = nn.Linear(self.feature_dim, num_classes)
        _initialise(self.convs)

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        pools = [index for index, layer in enumerate(self.convs) if isinstance(layer, nn.MaxPool2d)]
        ends = [0, *(index + 1 for index in pools)]
        *first, last = (self.convs[start:end] for start, end in pairwise(ends))
        for index, stage in enumerate(first, start=1):
            yield f"stage{index}", stage
        yield "features", nn.Sequential(*last, self.flatten, self.norm)

    def without_feature_norm(self) -> Classifier:
        self.norm = nn.Identity()  # type: ignore[assignment]
        return self

    def transfer_frozen(self, stem: bool = True) -> list[nn.Module]:
        """Through the eighth convolution, its batch norm and ReLU."""
        return list(self.convs[:27])


class StagedVGG16(VGG16):
    """The same network as BiDO's files have it: its five stages apart, each counted from 0."""

    @property
    def published_names(self) -> dict[str, str]:  # type: ignore[override]
        names, stage, start = {"bn": "norm", "fc_layer": "head"}, 1, 0
        for index, layer in enumerate(self.convs):
            names[f"layer{stage}.{index - start}"] = f"convs.{index}"
            if isinstance(layer, nn.MaxPool2d):
                stage, start = stage + 1, index + 1
        return names


class IrUnit(nn.Module):
    """The improved residual unit of ArcFace: BN, conv, PReLU, strided conv, BN; plus its shortcut.

    Nothing follows the sum. The two parts keep their published names.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, channels_out, 3, 1, 1, bias=False),
            nn.PReLU(channels_out),
            nn.Conv2d(channels_out, channels_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut_layer: nn.Module = (
            nn.MaxPool2d(1, stride)
            if channels_in == channels_out
            else nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )
        )

        self.factor = 1.0  # of the shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.factor * self.shortcut_layer(x)


class IrNet(Classifier):
    """An IR backbone and a linear head. ``units`` are all residual units in order; each of the four stages of
    64, 128, 256 and 512 channels halves the resolution in its first unit.

    The features are the 512 outputs of ``neck`` (BN, dropout 0.5, linear, BN), not normalised in length.
    """

    taps = ("stage1", "stage2", "stage3", "stage4", "features")
    shortcuts = True
    depths: ClassVar[tuple[int, int, int, int]]
    transfer_units: ClassVar[int] = 0  # residual units that TL-DMI freezes, after the stem
    expected_resolution: ClassVar[int] = 64
    own_neck: ClassVar[bool] = False  # whether the neck is the backbone's own
    published_names: ClassVar[dict[str, str]] = {
        "feature.input_layer": "stem",
        "feature.body": "units",
        "output_layer": "neck",
        "fc_layer": "head",
    }

    def __init__(self, num_classes: int, channels: int = 3, resolution: int | None = None) -> None:
        super().__init__()
        resolution = self.expected_resolution if resolution is None else resolution
        _require_resolution(self, self.expected_resolution, resolution)
        self.stem = nn.Sequential(nn.Conv2d(channels, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        units: list[nn.Module] = []
        channels_in = 64
        for depth, channels_out in zip(self.depths, (64, 128, 256, 512), strict=True):
            for index in range(depth):
                units.append(IrUnit(channels_in, channels_out, stride=2 if index == 0 else 1))
                channels_in = channels_out
        self.units = nn.Sequential(*units)
        self.feature_dim = 512
        self.neck = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(512 * (resolution // 16) ** 2, self.feature_dim),
            nn.BatchNorm1d(self.feature_dim),
        )
        self.head: nn.Module = nn.Linear(self.feature_dim, num_classes)
        _initialise(self.stem, self.units, *([self.neck] if self.own_neck else []))

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        yield "stem", self.stem
        start = 0
        for index, depth in enumerate(self.depths, start=1):
            yield f"stage{index}", self.units[start : start + depth]
            start += depth
        yield "features", self.neck

    def transfer_frozen(self, stem: bool = True) -> list[nn.Module]:
        """The stem and the first units. The released code means to freeze the stem too and misses it by a typing
        error: 1,920 parameters that train."""
        if not self.transfer_units:
            return super().transfer_frozen()
        return [self.stem] * stem + list(self.units[: self.transfer_units])

    def scale_shortcuts(self, factor: float) -> Classifier:
        for unit in self.units[-self.depths[-1] :]:
            unit.factor = factor  # type: ignore[assignment]
        return self


class IR152(IrNet):
    """IR-152 at 64 pixels, 50 units (62.60 M parameters for K = 1000)."""

    depths = (3, 8, 36, 3)
    transfer_units = 47


class FaceNet64(IrNet):
    """IR-50 at 64 pixels, 24 units; "face.evoLVe" in the papers (35.44 M parameters for K = 1000)."""

    depths = (3, 4, 14, 3)
    transfer_units = 6


class FaceNet112(IrNet):
    """IR-50 at 112 pixels, the evaluator (44.09 M parameters for K = 1000)."""

    depths = (3, 4, 14, 3)
    expected_resolution = 112
    own_neck = True
    published_names = {
        "feature.input_layer": "stem",
        "feature.body": "units",
        "feature.output_layer": "neck",
        "fc_layer": "head",
    }
