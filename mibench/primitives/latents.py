"""Batched latent optimisers: every row at once, no row influencing another.

An objective maps latents (R, d) to one loss per row (R,). ``reference_batch`` is the batch size whose mean the
published method took (60 in the GMI family); the loss is the sum over rows divided by it, whatever R is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from mibench.errors import StageFailed
from mibench.primitives.losses import reduce_rows

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
    log_variance: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """KEDMI's distributional recovery (Chen et al., ICCV 2021): fit a diagonal Gaussian per row, mu = 0 and s =
    ``log_variance`` at the start, one reparameterised draw z = mu + exp(s / 2) eps per row and step, Adam.

    ``noise()`` returns (rows, dim) standard normal numbers. Returns mu and log-variance, both (rows, dim).
    """
    mu = torch.zeros(rows, dim, device=device, requires_grad=True)
    s = torch.full((rows, dim), log_variance, device=device, requires_grad=True)
    optimiser = torch.optim.Adam([mu, s], lr=lr)
    for step in steps:
        z = mu + torch.exp(s / 2) * noise()
        loss = reduce_rows(checked(objective(z), step), reference_batch)
        mu.grad, s.grad = torch.autograd.grad(loss, (mu, s))
        optimiser.step()
    return finite(mu), finite(s)


# --- projections, schedules, best steps -----------------------------------------------------------------------------


def l1_ball(x: Tensor, anchor: Tensor, radius: float) -> Tensor:
    """The point nearest to ``x`` (R, ...) whose deviation from ``anchor`` has an L1 norm of at most ``radius``, row by
    row: sort and soft-threshold (Duchi et al., ICML 2008). Points inside are returned as they are."""
    deviation = (x - anchor).flatten(1)
    size = deviation.abs()
    inside = size.sum(1) <= radius
    if bool(inside.all()):
        return x
    falling = size.sort(1, descending=True).values
    count = torch.arange(1, size.shape[1] + 1, device=x.device)
    excess = (falling.cumsum(1) - radius) / count  # the threshold if the ``count`` largest coordinates survive
    threshold = excess.gather(1, (falling > excess).sum(1, keepdim=True) - 1)
    nearest = anchor + (deviation.sign() * (size - threshold).clamp(min=0)).reshape(x.shape)
    return torch.where(inside.reshape(-1, *[1] * (x.ndim - 1)), x, nearest)


@dataclass(frozen=True)
class PBox:
    """MIRROR's box (An et al., NDSS 2022): w (..., d) within one standard deviation of a pool's mean in the space
    P = {LeakyReLU_{1/slope}(w)}, where the mapping network's last activation is undone. ``slope`` 1 leaves P = W."""

    low: Tensor  # (d,) lower bounds of w
    high: Tensor
    spread: Tensor  # (d,) standard deviation in P
    slope: float

    @classmethod
    def of(cls, pool: Tensor, slope: float, width: float = 1.0) -> PBox:
        """Around the pool's (S, d) latents; ``width``: standard deviations to each side."""
        p = leaky_relu(pool, 1 / slope)
        mean, spread = p.mean(0), p.std(0, correction=0)
        low, high = (leaky_relu(mean + side * width * spread, slope) for side in (-1, 1))
        return cls(low, high, spread, slope)

    def clip(self, w: Tensor) -> Tensor:
        return w.clamp(self.low, self.high)

    def to_p(self, w: Tensor) -> Tensor:
        return leaky_relu(w, 1 / self.slope)

    def to_w(self, p: Tensor) -> Tensor:
        return leaky_relu(p, self.slope)


def ramps(lr: float, steps: int, up: float = 0.05, down: float = 0.25, first: int = 0) -> Callable[[int], float]:
    """StyleGAN2's projection schedule: linear over the first ``up`` of the run, a cosine to 0 over the last ``down``.
    With t = (step + first) / steps: lr (1/2 - 1/2 cos(pi min(1, (1 - t) / down))) min(1, t / up). MIRROR counts from
    ``first`` 1, so that it starts to move at once and ends at 0."""

    def at(step: int) -> float:
        t = (step + first) / steps
        return lr * (0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / down))) * min(1.0, t / up)

    return at


class BestStep:
    """Keeps the latents of the step at which the mean loss of a group of rows was least, each ``group`` consecutive
    rows by themselves: for ``watch`` of ``descend_adam``."""

    def __init__(self, latents: Tensor, group: int) -> None:
        self.latents, self.group = latents.clone(), group
        self.loss = torch.full((len(latents) // group,), torch.inf, device=latents.device)

    def __call__(self, losses: Tensor, latents: Tensor) -> None:
        loss = losses.unflatten(0, (-1, self.group)).mean(1)
        better = (loss < self.loss).repeat_interleave(self.group)
        self.latents[better] = latents[better]
        self.loss = loss.minimum(self.loss)


# --- pixels ---------------------------------------------------------------------------------------------------------


def descend_pixels(
    images: Tensor,
    objective: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    steps: Iterable[int],
    lr: float,
    process: Projection,
    patience: int,
) -> tuple[Tensor, Tensor]:
    """Gradient descent on pixels (Fredrikson et al., CCS 2015, alg. 1): x <- clip(process(x - lr grad c(x)), 0, 1).

    (R, C, H, W) in [0, 1] -> the iterate of each row with the smallest cost, and how many of its iterates were judged
    (R,); ``steps`` judges the start and then one iterate per update. ``objective(x, index)`` gives the rows ``index``
    (n,) their cost and whether it is low enough, both (n,). A row ends when it is, or when its cost is no smaller than
    the largest of its ``patience`` costs before; it is asked about no more.
    """
    x, best = finite(images), images.clone()
    least = torch.full((len(x),), torch.inf, device=x.device)
    recent = torch.full((len(x), patience), torch.inf, device=x.device)  # a ring of the last costs
    judged = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    active = torch.arange(len(x), device=x.device)
    for step in steps:
        at = x[active].requires_grad_(True)
        losses, reached = objective(at, active)
        cost = checked(losses, step).detach()
        better = cost < least[active]
        best[active[better]], least[active[better]] = x[active[better]], cost[better]
        going = ~reached & (cost < recent[active].amax(1))
        recent[active, step % patience] = cost
        judged[active] += 1
        if not bool(going.any()):
            break
        (gradient,) = torch.autograd.grad(losses.sum(), at)
        active = active[going]
        x[active] = process(at.detach()[going] - lr * gradient[going]).clamp(0, 1)
    return best, judged
