"""PLG-MI's conditional GAN on pseudo-labels (Yuan et al., AAAI 2023): public images stand for the target's classes.

Each class has the public images that the target finds most like it, and the generator is led by the target's
gradients, so it is trained per target.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import relu
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mibench.contracts import Access, BaseParams, Prior, PriorContext, PriorModel
from mibench.errors import StageFailed
from mibench.images.augment import VIEWS, Views
from mibench.nets.conditional import ConditionalGenerator, ProjectionDiscriminator, for_every_class
from mibench.primitives.losses import max_margin
from mibench.primitives.training import descend, in_order


def top_images(scores: Tensor, count: int) -> Tensor:
    """(K, count) indices of the images with the highest score p_c for each class c, best first, from scores (N, K).
    An image may serve several classes; every class gets ``count``, resembling or not."""
    return scores.topk(count, dim=0).indices.T


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """L_D = E relu(1 - D(x, y)) + E relu(1 + D(G(z, y'), y')), a scalar, from scores (N,)."""
    return relu(1 - real).mean() + relu(1 + fake).mean()


def generator_loss(fake: Tensor, logits: Tensor, labels: Tensor, identity_weight: float = 0.2) -> Tensor:
    """L_G = -E D(G(z, y'), y') + ``identity_weight`` E MM(o(A(G(z, y'))), y'), a scalar."""
    return -fake.mean() + identity_weight * max_margin(logits, labels).mean()


class Cgan(Prior):
    """One generator step, then five discriminator steps; the last weights are kept. Fakes are in [-1, 1] and reals in
    [0, 1], as published."""

    scope = "target"
    access = Access.WHITE_BOX

    class Params(BaseParams):
        steps: int = Field(30_000, ge=1, description="generator steps, at least 1")
        discriminator_steps: int = Field(5, ge=1, description="discriminator steps after each generator step")
        per_class: int = Field(30, ge=1, description="public images that stand for a class (n)")
        batch: int = Field(64, ge=2)
        lr: float = Field(2e-4, gt=0)
        betas: tuple[float, float] = (0.0, 0.9)
        identity_weight: float = Field(0.2, ge=0)
        views: Views = Field("smooth", description="crops between pixels, or as released, with kornia's arithmetic")
        fakes_first: bool = Field(False, description="the discriminator sees fakes before reals, as released")
        noise: float = Field(1 / 256, ge=0, description="uniform noise on real pixels, from 0 to this")
        width: int = Field(64, ge=1)
        normalised: bool = Field(True, description="spectral normalisation of the discriminator")
        ema: float = Field(
            0.0, ge=0, lt=1, description="decay of the generator's average that is kept; 0: last weights"
        )
        latent_dim: int = Field(128, ge=1)
        warmup: int = Field(0, ge=0, description="first steps in which the generator waits for the discriminator")
        start: str | None = Field(None, description="id of the weights that every class of the generator starts from")
        weights: str | None = Field(None, description="id of an imported generator; then nothing is trained")

    def build(self) -> PriorModel:
        p, t = self.params, self.track
        generator = ConditionalGenerator(t.num_classes, t.resolution, t.channels, p.width, p.latent_dim)
        trained = (
            ProjectionDiscriminator(t.num_classes, t.resolution, t.channels, p.width, p.normalised)
            if not p.weights
            else None
        )
        return PriorModel(generator, p.latent_dim, trained)

    def train(self, ctx: PriorContext, model: PriorModel) -> None:
        p, classes = self.params, self.track.num_classes
        if p.weights:
            return ctx.load_weights(model.generator, p.weights)
        generator, critic, oracle = model.generator, model.critic, ctx.oracle
        assert critic is not None and oracle is not None
        if len(ctx.public) < p.per_class:
            raise StageFailed(f"{p.per_class} images per class were asked for, of {len(ctx.public)} public ones.")
        with oracle.phase("prior"):
            scores = torch.cat([oracle.scores(chunk) for chunk in ctx.public.images.split(256)])
        chosen = top_images(scores, p.per_class).flatten()
        if p.start:
            single = ConditionalGenerator(1, self.track.resolution, self.track.channels, p.width, p.latent_dim)
            ctx.load_weights(single, p.start, "generator")
            generator.load_state_dict(for_every_class(single.state_dict(), classes))
        average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(p.ema), use_buffers=True)
        opt_g = torch.optim.Adam(generator.parameters(), lr=p.lr, betas=p.betas)
        opt_d = torch.optim.Adam(critic.parameters(), lr=p.lr, betas=p.betas)
        state = {"model": model, "average": average, "opt_g": opt_g, "opt_d": opt_d, "oracle": oracle}
        loop = ctx.loop("cgan", p.steps, state)
        for step in loop:
            rng = ctx.stream(f"step.{step}")
            loss_g: Tensor | float = 0.0
            if step >= p.warmup:
                y = rng.integers(classes, p.batch)
                fake = generator(rng.normal(p.batch, p.latent_dim), y)
                with oracle.phase("prior"):
                    logits = oracle.logits(VIEWS[p.views](fake, rng, 0.5))
                loss_g = generator_loss(critic(fake, y), logits, y, p.identity_weight)
                descend(opt_g, loss_g)
            for _ in range(p.discriminator_steps):
                pick = rng.integers(len(chosen), p.batch)
                real = ctx.public.images[chosen[pick]]
                real = real + p.noise * rng.uniform(*real.shape)
                y = rng.integers(classes, p.batch)
                with torch.no_grad():
                    fake = generator(rng.normal(p.batch, p.latent_dim), y)
                real_y = pick // p.per_class
                loss_d = discriminator_loss(*in_order(critic, (real, real_y), (fake, y), p.fakes_first))
                descend(opt_d, loss_d)
            average.update_parameters(generator)
            loop.report(loss=loss_g + loss_d)
        generator.load_state_dict(average.module.state_dict())
        return None
