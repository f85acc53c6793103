"""Batched, per-image augmentation on the device. Every function draws its numbers from an ``Rng``, so the same code
serves training (one stream) and attacks (one stream per row)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mibench.images.colour import brightness, contrast
from mibench.random import Rng

Fill = Literal["mean", "zero", "image_mean", "patch", "noise"]


def shift_flip_warp(
    images: Tensor,
    rng: Rng,
    shift: float = 0.0,
    flip: bool = False,
    rotate: float = 0.0,
    scale: float = 0.0,
    light: float = 0.0,
) -> Tensor:
    """The standard augmentation: per image, a shift of up to ``shift`` of the side, a mirror image half of the time,
    up to ``rotate`` degrees, a zoom within 1 +- ``scale`` and contrast and brightness within 1 +- ``light``.
    Borders are replicated. (N, C, H, W) in [0, 1] -> the same."""
    n = len(images)
    if not n:  # an empty Poisson batch
        return images
    u = 2 * rng.uniform(n, 7) - 1
    angle = u[:, 2] * math.radians(rotate)
    zoom = 1 + u[:, 3] * scale
    mirror = torch.where((u[:, 4] < 0) & flip, -1.0, 1.0)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    theta = torch.stack(
        [
            torch.stack([cos * mirror, -sin, 2 * shift * u[:, 0]], 1),
            torch.stack([sin * mirror, cos, 2 * shift * u[:, 1]], 1),
        ],
        1,
    )
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    out = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    if light:
        mean = out.mean((1, 2, 3), keepdim=True)
        contrast, brightness = (1 + light * u[:, 5:7]).reshape(n, 2, 1, 1, 1).unbind(1)
        out = (((out - mean) * contrast + mean) * brightness).clamp(0, 1)
    return out


def erase_rectangles(
    images: Tensor,
    rng: Rng,
    area: tuple[float, float],
    p: float = 1.0,
    ratio: tuple[float, float] = (1.0, 1.0),
    fill: Fill | tuple[float, ...] = "mean",
    mean: tuple[float, ...] = (0.0,),
    place: Rng | None = None,
) -> Tensor:
    """Erase one rectangle per image (random erasing; Zhong et al., AAAI 2020), each image its own.

    With probability ``p``: area a ~ U(area) of the image, aspect ratio r ~ log-uniform(ratio), height
    round(sqrt(a H W r)), width round(sqrt(a H W / r)), up to ten tries until both are smaller than the image (else
    the image stays as it is), position uniform among those that fit. The distribution is torchvision's
    ``RandomErasing``. ``fill``: ``mean`` (the given constants per channel), ``zero``, ``image_mean`` (per image and
    channel), ``patch`` (one uniform colour per image), ``noise`` (standard normal per pixel), or constants.
    ``place``: what p, size and position are drawn from, if not ``rng``.
    """
    n, _, height, width = images.shape
    place = place or rng
    tries = place.uniform(n, 10, 2)
    where = place.uniform(n, 3)
    a = area[0] + (area[1] - area[0]) * tries[..., 0]
    r = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * tries[..., 1])
    h = torch.sqrt(a * height * width * r).round()
    w = torch.sqrt(a * height * width / r).round()
    fits = (h < height) & (w < width)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    h, w = h.gather(1, first), w.gather(1, first)
    top = torch.floor(where[:, 0:1] * (height - h + 1))
    left = torch.floor(where[:, 1:2] * (width - w + 1))
    apply = fits.any(1, keepdim=True) & (where[:, 2:3] < p)
    y = torch.arange(height, device=images.device)[None]
    x = torch.arange(width, device=images.device)[None]
    inside_y = (y >= top) & (y < top + h) & apply
    inside_x = (x >= left) & (x < left + w)
    mask = (inside_y[:, :, None] & inside_x[:, None, :])[:, None]
    return cover(images, mask, rng, fill, mean)


def cover(
    images: Tensor, mask: Tensor, rng: Rng, fill: Fill | tuple[float, ...] = "mean", mean: tuple[float, ...] = (0.0,)
) -> Tensor:
    """``fill`` where ``mask``, (N, 1, H, W), is true; see ``erase_rectangles``."""
    return torch.where(mask, _fill(images, rng, fill, mean), images)


def blank(
    images: Tensor,
    rng: Rng,
    p: float,
    fill: Fill | tuple[float, ...] = "mean",
    mean: tuple[float, ...] = (0.0,),
) -> Tensor:
    """With probability ``p`` an image is nothing but ``fill``; see ``erase_rectangles``."""
    hidden = rng.uniform(len(images)) < p
    return torch.where(hidden[:, None, None, None], _fill(images, rng, fill, mean), images)


def _fill(images: Tensor, rng: Rng, fill: Fill | tuple[float, ...], mean: tuple[float, ...]) -> Tensor:
    n, channels, height, width = images.shape
    if fill == "zero":
        return torch.zeros(1, channels, 1, 1, device=images.device)
    if fill == "image_mean":
        return images.mean((2, 3), keepdim=True)
    if fill == "patch":
        return rng.uniform(n, channels, 1, 1)
    if fill == "noise":
        return rng.normal(n, channels, height, width)
    values = mean if isinstance(fill, str) else fill
    return torch.tensor(values, device=images.device).reshape(1, -1, 1, 1)


def resized_crop(
    images: Tensor, rng: Rng, scale: tuple[float, float], ratio: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """A random crop per image, resized back to the image's size: area a ~ U(scale), aspect ratio log-uniform, position
    uniform, bilinear. Two small matrix products per image, so its gradient is deterministic on every device."""
    n, _, height, width = images.shape
    u = rng.uniform(n, 4)
    a = scale[0] + (scale[1] - scale[0]) * u[:, 0]
    r = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * u[:, 1])
    crop_w = (torch.sqrt(a * r)).clamp(max=1) * width
    crop_h = (torch.sqrt(a / r)).clamp(max=1) * height
    rows = _interpolation(height, crop_h, u[:, 2] * (height - crop_h))
    columns = _interpolation(width, crop_w, u[:, 3] * (width - crop_w))
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


def _interpolation(size: int, length: Tensor, start: Tensor) -> Tensor:
    """(N, size, size): row i holds the weights that bilinear interpolation gives the pixels for output pixel i. The
    crop's border is replicated: nothing outside it shows."""
    position = torch.arange(size, device=length.device) + 0.5
    low, high = start[:, None], (start + length - 1)[:, None]
    at = (low + position[None] * length[:, None] / size - 0.5).clamp(low, high)
    pixel = torch.arange(size, device=length.device)
    return (1 - (at[..., None] - pixel).abs()).clamp(min=0)


