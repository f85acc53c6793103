"""Floor: a control, no attack. What of a prior the target likes best, before anything is optimised (specification of
evaluation, 7.2)."""

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor

from mibench.contracts import Access, Attack, AttackContext, Oracle, PriorModel, Reconstruction
from mibench.primitives.pool import StyleParams, StyleSearch, draw, score_pool, top_of_pool
from mibench.primitives.selection import top_restarts


class Floor(StyleSearch, Attack):
    """For each identity y the images G(z), of S random z, with the highest p_y(G(z)); a conditional prior's G(z, y)."""

    access = Access.WHITE_BOX  # it asks for scores; a prior may need more

    class Params(StyleParams):
        pool: int = Field(2000, ge=1, description="random images of the prior (S), the same for all identities")

    def latents(self, prior: PriorModel, ctx: AttackContext) -> Tensor:
        """(S, latent_dim)."""
        return ctx.stream("pool").normal(self.params.pool, prior.latent_dim)

    def prepare(self, oracle: Oracle, prior: PriorModel | None, ctx: AttackContext) -> dict[str, Tensor]:
        """(S, K) p_y of G(z) for each class y."""
        assert prior is not None
        z = self.latents(prior, ctx)

        def scores(label: int) -> Tensor:
            labels = torch.full((len(z),), label, device=z.device)
            return score_pool(oracle, z, lambda part: draw(prior, part, labels[: len(part)]), mirrored=False)

        if not prior.generator.conditional:
            return {"scores": scores(0)}
        return {"scores": torch.stack([scores(y)[:, y] for y in range(self.track.num_classes)], dim=1)}

    @torch.no_grad()
    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        ctx.check_labels(labels)
        z, count = self.latents(prior, ctx), min(ctx.images_per_identity, self.params.pool)
        best = top_of_pool(ctx.artifact["scores"], labels, count)
        rows = ctx.rows(labels, count)
        images = draw(prior, z[best.flatten()], rows.label)
        score = oracle.scores(images, rows).gather(1, rows.label[:, None])[:, 0]
        yield from top_restarts(rows, images, images, score, count)
