"""MIRROR, white box (An et al., "MIRROR: Model Inversion for Deep Learning Network with High Fidelity", NDSS 2022)."""

from collections.abc import Iterator, Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mibench.contracts import Access, Attack, AttackContext, Oracle, PriorModel, Reconstruction
from mibench.primitives.alignment import AlignParams, aligned
from mibench.primitives.latents import BestStep, PBox, descend_adam, ramps
from mibench.primitives.losses import IdentityLoss, identity_loss
from mibench.primitives.pool import UntruncatedPool, UntruncatedPoolParams
from mibench.primitives.selection import top5_consistent


class MirrorWhite(UntruncatedPool, Attack):
    """Minimise 10 CE over w from the best of a large pool, w clipped to a box in P space; of an identity's candidates,
    keep the one whose top-5 labels agree with most others'. One run gives one image."""

    version = 3
    access = Access.WHITE_BOX
    effort = ("iterations", "pool")
    deviations = (
        "It runs once for each image that the track asks for: the best of the pool are dealt out to the runs in turn.",
        "A generator without mapping network (DCGAN) has w = z: P space is w itself, the box one standard deviation "
        "around the pool's mean, and truncation scales w towards 0.",
        "The best step is kept, and mirror images are drawn, per run, not per batch of identities.",
        "The target is always in eval mode; the released code can leave a target's dropout on.",
    )

    class Params(AlignParams, UntruncatedPoolParams):
        pool: int = Field(100_000, ge=1, description="latents scored once per target")
        truncation: float = Field(0.7, gt=0, description="psi, applied when an image is rendered")
        candidates: int = Field(8, ge=1, description="pool members optimised per run, together")
        iterations: int = Field(20_000, ge=0, description="steps, at least 0")
        lr: float = Field(0.25, gt=0, description="highest learning rate, between warm-up and ramp-down")
        loss: IdentityLoss = Field("ce", description="the identity loss of the logits; published is ce")
        identity_weight: float = Field(10.0, gt=0)
        flip: float = Field(0.5, ge=0, le=1, description="probability of mirroring a run's candidates in a step")

        @model_validator(mode="after")
        def _enough(self) -> Self:
            if self.candidates > self.pool:
                raise ValueError("expected candidates <= pool")
            return self

    def prepare(self, oracle: Oracle, prior: PriorModel | None, ctx: AttackContext) -> dict[str, Tensor]:
        """(K, runs, candidates) indices of the pool members with the highest p_y."""
        best, _ = self.best_of_pool(oracle, prior, ctx, self.params.candidates)
        return {"best": best}

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        p = self.params
        runs = self.restarts(ctx)
        rows = ctx.rows(labels, runs * p.candidates)
        pool = self.pool(prior, ctx)
        box = PBox.of(pool, prior.generator.negative_slope)
        start = pool[ctx.artifact["best"][list(labels)].flatten()]

        def identity(x: Tensor) -> Tensor:
            return identity_loss(p.loss, oracle.logits(x, rows), rows.label)

        loss = aligned(identity, rows.streams("align"), ctx, p)
        coins = ctx.rows(labels, runs).streams("flip")  # one per run and step

        def objective(w: Tensor) -> Tensor:
            x = self.render(prior, w)
            flipped = (coins.uniform(len(labels) * runs) < p.flip).repeat_interleave(p.candidates)
            x = torch.where(flipped[:, None, None, None], x.flip(3), x)
            return p.identity_weight * loss(x)

        best = BestStep(start, p.candidates)  # as released: a step's loss, and the latents after its update
        steps, lr = ctx.steps("mirror", p.iterations), ramps(p.lr, p.iterations, first=1)
        descend_adam(start, objective, steps, lr, reference_batch=p.candidates, project=box.clip, watch=best)
        with torch.no_grad(), oracle.phase("selection"):
            images, initial = self.render(prior, best.latents), self.render(prior, start)
            logits = oracle.logits(images, rows)
        score = logits.gather(1, rows.label[:, None])[:, 0]
        first = torch.arange(0, len(rows), p.candidates, device=ctx.device)  # of each run
        chosen = zip(rows.label[first].tolist(), logits.split(p.candidates), strict=True)
        kept = first + torch.tensor([top5_consistent(own, label) for label, own in chosen], device=ctx.device)
        per_run = (x[kept].unflatten(0, (len(labels), runs)) for x in (images, initial, score))
        for label, *result in zip(rows.identities, *per_run, strict=True):
            yield Reconstruction(label, *result)