def whole_pixel_crop(images: Tensor, rng: Rng, scale: tuple[float, float]) -> Tensor:
    """``resized_crop`` to a square of whole pixels, corners aligned, as kornia's ``RandomResizedCrop`` does: side
    round(sqrt(a H W)), up to ten tries until it is smaller than the image (else all of it), position uniform."""
    n, _, height, width = images.shape
    tries, place = rng.uniform(n, 10), rng.uniform(n, 2)
    sides = torch.sqrt((scale[0] + (scale[1] - scale[0]) * tries) * height * width).round()
    fits = sides < min(height, width)
    side = sides.gather(1, fits.to(torch.uint8).argmax(1, keepdim=True))[:, 0]

    def matrix(size: int, u: Tensor) -> Tensor:
        length = torch.where(fits.any(1), side, size)
        start, last = torch.floor(u * (size - length + 1))[:, None], length[:, None] - 1
        pixel = torch.arange(size, device=images.device)
        at = start + (pixel * last / (size - 1)).minimum(last)
        return (1 - (at[..., None] - pixel).abs()).clamp(min=0)

    rows, columns = matrix(height, place[:, 0]), matrix(width, place[:, 1])
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


def mirror(images: Tensor, rng: Rng, p: float = 0.5) -> Tensor:
    """Each image mirrored with probability ``p``."""
    flip = rng.uniform(len(images)) < p
    return torch.where(flip[:, None, None, None], images.flip(3), images)


def jitter(images: Tensor, rng: Rng, strength: float, p: float = 1.0) -> Tensor:
    """With probability ``p`` brightness, then contrast, each within 1 +- ``strength``, clamped to [0, 1] after each as
    torchvision does; contrast keeps the image's mean."""
    u = rng.uniform(len(images), 3)[..., None, None, None]
    by, stretch = (1 + strength * (2 * u[:, :2] - 1)).unbind(1)
    bright = (images * by).clamp(0, 1)
    mean = bright.mean((1, 2, 3), keepdim=True)
    return torch.where(u[:, 2] < p, ((bright - mean) * stretch + mean).clamp(0, 1), images)


def either_jitter(images: Tensor, rng: Rng, strength: float, p: float = 1.0) -> Tensor:
    """``jitter`` in either order, half of the time each, that keeps the image's mean grey, as torchvision does."""
    u = rng.uniform(len(images), 4)
    factors = 1 + strength * (2 * u[:, :2] - 1)
    one = contrast(brightness(images, factors[:, 0]), factors[:, 1])
    other = brightness(contrast(images, factors[:, 1]), factors[:, 0])
    apply, first = u[:, 2, None, None, None] < p, u[:, 3, None, None, None] < 0.5
    return torch.where(apply, torch.where(first, one, other), images)


