"""Shortcuts that are multiplied by a factor (RoLSS, SSF, TTS; Koh et al., "On the Vulnerability of Skip Connections to
Model Inversion Attacks", ECCV 2024), in torchvision's and timm's blocks. The tensors and their names stay."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.densenet import _DenseLayer
from torchvision.models.maxvit import MBConv, PartitionAttentionLayer
from torchvision.models.resnet import BasicBlock, Bottleneck


class _ScaledBasic(BasicBlock):
    factor: float

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return cast(Tensor, self.relu(self.bn2(self.conv2(out)) + self.factor * identity))


class _ScaledBottleneck(Bottleneck):
    factor: float

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return cast(Tensor, self.relu(self.bn3(self.conv3(out)) + self.factor * identity))


class _ScaledMBConv(MBConv):
    factor: float

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.factor * self.proj(x) + self.stochastic_depth(self.layers(x)))


class _ScaledAttention(PartitionAttentionLayer):
    factor: float

    def forward(self, x: Tensor) -> Tensor:
        gh, gw = self.grid_size[0] // self.p, self.grid_size[1] // self.p
        x = self.partition_swap(self.partition_op(x, self.p))
        x = self.factor * x + self.stochastic_dropout(self.attn_layer(x))
        x = self.factor * x + self.stochastic_dropout(self.mlp_layer(x))
        return cast(Tensor, self.departition_op(self.departition_swap(x), self.p, gh, gw))


_SCALED: dict[type[nn.Module], type[nn.Module]] = {
    BasicBlock: _ScaledBasic,
    Bottleneck: _ScaledBottleneck,
    MBConv: _ScaledMBConv,
    PartitionAttentionLayer: _ScaledAttention,
}


def scale(stage: nn.Module, factor: float) -> None:
    """Multiply every shortcut in ``stage`` by ``factor``, in place; also that of a first block, which changes the
    number of channels (its weights stay, unused at 0). Raises ValueError if there is none."""
    has_shortcut = False
    scaled = _SCALED | _timm_blocks()
    for module in stage.modules():
        kind = next((new for old, new in scaled.items() if type(module) in (old, new)), None)
        if kind is not None:
            module.__class__ = kind
            cast(Any, module).factor = factor
            has_shortcut = True
    if not has_shortcut:
        raise ValueError(f"{type(stage).__name__} has no shortcut that could be scaled")


@cache
def _timm_blocks() -> dict[type[nn.Module], type[nn.Module]]:
    try:
        from timm.models.resnest import ResNestBottleneck
    except ImportError:
        return {}

    class ScaledResNest(ResNestBottleneck):  # type: ignore[misc]
        factor: float

        def forward(self, x: Tensor) -> Tensor:
            identity = x if self.downsample is None else self.downsample(x)
            out = self.act1(self.bn1(self.conv1(x)))
            if self.avd_first is not None:
                out = self.avd_first(out)
            out = self.act2(self.drop_block(self.bn2(self.conv2(out))))
            if self.avd_last is not None:
                out = self.avd_last(out)
            return cast(Tensor, self.act3(self.bn3(self.conv3(out)) + self.factor * identity))

    return {ResNestBottleneck: ScaledResNest}


class NarrowBlock(nn.Module):
    """A dense block whose layers keep only the first round(factor C) channels of the map with C channels before they
    append their own. At 0 it is a plain chain."""

    def __init__(self, layers: int, channels: int, growth: int, bottleneck: int, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.layers = nn.ModuleList()
        for _ in range(layers):
            self.layers.append(_DenseLayer(channels, growth, bottleneck, 0.0))
            channels = round(factor * channels) + growth
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x[:, : round(self.factor * x.shape[1])], layer(x)], 1)
        return x


def narrow_last_block(features: nn.Sequential, factor: float) -> int:
    """Replace the last dense block of a torchvision DenseNet and the batch norm after it, in place, by fresh narrow
    ones; the number of channels that come out. Published weights do not fit them."""
    name, block = [(name, part) for name, part in features.named_children() if name.startswith("denseblock")][-1]
    first = cast(_DenseLayer, next(iter(block.children())))
    growth = first.conv2.out_channels
    narrow = NarrowBlock(
        len(list(block.children())), first.norm1.num_features, growth, first.conv1.out_channels // growth, factor
    )
    setattr(features, name, narrow)
    features.norm5 = nn.BatchNorm2d(narrow.channels)
    return narrow.channels


__all__ = ["NarrowBlock", "narrow_last_block", "scale"]
