"""Colour jitter of a whole batch on its device, each image in its own way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mibench.random import Rng

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601, as torchvision has it


def colour_jitter(images: Tensor, rng: Rng, strength: tuple[float, float, float, float]) -> Tensor:
    """Brightness, contrast and saturation within 1 +- their strength and a turn of the hue of at most ``strength[3]``
    of the circle, in an order of each image's own. The distribution is that of torchvision's ``ColorJitter``; images
    (N, 1 or 3, H, W) in [0, 1] stay there. On grey images the last two do nothing."""
    n = len(images)
    if not n:
        return images
    u = 2 * rng.uniform(n, 4) - 1
    order = rng.uniform(n, 4).argsort(1)
    factors = [1 + strength[i] * u[:, i] for i in range(3)] + [strength[3] * u[:, 3]]
    steps: list[Callable[[Tensor, Tensor], Tensor]] = [brightness, contrast, saturation, hue]
    out = images
    for place in range(4):
        changed = out.clone()
        for kind, step in enumerate(steps):
            chosen = order[:, place] == kind
            if strength[kind] and bool(chosen.any()):
                changed[chosen] = step(out[chosen], factors[kind][chosen])
        out = changed
    return out


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (images * _wide(factor)).clamp(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Towards or away from the image's mean grey."""
    return _blend(images, grey(images).mean((1, 2, 3), keepdim=True), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Towards or away from grey, pixel by pixel."""
    return images if images.shape[1] == 1 else _blend(images, grey(images), factor)


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """The hue turned by ``turn`` of the circle, value and chroma kept."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    value, low = images.amax(1), images.amin(1)
    chroma = value - low
    safe = torch.where(chroma == 0, 1, chroma)
    sextant = torch.where(
        value == red,
        ((green - blue) / safe) % 6,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sextant = (sextant + 6 * turn[:, None, None]) % 6
    # channel = value - chroma * max(0, min(k, 4 - k, 1)), k = (n + sextant) mod 6 with n = 5, 3, 1 for R, G, B
    k = (torch.tensor([5.0, 3.0, 1.0], device=images.device)[None, :, None, None] + sextant[:, None]) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def grey(images: Tensor) -> Tensor:
    """(N, 1, H, W) luma."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(LUMA, device=images.device)[None, :, None, None]
    return (images * weights).sum(1, keepdim=True)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (other + (images - other) * _wide(factor)).clamp(0, 1)


def _wide(factor: Tensor) -> Tensor:
    return factor[:, None, None, None]
