"""Public faces that are nobody's: samples of a DCGAN trained on the synthetic faces of DigiFace-1M.

The weights come with the package (``weights/LICENSE.digiface-dcgan``); ``scripts/convert_digiface.py`` made
the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from mibench.data.copies import augmented
from mibench.data.framing import LIGHT, WEIGHTS, chosen, framed, lit
from mibench.keys import stream_seed
from mibench.nets.gan import DcganGenerator
from mibench.random import Stream
from mibench.weights.fit import load_published

SEED = 20_240_601
BOX = (5, 4, 59, 58)  # left, top, right, bottom of the face in a sample, for the untouched prior
BATCH = 256
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow converts colour to grey


def load_generator(device: torch.device | str) -> DcganGenerator:
    """The 64-pixel colour generator, float32 and in eval mode, on ``device``. Its latents are N(0, I_100)."""
    with torch.random.fork_rng(devices=[]):  # the initial weights, replaced at once, must not use up anybody's numbers
        generator = DcganGenerator(resolution=64, channels=3, width=64, latent_dim=100, output="tanh")
    load_published(generator, load_file(WEIGHTS))
    return generator.to(device).eval()


def to_grey(images: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 1, H, W), differentiable."""
    return (images * torch.tensor(_LUMA, device=images.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


def face_crop(images: Tensor, resolution: int, grey: bool) -> Tensor:
    """(N, 3, 64, 64) samples -> (N, 1 or 3, resolution, resolution) faces, differentiable; antialiased bilinear."""
    if grey:
        images = to_grey(images)
    left, top, right, bottom = BOX
    size = (resolution, resolution)
    return functional.interpolate(images[:, :, top:bottom, left:right], size, mode="bilinear", antialias=True)


def raw_samples(count: int, seed: int) -> Iterator[np.ndarray]:
    """(n, 64, 64) uint8 grey samples in batches, ``count`` in all, as the generator makes them. A smaller ``count``
    gives the first of them."""
    yield from _raw(np.arange(count), seed)


@torch.inference_mode()
def sample_faces(count: int, seed: int, resolution: int) -> np.ndarray:
    """(count, 1, resolution, resolution) uint8 grey faces. A smaller ``count`` gives the first of them."""
    generator = load_generator("cpu")
    stream = Stream(seed)
    faces = np.empty((count, 1, resolution, resolution), dtype=np.uint8)
    for start in range(0, count, BATCH):
        latents = stream.normal(BATCH, generator.latent_dim)[: count - start]
        small = face_crop(generator(latents), resolution, grey=True)
        faces[start : start + BATCH] = (small * 255).round().clamp(0, 255).byte().numpy()
    return faces


def chosen_faces(copies: int, resolution: int) -> np.ndarray:
    """(copies x n, 1, resolution, resolution) uint8 grey faces of nobody: the n chosen samples, framed and lit as the
    public AT&T/ORL photos are, ``copies`` times, each moved differently (``mibench.data.copies``)."""
    numbers = np.array(chosen(), np.int64)
    faces = np.empty((copies, len(numbers), 1, resolution, resolution), np.uint8)
    at = 0
    for batch in _raw(numbers, SEED):
        for sample in batch:
            for copy in range(copies):
                number = copy * len(numbers) + at
                light, contrast = (mean + spread * _normal(number, name) for name, (mean, spread) in LIGHT.items())
                faces[copy, at, 0] = augmented(lit(framed(sample), light, contrast), number, resolution)
            at += 1
    return faces.reshape(-1, 1, resolution, resolution)


@torch.inference_mode()
def _raw(numbers: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """The samples with these rising numbers, in batches."""
    generator = load_generator("cpu")
    stream = Stream(seed)
    for start in range(0, int(numbers.max(initial=-1)) + 1, BATCH):
        latents = stream.normal(BATCH, generator.latent_dim)
        wanted = numbers[(numbers >= start) & (numbers < start + BATCH)] - start
        if len(wanted):
            grey = to_grey(generator(latents[torch.from_numpy(wanted)]))
            yield (grey * 255).round().clamp(0, 255).byte().numpy()[:, 0]


def _normal(number: int, name: str) -> float:
    """A standard normal number, given by its name alone."""
    return NormalDist().inv_cdf((stream_seed("digiface", number, name) + 0.5) / 2**63)
