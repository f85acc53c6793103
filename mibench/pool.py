"""A pool of a public generator's samples, scored once per target and shared by all identities: where attacks on
pretrained generators start."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mibench.oracle import Oracle

CHUNK = 250


@torch.no_grad()
def score_pool(oracle: Oracle, latents: Tensor, render: Callable[[Tensor], Tensor], mirrored: bool) -> Tensor:
    """(S, K) softmax scores of the images ``render(latents)``, clamped to [0, 1]; the mean of an image and its mirror
    if ``mirrored``. Booked under "search"."""
    scores = []
    with oracle.phase("search"):
        for chunk in latents.split(CHUNK):
            x = render(chunk).clamp(0, 1)
            answer = oracle.scores(x)
            scores.append((answer + oracle.scores(x.flip(3))) / 2 if mirrored else answer)
    return torch.cat(scores)


def top_of_pool(scores: Tensor, labels: Sequence[int], count: int) -> Tensor:
    """(len(labels), count) indices of the pool members with the highest score for each label, best first, distinct."""
    return scores[:, list(labels)].topk(count, dim=0).indices.T
