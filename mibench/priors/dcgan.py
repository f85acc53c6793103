"""DCGAN on public images with the non-saturating loss (Radford et al., ICLR 2016): a target-independent prior."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch.nn.functional import softplus
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mibench.contracts import BaseParams, Prior, PriorContext, PriorModel
from mibench.nets.gan import DcganDiscriminator, DcganGenerator
from mibench.primitives.training import descend


class Dcgan(Prior):
    """L_D = E softplus(-D(x)) + E softplus(D(G(z))), L_G = E softplus(-D(G(z))); the generator kept is the
    exponential moving average of its weights."""

    scope = "public"

    class Params(BaseParams):
        steps: int = Field(800, ge=0, description="alternating steps; 0 only with start")
        batch: int = Field(64, ge=2)
        lr: float = Field(4e-4, gt=0)
        betas: tuple[float, float] = (0.5, 0.99)
        ema: float = Field(0.99, ge=0, lt=1, description="decay of the weight average, in [0, 1)")
        width: int = Field(32, ge=1)
        latent_dim: int = Field(100, ge=1)
        start: str | None = Field(None, description="id of the weights that both networks start from")

        @model_validator(mode="after")
        def _trained(self) -> Self:
            if not (self.steps or self.start):
                raise ValueError("steps may be 0 only with start")
            return self

    def seeded(self) -> bool:
        return self.params.steps > 0

    def build(self) -> PriorModel:
        p, t = self.params, self.track
        generator = DcganGenerator(t.resolution, t.channels, p.width, p.latent_dim)
        return PriorModel(generator, p.latent_dim, DcganDiscriminator(t.resolution, t.channels, p.width))

    def train(self, ctx: PriorContext, model: PriorModel) -> None:
        p = self.params
        generator, critic = model.generator, model.critic
        assert critic is not None
        if p.start:
            ctx.load_weights(model, p.start)
        average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(p.ema), use_buffers=True)
        opt_g = torch.optim.Adam(generator.parameters(), lr=p.lr, betas=p.betas)
        opt_d = torch.optim.Adam(critic.parameters(), lr=p.lr, betas=p.betas)
        state = {"model": model, "average": average, "opt_g": opt_g, "opt_d": opt_d}
        loop = ctx.loop("dcgan", p.steps, state)
        for step in loop:
            rng = ctx.stream(f"step.{step}")
            real = ctx.public.images[rng.integers(len(ctx.public), p.batch)]
            fake = generator(rng.normal(p.batch, p.latent_dim))
            loss_d = softplus(-critic(real)).mean() + softplus(critic(fake.detach())).mean()
            descend(opt_d, loss_d)
            loss_g = softplus(-critic(fake)).mean()
            descend(opt_g, loss_g)
            average.update_parameters(generator)
            loop.report(loss=loss_d + loss_g)
        generator.load_state_dict(average.module.state_dict())
