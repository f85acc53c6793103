"""What attacks keep of what they produced, by looking only at the target."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mibench.contracts import Reconstruction, Rows


def top_restarts(rows: Rows, images: Tensor, initial: Tensor, score: Tensor, keep: int) -> Iterator[Reconstruction]:
    """One Reconstruction per identity; the ``keep`` restarts with the highest ``score`` (R,) are selected."""
    scores = rows.split(score)
    best = scores.topk(keep, dim=1).indices
    selected = torch.zeros_like(scores, dtype=torch.bool).scatter(1, best, True)
    parts = zip(rows.identities, rows.split(images), rows.split(initial), scores, selected, strict=True)
    for label, own, own_initial, own_score, own_selected in parts:
        yield Reconstruction(label, own, own_initial, own_score, own_selected)


def best_restart(rows: Rows, images: Tensor, initial: Tensor, score: Tensor) -> Iterator[Reconstruction]:
    """GMI's published selection: per identity, the restart that the target likes best."""
    yield from top_restarts(rows, images, initial, score, keep=1)
