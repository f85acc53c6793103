"""WGAN-GP on public images: GMI's prior (Zhang et al., CVPR 2020), target-independent."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mibench.contracts import BaseParams, Prior, PriorContext, PriorModel
from mibench.nets.gan import GmiCritic, GmiGenerator
from mibench.primitives.training import Batches, public_batches
from mibench.primitives.wgan import critic_step, generator_step


class WganGp(Prior):
    """L_D = -(E D(x) - E D(G(z))) + 10 GP, L_G = -E D(G(z)); one generator step every fifth critic step."""

    scope = "public"

    class Params(BaseParams):
        steps: int = Field(56_160, ge=0, description="critic steps (120 epochs over 30,000 images); 0 only with start")
        batch: int = Field(64, ge=2)
        batches: Batches = Field("replacement", description="of public images, or epoch by epoch, as released")
        lr: float = Field(2e-4, gt=0)
        betas: tuple[float, float] = (0.5, 0.999)
        penalty: float = Field(10.0, ge=0)
        critic_steps: int = Field(5, ge=1, description="critic steps per generator step")
        ema: float = Field(
            0.0, ge=0, lt=1, description="decay of the generator's average that is kept; 0: last weights"
        )
        width: int = Field(64, ge=1)
        latent_dim: int = Field(100, ge=1)
        start: str | None = Field(None, description="id of the weights that both networks start from")
        weights: str | None = Field(None, description="id of an imported generator; then nothing is trained")
        critic_weights: str | None = Field(None, description="id of its imported critic; both or neither")

        @model_validator(mode="after")
        def _both(self) -> Self:
            if (self.weights is None) != (self.critic_weights is None):
                raise ValueError("expected weights and critic_weights, or neither")
            if not (self.steps or self.start):
                raise ValueError("steps may be 0 only with start")
            return self

    def seeded(self) -> bool:
        return self.params.weights is None and self.params.steps > 0

    def build(self) -> PriorModel:
        p, t = self.params, self.track
        generator = GmiGenerator(t.resolution, t.channels, p.width, p.latent_dim)
        return PriorModel(generator, p.latent_dim, GmiCritic(t.resolution, t.channels, p.width))

    def train(self, ctx: PriorContext, model: PriorModel) -> None:
        p = self.params
        generator, critic = model.generator, model.critic
        assert critic is not None
        if p.weights:
            ctx.load_weights(generator, p.weights)
            ctx.load_weights(critic, p.critic_weights)
            return
        if p.start:
            ctx.load_weights(model, p.start)
        opt_g = torch.optim.Adam(generator.parameters(), lr=p.lr, betas=p.betas)
        opt_d = torch.optim.Adam(critic.parameters(), lr=p.lr, betas=p.betas)
        average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(p.ema), use_buffers=True)
        state = {"model": model, "opt_g": opt_g, "opt_d": opt_d} | ({"average": average} if p.ema else {})
        loop = ctx.loop("wgan_gp", p.steps, state)
        batch = public_batches(ctx, p.batches, p.batch, "wgan_gp")
        for step in loop:
            rng = ctx.stream(f"step.{step}")
            real = ctx.public.images[batch(step, rng)]
            loss_d = critic_step(model, opt_d, real, rng, p.penalty)
            if (step + 1) % p.critic_steps == 0:
                generator_step(model, opt_g, p.batch, rng)
                average.update_parameters(generator)
            loop.report(loss=loss_d)
        if p.ema:
            generator.load_state_dict(average.module.state_dict())
