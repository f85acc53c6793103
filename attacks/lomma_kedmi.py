"""LOMMA on KEDMI's search: "Re-thinking Model Inversion Attacks" (Nguyen et al., CVPR 2023)."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field
from torch import Tensor

from mibench.contracts import Access, Attack, AttackContext, Oracle, PriorModel, PriorRef, Reconstruction, Rows
from mibench.primitives.alignment import CriticAlignParams, aligned
from mibench.primitives.distillation import DEVIATIONS, Ensemble, EnsembleParams, OverEnsemble
from mibench.primitives.losses import k_plus_one_prior
from mibench.primitives.recovery import in_groups, recover_gaussians


class LommaKedmi(OverEnsemble, Attack):
    """Fit one Gaussian over z per identity with 100 (mean_m -o^m(G(z))_y + lambda REG(phi(G(z)))) + softplus(-Z(G(z))),
    m = the target and three distilled students; the images are draws from it. z is clamped to [-1, 1] before G.

    Minibatch discrimination couples rows, so identities are optimised in fixed groups of 60.
    """

    access = Access.WHITE_BOX
    group = 60
    deviations = (
        *DEVIATIONS,
        "The target labels public images for the GAN in eval mode; in released code it is in training mode.",
        "The discriminator sees fixed groups of 60 identities; with fewer attacked identities, all of them.",
    )

    class Params(CriticAlignParams, EnsembleParams):
        iterations: int = Field(2400, ge=0, description="steps, at least 0")
        lr: float = Field(0.02, gt=0)
        identity_weight: float = Field(100.0, ge=0)
        reference_batch: int = Field(60, ge=1, description="batch whose mean the published step is")
        bound: float = Field(1.0, gt=0, description="z is clamped to [-bound, bound] before G")
        samples: int | None = Field(None, ge=1, description="draws per identity; default: the track's images")
        prior_params: dict[str, Any] = Field(default_factory=dict, description="parameters of the K+1 GAN prior")

    def prior(self) -> PriorRef:
        return PriorRef("k_plus_one", self.params.prior_params)

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        p, critic = self.params, prior.critic
        assert critic is not None

        def generator(z: Tensor) -> Tensor:
            return prior.generator(z.clamp(-p.bound, p.bound))

        def recover(rows: Rows) -> Iterator[Reconstruction]:
            models = Ensemble(oracle, rows, ctx, p)
            how = (rows.streams("align"), ctx, p, lambda x: k_plus_one_prior(critic(x).logits))
            loss = aligned(lambda x: p.identity_weight * models.identity_loss(x), *how)
            steps, samples = ctx.steps("lomma_kedmi", p.iterations), p.samples or ctx.images_per_identity
            fit = (steps, p.lr, p.reference_batch, samples)
            return recover_gaussians(rows, generator, prior.latent_dim, lambda z: loss(generator(z)), *fit)

        yield from in_groups(ctx, labels, self.group, recover)
