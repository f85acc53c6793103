"""IF-GMI: intermediate features of a pretrained generator (Qiu et al., "A Closer Look at GAN Priors: Exploiting
Intermediate Features for Enhanced Model Inversion Attacks", ECCV 2024)."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mibench.contracts import Access, Attack, AttackContext, Generator, Oracle, PriorModel, Reconstruction
from mibench.errors import StageFailed
from mibench.images.augment import resized_crop
from mibench.primitives.alignment import AlignParams, aligned
from mibench.primitives.latents import descend_adam, l1_ball
from mibench.primitives.losses import IdentityLoss, identity_loss
from mibench.primitives.pool import PoolParams, TruncatedPool

RADII = (1000.0, 2000.0, 3000.0, 4000.0, 5000.0, 6000.0, 8000.0, 8000.0)


class IfGmi(TruncatedPool, Attack):
    """Optimise w through the whole generator, then, stage by stage, w and the input h_s of block s through the blocks
    from s on, both within an L1 ball around where the stage started. All candidates are kept."""

    version = 2
    access = Access.WHITE_BOX
    effort = ("iterations", "pool")
    deviations = (
        "The images are those of a stage fixed beforehand; the released code reports the stage that the evaluation "
        "model likes best.",
        "With a DCGAN prior there is no mapping network: w = z, truncation scales z towards its mean 0, and w has no "
        "influence after block 0.",
        "Crops are drawn per row, not once per batch, and lie between pixels.",
    )

    class Params(AlignParams, PoolParams):
        candidates: int | None = Field(
            None, ge=1, description="pool members optimised and kept per identity; default: the track's images"
        )
        stage: int = Field(3, ge=0, description="the stage whose images are returned; 0 optimises w alone")
        iterations: tuple[int, ...] = Field((70, 25, 25, 25), description="steps of each stage, at least 0")
        lr: float = Field(0.005, gt=0)
        loss: IdentityLoss = Field("poincare", description="the identity loss of the logits; published is poincare")
        betas: tuple[float, float] = (0.1, 0.1)
        crop: tuple[float, float] = Field((0.9, 1.0), description="area range of the crop while optimising")
        w_radii: tuple[float, ...] = Field(RADII, description="how far w may move in each stage, L1")
        feature_radii: tuple[float, ...] = Field(RADII, description="how far h_s may move in each stage, L1")

        @model_validator(mode="after")
        def _enough(self) -> Self:
            if (self.candidates or 1) > self.pool:
                raise ValueError("expected candidates <= pool")
            if min(len(self.iterations), len(self.w_radii), len(self.feature_radii)) <= self.stage:
                raise ValueError("expected iterations, w_radii and feature_radii for every stage from 0 to stage")
            if min(self.iterations) < 0 or min(*self.w_radii, *self.feature_radii) <= 0:
                raise ValueError("expected iterations of at least 0 and radii above 0")
            return self

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        p, generator = self.params, prior.generator
        if p.stage >= generator.blocks:
            raise StageFailed(
                f"The generator has the stages 0 to {generator.blocks - 1}; stage {p.stage} was asked for."
            )
        candidates = p.candidates or ctx.images_per_identity
        rows = ctx.rows(labels, candidates)
        w = self.candidates(prior, labels, ctx, candidates)  # repeated in all layers

        def identity(x: Tensor) -> Tensor:
            return identity_loss(p.loss, oracle.logits(x, rows), rows.label)

        loss = aligned(identity, rows.streams("align"), ctx, p)
        crops, d = rows.streams("crop"), w.shape[1]

        def render(s: int, v: Tensor, shape: Sequence[int], through: Generator = generator) -> Tensor:
            """Images of the rows v = (w, h_s), flattened to (R, d + |h_s|); h_0 is empty."""
            return through.synthesis(layers(v), s, v[:, d:].unflatten(1, shape) if s else None)

        def layers(v: Tensor) -> Tensor:
            return v[:, None, :d].expand(-1, generator.num_ws, -1)

        def optimise(s: int, start: Tensor, shape: Sequence[int], steps: int) -> Tensor:
            def objective(v: Tensor) -> Tensor:
                return loss(resized_crop(render(s, v, shape), crops, p.crop))

            def project(v: Tensor) -> Tensor:
                near_w = l1_ball(v[:, :d], start[:, :d], p.w_radii[s])
                return torch.cat([near_w, l1_ball(v[:, d:], start[:, d:], p.feature_radii[s])], 1)

            loop = ctx.steps(f"ifgmi stage {s}", steps)
            return descend_adam(start, objective, loop, p.lr, p.betas, project=project)

        v, shape = w, w.shape[:0]
        for s in range(p.stage):
            v = optimise(s, v, shape, p.iterations[s])
            with torch.no_grad():
                h = generator.block(s, layers(v), v[:, d:].unflatten(1, shape) if s else None)
            v, shape = torch.cat([v[:, :d], h.flatten(1)], 1), h.shape[1:]
        # The images of a stage are those of its last forward pass: the update after it is never seen.
        v = optimise(p.stage, v, shape, max(p.iterations[p.stage] - 1, 0))
        with torch.no_grad():
            images, initial = render(p.stage, v, shape).clamp(0, 1), render(0, w, w.shape[:0]).clamp(0, 1)
        results = zip(rows.identities, rows.split(images), rows.split(initial), rows.split(v), strict=True)
        for label, own, own_initial, own_v in results:
            yield Reconstruction(
                label, own, own_initial, shown=ctx.shown(generator, partial(render, p.stage, own_v, shape))
            )
