"""Which samples of the public face generator are good pictures, and how they come to look like the public photos: the
same framing, the same light. No torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64
WEIGHTS = Path(__file__).parent / "weights" / "digiface_dcgan.safetensors"
CHOSEN = Path(__file__).with_name("digiface_faces.json")
FRAME = (6.6, 2.5, 59.6, 62.5)  # left, top, right, bottom of a sample whose eyes and mouth lie as in the public photos
LIGHT = {"mean": (138.7, 9.0), "contrast": (34.8, 4.2)}  # of the public photos' middles: mean and spread
MIDDLE = (slice(20, 58), slice(16, 48))  # of a framed sample: no hair, no surroundings


def chosen() -> list[int]:
    """Which samples of ``SEED`` are good pictures of faces, best known by ``scripts/choose_faces.py``, which wrote the
    list: MTCNN is sure of the face, and its surroundings are darker than the face, as in the photos."""
    numbers: list[int] = json.loads(CHOSEN.read_text(encoding="utf-8"))
    return numbers


def framed(sample: np.ndarray) -> np.ndarray:
    """(64, 64) uint8 -> the same, zoomed so that MTCNN finds eyes and mouth where it finds them, on average, in the
    public AT&T/ORL photos."""
    left, top, right, bottom = FRAME
    matrix = ((right - left) / SIDE, 0, left, 0, (bottom - top) / SIDE, top)
    moved = Image.fromarray(sample).transform((SIDE, SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return np.asarray(moved)


def lit(face: np.ndarray, mean: float, contrast: float) -> np.ndarray:
    """A framed face, uint8, whose middle gets this mean and standard deviation."""
    middle = face[MIDDLE].astype(np.float64)
    return ((face - middle.mean()) / middle.std() * contrast + mean).round().clip(0, 255).astype(np.uint8)
