"""StyleGAN2-ADA's generator (Karras et al., NeurIPS 2020) in plain PyTorch, under the published names.

z -> mapping -> w -> synthesis: blocks of 4, 8, 16, ... pixels, each of which adds its colours to the upsampled ones of
the blocks before (the "skip" architecture). Everything is float32: where the published networks compute their last
resolutions in float16 (``num_fp16_res``), these do not. Every layer acts on each row by itself.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mibench.nets.generator import Generator
from mibench.random import Rng

Noise = Literal["const", "none"] | Rng  # the stored noise, none, or drawn from what the caller gives
_SLOPE = 0.2
_EPS = 1e-8


def resample_filter() -> Tensor:
    """(4, 4) binomial low-pass filter [1, 3, 3, 1] x [1, 3, 3, 1], of sum 1."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 64


def upsample(images: Tensor, kernel: Tensor) -> Tensor:
    """Double the resolution: zeros between the pixels, then the low-pass filter ``kernel`` (4, 4) with gain 4."""
    channels = images.shape[1]
    kernel = (4 * kernel).expand(channels, 1, 4, 4)
    return functional.conv_transpose2d(images, kernel, stride=2, padding=1, groups=channels)


def _activate(x: Tensor) -> Tensor:
    """sqrt(2) leaky ReLU: keeps the second moment of N(0, 1)."""
    return functional.leaky_relu(x, _SLOPE) * math.sqrt(2)


