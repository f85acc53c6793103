"""BREP-MI: label-only inversion by boundary repulsion (Kahla et al., "Label-Only Model Inversion Attacks via Boundary
Repulsion", CVPR 2022)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from mibench.contracts import Access, Attack, AttackContext, BaseParams, Oracle, PriorModel, PriorRef, Reconstruction
from mibench.contracts.oracle import BudgetSpent
from mibench.primitives.queries import label_hunt, one_by_one
from mibench.random import Rng


class BrepMi(Attack):
    """Stand inside class y with z, look around on a sphere of radius R, step away from the points that are not y; as
    soon as nearly all of them are, R grows by 1.3. What counts is z when R last grew: the deepest inside y."""

    version = 2
    access = Access.LABELS
    effort = ("max_rounds", "max_rejections", "patience")
    stops_early = True
    deviations = (
        "The label hunt, consecutive rejections, growths and rounds are capped; released code can run for ever.",
        "The track's identities are attacked; released code attacks the first 300 classes that random latents hit. A "
        "class that no latent of the hunt hits starts from a random latent outside (notes: reached 0).",
        "It runs once for each image that the track asks for, from the first latents of the hunt that hit the class.",
        "An identity whose radius never grew, a failure as published, gets the image of its last z (notes: grew 0).",
        "Released code also asks for scores in every round, for a loss that it only logs.",
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
        restarts: int | None = Field(None, ge=1, description="runs per identity; default: the track's images")
        prior_params: dict[str, Any] = Field(default_factory=dict, description="parameters of the WGAN-GP prior")

    def prior(self) -> PriorRef:
        return PriorRef("wgan_gp", self.params.prior_params)

    def restarts(self, ctx: AttackContext) -> int:
        return self.params.restarts or ctx.images_per_identity

    def prepare(self, oracle: Oracle, prior: PriorModel | None, ctx: AttackContext) -> dict[str, Tensor]:
        """The label hunt: ``start`` (K, runs, d), the first latents of each class, and ``reached`` (K,), how many."""
        p, rng = self.params, ctx.stream("hunt")
        assert prior is not None
        rounds = ctx.steps("label hunt", p.max_hunt)
        batches = (rng.normal(p.hunt_batch, prior.latent_dim).clamp(-p.bound, p.bound) for _ in rounds)
        return label_hunt(oracle, prior, batches, ctx, self.restarts(ctx))

    @torch.no_grad()
    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        p, generator, rows = self.params, prior.generator, ctx.rows(labels, self.restarts(ctx))
        spheres, latents = rows.streams("sphere"), rows.streams("latent")

        def search(row: Tensor, y: int) -> Reconstruction:
            def phi(z: Tensor) -> Tensor:
                """+1 where the target says y, -1 where it does not."""
                return 2.0 * (oracle.labels(generator(z), rows.take(row, each=len(z))) == y) - 1

            reached = ctx.artifact["reached"][y] > 0
            anywhere = latents.take(row).normal(1, prior.latent_dim).clamp(-p.bound, p.bound)
            start = torch.where(reached, ctx.artifact["start"][y, row % rows.restarts], anywhere)
            z, facts = self.repel(start, phi, spheres.take(row))
            images, initial = generator(z).clamp(0, 1), generator(start).clamp(0, 1)
            return Reconstruction(y, images, initial, notes={"reached": float(reached), **facts})

        yield from one_by_one(ctx, "brepmi", rows, search)

    def repel(self, z: Tensor, phi: Callable[[Tensor], Tensor], sphere: Rng) -> tuple[Tensor, dict[str, float]]:
        """From z (1, d), in the class if all went well: z when R last grew, else the last z, and how it went."""
        p, N, d = self.params, self.params.sphere_points, z.shape[1]
        R, best = p.radius, z
        steps = last = rejected = growths = grew = rounds = 0
        with suppress(BudgetSpent):
            while (
                steps - last < p.patience
                and rejected < p.max_rejections
                and growths < p.max_growths
                and rounds < p.max_rounds
            ):
                rounds += 1
                alpha = min(R / 3, p.largest_step)
                u = R * normalize(sphere.normal(1, N, d)[0])
                q = phi(z + u)
                grow = float(q.sum()) > p.inside * N
                if grow:
                    R, last, growths = p.growth * R, steps, growths + 1
                c = (q - 1) / 2  # points outside repel, those inside do not attract
                M = (c[:, None] * u).mean(0, keepdim=True) / R  # u is on the old radius, R the new one, as released
                proposal = (z + alpha * M).clamp(-p.bound, p.bound)
                if float(phi(proposal)) < 0:
                    rejected += 1
                    continue
                z, rejected = proposal, 0
                if grow:
                    best, grew = z, grew + 1
                else:
                    steps += 1
        facts = {"grew": grew, "radius": R, "rounds": rounds, "finished": steps - last >= p.patience}
        return best if grew else z, {name: float(value) for name, value in facts.items()}
