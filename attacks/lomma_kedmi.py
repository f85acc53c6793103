"""LOMMA on KEDMI's search: "Re-thinking Model Inversion Attacks" (Nguyen et al., CVPR 2023)."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from mibench.contracts import Access, Attack, AttackContext, Oracle, PriorModel, PriorRef, Reconstruction
from mibench.primitives.distillation import DEVIATIONS, Ensemble, EnsembleParams, prepare_ensemble
from mibench.primitives.latents import fit_gaussians
from mibench.primitives.losses import k_plus_one_prior


class LommaKedmi(Attack):
    """Fit one Gaussian over z per identity with 100 (mean_m -o^m(G(z))_y + lambda REG(phi(G(z)))) + softplus(-Z(G(z))),
    m = the target and three distilled students; the images are draws from it. z is clamped to [-1, 1] before G.

    Minibatch discrimination couples rows, so identities are optimised in fixed groups of 60.
    """

    access = Access.WHITE_BOX
    group = 60
    deviations = (
        *DEVIATIONS,
        "The target is in eval mode while it labels public images for the GAN; released code leaves it in training "
        "mode.",
        "The discriminator sees fixed groups of 60 identities; with fewer attacked identities, all of them.",
    )

    class Params(EnsembleParams):
        iterations: int = Field(2400, ge=0, description="steps, at least 0")
        lr: float = Field(0.02, gt=0)
        identity_weight: float = Field(100.0, ge=0)
        reference_batch: int = Field(60, ge=1, description="batch whose mean the published step is")
        bound: float = Field(1.0, gt=0, description="z is clamped to [-bound, bound] before G")
        samples: int | None = Field(None, ge=1, description="draws per identity; default: the track's images")
        prior_params: dict[str, Any] = Field(default_factory=dict, description="parameters of the K+1 GAN prior")

    def skip(self) -> str | None:
        reason: str | None = self.params.missing()
        return reason

    def prior(self) -> PriorRef:
        return PriorRef("k_plus_one", self.params.prior_params)

    def prepare(self, oracle: Oracle, prior: PriorModel | None, ctx: AttackContext) -> dict[str, Tensor]:
        return prepare_ensemble(oracle, ctx, self.params)

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        for group in ctx.groups(labels, self.group):
            for item in self.recover(oracle, prior, group, ctx):
                if item.label in labels:
                    yield item

    def recover(
        self, oracle: Oracle, prior: PriorModel, group: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        """One group: fit the Gaussians, draw the images."""
        p = self.params
        critic = prior.critic
        assert critic is not None
        rows = ctx.rows(group, 1)
        noise = rows.streams("noise")
        models = Ensemble(oracle, rows, ctx, p)

        def generator(z: Tensor) -> Tensor:
            return prior.generator(z.clamp(-p.bound, p.bound))

        def objective(z: Tensor) -> Tensor:
            x = generator(z)
            return p.identity_weight * models.identity_loss(x) + k_plus_one_prior(critic(x).logits)

        def draw() -> Tensor:
            return noise.normal(len(rows), prior.latent_dim)

        def render(z: Tensor) -> Tensor:
            with torch.no_grad():
                return generator(z.flatten(0, 1)).unflatten(0, z.shape[:2])

        steps = ctx.steps("lomma_kedmi", p.iterations)
        mu, log_variance = fit_gaussians(
            len(rows), prior.latent_dim, objective, draw, steps, p.lr, p.reference_batch, ctx.device
        )
        sigma = torch.exp(log_variance / 2)
        samples = p.samples or ctx.images_per_identity
        eps = rows.streams("draws").normal(len(rows), samples, prior.latent_dim)
        images, initial = render(mu[:, None] + sigma[:, None] * eps), render(math.exp(0.5) * eps)
        for i, label in enumerate(group):
            yield Reconstruction(label, images[i], initial[i], notes={"mean_sigma": float(sigma[i].mean())})
