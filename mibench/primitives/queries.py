"""How attacks ask: in chunks that fit in memory, about one identity at a time, until every class has answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from mibench.contracts import AttackContext, BudgetSpent, Oracle, PriorModel, Reconstruction, Rows
from mibench.contracts.oracle import SMALLEST_BATCH
from mibench.images.pixels import Pixels
from mibench.primitives.selection import joined

CHUNK = 250


def in_chunks(function: Callable[..., Tensor], *values: Tensor | Pixels, each: int = 1) -> Tensor:
    """``function(*values)``, of ``CHUNK`` images at a time, where a row stands for ``each`` of them."""
    parts = zip(*(value.split(max(1, CHUNK // each)) for value in values), strict=True)
    return torch.cat([function(*part) for part in parts])


def drawn(generator: Callable[[Tensor], Tensor], latents: Tensor) -> Tensor:
    """``generator(latents)``. Kernels round few images in another way than many, so few are filled up."""
    missing = SMALLEST_BATCH - len(latents)
    if missing <= 0 or not len(latents):
        return generator(latents)
    return generator(torch.cat([latents, latents[-1:].expand(missing, -1)]))[: len(latents)]


def one_by_one(
    ctx: AttackContext, name: str, rows: Rows, search: Callable[[Tensor, int], Reconstruction]
) -> Iterator[Reconstruction]:
    """``search`` of each row, its index (1,) and its label, by itself: always calls of the same shape, where a result
    can hang on the last bit of an answer and must not depend on which identities are computed together. One
    Reconstruction per identity, of all its restarts."""
    found: list[Reconstruction] = []
    for i in ctx.steps(name, len(rows)):
        label = rows.identities[i // rows.restarts]
        found.append(search(torch.tensor([i], device=ctx.device), label))
        if len(found) == rows.restarts:
            yield joined(found)
            found = []


@torch.no_grad()
def label_hunt(
    oracle: Oracle, prior: PriorModel, batches: Iterable[Tensor], ctx: AttackContext, each: int = 1
) -> dict[str, Tensor]:
    """BREP-MI's start (Kahla et al., CVPR 2022): go through ``batches`` of latents (B, d), asking under "search", until
    every attacked identity was seen ``each`` times or the query budget is spent. ``start`` (K, each, d), the first
    latents of each class, over again where there are fewer, and ``reached`` (K,) int64, how many there are."""
    classes, device = ctx.track.num_classes, ctx.device
    start = torch.zeros(classes, each, prior.latent_dim, device=device)
    reached = torch.zeros(classes, dtype=torch.long, device=device)
    for z in batches:
        try:
            with oracle.phase("search"):
                answers = oracle.labels(prior.generator(z)).tolist()
        except BudgetSpent:
            break
        for i, label in enumerate(answers):
            if (seen := int(reached[label])) < each:
                start[label, seen :: max(seen, 1)] = z[i]
                reached[label] += 1
        if bool((reached[list(ctx.identities)] == each).all()):
            break
    return {"start": start, "reached": reached}
