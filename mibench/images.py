"""PNG files of reconstructions: what the attack made, rounded once to 8 bits; every metric reads the same files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def write_png(image: Tensor, path: Path) -> None:
    """(C, H, W) in [0, 1], one or three channels; values outside are clamped."""
    pixels = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(path, compress_level=3)


def read_png(path: Path, channels: int) -> Tensor:
    """(channels, H, W) float in [0, 1]."""
    return read_bytes(path, channels).float() / 255


def read_bytes(path: Path, channels: int) -> Tensor:
    """(channels, H, W) uint8."""
    with Image.open(path) as image:
        pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1).copy())
