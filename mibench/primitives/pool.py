"""A pool of a public generator's samples, scored once per target and shared by all identities: where attacks on
pretrained generators start."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mibench.contracts import Oracle
from mibench.nets.generator import Generator

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


@torch.no_grad()
def style_pool(generator: Generator, latents: Tensor) -> Tensor:
    """(S, latent_dim) -> one untruncated w per latent, (S, w_dim); in chunks, because a generator may repeat w."""
    return torch.cat([generator.map(chunk)[:, 0] for chunk in latents.split(CHUNK)])


def render_single(generator: Generator, w: Tensor, psi: float = 1.0, cutoff: int | None = None) -> Tensor:
    """Images in [0, 1] of one w (N, w_dim) each, the same in all layers and then truncated."""
    layers = w[:, None].expand(-1, generator.num_ws, -1)
    return generator.synthesis(generator.truncate(layers, psi, cutoff)).clamp(0, 1)
