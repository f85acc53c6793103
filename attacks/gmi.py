"""GMI: generative model inversion (Zhang et al., "The Secret Revealer", CVPR 2020)."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from mibench.contracts import Access, Attack, AttackContext, Oracle, PriorModel, PriorRef, Reconstruction
from mibench.primitives.alignment import CriticAlignParams, aligned
from mibench.primitives.latents import descend_nesterov
from mibench.primitives.losses import IdentityLoss, critic_prior, identity_loss
from mibench.primitives.selection import best_restart


class Gmi(Attack):
    """Minimise 100 CE(T(G(z)), y) - D(G(z)) over z by Nesterov momentum, z clamped to [-1, 1] after each step."""

    access = Access.WHITE_BOX
    deviations = (
        "Each identity and restart has its own random numbers; released code gives identities i and i + 60 the same.",
        "All restarts are kept, as later work has it, and the one with the target's largest logit is marked, which the "
        "first released code kept alone; there an identity whose logits are all negative has none.",
        "On the small tracks the GAN is narrower and was trained for fewer steps, on public images drawn with "
        "replacement, and the search takes fewer steps.",
    )

    class Params(CriticAlignParams):
        iterations: int = Field(2400, ge=0, description="steps, at least 0")
        lr: float = Field(0.02, gt=0)
        loss: IdentityLoss = Field("ce", description="the identity loss of the logits; published is ce")
        momentum: float = Field(0.9, ge=0, lt=1)
        identity_weight: float = Field(100.0, ge=0)
        bound: float = Field(1.0, gt=0, description="z stays in [-bound, bound]")
        reference_batch: int = Field(60, ge=1, description="batch whose mean the published step is")
        restarts: int | None = Field(None, ge=1, description="restarts per identity; default: the track's images")
        prior_params: dict[str, Any] = Field(default_factory=dict, description="parameters of the WGAN-GP prior")

    def prior(self) -> PriorRef:
        return PriorRef("wgan_gp", self.params.prior_params)

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        p = self.params
        generator, critic = prior.generator, prior.critic
        assert critic is not None
        rows = ctx.rows(labels, p.restarts or ctx.images_per_identity)

        def identity(x: Tensor) -> Tensor:
            return p.identity_weight * identity_loss(p.loss, oracle.logits(x, rows), rows.label)

        loss = aligned(identity, rows.streams("align"), ctx, p, lambda x: critic_prior(critic(x)))

        start = rows.streams("latent").normal(len(rows), prior.latent_dim)
        steps = ctx.steps("gmi", p.iterations)
        z = descend_nesterov(start, lambda z: loss(generator(z)), steps, p.lr, p.momentum, p.bound, p.reference_batch)
        with torch.no_grad(), oracle.phase("selection"):
            images = generator(z)
            score = oracle.logits(images, rows).gather(1, rows.label[:, None])[:, 0]
            initial = generator(start)
        yield from best_restart(rows, images, initial, score)
