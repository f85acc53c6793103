"""Images kept as bytes, turned into floats where they are looked at: 30,000 images of 224 pixels are 4.5 GB so, and
18 GB otherwise. And the PNG files of reconstructions: what an attack made, rounded once to 8 bits, which every metric
reads."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

COPIED = 2**30  # bytes up to which an array on disk is read into memory for a CPU; above, it stays mapped


class Pixels:
    """(N, C, H, W) uint8. Indexing and ``split`` give float32 images in [0, 1] on ``device``; ``pixels[:]`` gives all.
    ``fit``, if given, is the side that images are resized to when they are looked at, and how (see ``resized``).

    On a GPU the bytes lie on the device; on a CPU in memory, or on disk if there are many."""

    def __init__(self, values: Tensor, device: torch.device | str = "cpu", fit: tuple[int, str] | None = None) -> None:
        self._bytes = values
        self.device = torch.device(device)
        self._fit = fit

    @classmethod
    def of(cls, array: np.ndarray, device: torch.device) -> Pixels:
        """From a uint8 array, memory-mapped or not."""
        if device.type != "cpu" or array.nbytes <= COPIED:
            return cls(torch.from_numpy(np.array(array)).to(device), device)
        with warnings.catch_warnings():  # nothing here writes to it
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return cls(torch.from_numpy(np.asarray(array)), device)

    @classmethod
    def read(cls, files: Sequence[Path], channels: int, device: torch.device) -> Pixels:
        """The PNG files of reconstructions, all of one size."""
        return cls(torch.stack([read_bytes(path, channels) for path in files]).to(device), device)

    @property
    def shape(self) -> torch.Size:
        return self._bytes.shape if self._fit is None else torch.Size((*self._bytes.shape[:2], *2 * self._fit[:1]))

    def __len__(self) -> int:
        return len(self._bytes)

    def __getitem__(self, index: Tensor | slice | int) -> Tensor:
        images = self._bytes[self._near(index)].to(self.device).float() / 255
        if self._fit is None:
            return images
        return resized(images[None], *self._fit)[0] if isinstance(index, int) else resized(images, *self._fit)

    def resized(self, side: int, how: str) -> Pixels:
        """The same images, resized when they are looked at."""
        return Pixels(self._bytes, self.device, (side, how))

    def split(self, size: int) -> Iterator[Tensor]:
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def to(self, device: torch.device | str) -> Pixels:
        return Pixels(self._bytes.to(device), device, self._fit)

    def subset(self, index: Tensor) -> Pixels:
        """Those at ``index`` (or where a mask is true), still as bytes."""
        return Pixels(self._bytes[self._near(index)], self.device, self._fit)

    def _near(self, index: Tensor | slice | int) -> Tensor | slice | int:
        return index.to(self._bytes.device) if isinstance(index, Tensor) else index


class Shown:
    """(N, C, S, S) float16 images in safetensors files, one for each identity, in no more than their memory at a time:
    26,500 of 299 pixels are 14 GB."""

    def __init__(self, files: Sequence[Path], device: torch.device) -> None:
        self._files, self._device = files, device

    def split(self, size: int) -> Iterator[Tensor]:
        for file in self._files:
            for part in load_file(file)["images"].split(size):
                yield part.to(self._device).float()


def subset(images: Tensor | Pixels, index: Tensor) -> Tensor | Pixels:
    """Those at ``index``, or where a mask is true."""
    return images.subset(index) if isinstance(images, Pixels) else images[index]


def resized(images: Tensor, side: int, how: str) -> Tensor:
    """(N, C, H, W) in [0, 1] -> (N, C, side, side), bilinear. ``pil``: as 8-bit pictures, the way that the released
    code of GMI, KED-MI and LOMMA shows a reconstruction to its evaluator; otherwise as floats."""
    if images.shape[-2:] == (side, side):
        return images
    if how != "pil":
        return functional.interpolate(images, (side, side), mode="bilinear", antialias=images.shape[-1] > side)
    pictures = (images.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).cpu().numpy()  # as ToPILImage: truncated
    if images.shape[1] == 1:
        pictures = pictures[..., 0]
    made = np.stack([np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.BILINEAR)) for p in pictures])
    floats = torch.from_numpy(made).to(images.device).float() / 255
    return floats[:, None] if images.shape[1] == 1 else floats.permute(0, 3, 1, 2)


def write_png(image: Tensor, path: Path, stored: str = "rounded") -> None:
    """(C, H, W) in [0, 1], one or three channels; values outside are clamped. Bytes are ``rounded`` or, as by
    torchvision's ToPILImage, ``truncated``."""
    scaled = image.detach().clamp(0, 1) * 255
    pixels = (scaled if stored == "truncated" else scaled.round()).to(torch.uint8).cpu().numpy()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(path, compress_level=3)


def read_png(path: Path, channels: int) -> Tensor:
    """(channels, H, W) float in [0, 1]."""
    return read_bytes(path, channels).float() / 255


def read_bytes(path: Path, channels: int) -> Tensor:
    """(channels, H, W) uint8."""
    with Image.open(path) as image:
        pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1).copy())
