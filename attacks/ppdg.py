"""PPDG-MI: pseudo-private data guided model inversion (Peng et al., NeurIPS 2024), on PPA's search."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mibench.contracts import Access, Attack, AttackContext, Generator, Oracle, PriorModel, Reconstruction, Rows
from mibench.errors import StageFailed
from mibench.images.augment import mirror, resized_crop
from mibench.primitives.alignment import AlignParams, aligned
from mibench.primitives.embedding import EmbeddingParams, fit_people, people_embedding
from mibench.primitives.latents import descend_adam
from mibench.primitives.losses import poincare
from mibench.primitives.pool import PoolParams, TruncatedPool, style_pool, synthesise, top_of_pool
from mibench.primitives.queries import in_chunks
from mibench.primitives.selection import best_rows
from mibench.primitives.training import pack, unpack
from mibench.primitives.tuning import TuningParams, tuned


class Ppdg(TruncatedPool, Attack):
    """Attack as PPA does; take the images X* that the target trusts most for private ones and tune G, of each identity
    by itself, until it shows X* at latents of its own; attack again with this G."""

    access = Access.WHITE_BOX
    effort = ("iterations", "candidates", "pool")
    tunes_prior = True
    block = 1  # each identity has a generator of its own
    deviations = (
        "f is a face embedding, on the small tracks of the labelled public people, in place of StyleGAN2-ADA's VGG16.",
        "With pw the generator is tuned on the squared differences of f, not on LPIPS.",
        "With a DCGAN prior there is no mapping network: w = z, and truncation scales z towards its mean 0.",
        "Crops and mirrors are drawn per row, not once per batch.",
        "The published StyleGAN2 comes without its discriminator; then the realism term is left out.",
    )

    class Params(AlignParams, TuningParams, EmbeddingParams, PoolParams):
        pool: int = Field(500, ge=1, description="latents in each of the two candidate searches (S)")
        candidates: int = Field(100, ge=1, description="pool members optimised per identity")
        keep: int | None = Field(None, ge=1, description="results kept per identity; default: the track's images")
        iterations: int = Field(70, ge=0, description="steps, at least 0, in each of the two attacks")
        lr: float = Field(0.005, gt=0)
        betas: tuple[float, float] = (0.1, 0.1)
        crop: tuple[float, float] = Field((0.9, 1.0), description="area range of the crop while optimising")
        selection_views: int = Field(100, ge=1, description="passes per result that order the results")
        pseudo_private: int = Field(10, ge=1, description="results of the first attack that G is tuned to")

        @model_validator(mode="after")
        def _enough(self) -> Self:
            if not max(self.keep or 1, self.pseudo_private) <= self.candidates <= self.pool:
                raise ValueError("expected keep and pseudo_private <= candidates <= pool")
            return self

    def skip(self) -> str | None:
        reason: str | None = self.params.lacking(self.track)
        return reason

    def prepare(self, oracle: Oracle, prior: PriorModel | None, ctx: AttackContext) -> dict[str, Tensor]:
        """The target's confidence in the pool of the first search, and f if it is our own."""
        p = self.params
        own = {} if p.casia_weights else pack(f=fit_people(ctx, people_embedding(ctx, None), p.embedding_steps))
        return super().prepare(oracle, prior, ctx) | own

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        p, n = self.params, self.params.pseudo_private
        keep = p.keep or ctx.images_per_identity
        if keep > p.candidates:
            raise StageFailed(f"{keep} images of {p.candidates} candidates were asked for.")
        ctx.check_labels(labels)
        f = people_embedding(ctx, p.casia_weights)
        if p.casia_weights is None:
            unpack(f, ctx.artifact, "f")
        mapped = style_pool(prior.generator, ctx.stream("statistics").normal(600, prior.latent_dim))
        for label in labels:
            rows = ctx.rows([label], p.candidates)
            start = self.candidates(prior, [label], ctx, p.candidates)
            w, _, trust = self.attack(oracle, prior.generator, start, rows, ctx, "first")
            G = tuned(prior, w[trust.topk(n).indices], f, mapped, ctx.rows([label], n).streams("pivots"), p)
            start = self.search(oracle, G, self.pool(prior, ctx)[:, 0], ctx.rows([label], 1))
            w, images, score = self.attack(oracle, G, start, rows, ctx, "second")
            with torch.no_grad():
                initial = synthesise(G, start).clamp(0, 1)
            [best] = best_rows(rows, score, keep)
            notes = {"round1_confidence": float(trust.mean()), "round2_confidence": float(score.mean())}
            shown = ctx.shown(G, partial(synthesise, w=w[best]))
            yield Reconstruction(label, images[best], initial[best], score[best], notes=notes, shown=shown)

    def attack(
        self, oracle: Oracle, G: Generator, start: Tensor, rows: Rows, ctx: AttackContext, name: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """PPA's descent from ``start`` (R, d): w, the images, the target's mean confidence in them, mirrored or not."""
        p, crops, views = self.params, rows.streams(f"{name} crop"), rows.streams(f"{name} selection")
        loss = aligned(lambda x: poincare(oracle.logits(x, rows), rows.label), rows.streams(f"{name} align"), ctx, p)

        def objective(w: Tensor) -> Tensor:
            return loss(resized_crop(synthesise(G, w), crops, p.crop))

        w = descend_adam(start, objective, ctx.steps(f"ppdg {name}", p.iterations), p.lr, p.betas)
        with torch.no_grad(), oracle.phase("selection"):
            images = synthesise(G, w).clamp(0, 1)
            passes = [oracle.scores(mirror(images, views), rows) for _ in range(p.selection_views)]
        return w, images, torch.stack(passes).mean(0).gather(1, rows.label[:, None])[:, 0]

    @torch.no_grad()
    def search(self, oracle: Oracle, G: Generator, pool: Tensor, one: Rows) -> Tensor:
        """(candidates, d): those of ``pool`` (S, d) that the target likes best through the tuned generator."""

        def scores(w: Tensor) -> Tensor:
            x, asked = synthesise(G, w).clamp(0, 1), one.take(None, each=len(w))
            return (oracle.scores(x, asked) + oracle.scores(x.flip(3), asked)) / 2

        with oracle.phase("search"):
            best = top_of_pool(in_chunks(scores, pool), one.identities, self.params.candidates)
        return pool[best.flatten()]
