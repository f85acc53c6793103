"""KEDMI's inversion-specific GAN (Chen et al., ICCV 2021): a discriminator with the target's K classes and "fake".

Its labels on public images are the target's soft labels, so it is trained per target.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import softplus

from mibench.contracts import Access, BaseParams, Prior, PriorContext, PriorModel
from mibench.nets.gan import GmiGenerator, KedmiDiscriminator
from mibench.primitives.losses import log_partition
from mibench.primitives.training import Batches, descend, public_batches


def discriminator_loss(labelled: Tensor, target: Tensor, unlabelled: Tensor, fake: Tensor) -> Tensor:
    """L_D = L_sup + L_unsup, a scalar. All arguments are (N, K) logits; ``target`` are the target model's.

    L_sup = -E sum_k softmax(o)_k log softmax(D(xA))_k.
    L_unsup = 0.5 (E softplus(Z(xB)) - E Z(xB) + E softplus(Z(G(z)))),
    with Z the log-partition over the K real classes.
    """
    supervised = -(target.softmax(1) * labelled.log_softmax(1)).sum(1).mean()
    real, generated = log_partition(unlabelled), log_partition(fake)
    return supervised + 0.5 * (softplus(real).mean() - real.mean() + softplus(generated).mean())


def generator_loss(
    fake_features: Tensor, real_features: Tensor, fake_logits: Tensor, entropy_weight: float = 1e-4
) -> Tensor:
    """L_G, a scalar: mean over feature dimensions of |mean_i f(G(z_i)) - mean_i f(x_i)|, plus ``entropy_weight`` times
    the entropy of softmax D(G(z)), summed (not averaged) over the batch."""
    matching = (fake_features.mean(0) - real_features.mean(0)).abs().mean()
    entropy = -(fake_logits.softmax(1) * fake_logits.log_softmax(1)).sum()
    return matching + entropy_weight * entropy


class KPlusOne(Prior):
    """Three independent public batches per generator step: A labelled by the target, B unlabelled, C for features."""

    scope = "target"
    access = Access.SCORES

    class Params(BaseParams):
        steps: int = Field(56_160, ge=1, description="discriminator steps, at least 1 (120 epochs over 30,000 images)")
        batch: int = Field(64, ge=2)
        batches: Batches = Field("replacement", description="of public images, or epoch by epoch, as released")
        labels: Literal["once", "always"] = Field("once", description="asked for before, or at each use, as released")
        lr: float = Field(2e-4, gt=0)
        betas: tuple[float, float] = (0.5, 0.999)
        discriminator_steps: int = Field(5, ge=1, description="discriminator steps per generator step")
        entropy_weight: float = Field(1e-4, ge=0)
        width: int = Field(64, ge=1)
        latent_dim: int = Field(100, ge=1)
        kernels: tuple[int, int] = Field((64, 50), description="minibatch discrimination: kernels, dimensions each")
        start: str | None = Field(None, description="id of the weights that the generator starts from")
        warmup: int = Field(0, ge=0, description="first steps in which the generator waits for the discriminator")
        weights: str | None = Field(None, description="id of an imported generator; then nothing is trained")
        critic_weights: str | None = Field(None, description="id of its imported discriminator; both or neither")

        @model_validator(mode="after")
        def _both(self) -> Self:
            if (self.weights is None) != (self.critic_weights is None):
                raise ValueError("expected weights and critic_weights, or neither")
            return self

    def build(self) -> PriorModel:
        p, t = self.params, self.track
        generator = GmiGenerator(t.resolution, t.channels, p.width, p.latent_dim)
        critic = KedmiDiscriminator(t.num_classes, t.resolution, t.channels, p.width, p.kernels)
        return PriorModel(generator, p.latent_dim, critic)

    def train(self, ctx: PriorContext, model: PriorModel) -> None:
        p = self.params
        generator, critic = model.generator, model.critic
        oracle, public = ctx.oracle, ctx.public.images
        assert critic is not None and oracle is not None
        if p.weights:
            ctx.load_weights(generator, p.weights)
            ctx.load_weights(critic, p.critic_weights)
            return
        if p.start:
            ctx.load_weights(generator, p.start, "generator")

        def target_logits(images: Tensor) -> Tensor:
            with oracle.phase("prior"):
                return oracle.scores(images).clamp(min=1e-30).log()  # softmax(log p) = p

        once = torch.cat([target_logits(chunk) for chunk in public.split(256)]) if p.labels == "once" else None
        opt_g = torch.optim.Adam(generator.parameters(), lr=p.lr, betas=p.betas)
        opt_d = torch.optim.Adam(critic.parameters(), lr=p.lr, betas=p.betas)
        state = {"model": model, "opt_g": opt_g, "opt_d": opt_d} | ({"oracle": oracle} if once is None else {})
        loop = ctx.loop("k_plus_one", p.steps, state)
        batch_a, batch_b, batch_c = (public_batches(ctx, p.batches, p.batch, name) for name in "ABC")
        for step in loop:
            rng = ctx.stream(f"step.{step}")
            a, b = batch_a(step, rng), batch_b(step, rng)
            with torch.no_grad():
                fake = generator(rng.normal(len(a), p.latent_dim))
            images = torch.cat([public[a], public[b], fake])
            labelled, unlabelled, generated = critic(images, group=len(a)).logits.split(len(a))
            target = target_logits(public[a]) if once is None else once[a]
            loss_d = discriminator_loss(labelled, target, unlabelled, generated)
            descend(opt_d, loss_d)
            if step >= p.warmup and (step + 1) % p.discriminator_steps == 0:
                c = batch_c(step, rng)
                fake = generator(rng.normal(p.batch, p.latent_dim))
                with torch.no_grad():
                    real_features = critic(public[c]).features
                out = critic(fake)
                loss_g = generator_loss(out.features, real_features, out.logits, p.entropy_weight)
                descend(opt_g, loss_g)
            loop.report(loss=loss_d)
