"""MIRROR, black box (An et al., "MIRROR: Model Inversion for Deep Learning Network with High Fidelity", NDSS 2022)."""

import math
from collections.abc import Iterator, Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mibench.contracts import Access, Attack, AttackContext, Oracle, PriorModel, Reconstruction
from mibench.primitives.evolution import crossover, evolve, log, log_scores, mutate
from mibench.primitives.latents import PBox
from mibench.primitives.pool import UntruncatedPool, UntruncatedPoolParams
from mibench.primitives.queries import one_by_one


class MirrorBlack(UntruncatedPool, Attack):
    """A genetic search over w that maximises log p_y, from the best of a large pool: uniform crossover in favour of the
    fitter parent, mutation in P space, a box. The fittest individual is the one image of an identity."""

    version = 2
    access = Access.SCORES
    effort = ("generations", "pool")
    stops_early = True
    deviations = (
        "It runs once for each image that the track asks for: the best of the pool are dealt out to the runs in turn.",
        "A coordinate comes from parent a with probability p_a / (p_a + p_b); the released code divides negative "
        "log-probabilities, which favours the worse parent (literal_crossover).",
        "Every child has its own mutation noise; the released code draws one vector per generation for all.",
        "A generator without mapping network (DCGAN) has w = z: P space is w itself, the box one standard deviation "
        "around the pool's mean, and truncation scales w towards 0.",
    )

    class Params(UntruncatedPoolParams):
        pool: int = Field(100_000, ge=2, description="latents scored once per target")
        truncation: float = Field(0.7, gt=0, description="psi, applied when an image is rendered")
        population: int = Field(1000, ge=2, description="individuals per identity, the best of the pool")
        generations: int = Field(100, ge=0, description="generations, at least 0")
        confidence: float = Field(0.95, gt=0, le=1, description="p_y of the fittest that ends the search, in (0, 1]")
        mutation_rate: float = Field(0.1, ge=0, le=1, description="share of coordinates that mutate")
        mutation_scale: float = Field(0.1, ge=0, description="largest mutation, in standard deviations of the pool")
        literal_crossover: bool = Field(False, description="the released code's f_a / (f_a + f_b) with f = log p_y")

        @model_validator(mode="after")
        def _enough(self) -> Self:
            if self.population > self.pool:
                raise ValueError("expected population <= pool")
            return self

    def prepare(self, oracle: Oracle, prior: PriorModel | None, ctx: AttackContext) -> dict[str, Tensor]:
        """(K, runs, population) indices and p_y of the pool members with the highest p_y."""
        best, p_y = self.best_of_pool(oracle, prior, ctx, self.params.population)
        return {"best": best, "score": p_y}

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        p = self.params
        rows, pool = ctx.rows(labels, self.restarts(ctx)), self.pool(prior, ctx)
        box, streams = PBox.of(pool, prior.generator.negative_slope), rows.streams("evolution")

        def search(row: Tensor, label: int) -> Reconstruction:
            rng = streams.take(row)

            def breed(w: Tensor, f: Tensor) -> Tensor:
                child = crossover(w, f, p.population - 1, rng, p.literal_crossover)
                mutant = mutate(box.to_p(child), p.mutation_rate, p.mutation_scale * box.spread, rng)
                return box.clip(box.to_w(mutant))

            def judge(w: Tensor) -> Tensor:
                return log_scores(oracle, rows, row, w, lambda w: self.render(prior, w))

            run = int(row) % rows.restarts
            first, p_y = pool[ctx.artifact["best"][label, run]], ctx.artifact["score"][label, run]
            elite, f, bred = evolve(first, log(p_y), breed, judge, p.generations, math.log(p.confidence))
            with torch.no_grad():
                images, initial = self.render(prior, elite[None]), self.render(prior, first[:1])
            return Reconstruction(label, images, initial, f.exp()[None], notes={"generations": float(bred)})

        yield from one_by_one(ctx, "mirror", rows, search)
