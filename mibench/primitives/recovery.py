"""Whole searches that several methods run, each with a loss of its own: KEDMI's (Chen et al., ICCV 2021), a Gaussian of
latents per identity and draws from it, and PLG-MI's (Yuan et al., AAAI 2023), through a conditional generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from mibench.contracts import AttackContext, PriorModel, Reconstruction, Rows
from mibench.primitives.latents import Objective, descend_adam, fit_gaussians
from mibench.primitives.selection import every_restart


def in_groups(
    ctx: AttackContext, labels: Sequence[int], size: int, recover: Callable[[Rows], Iterator[Reconstruction]]
) -> Iterator[Reconstruction]:
    """What ``recover`` makes of the fixed groups that contain ``labels`` (see ``AttackContext.groups``), one row per
    identity; of the others in a group nothing is returned."""
    for group in ctx.groups(labels, size):
        for item in recover(ctx.rows(group, 1)):
            if item.label in labels:
                yield item


def recover_gaussians(
    rows: Rows,
    generator: Callable[[Tensor], Tensor],
    latent_dim: int,
    objective: Objective,
    steps: Iterable[int],
    lr: float,
    reference_batch: int,
    samples: int,
    log_variance: float = 1.0,
) -> Iterator[Reconstruction]:
    """Fit N(mu, sigma^2) to each row by ``fit_gaussians``, and render ``samples`` draws from it.

    ``objective`` maps latents (R, latent_dim) to losses (R,), ``generator`` latents (N, latent_dim) to images. The
    initial images are the same draws from where the fit starts, N(0, exp(``log_variance``)).
    """
    n, noise = len(rows), rows.streams("noise")
    mu, fitted = fit_gaussians(
        rows=n,
        dim=latent_dim,
        objective=objective,
        noise=lambda: noise.normal(n, latent_dim),
        steps=steps,
        lr=lr,
        reference_batch=reference_batch,
        device=rows.device,
        log_variance=log_variance,
    )

    @torch.no_grad()
    def render(z: Tensor) -> Tensor:
        return generator(z.flatten(0, 1)).unflatten(0, z.shape[:2])

    sigma = torch.exp(fitted / 2)
    eps = rows.streams("draws").normal(n, samples, latent_dim)
    images, initial = render(mu[:, None] + sigma[:, None] * eps), render(math.exp(log_variance / 2) * eps)
    for i, label in enumerate(rows.identities):
        yield Reconstruction(label, images[i], initial[i], notes={"mean_sigma": float(sigma[i].mean())})


def recover_conditionally(
    rows: Rows, prior: PriorModel, loss: Callable[[Tensor], Tensor], steps: Iterable[int], lr: float
) -> Iterator[Reconstruction]:
    """Minimise ``loss`` of the images G(z, y), (R, C, H, W) -> (R,), over z by Adam from N(0, I), y fixed; all restarts
    are kept."""
    start = rows.streams("latent").normal(len(rows), prior.latent_dim)
    z = descend_adam(start, lambda z: loss(prior(z, rows.label)), steps, lr)
    with torch.no_grad():
        yield from every_restart(rows, prior(z, rows.label), prior(start, rows.label))
