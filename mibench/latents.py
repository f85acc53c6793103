"""Batched latent optimisers: every row at once, no row influencing another.

An objective maps latents (R, d) to one loss per row (R,). ``reference_batch`` is the batch size whose mean the
published method took (60 in the GMI family); the loss is the sum over rows divided by it, whatever R is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from mibench.losses import reduce_rows

Objective = Callable[[Tensor], Tensor]


def descend_nesterov(
    latents: Tensor,
    objective: Objective,
    steps: Iterable[int],
    lr: float,
    momentum: float,
    bound: float,
    reference_batch: int,
) -> Tensor:
    """GMI's update (Zhang et al., CVPR 2020, released code): v' = m v - lr g; z <- clamp(z - m v + (1 + m) v', -b, b).

    (R, d) -> (R, d). It is SGD with Nesterov momentum followed by a clamp that leaves the velocity alone.
    """
    z = latents.detach().clone()
    velocity = torch.zeros_like(z)
    for _ in steps:
        z.requires_grad_(True)
        (gradient,) = torch.autograd.grad(reduce_rows(objective(z), reference_batch), z)
        with torch.no_grad():
            previous, velocity = velocity, momentum * velocity - lr * gradient
            z = (z - momentum * previous + (1 + momentum) * velocity).clamp(-bound, bound)
    return z.detach()


def descend_adam(
    latents: Tensor,
    objective: Objective,
    steps: Iterable[int],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    reference_batch: int = 1,
) -> Tensor:
    """Adam on (R, d) latents, each row's trajectory its own. (R, d) -> (R, d)."""
    z = latents.detach().clone().requires_grad_(True)
    optimiser = torch.optim.Adam([z], lr=lr, betas=betas)
    for _ in steps:
        (z.grad,) = torch.autograd.grad(reduce_rows(objective(z), reference_batch), z)
        optimiser.step()
    return z.detach()


def fit_gaussians(
    rows: int,
    dim: int,
    objective: Objective,
    noise: Callable[[], Tensor],
    steps: Iterable[int],
    lr: float,
    reference_batch: int,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """KEDMI's distributional recovery (Chen et al., ICCV 2021): fit a diagonal Gaussian per row, mu = 0 and
    log-variance 1 at the start, one reparameterised draw z = mu + exp(s / 2) eps per row and step, Adam.

    ``noise()`` returns (rows, dim) standard normal numbers. Returns mu and log-variance, both (rows, dim).
    """
    mu = torch.zeros(rows, dim, device=device, requires_grad=True)
    log_variance = torch.ones(rows, dim, device=device, requires_grad=True)
    optimiser = torch.optim.Adam([mu, log_variance], lr=lr)
    for _ in steps:
        z = mu + torch.exp(log_variance / 2) * noise()
        loss = reduce_rows(objective(z), reference_batch)
        mu.grad, log_variance.grad = torch.autograd.grad(loss, (mu, log_variance))
        optimiser.step()
    return mu.detach(), log_variance.detach()