def _clamp(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else x.clamp(-limit, limit)


class Affine(nn.Module):
    """x -> c (W x / sqrt(inputs) + b), weights of unit variance (equalised learning rate); c is ``rate``."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.weight_gain, self.bias_gain = rate / math.sqrt(inputs), rate

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)


class Mapping(nn.Module):
    """z (N, z_dim) -> w (N, w_dim): z scaled to second moment 1, then ``layers`` slow fully connected layers."""

    w_avg: Tensor

    def __init__(self, z_dim: int, w_dim: int, layers: int) -> None:
        super().__init__()
        self.layers = layers
        for index in range(layers):
            self.add_module(f"fc{index}", Affine(w_dim if index else z_dim, w_dim, rate=0.01))
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor) -> Tensor:
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + _EPS)
        for index in range(self.layers):
            x = _activate(self.get_submodule(f"fc{index}")(x))
        return x


class StyledConv(nn.Module):
    """3x3 convolution with the weights W s, s = A(w) one factor per input channel, each output channel divided by the
    norm of its weights (demodulation); then noise, bias and activation.

    conv(x, W s) = conv(s x, W), and the norm is sqrt(sum_i s_i^2 ||W_oi||^2): so all rows share one convolution.
    """

    kernel: Tensor
    noise_const: Tensor

    def __init__(
        self, inputs: int, outputs: int, w_dim: int, resolution: int, up: bool, conv_clamp: float | None
    ) -> None:
        super().__init__()
        self.affine = Affine(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("kernel", resample_filter(), persistent=False)
        self.up, self.conv_clamp = up, conv_clamp

    def forward(self, x: Tensor, w: Tensor, noise: Noise) -> Tensor:
        styles = self.affine(w)
        x = x * styles[:, :, None, None]
        if self.up:
            x = functional.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
            channels = x.shape[1]
            x = functional.conv2d(x, (4 * self.kernel).expand(channels, 1, 4, 4), padding=1, groups=channels)
        else:
            x = functional.conv2d(x, self.weight, padding=1)
        energy = self.weight.square().sum((2, 3))  # (outputs, inputs)
        x = x * torch.rsqrt(styles.square() @ energy.T + _EPS)[:, :, None, None]
        x = x + self._noise(len(x), noise)
        return _clamp(_activate(x + self.bias[:, None, None]), self.conv_clamp)

    def _noise(self, rows: int, noise: Noise) -> Tensor:
        if isinstance(noise, str):
            drawn = self.noise_const if noise == "const" else torch.zeros_like(self.noise_const)
        else:
            drawn = noise.normal(rows, 1, *self.noise_const.shape)
        return drawn * self.noise_strength


class ToRgb(nn.Module):
    """1x1 convolution to colours, modulated by w without demodulation."""

    def __init__(self, inputs: int, channels: int, w_dim: int, conv_clamp: float | None) -> None:
        super().__init__()
        self.affine = Affine(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.weight_gain, self.conv_clamp = 1 / math.sqrt(inputs), conv_clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = self.affine(w) * self.weight_gain
        colours = functional.conv2d(x * styles[:, :, None, None], self.weight, self.bias)
        return _clamp(colours, self.conv_clamp)


class Block(nn.Module):
    """One resolution: h_s (N, inputs, r/2, r/2) -> h_{s+1} (N, outputs, r, r), and its colours. ``inputs`` 0: the
    first block, which starts from a learned constant."""

    def __init__(
        self, inputs: int, outputs: int, w_dim: int, resolution: int, channels: int, conv_clamp: float | None
    ) -> None:
        super().__init__()
        if inputs:
            self.conv0 = StyledConv(inputs, outputs, w_dim, resolution, True, conv_clamp)
        else:
            self.const = nn.Parameter(torch.randn(outputs, resolution, resolution))
        self.conv1 = StyledConv(outputs, outputs, w_dim, resolution, False, conv_clamp)
        self.torgb = ToRgb(outputs, channels, w_dim, conv_clamp)


class StyleGAN2(Generator):
    """Images are (synthesis + 1) / 2, nominally in [0, 1], not clamped.

    ``channel_base / r`` channels at r pixels, at most ``channel_max``. ``conv_clamp`` bounds activations (None: not).
    """

    published_names: ClassVar[dict[str, str]] = {"synthesis": "body"}
    kernel: Tensor

    negative_slope = 0.2

    def __init__(
        self,
        z_dim: int = 512,
        w_dim: int = 512,
        img_resolution: int = 1024,
        img_channels: int = 3,
        mapping_layers: int = 8,
        channel_base: int = 32768,
        channel_max: int = 512,
        conv_clamp: float | None = 256.0,
    ) -> None:
        super().__init__()
        if img_resolution < 4 or img_resolution & (img_resolution - 1):
            raise ValueError(f"the resolution is a power of two of at least 4, not {img_resolution}")
        self.latent_dim, self._w_dim = z_dim, w_dim
        self.resolutions = [2**power for power in range(2, img_resolution.bit_length())]
        self.num_ws = 2 * len(self.resolutions)
        self.mapping = Mapping(z_dim, w_dim, mapping_layers)
        self.body = nn.Module()
        inputs = 0
        for resolution in self.resolutions:
            outputs = min(channel_base // resolution, channel_max)
            self.body.add_module(f"b{resolution}", Block(inputs, outputs, w_dim, resolution, img_channels, conv_clamp))
            inputs = outputs
        self.register_buffer("kernel", resample_filter(), persistent=False)

    @property
    def w_dim(self) -> int:
        return self._w_dim

    @property
    def mean_w(self) -> Tensor:
        return self.mapping.w_avg

    @property
    def blocks(self) -> int:
        return len(self.resolutions)

    def forward(self, latents: Tensor) -> Tensor:
        return self.synthesis(self.map(latents))

    def map(self, latents: Tensor, truncation: float = 1.0, cutoff: int | None = None) -> Tensor:
        """z -> w; the first ``cutoff`` layers become w_avg + psi (w - w_avg)."""
        w = self.mapping(self.checked(latents))[:, None].expand(-1, self.num_ws, -1)
        return self.truncate(w, truncation, cutoff)

    def synthesis(self, w: Tensor, start: int = 0, features: Tensor | None = None, noise: Noise = "const") -> Tensor:
        """w (N, num_ws, w_dim) -> images. From a block ``start`` > 0 on, the colours that earlier blocks would have
        added are missing, as in IF-GMI (Qiu et al., ECCV 2024)."""
        x, image = features, None
        for index in range(start, self.blocks):
            x = self.block(index, w, x, noise)
            colours = self._block(index).torgb(x, w[:, 2 * index + 1])
            image = colours if image is None else upsample(image, self.kernel) + colours
        if image is None:
            raise ValueError(f"there are {self.blocks} blocks; synthesis cannot start at {start}")
        return (image + 1) / 2

    def block(self, index: int, w: Tensor, features: Tensor | None, noise: Noise = "const") -> Tensor:
        """h_{index + 1}, of ``resolutions[index]`` pixels. Raises ValueError for w or features of another shape."""
        if w.ndim != 3 or w.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"expected w (N, {self.num_ws}, {self.w_dim}); found {tuple(w.shape)}")
        if (features is None) != (index == 0):
            raise ValueError(f"block {index} takes {'features' if index else 'no features'}")
        block = self._block(index)
        if features is None:
            x = block.const.expand(len(w), -1, -1, -1)
        else:
            x = block.conv0(features, w[:, 2 * index - 1], noise)
        out: Tensor = block.conv1(x, w[:, 2 * index], noise)
        return out

    def _block(self, index: int) -> Block:
        block = self.body.get_submodule(f"b{self.resolutions[index]}")
        assert isinstance(block, Block)
        return block
