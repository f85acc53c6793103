"""Augmented copies of public photos: flip, rotation, scale and shift in one resampling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from mibench.keys import stream_seed

AUGMENTATION: dict[str, Any] = {
    "version": 1,
    "seed": 0,
    "shift": 0.06,  # of the side
    "rotate": 8.0,  # degrees
    "scale": 0.08,
    "flip": 0.5,
}
_MARGIN = 32  # pixels of replicated border; more than the largest corner displacement of a 92-pixel crop


def augmented(image: np.ndarray, copy: int, size: int) -> np.ndarray:
    """Copy number ``copy`` of a square (S, S) uint8 image, resized to (size, size). Borders are replicated.

    The image is moved at its own resolution and then reduced with an antialiasing filter, so copies are as
    sharp as originals.
    """
    side = image.shape[0]
    turn, zoom, right, down, mirror = (2 * _uniform(copy, name) - 1 for name in ("turn", "zoom", "x", "y", "flip"))
    angle = math.radians(turn * AUGMENTATION["rotate"])
    factor = 1 / (1 + zoom * AUGMENTATION["scale"])
    shift_x, shift_y = (part * AUGMENTATION["shift"] * side for part in (right, down))
    flip = -1.0 if (mirror + 1) / 2 < AUGMENTATION["flip"] else 1.0
    # PIL maps output coordinates to input ones: input = A (output - centre - shift) + centre
    a, b = factor * math.cos(angle) * flip, factor * math.sin(angle) * flip
    d, e = -factor * math.sin(angle), factor * math.cos(angle)
    centre = side / 2
    out_x, out_y = centre + shift_x, centre + shift_y
    matrix = (
        a,
        b,
        centre + _MARGIN - a * out_x - b * out_y,
        d,
        e,
        centre + _MARGIN - d * out_x - e * out_y,
    )
    padded = Image.fromarray(np.pad(image, _MARGIN, mode="edge"))
    moved = padded.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return np.asarray(moved.resize((size, size), Image.Resampling.BILINEAR))


def _uniform(copy: int, name: str) -> float:
    return stream_seed("augmented", AUGMENTATION["seed"], copy, name) / 2**63
