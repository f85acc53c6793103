"""VMI: variational model inversion (Wang et al., "Variational Model Inversion Attacks", NeurIPS 2021)."""

from collections.abc import Iterator, Sequence
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mibench.contracts import Access, Attack, AttackContext, Oracle, PriorModel, Reconstruction, Rows
from mibench.primitives.alignment import AlignParams, aligned
from mibench.primitives.flows import Density, Gaussians, Glow, layered_noise
from mibench.primitives.latents import checked
from mibench.primitives.losses import cross_entropy, reduce_rows
from mibench.primitives.pool import StyleParams, StyleSearch
from mibench.primitives.training import descend
from mibench.random import Rng

CHUNK = 2000  # images rendered at once when sampling


class Vmi(StyleSearch, Attack):
    """Per identity, fit a density q(z_1 ... z_L) by min E_q CE(T(G(w)), y) + lambda / L sum_l KL(q_l || N(0, I)), where
    layer l of w is the mapping network's answer to z_l; the images are draws from q. All z_l share their base noise.
    """

    access = Access.WHITE_BOX
    deviations = (
        "Single precision instead of double.",
        "With a DCGAN prior there is one layer and no mapping network: w = z, and one density per identity.",
        "A point's log-density is computed while it is drawn, not by a second pass through the flow: the same number.",
        "On the small tracks Adam takes the place of SGD, with fewer and smaller batches.",
    )

    class Params(AlignParams, StyleParams):
        family: Literal["flow", "gaussian"] = "flow"
        covariance: Literal["full", "diagonal"] = Field("full", description="of the Gaussian family")
        kl: Literal["sampled", "exact"] = Field("sampled", description="exact needs the Gaussian family")
        flow_steps: int = Field(10, ge=1, description="steps per level of the flow (K)")
        flow_levels: int = Field(3, ge=1, description="levels of the flow (L)")
        flow_width: int = Field(100, ge=1, description="hidden width of the couplings")
        kl_weight: float = Field(1e-3, ge=0, description="lambda")
        iterations: int = Field(3140, ge=0, description="steps, at least 0 (20 epochs of 157)")
        batch: int = Field(64, ge=1, description="draws per identity and step")
        optimiser: Literal["sgd", "adam"] = "sgd"
        lr: float = Field(1e-4, gt=0)
        momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
        samples: int | None = Field(None, ge=1, description="images per identity; default: the track's images")

        @model_validator(mode="after")
        def _kl_exists(self) -> Self:
            if self.kl == "exact" and self.family == "flow":
                raise ValueError("expected kl=sampled with family=flow: a flow has no exact KL")
            return self

    def density(self, rows: Rows, layers: int, dim: int) -> Density:
        """q, close to N(0, I)."""
        p = self.params
        if p.family == "gaussian":
            return Gaussians(len(rows) * layers, dim, p.covariance == "full", rows.device)
        return Glow(rows.streams("flow"), len(rows), layers, dim, p.flow_steps, p.flow_levels, p.flow_width)

    def optimiser(self, q: Density) -> torch.optim.Optimizer:
        if self.params.optimiser == "adam":
            return torch.optim.Adam(q.parameters(), lr=self.params.lr)
        return torch.optim.SGD(q.parameters(), lr=self.params.lr, momentum=self.params.momentum)

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        p, generator = self.params, prior.generator
        rows = ctx.rows(labels, 1)
        n, layers = len(rows), generator.num_ws
        q = self.density(rows, layers, prior.latent_dim)

        def noise(rng: Rng, batch: int) -> Tensor:
            return layered_noise(rng, n, layers, batch, q.dim, q.shared)

        def render(z: Tensor) -> Tensor:
            """(n * layers, B, d) -> images (n * B, C, H, W)."""
            w = generator.map(z.flatten(0, 1)).unflatten(0, (n, layers, -1)).diagonal(dim1=1, dim2=3)
            return generator.synthesis(w.movedim(-1, 2).flatten(0, 1)).clamp(0, 1)

        @torch.no_grad()
        def sample() -> Tensor:
            """Images (n, samples, C, H, W), from the same base noise at every call."""
            z, _ = q.sample(noise(rows.streams("draws"), p.samples or ctx.images_per_identity))
            parts = [render(part).unflatten(0, (n, -1)) for part in z.split(max(1, CHUNK // n), 1)]
            return torch.cat(parts, 1)

        initial = sample()
        optimiser, draws, fresh = self.optimiser(q), rows.streams("noise"), rows.streams("kl")
        views = rows.streams("align").take(None, each=p.batch)

        def cost(x: Tensor) -> Tensor:
            asked = rows.take(None, each=p.batch)
            return cross_entropy(oracle.logits(x, asked), asked.label)

        identity_loss = aligned(cost, views, ctx, p)
        for step in ctx.steps("vmi", p.iterations):
            z, _ = q.sample(noise(draws, p.batch))
            identity = identity_loss(render(z)).unflatten(0, (n, -1)).mean(1)
            kl = q.exact_kl() if p.kl == "exact" else q.kl(noise(fresh, p.batch))
            loss = identity + p.kl_weight * kl.unflatten(0, (n, layers)).mean(1)
            descend(optimiser, reduce_rows(checked(loss, step), reference_batch=1))
        images = sample()
        with torch.no_grad():
            nats = q.kl(noise(rows.streams("report"), 256)).unflatten(0, (n, layers)).mean(1)
        for label, own, own_initial, own_kl in zip(rows.identities, images, initial, nats, strict=True):
            yield Reconstruction(label, own, own_initial, notes={"kl": float(own_kl)})
