"""Batch samplers that defenses share."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mibench.errors import UserError
from mibench.random import Stream


def identity_balanced(labels: Tensor, batch: int, per_identity: int, rng: Stream) -> Iterator[Tensor]:
    """P x K batches of ``batch // per_identity`` identities with ``per_identity`` images each, for one epoch. Where
    there are fewer identities than that, each batch holds them all, with ``batch // identities`` images each.

    Each identity's images are shuffled and cut into groups (an identity with too few is drawn with replacement);
    while enough identities have a group left, P random ones give one group each. The rest of the epoch is dropped.
    """
    everyone = labels.unique().tolist()
    identities = max(1, batch // per_identity)
    if len(everyone) < identities:
        identities, per_identity = len(everyone), batch // len(everyone)
    groups: dict[int, list[Tensor]] = {}
    for label in everyone:
        own = (labels == label).nonzero().flatten()
        if len(own) < per_identity:
            own = own[rng.integers(len(own), per_identity)]
        shuffled = own[rng.permutation(len(own))]
        groups[label] = list(shuffled.split(per_identity))[: len(own) // per_identity]
    while len(ready := [label for label, left in groups.items() if left]) >= identities:
        chosen = [ready[i] for i in rng.permutation(len(ready))[:identities].tolist()]
        yield torch.cat([groups[label].pop() for label in chosen])


def held_out(labels: Tensor, share: float, rng: Stream) -> Tensor:
    """(N,) bool: ``share``, below 1, of each class's images, rounded up, at random, but never all of them; none if it
    is 0. Raises UserError for a class with a single image."""
    held = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    for label in labels.unique().tolist():
        own = (labels == label).nonzero().flatten()
        if share and len(own) < 2:
            raise UserError(f"Nothing can be held out of class {label}: it has a single training image.")
        count = min(len(own) - 1, math.ceil(share * len(own)))
        held[own[rng.permutation(len(own))[:count]]] = True
    return held


def thinned(batches: Iterator[Tensor], share: float, rng: Stream) -> Iterator[Tensor]:
    """``batches`` of indices without a share of them: each index is left out with probability ``share``. What is left
    of a batch is dropped if it is a single image (batch norm)."""
    for indices in batches:
        kept = indices[rng.uniform(len(indices)) >= share]
        if len(kept) > 1:
            yield kept


def poisson(count: int, rate: float, batches: int, rng: Stream) -> Iterator[Tensor]:
    """``batches`` index batches that hold each of ``count`` indices with probability ``rate``, independently (Poisson
    sampling, which accountants of differential privacy assume). A batch may have any size, also 0."""
    for _ in range(batches):
        yield (rng.uniform(count) < rate).nonzero().flatten()
