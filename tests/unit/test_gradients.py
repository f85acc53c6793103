"""Histograms of oriented gradients against a slow one, pixel by pixel, and against what they must not notice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mibench.nets import build_classifier
from mibench.nets.gradients import CELLS, CLIP, ORIENTATIONS, OrientedGradients


def slow(image: np.ndarray) -> np.ndarray:
    """(S, S) -> (36, 49): block by block."""
    side = len(image)
    padded = np.pad(image, 1, mode="edge")
    cells = np.zeros((CELLS, CELLS, ORIENTATIONS))
    size = side // CELLS
    for y in range(side):
        for x in range(side):
            across = padded[y + 1, x + 2] - padded[y + 1, x]
            down = padded[y + 2, x + 1] - padded[y, x + 1]
            turn = math.atan2(down, across) % math.pi / math.pi * ORIENTATIONS
            low, part = int(turn) % ORIENTATIONS, turn % 1
            size_of_gradient = math.hypot(across, down)
            cells[y // size, x // size, low] += (1 - part) * size_of_gradient / size**2
            cells[y // size, x // size, (low + 1) % ORIENTATIONS] += part * size_of_gradient / size**2
    blocks = []
    for top in range(CELLS - 1):
        for left in range(CELLS - 1):
            block = cells[top : top + 2, left : left + 2].transpose(2, 0, 1).ravel()
            block = np.minimum(block / max(np.linalg.norm(block), 1e-2), CLIP)
            blocks.append(block / max(np.linalg.norm(block), 1e-2))
    return np.stack(blocks, 1)


@pytest.mark.parametrize("side", [32, 64])
def test_pixel_by_pixel(side: int) -> None:
    image = np.random.default_rng(0).random((side, side))
    ours = OrientedGradients()(torch.from_numpy(image)[None, None])[0].numpy().reshape(36, -1)
    np.testing.assert_allclose(ours, slow(image), atol=1e-6)


def test_light_and_contrast_change_little() -> None:
    image = torch.rand(1, 1, 32, 32)
    net = OrientedGradients()
    torch.testing.assert_close(net(image), net(image * 0.5 + 0.3), atol=1e-5, rtol=0)


def test_it_is_a_classifier_with_a_gradient_everywhere() -> None:
    net = build_classifier("oriented_gradients", 5, 3, 32)
    images = torch.zeros(2, 3, 32, 32, requires_grad=True)  # flat: no direction anywhere
    out = net(images)
    assert out.logits.shape == (2, 5) and out.features.shape == (2, net.feature_dim)
    out.logits.sum().backward()
    assert images.grad is not None and images.grad.isfinite().all()
