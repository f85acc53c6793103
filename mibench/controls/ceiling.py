"""Ceiling: a control, no attack. The private photos projected into a prior's range, without any target: the best image
of a person that the prior can draw (specification of evaluation, 7.2)."""

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor

from mibench.contracts import Access, Attack, AttackContext, ControlContext, Oracle, PriorModel, Reconstruction
from mibench.primitives.latents import descend_adam
from mibench.primitives.losses import mean_square
from mibench.primitives.pool import StyleParams, StyleSearch, draw
from mibench.primitives.selection import top_restarts


class Ceiling(StyleSearch, Attack):
    """For each photo x of an identity z* = argmin |G(z) - x|^2 + a |grad G(z) - grad x|^2 + b |z|^2 (means over pixels
    and latents), from the nearest of S random images."""

    access = Access.PRIVATE

    class Params(StyleParams):
        pool: int = Field(2000, ge=1, description="random images among which a photo's start is looked for (S)")
        iterations: int = Field(300, ge=0, description="steps, at least 0")
        lr: float = Field(0.05, gt=0)
        edges: float = Field(1.0, ge=0, description="weight of the differences of neighbouring pixels (a)")
        norm: float = Field(1e-4, ge=0, description="weight of the latents' mean square (b)")

    def distance(self, images: Tensor, photos: Tensor) -> Tensor:
        """(R,): mean squared error of pixels and of the differences between neighbours."""
        gap = images - photos
        edges = mean_square(gap.diff(dim=2)) + mean_square(gap.diff(dim=3))
        return mean_square(gap) + self.params.edges * edges

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        assert isinstance(ctx, ControlContext)
        p = self.params
        photos = [ctx.photos(label) for label in labels]
        count = min(map(len, photos))
        rows, private = ctx.rows(labels, count), torch.cat([part[:count] for part in photos])
        z = ctx.stream("pool").normal(p.pool, prior.latent_dim)
        start = torch.cat([self._nearest(prior, z, part[:count], y) for part, y in zip(photos, labels, strict=True)])

        def objective(z: Tensor) -> Tensor:
            return self.distance(draw(prior, z, rows.label), private) + p.norm * z.square().mean(1)

        best = descend_adam(start, objective, ctx.steps("ceiling", p.iterations), p.lr)
        with torch.no_grad():
            images, initial = draw(prior, best, rows.label), draw(prior, start, rows.label)
        yield from top_restarts(rows, images, initial, -self.distance(images, private), count)

    @torch.no_grad()
    def _nearest(self, prior: PriorModel, z: Tensor, photos: Tensor, label: int) -> Tensor:
        """(n, latent_dim): for each photo the latent whose image is nearest in pixels."""
        images = torch.cat([draw(prior, part, torch.full_like(part[:, 0], label).long()) for part in z.split(256)])
        return z[torch.cdist(photos.flatten(1), images.flatten(1)).argmin(1)]
