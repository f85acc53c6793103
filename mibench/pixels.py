"""Images kept as bytes, turned into floats where they are looked at: 30,000 images of 224 pixels are 4.5 GB so, and
18 GB otherwise."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

COPIED = 2**30  # bytes up to which an array on disk is read into memory for a CPU; above, it stays mapped


class Pixels:
    """(N, C, H, W) uint8. Indexing and ``split`` give float32 images in [0, 1] on ``device``; ``pixels[:]`` gives all.

    On a GPU the bytes lie on the device; on a CPU in memory, or on disk if there are many."""

    def __init__(self, values: Tensor, device: torch.device | str = "cpu") -> None:
        self._bytes = values
        self.device = torch.device(device)

    @classmethod
    def of(cls, array: np.ndarray, device: torch.device) -> Pixels:
        """From a uint8 array, memory-mapped or not."""
        if device.type != "cpu" or array.nbytes <= COPIED:
            return cls(torch.from_numpy(np.array(array)).to(device), device)
        with warnings.catch_warnings():  # nothing here writes to it
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return cls(torch.from_numpy(np.asarray(array)), device)

    @property
    def shape(self) -> torch.Size:
        return self._bytes.shape

    def __len__(self) -> int:
        return len(self._bytes)

    def __getitem__(self, index: Tensor | slice | int) -> Tensor:
        return self._bytes[self._near(index)].to(self.device).float() / 255

    def split(self, size: int) -> Iterator[Tensor]:
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def subset(self, index: Tensor) -> Pixels:
        """Those at ``index`` (or where a mask is true), still as bytes."""
        return Pixels(self._bytes[self._near(index)], self.device)

    def _near(self, index: Tensor | slice | int) -> Tensor | slice | int:
        return index.to(self._bytes.device) if isinstance(index, Tensor) else index
