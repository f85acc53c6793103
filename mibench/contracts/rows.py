"""The rows of a batch: every (identity, restart) pair, with random streams of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mibench.random import RowStreams


class Rows:
    """The rows of one batch: every (identity, restart) pair of ``labels`` x ``restarts``, identity-major.

    ``label`` (R,) on the device. ``streams(purpose)`` gives the rows' own random streams.
    """

    def __init__(self, labels: Sequence[int], restarts: int, seed: int, device: torch.device | str) -> None:
        self.identities = list(labels)
        self.restarts = restarts
        self.seed = seed
        self.device = torch.device(device)
        self.label = torch.tensor(self.identities, device=self.device).repeat_interleave(restarts)
        self.noise = self.streams("target")  # what a stochastic target draws, advancing with every query

    def __len__(self) -> int:
        return len(self.label)

    def streams(self, purpose: str) -> RowStreams:
        """Fresh streams for ``purpose`` ("latent", "noise", "crop"), one per row, all starting at their beginning."""
        names = [(self.seed, label, restart) for label in self.identities for restart in range(self.restarts)]
        return RowStreams(names, purpose, self.device)

    def split(self, values: Tensor) -> Tensor:
        """(R, ...) -> (identities, restarts, ...)."""
        return values.reshape(len(self.identities), self.restarts, *values.shape[1:])

    def take(self, index: Tensor | None = None, each: int = 1) -> RowView:
        """What to ask the oracle with when only the rows ``index`` (int64, each at most once; None: all) are asked
        about, or each of them ``each`` times in one call: a population, a sphere of points. Images are row-major."""
        label = self.label if index is None else self.label[index]
        row = torch.arange(len(self)) if index is None else index.cpu()
        restart = (row % self.restarts).repeat_interleave(each)
        return RowView(label.repeat_interleave(each), self.noise.take(index, each), restart, self.restarts)

    @property
    def counts(self) -> dict[int, int]:
        """How many rows each identity has."""
        return dict.fromkeys(self.identities, self.restarts)

    @property
    def asked(self) -> dict[tuple[int, int], int]:
        """How many images of each (identity, restart) are asked about."""
        return {(label, restart): 1 for label in self.identities for restart in range(self.restarts)}


@dataclass(frozen=True)
class RowView:
    """Some rows of a batch, see ``Rows.take``: the label (n,) of each image asked about, its target noise and its
    restart (n,), of how many."""

    label: Tensor
    noise: RowStreams
    restart: Tensor
    restarts: int

    def __len__(self) -> int:
        return len(self.label)

    @property
    def counts(self) -> dict[int, int]:
        """How many images of each identity are asked about."""
        labels, counts = self.label.unique(return_counts=True)
        return dict(zip(labels.tolist(), counts.tolist(), strict=True))

    @property
    def asked(self) -> dict[tuple[int, int], int]:
        """How many images of each (identity, restart) are asked about."""
        return dict(Counter(zip(self.label.tolist(), self.restart.tolist(), strict=True)))
