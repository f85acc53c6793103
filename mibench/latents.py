"""Batched latent optimisers: every row at once, no row influencing another.

An objective maps latents (R, d) to one loss per row (R,). ``reference_batch`` is the batch size whose mean the
published method took (60 in the GMI family); the loss is the sum over rows divided by it, whatever R is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from mibench.errors import StageFailed
from mibench.losses import reduce_rows

Objective = Callable[[Tensor], Tensor]
Projection = Callable[[Tensor], Tensor]


def checked(losses: Tensor, step: int) -> Tensor:
    """One loss per row, (R,), all finite. Raises StageFailed naming the first row that is not, at every step on a CPU
    and at every 20th on a GPU, where looking costs time."""
    if losses.device.type == "cpu" or step % 20 == 0:
        if losses.ndim != 1:
            raise StageFailed(f"Expected one loss per row, found a tensor of shape {tuple(losses.shape)}.")
        if not bool(torch.isfinite(losses).all()):
            row = int((~torch.isfinite(losses)).nonzero()[0])
            raise StageFailed(f"The loss of row {row} became {losses[row].item()} at step {step}.")
    return losses


def finite(latents: Tensor) -> Tensor:
    """A copy to optimise. Raises StageFailed if a number is not finite."""
    if not bool(torch.isfinite(latents).all()):
        raise StageFailed("The latents contain numbers that are not finite.")
    return latents.detach().clone()


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
    z = finite(latents)
    velocity = torch.zeros_like(z)
    for step in steps:
        z.requires_grad_(True)
        (gradient,) = torch.autograd.grad(reduce_rows(checked(objective(z), step), reference_batch), z)
        with torch.no_grad():
            previous, velocity = velocity, momentum * velocity - lr * gradient
            z = (z - momentum * previous + (1 + momentum) * velocity).clamp(-bound, bound)
    return finite(z)


def descend_adam(
    latents: Tensor,
    objective: Objective,
    steps: Iterable[int],
    lr: float | Callable[[int], float],
    betas: tuple[float, float] = (0.9, 0.999),
    reference_batch: int = 1,
    project: Projection | None = None,
    watch: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Adam on latents (R, ...), each row's trajectory its own. (R, ...) -> (R, ...).

    lr: a number, or the learning rate of each step. project: applied after every update (a box, a ball). watch: sees
    the losses (R,) of each step and the updated latents.
    """
    z = finite(latents).requires_grad_(True)
    optimiser = torch.optim.Adam([z], lr=0.0 if callable(lr) else lr, betas=betas)
    for step in steps:
        if callable(lr):
            optimiser.param_groups[0]["lr"] = lr(step)
        losses = checked(objective(z), step)
        (z.grad,) = torch.autograd.grad(reduce_rows(losses, reference_batch), z)
        optimiser.step()
        with torch.no_grad():
            if project is not None:
                z.copy_(project(z))
            if watch is not None:
                watch(losses.detach(), z.detach())
    return finite(z)


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
    for step in steps:
        z = mu + torch.exp(log_variance / 2) * noise()
        loss = reduce_rows(checked(objective(z), step), reference_batch)
        mu.grad, log_variance.grad = torch.autograd.grad(loss, (mu, log_variance))
        optimiser.step()
    return finite(mu), finite(log_variance)
