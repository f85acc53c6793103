"""PPA: plug-and-play attacks with a pretrained public generator (Struppek et al., ICML 2022)."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mibench.contracts import Access, Attack, AttackContext, Oracle, PriorModel, Reconstruction, Rows
from mibench.errors import StageFailed
from mibench.images.augment import mirror, resized_crop
from mibench.primitives.alignment import AlignParams, aligned
from mibench.primitives.latents import descend_adam
from mibench.primitives.losses import IdentityLoss, identity_loss
from mibench.primitives.pool import PoolParams, TruncatedPool, synthesise
from mibench.primitives.selection import best_rows


class Ppa(TruncatedPool, Attack):
    """Search a shared pool of latents for each class, optimise the best with the Poincare loss on randomly cropped
    images, keep the results that the target recognises under many transformations."""

    version = 2
    access = Access.WHITE_BOX
    effort = ("iterations", "milestones", "pool")
    deviations = (
        "With a DCGAN prior there is no mapping network: w = z, and truncation scales z towards its mean 0.",
        "Crops are drawn per row, not once per batch, and lie between pixels.",
    )

    class Params(AlignParams, PoolParams):
        prior: str = Field("dcgan", description="the generator: id of a prior with scope public, dcgan or digiface")
        candidates: int | None = Field(None, ge=1, description="pool members optimised per identity; default: 4 keep")
        keep: int | None = Field(None, ge=1, description="results kept per identity; default: the track's images")
        iterations: int = Field(70, ge=0, description="steps, at least 0")
        lr: float = Field(0.005, gt=0)
        loss: IdentityLoss = Field("poincare", description="the identity loss of the logits; published is poincare")
        betas: tuple[float, float] = (0.1, 0.1)
        milestones: tuple[int, ...] | None = Field(None, description="steps after which the rate is divided by ten")
        crop: tuple[float, float] = Field((0.9, 1.0), description="area range of the crop while optimising")
        selection_views: int = Field(100, ge=1, description="transformed copies per result in the final selection")
        selection_crop: tuple[float, float] = (0.5, 0.9)
        selection_ratio: tuple[float, float] = (0.8, 1.2)

        @model_validator(mode="after")
        def _enough(self) -> Self:
            if not (self.keep or 1) <= (self.candidates or self.pool) <= self.pool:
                raise ValueError("expected keep <= candidates <= pool")
            return self

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        p, generator = self.params, prior.generator
        keep = p.keep or ctx.images_per_identity
        candidates = p.candidates or 4 * keep
        if candidates < keep:
            raise StageFailed(f"{keep} images of {candidates} candidates were asked for.")
        rows = ctx.rows(labels, candidates)
        start = self.candidates(prior, labels, ctx, candidates)  # repeated in all layers
        crops = rows.streams("crop")

        def identity(x: Tensor) -> Tensor:
            return identity_loss(p.loss, oracle.logits(x, rows), rows.label)

        loss = aligned(identity, rows.streams("align"), ctx, p)

        def objective(w: Tensor) -> Tensor:
            return loss(resized_crop(synthesise(generator, w), crops, p.crop))

        def rate(step: int) -> float:
            return float(p.lr * 0.1 ** sum(step >= milestone for milestone in p.milestones or ()))

        w = descend_adam(start, objective, ctx.steps("ppa", p.iterations), rate if p.milestones else p.lr, p.betas)
        with torch.no_grad():
            images, initial = (synthesise(generator, v).clamp(0, 1) for v in (w, start))
            score = self._robustness(oracle, images, rows)
        for label, best in zip(rows.identities, best_rows(rows, score, keep), strict=True):
            shown = ctx.shown(generator, partial(synthesise, w=w[best]))
            yield Reconstruction(label, images[best], initial[best], score[best], shown=shown)

    def _robustness(self, oracle: Oracle, images: Tensor, rows: Rows) -> Tensor:
        """(R,) mean target confidence over ``selection_views`` random crops and mirrors."""
        p = self.params
        views = rows.streams("selection")
        total = torch.zeros(len(rows), device=images.device)
        with oracle.phase("selection"):
            for _ in range(p.selection_views):
                view = mirror(resized_crop(images, views, p.selection_crop, p.selection_ratio), views)
                total += oracle.scores(view, rows).gather(1, rows.label[:, None])[:, 0]
        return total / p.selection_views
