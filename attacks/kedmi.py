"""KEDMI: knowledge-enriched distributional model inversion (Chen et al., ICCV 2021)."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field
from torch import Tensor

from mibench.contracts import (
    Access,
    Attack,
    AttackContext,
    Oracle,
    PriorModel,
    PriorRef,
    Reconstruction,
    Rows,
)
from mibench.primitives.alignment import CriticAlignParams, aligned
from mibench.primitives.losses import IdentityLoss, identity_loss, k_plus_one_prior
from mibench.primitives.recovery import in_groups, recover_gaussians


class Kedmi(Attack):
    """Fit one Gaussian over z per identity with 100 CE(T(G(z)), y) + softplus(-Z(G(z))); the images are draws from it.

    Minibatch discrimination couples rows, so identities are optimised in fixed groups of 60.
    """

    access = Access.WHITE_BOX
    group = 60
    deviations = (
        "The target is in eval mode while it labels public images; released code leaves it in training mode.",
        "On the small tracks z is clamped to [-1, 1] before the generator, in optimisation and sampling, as LOMMA's "
        "KEDMI does. Unclamped, as released, the means leave the latents that a small GAN was trained on.",
        "The discriminator sees fixed groups of 60 identities; with fewer attacked identities, all of them.",
        "Each identity has its own random numbers; released code gives identities i and i + 60 the same.",
        "On the small tracks the GAN is narrower and trained for fewer steps, on public images drawn with replacement "
        "that the target labels once, before; the search takes fewer and larger steps.",
    )

    class Params(CriticAlignParams):
        iterations: int = Field(2400, ge=0, description="steps, at least 0")
        lr: float = Field(0.02, gt=0)
        loss: IdentityLoss = Field("ce", description="the identity loss of the logits; published is ce")
        identity_weight: float = Field(100.0, ge=0)
        reference_batch: int = Field(60, ge=1, description="batch whose mean the published step is")
        bound: float | None = Field(
            None, gt=0, description="clamp z to [-bound, bound] before G; released code does not (its clamp is dead)"
        )
        log_variance: float = Field(1.0, description="of each coordinate of z at the start")
        samples: int | None = Field(None, ge=1, description="draws per identity; default: the track's images")
        prior_params: dict[str, Any] = Field(default_factory=dict, description="parameters of the K+1 GAN")

    def prior(self) -> PriorRef:
        return PriorRef("k_plus_one", self.params.prior_params)

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        p, critic = self.params, prior.critic
        assert critic is not None

        def generator(z: Tensor) -> Tensor:
            return prior.generator(z if p.bound is None else z.clamp(-p.bound, p.bound))

        def recover(rows: Rows) -> Iterator[Reconstruction]:
            def identity(x: Tensor) -> Tensor:
                return p.identity_weight * identity_loss(p.loss, oracle.logits(x, rows), rows.label)

            loss = aligned(identity, rows.streams("align"), ctx, p, lambda x: k_plus_one_prior(critic(x).logits))
            steps, samples = ctx.steps("kedmi", p.iterations), p.samples or ctx.images_per_identity
            fit = (steps, p.lr, p.reference_batch, samples, p.log_variance)
            return recover_gaussians(rows, generator, prior.latent_dim, lambda z: loss(generator(z)), *fit)

        yield from in_groups(ctx, labels, self.group, recover)
