"""How attacks ask: in chunks that fit in memory, about one identity at a time, until every class has answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from mibench.contracts import AttackContext, Oracle, PriorModel, Reconstruction, Rows
from mibench.images.pixels import Pixels

CHUNK = 250


def in_chunks(function: Callable[..., Tensor], *values: Tensor | Pixels) -> Tensor:
    """``function(*values)``, of ``CHUNK`` rows at a time."""
    parts = zip(*(value.split(CHUNK) for value in values), strict=True)
    return torch.cat([function(*part) for part in parts])


def one_by_one(
    ctx: AttackContext, name: str, rows: Rows, search: Callable[[Tensor, int], Reconstruction]
) -> Iterator[Reconstruction]:
    """``search`` of each row, its index (1,) and its label, by itself: always calls of the same shape, where a result
    can hang on the last bit of an answer and must not depend on which identities are computed together."""
    for i in ctx.steps(name, len(rows)):
        yield search(torch.tensor([i], device=ctx.device), rows.identities[i])


@torch.no_grad()
def label_hunt(oracle: Oracle, prior: PriorModel, batches: Iterable[Tensor], ctx: AttackContext) -> dict[str, Tensor]:
    """BREP-MI's start (Kahla et al., CVPR 2022): go through ``batches`` of latents (B, d), asking under "search", until
    all attacked identities were seen. ``start`` (K, d), the first latent of each class, and ``reached`` (K,) bool."""
    classes, device = ctx.track.num_classes, ctx.device
    start = torch.zeros(classes, prior.latent_dim, device=device)
    reached = torch.zeros(classes, dtype=torch.bool, device=device)
    for z in batches:
        with oracle.phase("search"):
            answers = oracle.labels(prior.generator(z)).tolist()
        for i, label in enumerate(answers):
            if not reached[label]:
                start[label], reached[label] = z[i], True
        if bool(reached[list(ctx.identities)].all()):
            break
    return {"start": start, "reached": reached}
