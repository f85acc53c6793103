"""Whether the served target's gradients say the same of slightly different views of an image: where they do not, and
its answers do, an attack by gradient sees noise, and what it fails to find is hidden and not gone (Athalye et al.,
"Obfuscated Gradients Give a False Sense of Security", ICML 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mibench.contracts import Rng
from mibench.nets.base import Classifier
from mibench.primitives.alignment import AlignParams, transformed
from mibench.primitives.losses import max_margin
from mibench.stages.job import Job
from mibench.stats import bootstrap_interval

# The protocol's, the same for every defense.
IMAGES = 240  # private training images, at most so many, of all people in turn
VIEWS = 8  # of each: AlignMI's random crop, mirror and turn
SETTINGS = AlignParams.model_validate({"align": "taa"})


def run(job: Job) -> dict[str, Any]:
    """The result, under ``gradients``: ``cosine`` of the gradients of an image's views, the mean over pairs of views
    and over images that have a gradient in every view, with its 95 % bootstrap interval over images, None if there is
    none; ``without``, the share of images without; ``accuracy`` on images, ``accuracy_views`` on their views."""
    net, noise, rng = job.target(), job.stream("noise"), job.stream("views")
    private = job.private_train()
    order = torch.cat([(private.labels == label).nonzero()[:, 0].cpu() for label in job.track.identities])
    index = order[torch.linspace(0, len(order) - 1, min(IMAGES, len(order))).long()].to(job.device)
    images, labels = private.images[index], private.labels[index]
    with job.closed():
        with torch.no_grad():
            right = net(images, noise).logits.argmax(1) == labels
        cosines, right_views = agreement(net.requires_grad_(False), images, labels, VIEWS, rng, noise)
    known = cosines[~cosines.isnan()].tolist()
    low, high = bootstrap_interval(known) if len(known) > 1 else (*known, *known) if known else (None, None)
    facts = {
        "images": len(images),
        "views": VIEWS,
        "cosine": sum(known) / len(known) if known else None,
        "cosine_low": low,
        "cosine_high": high,
        "without": 1 - len(known) / len(images),
        "accuracy": float(right.float().mean()),
        "accuracy_views": float(right_views.mean()),
    }
    return {"gradients": facts}


def agreement(
    net: Classifier, images: Tensor, labels: Tensor, views: int, rng: Rng, noise: Rng
) -> tuple[Tensor, Tensor]:
    """Of each image (N, C, H, W): the mean cosine of the gradients of MM(T(V(x)), y) in x over all pairs of ``views``
    V, nan where one of them is zero, and the share of the views that T takes for y. The margin does not saturate where
    softmax does."""
    sums, lost, right = torch.zeros_like(images), torch.zeros(len(images), dtype=torch.bool), torch.zeros(len(images))
    for _ in range(views):
        x = images.detach().requires_grad_()
        logits = net(transformed(x, rng, SETTINGS), noise).logits
        margin = max_margin(logits, labels)
        (gradient,) = torch.autograd.grad(margin.sum(), x) if margin.requires_grad else (torch.zeros_like(x),)
        norm = gradient.flatten(1).norm(dim=1)
        lost |= (norm == 0).cpu()
        sums += gradient / norm.clamp(min=torch.finfo(norm.dtype).tiny)[:, None, None, None]
        right += (logits.argmax(1) == labels).float().cpu() / views
    mean = (sums.flatten(1).square().sum(1).double().cpu() - views) / (views * (views - 1))
    return torch.where(lost, torch.nan, mean.clamp(-1, 1)), right
