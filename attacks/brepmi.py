"""BREP-MI: label-only inversion by boundary repulsion (Kahla et al., "Label-Only Model Inversion Attacks via Boundary
Repulsion", CVPR 2022)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from mibench.contracts import (
    Access,
    Attack,
    AttackContext,
    BaseParams,
    Oracle,
    PriorModel,
    PriorRef,
    Reconstruction,
    Rng,
)


class BrepMi(Attack):
    """Stand inside class y with z, look around on a sphere of radius R, step away from the points that are not y; as
    soon as nearly all of them are, R grows by 1.3. What counts is z when R last grew: the deepest inside y."""

    access = Access.LABELS
    deviations = (
        "The label hunt, consecutive rejections, growths and rounds are capped; released code can run for ever.",
        "The track's identities are attacked; released code attacks the first 300 classes that random latents hit. A "
        "class that no latent of the hunt hits starts from a random latent outside (notes: reached 0).",
        "An identity whose radius never grew, a failure as published, gets the image of its last z (notes: grew 0).",
        "The radius grows when more than 87.5 % of the points are inside, as in released code; the paper says all.",
    )

    class Params(BaseParams):
        sphere_points: int = Field(32, ge=1, description="points asked about around z, at least 1")
        patience: int = Field(1000, ge=1, description="accepted steps without growth after which it ends, at least 1")
        radius: float = Field(2.0, gt=0, description="R at the start")
        growth: float = Field(1.3, gt=1, description="R grows by this factor, more than 1")
        inside: float = Field(0.75, ge=0, lt=1, description="R grows if the mean answer in +-1 is above, in [0, 1)")
        largest_step: float = Field(3.0, gt=0, description="the step is min(R / 3, this)")
        bound: float = Field(1.5, gt=0, description="z stays in [-bound, bound]; the points around it may not")
        hunt_batch: int = Field(256, ge=1, description="latents per batch of the label hunt")
        max_hunt: int = Field(1000, ge=1, description="batches after which the label hunt gives up")
        max_rejections: int = Field(1000, ge=1, description="proposals in a row that leave the class, then it ends")
        max_growths: int = Field(50, ge=1, le=300, description="growths of R, then it ends; 1 to 300")
        max_rounds: int = Field(100_000, ge=1, description="proposals in all, then it ends")
        prior_params: dict[str, Any] = Field(default_factory=dict, description="parameters of the WGAN-GP prior")

    def prior(self) -> PriorRef:
        return PriorRef("wgan_gp", self.params.prior_params)

    def prepare(self, oracle: Oracle, prior: PriorModel | None, ctx: AttackContext) -> dict[str, Tensor]:
        """The label hunt: ``start`` (K, d), the first latent seen of each class, and ``reached`` (K,) bool."""
        p, classes = self.params, ctx.track.num_classes
        assert prior is not None
        rng = ctx.stream("hunt")
        start = torch.zeros(classes, prior.latent_dim, device=ctx.device)
        reached = torch.zeros(classes, dtype=torch.bool, device=ctx.device)
        for _ in ctx.steps("label hunt", p.max_hunt):
            z = rng.normal(p.hunt_batch, prior.latent_dim).clamp(-p.bound, p.bound)
            with torch.no_grad(), oracle.phase("search"):
                found = oracle.labels(prior.generator(z)).tolist()
            for i, label in enumerate(found):
                if not reached[label]:
                    start[label], reached[label] = z[i], True
            if bool(reached[list(ctx.identities)].all()):
                break
        return {"start": start, "reached": reached}

    @torch.no_grad()
    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        """One identity at a time, always calls of the same shape: a label at the boundary can hang on the last bit, and
        that must not depend on which identities are computed together."""
        p, generator, rows = self.params, prior.generator, ctx.rows(labels, 1)
        spheres, latents = rows.streams("sphere"), rows.streams("latent")
        for i in ctx.steps("brepmi", len(rows)):
            row, label = torch.tensor([i], device=ctx.device), rows.identities[i]

            def phi(z: Tensor, row: Tensor = row, label: int = label) -> Tensor:
                """+1 where the target says y, -1 where it does not."""
                return 2.0 * (oracle.labels(generator(z), rows.take(row, each=len(z))) == label) - 1

            reached = ctx.artifact["reached"][label]
            anywhere = latents.take(row).normal(1, prior.latent_dim).clamp(-p.bound, p.bound)
            start = torch.where(reached, ctx.artifact["start"][label], anywhere)
            z, facts = self.repel(start, phi, spheres.take(row))
            images, initial = generator(z).clamp(0, 1), generator(start).clamp(0, 1)
            yield Reconstruction(label, images, initial, notes={"reached": float(reached), **facts})

    def repel(self, z: Tensor, phi: Callable[[Tensor], Tensor], sphere: Rng) -> tuple[Tensor, dict[str, float]]:
        """From z (1, d), in the class if all went well: z when R last grew, else the last z, and how it went."""
        p, n, d = self.params, self.params.sphere_points, z.shape[1]
        R, best = p.radius, z
        it = last = rejected = growths = grew = rounds = 0
        while it - last < p.patience and rejected < p.max_rejections and growths < p.max_growths:
            if rounds == p.max_rounds:
                break
            rounds += 1
            points = R * normalize(sphere.normal(1, n, d)[0])
            q = phi(z + points)
            step = min(R / 3, p.largest_step)
            grow = float(q.sum()) > p.inside * n
            if grow:
                R, last, growths = p.growth * R, it, growths + 1
            c = (q - 1) / 2  # repulsion only: points inside do not attract
            away = (c[:, None] * points).mean(0, keepdim=True) / R  # points at the old radius, divided by the new one
            proposal = (z + step * away).clamp(-p.bound, p.bound)
            if float(phi(proposal)) < 0:
                rejected += 1
                continue
            z, rejected = proposal, 0
            if grow:
                best, grew = z, grew + 1
            else:
                it += 1
        facts = {"grew": grew, "radius": R, "rounds": rounds, "finished": it - last >= p.patience}
        return best if grew else z, {name: float(value) for name, value in facts.items()}
