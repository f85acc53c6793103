"""LOMMA on GMI's search: "Re-thinking Model Inversion Attacks" (Nguyen et al., CVPR 2023)."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from mibench.contracts import Access, Attack, AttackContext, Oracle, PriorModel, PriorRef, Reconstruction
from mibench.primitives.alignment import CriticAlignParams, aligned
from mibench.primitives.distillation import DEVIATIONS, Ensemble, EnsembleParams, OverEnsemble
from mibench.primitives.latents import descend_nesterov
from mibench.primitives.losses import critic_prior


class LommaGmi(OverEnsemble, Attack):
    """Minimise 100 (mean_m -o^m(G(z))_y + lambda REG(phi(G(z)))) - D(G(z)) over z, m = the target and three distilled
    students, by Nesterov momentum, z clamped to [-1, 1] after each step."""

    access = Access.WHITE_BOX
    deviations = DEVIATIONS

    class Params(CriticAlignParams, EnsembleParams):
        iterations: int = Field(2400, ge=0, description="steps, at least 0")
        lr: float = Field(0.02, gt=0)
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
        models = Ensemble(oracle, rows, ctx, p)

        def identity(x: Tensor) -> Tensor:
            return p.identity_weight * models.identity_loss(x)

        loss = aligned(identity, rows.streams("align"), ctx, p, lambda x: critic_prior(critic(x)))

        start = rows.streams("latent").normal(len(rows), prior.latent_dim)
        steps = ctx.steps("lomma_gmi", p.iterations)
        z = descend_nesterov(start, lambda z: loss(generator(z)), steps, p.lr, p.momentum, p.bound, p.reference_batch)
        with torch.no_grad():
            images, initial = rows.split(generator(z)), rows.split(generator(start))
        for label, own, own_initial in zip(rows.identities, images, initial, strict=True):
            yield Reconstruction(label, own, own_initial)
