"""C2FMI: from coarse to fine, model inversion from scores (Ye et al., TDSC 2023)."""

from collections.abc import Iterator, Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mibench.contracts import Access, Attack, AttackContext, Oracle, PriorModel, Reconstruction
from mibench.nets.generator import Generator
from mibench.primitives.embedding import EmbeddingParams, full_confidence, prepare_inverse_map, stored_inverse_map
from mibench.primitives.evolution import confidence, differential_evolution
from mibench.primitives.latents import descend_adam
from mibench.primitives.pool import StyleParams, StyleSearch, mean_styles, render_single
from mibench.primitives.queries import one_by_one
from mibench.random import Rng


class C2fmi(StyleSearch, Attack):
    """M tells from the target's scores how the attacker's own embedding e sees the image. Coarse: descend to w with
    e(G(w)) = M(full confidence in y). Fine: differential evolution of the best w with fitness p_y."""

    version = 3
    access = Access.SCORES
    effort = ("generations",)
    stops_early = True
    deviations = (
        "On the small tracks e is a small network that tells the labelled public people apart; published is one of the "
        "10,575 people of CASIA-WebFace. M is narrower there, and the coarse search takes larger steps.",
        "M's batches are drawn with replacement.",
        "It runs once for each image that the track asks for, with starts of its own.",
        "Parents keep their fitness; released code asks for it again in every generation.",
        "A generator without mapping network (DCGAN) has w = z. No face detector crops the result.",
    )

    class Params(EmbeddingParams, StyleParams):
        width: int = Field(4096, ge=1, description="of M's two hidden layers")
        epochs: int = Field(20, ge=1, description="of M over the public images; its rate falls by 0.8 every other one")
        top: int | None = Field(None, ge=1, description="use only the target's largest scores, so many (top-M)")
        starts: int = Field(16, ge=1, description="w of the coarse search")
        coarse_steps: int = Field(
            20, ge=0, description="50 in the top-M variant; the last update is not kept, as released"
        )
        coarse_lr: float = Field(0.02, gt=0, description="times 0.95 every 20 steps")
        keep: int = Field(10, ge=1, description="starts that join the population; 16 in the top-M variant")
        population: int = Field(32, ge=1, description="w of the fine search, at least as many as join it")
        generations: int = Field(500, ge=0)
        restarts: int | None = Field(None, ge=1, description="runs per identity; default: the track's images")

        @model_validator(mode="after")
        def _fit_together(self) -> Self:
            if self.keep > min(self.starts, self.population):
                raise ValueError("expected keep <= starts and keep <= population")
            return self

    def skip(self) -> str | None:
        p, scores = self.params, self.track.num_classes
        if p.top is not None and p.top > scores:
            return f"the target has only {scores} scores, fewer than top={p.top}"
        reason: str | None = p.lacking(self.track)
        return reason

    def prepare(self, oracle: Oracle, prior: PriorModel | None, ctx: AttackContext) -> dict[str, Tensor]:
        """M, which learns from the scores and the embeddings of the public images, and e if it is our own."""
        p = self.params
        return prepare_inverse_map(oracle, ctx, p.casia_weights, p.embedding_steps, p.top, p.width, p.epochs)

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        p, G = self.params, prior.generator
        rows = ctx.rows(labels, p.restarts or ctx.images_per_identity)
        e, M = stored_inverse_map(ctx, p.casia_weights, p.width)
        streams = rows.streams("w")

        def search(row: Tensor, y: int) -> Reconstruction:
            rng = streams.take(row)

            def gap(w: Tensor) -> Tensor:
                wanted = M(full_confidence(rng.normal(1, len(w), self.track.num_classes)[0], y))
                return (e(render_single(G, w)) - wanted).square().mean(1)

            @torch.no_grad()
            def fitness(w: Tensor) -> Tensor:
                return confidence(oracle.scores(render_single(G, w), rows.take(row, each=len(w))), y, p.top)

            start = mean_styles(G, rng, p.starts, of=2)
            w = descend_adam(start, gap, range(p.coarse_steps - 1), self.coarse_rate, reference_batch=p.starts)
            with oracle.phase("search"):
                coarse = fitness(w)
            population = self.population(w[coarse.topk(p.keep).indices], G, rng)
            w, f = differential_evolution(population, fitness, p.generations, rng)
            best = f.argmax()[None]
            with torch.no_grad():
                images, initial = render_single(G, w[best]), render_single(G, start[:1])
            return Reconstruction(y, images, initial, f[best], notes={"coarse": float(coarse.max())})

        yield from one_by_one(ctx, "c2fmi", rows, search)

    def coarse_rate(self, step: int) -> float:
        return float(self.params.coarse_lr * 0.95 ** (step // 20))

    def population(self, w: Tensor, G: Generator, rng: Rng) -> Tensor:
        """The best of the coarse search, filled up with mixtures of three of them and of a mean of three new w."""
        x1, x2, x3 = w[(rng.uniform(1, 3, self.params.population - len(w))[0] * len(w)).long()]
        mixture = 0.7 * (0.25 * x1 + 0.25 * x2 + 0.5 * x3) + 0.3 * mean_styles(G, rng, len(x1), of=3)
        return torch.cat([w, mixture])
