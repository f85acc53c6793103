"""C2FMI: from coarse to fine, model inversion from scores (Ye et al., TDSC 2023)."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mibench.contracts import Access, Attack, AttackContext, BaseParams, Oracle, PriorModel, PriorRef, Reconstruction
from mibench.primitives.embedding import (
    InverseMap,
    fit_inverse_map,
    fit_people,
    full_confidence,
    people_embedding,
    visible,
)
from mibench.primitives.evolution import confidence, differential_evolution
from mibench.primitives.latents import descend_adam
from mibench.primitives.pool import CHUNK, render_single, style_pool
from mibench.primitives.training import pack, unpack


class C2fmi(Attack):
    """M tells from the target's scores how the attacker's own embedding e sees the image. Coarse: descend to w with
    e(G(w)) = M(full confidence in y). Fine: differential evolution of the best w with fitness p_y."""

    access = Access.SCORES
    deviations = (
        "On the small tracks e is a small network that tells the labelled public people apart; published is one of the "
        "10,575 people of CASIA-WebFace. M is narrower there, and the coarse search takes larger steps.",
        "M's batches are drawn with replacement.",
        "Parents keep their fitness; released code asks for it again in every generation.",
        "A generator without mapping network (DCGAN) has w = z. No face detector crops the result.",
    )

    class Params(BaseParams):
        prior: str = Field("dcgan", description="the generator: id of a prior with scope public")
        prior_params: dict[str, Any] = Field(default_factory=dict, description="parameters of that prior")
        embedding: Literal["casia", "public"] = Field("casia", description="e: published, or of the public people")
        casia_weights: str | None = Field(None, description="id of the imported InceptionResnetV1 of CASIA-WebFace")
        embedding_steps: int = Field(400, ge=1, description="training steps of e if embedding=public")
        width: int = Field(4096, ge=1, description="of M's two hidden layers")
        epochs: int = Field(20, ge=1, description="of M over the public images; its rate falls by 0.8 every other one")
        top: int | None = Field(None, ge=1, description="use only the target's largest scores, so many (top-M)")
        starts: int = Field(16, ge=1, description="w of the coarse search")
        coarse_steps: int = Field(20, ge=0, description="50 in the top-M variant")
        coarse_lr: float = Field(0.02, gt=0, description="times 0.95 every 20 steps")
        keep: int = Field(10, ge=1, description="starts that join the population; 16 in the top-M variant")
        population: int = Field(32, ge=1, description="w of the fine search, at least as many as join it")
        generations: int = Field(500, ge=0)

        @model_validator(mode="after")
        def _fit_together(self) -> Self:
            if self.keep > min(self.starts, self.population) or (self.embedding == "public" and self.casia_weights):
                raise ValueError("expected keep <= starts, keep <= population, casia_weights only with embedding=casia")
            return self

    def prior(self) -> PriorRef:
        return PriorRef(self.params.prior, self.params.prior_params)

    def skip(self) -> str | None:
        p, scores = self.params, self.track.num_classes
        if p.top is not None and p.top > scores:
            return f"the target has only {scores} scores, fewer than top={p.top}"
        if p.embedding == "public" or p.casia_weights is not None:
            return None
        return (
            "its embedding needs facenet-pytorch's weights 20180408-102900-casia-webface.pt: import them with `mibench "
            "import-checkpoint FILE --as facenet_casia` and name their id in casia_weights, or set embedding=public"
        )

    def prepare(self, oracle: Oracle, prior: PriorModel | None, ctx: AttackContext) -> dict[str, Tensor]:
        """M, which learns from the scores and the embeddings of the public images, and e if it is our own."""
        p, x = self.params, ctx.public.images
        e = people_embedding(ctx, p.casia_weights)
        own = {"e": fit_people(ctx, e, p.embedding_steps)} if p.embedding == "public" else {}
        with torch.no_grad(), oracle.phase("search"):
            seen = torch.cat([visible(oracle.scores(chunk), p.top) for chunk in x.split(CHUNK)])
            wanted = torch.cat([e(chunk) for chunk in x.split(CHUNK)])
        M = InverseMap(self.track.num_classes, p.width, wanted.shape[1]).to(ctx.device)
        return pack(M=fit_inverse_map(ctx, M, seen, wanted, p.epochs), **own)

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        p, generator, classes, rows = self.params, prior.generator, self.track.num_classes, ctx.rows(labels, 1)
        e, streams = people_embedding(ctx, p.casia_weights), rows.streams("w")
        if p.embedding == "public":
            unpack(e, ctx.artifact, "e")
        M = unpack(InverseMap(classes, p.width, len(ctx.artifact["M/5.bias"])).to(ctx.device), ctx.artifact, "M")

        def search(row: Tensor, y: int) -> Reconstruction:
            rng = streams.take(row)

            def drawn(n: int, mean_of: int) -> Tensor:
                """(n, d), each the mean of some mapped latents."""
                w = style_pool(generator, rng.normal(1, n * mean_of, prior.latent_dim)[0])
                return w.unflatten(0, (n, mean_of)).mean(1)

            def judge(w: Tensor) -> Tensor:
                with torch.no_grad():
                    p_w = oracle.scores(render_single(generator, w), rows.take(row, each=len(w)))
                return confidence(p_w, y, p.top)

            def gap(w: Tensor) -> Tensor:
                wanted = M(full_confidence(rng.normal(1, len(w), classes)[0], y))
                return (e(render_single(generator, w)) - wanted).square().mean(1)

            start = drawn(p.starts, 2)
            lr = [p.coarse_lr * 0.95 ** (step // 20) for step in range(p.coarse_steps)]
            w = descend_adam(start, gap, range(len(lr)), lr.__getitem__, reference_batch=p.starts)
            with oracle.phase("search"):
                coarse = judge(w)
            w = w[coarse.topk(p.keep).indices]
            x1, x2, x3 = w[(rng.uniform(1, 3, p.population - len(w))[0] * len(w)).long()]
            filler = 0.7 * (0.25 * x1 + 0.25 * x2 + 0.5 * x3) + 0.3 * drawn(len(x1), 3)
            w, f = differential_evolution(torch.cat([w, filler]), judge, p.generations, rng)
            best = f.argmax()[None]
            with torch.no_grad():
                images, initial = render_single(generator, w[best]), render_single(generator, start[:1])
            return Reconstruction(y, images, initial, f[best], notes={"coarse": float(coarse.max())})

        for i in ctx.steps("c2fmi", len(rows)):
            yield search(torch.tensor([i], device=ctx.device), rows.identities[i])
