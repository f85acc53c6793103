"""Random streams. One interface, two sources.

``Stream`` is one sequence (data order, augmentation, GAN latents), drawn on the CPU so that every device sees the
same numbers. ``RowStreams`` is one sequence per attacked row, keyed by (seed, identity, restart): a row's numbers do
not depend on which other rows are computed with it. It is the counter-based generator Threefry-2x32 with 20 rounds
(Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), written with 64-bit integer tensor
operations so that it runs on any device.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mibench.keys import stream_seed

_MASK = 0xFFFFFFFF
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


class Rng(Protocol):
    """What augmentations, samplers and stochastic networks draw from. ``n`` is the number of images or rows."""

    def uniform(self, n: int, *shape: int) -> Tensor: ...

    def normal(self, n: int, *shape: int) -> Tensor: ...


class Stream:
    """One sequence of numbers, given by a seed. Draws on the CPU, returns on ``device``."""

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.device = torch.device(device)

    def uniform(self, n: int, *shape: int) -> Tensor:
        """(n, *shape) float32 in [0, 1)."""
        return torch.rand(n, *shape, generator=self.generator).to(self.device)

    def normal(self, n: int, *shape: int) -> Tensor:
        """(n, *shape) float32 standard normal."""
        return torch.randn(n, *shape, generator=self.generator).to(self.device)

    def integers(self, high: int, n: int) -> Tensor:
        """(n,) int64 in [0, high)."""
        return torch.randint(high, (n,), generator=self.generator).to(self.device)

    def beta(self, a: float, b: float, n: int) -> Tensor:
        """(n,) float32 of the Beta distribution, in [0, 1]; ``a``, ``b`` > 0: uniform numbers through its inverse."""
        from scipy.special import betaincinv

        drawn = betaincinv(a, b, torch.rand(n, generator=self.generator, dtype=torch.float64).numpy())
        return torch.from_numpy(drawn).float().to(self.device)

    def permutation(self, n: int) -> Tensor:
        """(n,) int64, every number below ``n`` once."""
        return torch.randperm(n, generator=self.generator).to(self.device)

    def state_dict(self) -> dict[str, Tensor]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"].cpu())


def threefry2x32(key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Threefry-2x32-20. Keys and counters are int64 tensors holding unsigned 32-bit values; broadcast; returns two."""
    ks = (key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDA)
    x0, x1 = (counter[0] + ks[0]) & _MASK, (counter[1] + ks[1]) & _MASK
    for block in range(5):
        for rotation in _ROTATIONS[block % 2]:
            x0 = (x0 + x1) & _MASK
            x1 = (((x1 << rotation) & _MASK) | (x1 >> (32 - rotation))) ^ x0
        x0 = (x0 + ks[(block + 1) % 3]) & _MASK
        x1 = (x1 + ks[(block + 2) % 3] + block + 1) & _MASK
    return x0, x1


class RowStreams:
    """One independent sequence per row. Rows advance together: every draw asks one number block of each row.

    ``names`` gives each row's parts, for example ``[(seed, label, restart), ...]``; ``purpose`` separates streams of
    the same row (latents, target noise, selection).
    """

    def __init__(self, names: Sequence[tuple[int, ...]], purpose: str, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        seeds = [stream_seed(purpose, *name) for name in names]
        self._key = (
            torch.tensor([s >> 31 & _MASK for s in seeds], dtype=torch.int64, device=self.device),
            torch.tensor([s & _MASK for s in seeds], dtype=torch.int64, device=self.device),
        )
        self._drawn = torch.zeros(len(seeds), dtype=torch.int64, device=self.device)
        self._rows: Tensor | None = None
        self._each = 1

    def __len__(self) -> int:
        return (len(self._drawn) if self._rows is None else len(self._rows)) * self._each

    def take(self, index: Tensor | None = None, each: int = 1) -> RowStreams:
        """A view on the rows ``index`` (int64, each row at most once; None: all), with ``each`` numbers where there
        was one, row by row. Drawing from it advances these rows here too, and no others."""
        if self._each != 1:
            raise ValueError("streams with several numbers per row cannot be taken from again")
        view = copy.copy(self)
        if index is not None:
            view._rows = index if self._rows is None else self._rows[index]
        view._each = each
        return view

    def _words(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        position = torch.arange(self._each * math.prod(shape), dtype=torch.int64, device=self.device)[None]
        rows = slice(None) if self._rows is None else self._rows
        drawn = self._drawn[rows][:, None].expand(-1, position.shape[1]).clone()
        self._drawn[rows] += 1
        return threefry2x32((self._key[0][rows][:, None], self._key[1][rows][:, None]), (position, drawn))

    def uniform(self, n: int, *shape: int) -> Tensor:
        """(rows, *shape) float32 in [0, 1); ``n`` must be the number of rows."""
        self._check(n)
        word, _ = self._words(shape)
        return ((word >> 8).to(torch.float32) * 2.0**-24).reshape(n, *shape)

    def normal(self, n: int, *shape: int) -> Tensor:
        """(rows, *shape) float32 standard normal (Box-Muller); ``n`` must be the number of rows."""
        self._check(n)
        a, b = self._words(shape)
        radius = torch.sqrt(-2 * torch.log((a.double() + 1) * 2.0**-32))
        return (radius * torch.cos(2 * math.pi * b.double() * 2.0**-32)).float().reshape(n, *shape)

    def _check(self, n: int) -> None:
        if n != len(self):
            raise ValueError(f"{n} images were given to {len(self)} row streams")


@dataclass(frozen=True)
class Visit:
    """What ``Defense.augment`` draws from while a target is trained: an ``Rng`` whose numbers are new at every visit of
    an image, and which also knows the images and so has numbers that stay.

    draws: of this visit. seed: the same for the whole run. indices: (N,) int64, the training images of this batch.
    """

    draws: Rng
    seed: int
    indices: Tensor

    def uniform(self, n: int, *shape: int) -> Tensor:
        return self.draws.uniform(n, *shape)

    def normal(self, n: int, *shape: int) -> Tensor:
        return self.draws.normal(n, *shape)

    def of_images(self, purpose: str) -> RowStreams:
        """Streams that start anew at every visit: an image gets the same numbers in every epoch."""
        return RowStreams([(self.seed, index) for index in self.indices.tolist()], purpose, self.indices.device)

    def of_run(self, purpose: str) -> RowStreams:
        """The same numbers for every image at every visit."""
        return RowStreams([(self.seed,)] * len(self.indices), purpose, self.indices.device)
