"""What attacks keep of what they produced, by looking only at the target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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


def best_rows(rows: Rows, score: Tensor, keep: int) -> Tensor:
    """(identities, keep): of each identity the rows with the best ``score`` (R,), the best first."""
    scores = rows.split(score)
    first = torch.arange(len(scores), device=score.device) * scores.shape[1]
    return first[:, None] + scores.topk(keep, dim=1).indices


def best_restart(rows: Rows, images: Tensor, initial: Tensor, score: Tensor) -> Iterator[Reconstruction]:
    """GMI's published selection: per identity, the restart that the target likes best."""
    yield from top_restarts(rows, images, initial, score, keep=1)


def every_restart(rows: Rows, images: Tensor, initial: Tensor) -> Iterator[Reconstruction]:
    """One Reconstruction per identity, all restarts kept; images (R, C, H, W) are clamped to [0, 1]."""
    parts = zip(rows.identities, rows.split(images.clamp(0, 1)), rows.split(initial.clamp(0, 1)), strict=True)
    for label, own, own_initial in parts:
        yield Reconstruction(label, own, own_initial)


def joined(runs: Sequence[Reconstruction]) -> Reconstruction:
    """One identity's images from several runs of a method that gives one each, all of them kept; notes are means."""
    first = runs[0]
    scores = [run.score for run in runs if run.score is not None]
    return Reconstruction(
        first.label,
        torch.cat([run.images for run in runs]),
        torch.cat([run.initial for run in runs]),
        torch.cat(scores) if scores else None,
        notes={name: sum(run.notes[name] for run in runs) / len(runs) for name in first.notes},
    )


def top5_consistent(logits: Tensor, label: int) -> int:
    """MIRROR's final pick among candidates for one identity (An et al., NDSS 2022). (C, K) -> the index of one.

    Of the candidates whose first label is y: the largest set (of at least two) whose members have two further top-5
    labels in common, else one; else all candidates. From it, the candidate with the largest logit of y.
    """
    classes = logits.shape[1]
    top = logits.topk(min(5, classes), 1).indices
    has = torch.zeros_like(logits).scatter(1, top, 1.0)
    has[:, label] = 0
    has[top[:, 0] != label] = 0
    pairs = (has.T @ has).fill_diagonal_(0)  # how many candidates have both labels
    singles = has.sum(0)
    if int(pairs.max()) >= 2:
        eligible = torch.einsum("ca,ab,cb->c", has, (pairs == pairs.max()).float(), has) > 0
    elif int(singles.max()) >= 2:
        eligible = has @ (singles == singles.max()).float() > 0
    else:
        eligible = torch.ones_like(has[:, 0], dtype=torch.bool)
    return int(logits[:, label].masked_fill(~eligible, -torch.inf).argmax())
