"""KEDMI: knowledge-enriched distributional model inversion (Chen et al., ICCV 2021)."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from mibench.contracts import Access, Attack, AttackContext, BaseParams, Oracle, PriorModel, PriorRef, Reconstruction
from mibench.primitives.latents import fit_gaussians
from mibench.primitives.losses import cross_entropy, k_plus_one_prior


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
    )

    class Params(BaseParams):
        iterations: int = Field(2400, ge=0, description="steps, at least 0")
        lr: float = Field(0.02, gt=0)
        identity_weight: float = Field(100.0, ge=0)
        reference_batch: int = Field(60, ge=1, description="batch whose mean the published step is")
        bound: float | None = Field(
            None, gt=0, description="clamp z to [-bound, bound] before G; released code does not (its clamp is dead)"
        )
        samples: int | None = Field(None, ge=1, description="draws per identity; default: the track's images")
        prior_params: dict[str, Any] = Field(default_factory=dict, description="parameters of the K+1 GAN")

    def prior(self) -> PriorRef:
        return PriorRef("k_plus_one", self.params.prior_params)

    def bounded(self, z: Tensor) -> Tensor:
        return z if self.params.bound is None else z.clamp(-self.params.bound, self.params.bound)

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
        generator, critic = prior.generator, prior.critic
        assert critic is not None
        rows = ctx.rows(group, 1)
        noise = rows.streams("noise")

        def objective(z: Tensor) -> Tensor:
            x = generator(self.bounded(z))
            identity = cross_entropy(oracle.logits(x, rows), rows.label)
            return p.identity_weight * identity + k_plus_one_prior(critic(x).logits)

        def draw() -> Tensor:
            return noise.normal(len(rows), prior.latent_dim)

        def render(z: Tensor) -> Tensor:
            with torch.no_grad():
                return generator(self.bounded(z.flatten(0, 1))).unflatten(0, z.shape[:2])

        steps = ctx.steps("kedmi", p.iterations)
        mu, log_variance = fit_gaussians(
            len(rows), prior.latent_dim, objective, draw, steps, p.lr, p.reference_batch, ctx.device
        )
        sigma = torch.exp(log_variance / 2)
        samples = p.samples or ctx.images_per_identity
        eps = rows.streams("draws").normal(len(rows), samples, prior.latent_dim)
        images, initial = render(mu[:, None] + sigma[:, None] * eps), render(math.exp(0.5) * eps)
        for i, label in enumerate(group):
            yield Reconstruction(label, images[i], initial[i], notes={"mean_sigma": float(sigma[i].mean())})