def rotate(images: Tensor, rng: Rng, degrees: float, p: float = 1.0) -> Tensor:
    """With probability ``p`` a turn about the centre by up to ``degrees`` either way, bilinear; black comes in.

    Four look-ups where ``grid_sample`` has one, because its gradient differs from run to run on a GPU. Here at most
    two turned pixels look at the same one, and a sum of two does not depend on their order.
    """
    n, channels, height, width = images.shape
    u = rng.uniform(n, 2).double()  # so that rounding moves no pixel into its neighbour
    angle = math.radians(degrees) * (2 * u[:, 0] - 1) * (u[:, 1] < p)
    cos, sin = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    # Where each pixel comes from, in an image with a black border of two pixels.
    at_y = (cos * y - sin * x + (height + 3) / 2).clamp(0, height + 2)
    at_x = (sin * y + cos * x + (width + 3) / 2).clamp(0, width + 2)
    top, left = at_y.floor(), at_x.floor()
    down, right = ((at - corner).to(images.dtype)[:, None] for at, corner in ((at_y, top), (at_x, left)))
    source = functional.pad(images, (2, 2, 2, 2)).flatten(2)

    def look(dy: int, dx: int) -> Tensor:
        index = ((top + dy) * (width + 4) + left + dx).long().flatten(1)[:, None].expand(-1, channels, -1)
        return source.gather(2, index).unflatten(2, (height, width))

    upper = (1 - right) * look(0, 0) + right * look(0, 1)
    lower = (1 - right) * look(1, 0) + right * look(1, 1)
    return (1 - down) * upper + down * lower


def random_view(images: Tensor, rng: Rng, jitter_p: float) -> Tensor:
    """A face seen a little differently, each image in its own way (PLG-MI; Yuan et al., AAAI 2023): a crop of 0.8 to 1
    of the area, with probability ``jitter_p`` brightness and contrast within 1 +- 0.2, a mirror image half of the time
    and, half of the time, a turn by up to 5 degrees."""
    view = jitter(resized_crop(images, rng, (0.8, 1.0)), rng, 0.2, jitter_p)
    return rotate(mirror(view, rng), rng, 5.0, 0.5)


def kornia_view(images: Tensor, rng: Rng, jitter_p: float) -> Tensor:
    """``random_view`` with the crops and the jitter of kornia, which PLG-MI's and LOKT's released code uses. There one
    order of brightness and contrast serves a batch, and grey images are stretched about the batch's mean; here each
    image has its own."""
    view = either_jitter(whole_pixel_crop(images, rng, (0.8, 1.0)), rng, 0.2, jitter_p)
    return rotate(mirror(view, rng), rng, 5.0, 0.5)


Views = Literal["smooth", "kornia"]
VIEWS: dict[Views, Callable[[Tensor, Rng, float], Tensor]] = {"smooth": random_view, "kornia": kornia_view}


# --- filters: nothing random ---------------------------------------------------------------------------------------


def nl_means(images: Tensor, strength: float, patch: int = 3, window: int = 5) -> Tensor:
    """Non-local means (Buades et al., CVPR 2005): each pixel becomes the mean of the pixels in the ``window`` around
    it, weighted by exp(-d / strength^2) with d the mean squared difference of the ``patch`` x ``patch`` patches.
    Borders are replicated. (N, C, H, W) -> the same."""
    height, width = images.shape[2:]
    reach = window // 2
    around = functional.pad(images, (reach,) * 4, mode="replicate")
    total = weights = torch.zeros_like(images[:, :1])
    for y in range(window):
        for x in range(window):
            other = around[:, :, y : y + height, x : x + width]
            difference = functional.pad((other - images).square().mean(1, keepdim=True), (patch // 2,) * 4, "replicate")
            weight = torch.exp(-functional.avg_pool2d(difference, patch, 1) / strength**2)
            total, weights = total + weight * other, weights + weight
    return total / weights


def sharpen(images: Tensor, amount: float) -> Tensor:
    """x + amount (x - blur(x)), blur the binomial 3x3 kernel with replicated borders, within the range of the 3x3
    pixels around x: applied again and again it makes edges, not oscillations. (N, C, H, W) -> the same."""
    kernel = torch.tensor([0.25, 0.5, 0.25], device=images.device)
    channels = images.shape[1]
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    blurred = functional.conv2d(padded, torch.outer(kernel, kernel).expand(channels, 1, 3, 3), groups=channels)
    low, high = -functional.max_pool2d(-images, 3, 1, 1), functional.max_pool2d(images, 3, 1, 1)
    return (images + amount * (images - blurred)).clamp(low, high)
