"""The steps of GMI's WGAN-GP (Zhang et al., CVPR 2020): of the prior, and of attacks that go on with its training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mibench.contracts import PriorModel
from mibench.primitives.training import descend
from mibench.random import Stream


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """E (||grad D(x^)||_2 - 1)^2 at x^ = (1 - alpha) real + alpha fake. ``alpha`` (N, 1, 1, 1) in [0, 1]; a scalar."""
    between = ((1 - alpha) * real + alpha * fake).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(2, dim=1) - 1).square().mean()


def critic_step(
    model: PriorModel, optimiser: torch.optim.Optimizer, real: Tensor, rng: Stream, penalty: float
) -> Tensor:
    """One step of the critic down -(E D(x) - E D(G(z))) + ``penalty`` GP on the images ``real``; that loss."""
    critic = model.critic
    assert critic is not None
    with torch.no_grad():
        fake = model(rng.normal(len(real), model.latent_dim))
    gap = critic(fake).mean() - critic(real).mean()
    loss: Tensor = gap + penalty * gradient_penalty(critic, real, fake, rng.uniform(len(real), 1, 1, 1))
    descend(optimiser, loss)
    return loss


def generator_step(model: PriorModel, optimiser: torch.optim.Optimizer, batch: int, rng: Stream) -> None:
    """One step of the generator down -E D(G(z)) on ``batch`` latents."""
    assert model.critic is not None
    descend(optimiser, -model.critic(model(rng.normal(batch, model.latent_dim))).mean())
