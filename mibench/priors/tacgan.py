"""LOKT's T-ACGAN (Nguyen et al., NeurIPS 2023): a conditional GAN whose class head learns from the target's labels.

It asks the target for the labels of its own images only, so it is trained per target.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mibench.contracts import Access, BaseParams, Prior, PriorContext, PriorModel
from mibench.nets.conditional import AuxiliaryDiscriminator, ConditionalGenerator, Judgement, for_every_class
from mibench.primitives.training import descend, in_order


def discriminator_loss(real: Judgement, fake: Judgement, answers: Tensor | None, class_weight: float) -> Tensor:
    """L_D = BCE(D_rf(x), 1) + BCE(D_rf(G(z, y')), 0) + a CE(D_c(G(z, y')), yhat), a scalar. The class head learns from
    fakes only, with the target's labels yhat = ``answers`` (N,); None while a = 0."""
    loss = softplus(-real.real).mean() + softplus(fake.real).mean()
    return loss if answers is None else loss + class_weight * cross_entropy(fake.logits, answers)


def generator_loss(fake: Judgement, labels: Tensor, class_weight: float) -> Tensor:
    """L_G = BCE(D_rf(G(z, y')), 1) + a CE(D_c(G(z, y')), y'), a scalar."""
    return softplus(-fake.real).mean() + class_weight * cross_entropy(fake.logits, labels)


class Tacgan(Prior):
    """One generator step, then five discriminator steps; the target is asked from the end of the warm-up on. Fakes are
    in [-1, 1] and reals in [0, 1], as published."""

    scope = "target"
    access = Access.LABELS

    class Params(BaseParams):
        steps: int = Field(20_000, ge=1, description="generator steps, at least 1")
        warmup: int = Field(1000, ge=0, description="first generator steps, with a = 0: 1000 CelebA, 2000 FFHQ")
        discriminator_steps: int = Field(5, ge=1, description="discriminator steps after each generator step")
        class_weight: float = Field(1.5, ge=0, description="a after the warm-up")
        batch: int = Field(128, ge=2)
        lr: float = Field(2e-4, gt=0)
        betas: tuple[float, float] = (0.0, 0.9)
        width: int = Field(64, ge=1)
        normalised: bool = Field(True, description="spectral normalisation of the discriminator")
        fakes_first: bool = Field(False, description="the discriminator sees fakes before reals, as released")
        evaluation_from: int | None = Field(
            None, ge=0, description="generator steps after which the discriminator is in eval mode; 1000 as released"
        )
        ema: float = Field(
            0.0, ge=0, lt=1, description="decay of the generator's average that is kept; 0: last weights"
        )
        latent_dim: int = Field(128, ge=1)
        start: str | None = Field(None, description="id of the weights that every class of the generator starts from")

    def build(self) -> PriorModel:
        p, t = self.params, self.track
        generator = ConditionalGenerator(t.num_classes, t.resolution, t.channels, p.width, p.latent_dim)
        critic = AuxiliaryDiscriminator(t.num_classes, t.resolution, t.channels, p.width, p.normalised)
        return PriorModel(generator, p.latent_dim, critic)

    def train(self, ctx: PriorContext, model: PriorModel) -> None:
        p, classes = self.params, self.track.num_classes
        generator, critic, oracle = model.generator, model.critic, ctx.oracle
        assert critic is not None and oracle is not None
        if p.start:
            single = ConditionalGenerator(1, self.track.resolution, self.track.channels, p.width, p.latent_dim)
            ctx.load_weights(single, p.start, "generator")
            generator.load_state_dict(for_every_class(single.state_dict(), classes))
        average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(p.ema), use_buffers=True)
        opt_g = torch.optim.Adam(generator.parameters(), lr=p.lr, betas=p.betas)
        opt_d = torch.optim.Adam(critic.parameters(), lr=p.lr, betas=p.betas)
        state = {"model": model, "average": average, "opt_g": opt_g, "opt_d": opt_d, "oracle": oracle}
        loop = ctx.loop("tacgan", p.steps, state)
        for step in loop:
            rng = ctx.stream(f"step.{step}")
            a = p.class_weight if step >= p.warmup else 0.0
            critic.train(p.evaluation_from is None or step < p.evaluation_from)
            y = rng.integers(classes, p.batch)
            loss_g = generator_loss(critic(generator(rng.normal(p.batch, p.latent_dim), y)), y, a)
            descend(opt_g, loss_g)
            for _ in range(p.discriminator_steps):
                real = ctx.public.images[rng.integers(len(ctx.public), p.batch)]
                y = rng.integers(classes, p.batch)
                with torch.no_grad(), oracle.phase("prior"):
                    fake = generator(rng.normal(p.batch, p.latent_dim), y)
                    answers = oracle.labels(fake) if a else None
                loss_d = discriminator_loss(*in_order(critic, (real,), (fake,), p.fakes_first), answers, a)
                descend(opt_d, loss_d)
            average.update_parameters(generator)
            loop.report(loss=loss_g + loss_d)
        generator.load_state_dict(average.module.state_dict())
