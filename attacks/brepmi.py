"""BREP-MI: label-only inversion by boundary repulsion (Kahla et al., "Label-Only Model Inversion Attacks via Boundary
Repulsion", CVPR 2022)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from mibench.contracts import Access, Attack, AttackContext, BaseParams, Oracle, PriorModel, PriorRef, Reconstruction
from mibench.contracts.oracle import BudgetSpent
from mibench.primitives.queries import drawn, in_chunks, label_hunt
from mibench.random import RowStreams


class BrepMi(Attack):
    """Stand inside class y with z, look around on a sphere of radius R, step away from the points that are not y; as
    soon as nearly all of them are, R grows by 1.3. What counts is z when R last grew: the deepest inside y."""

    version = 3
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
        anywhere = rows.streams("latent").normal(len(rows), prior.latent_dim).clamp(-p.bound, p.bound)
        reached = ctx.artifact["reached"][rows.label] > 0
        start = torch.where(reached[:, None], ctx.artifact["start"][rows.identities].flatten(0, 1), anywhere)

        def says_y(z: Tensor, asked: Tensor) -> Tensor:
            answers = oracle.labels(drawn(generator, z.flatten(0, 1)), rows.take(asked, each=z.shape[1]))
            return answers.view(len(z), -1) == rows.label[asked, None]

        def phi(z: Tensor, asked: Tensor) -> Tensor:
            """+1 where the target says y, -1 where it does not: (n, m, d) around the rows ``asked`` (n,) -> (n, m)."""
            return 2.0 * in_chunks(says_y, z, asked, each=z.shape[1]) - 1

        z, facts = self.repel(start, phi, rows.streams("sphere"), ctx)
        images, initial = (rows.split(in_chunks(partial(drawn, generator), part).clamp(0, 1)) for part in (z, start))
        notes = {name: rows.split(value.float()).mean(1) for name, value in (facts | {"reached": reached}).items()}
        for i, label in enumerate(rows.identities):
            yield Reconstruction(label, images[i], initial[i], notes={name: float(v[i]) for name, v in notes.items()})

    def repel(
        self, z: Tensor, phi: Callable[[Tensor, Tensor], Tensor], spheres: RowStreams, ctx: AttackContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """From z (R, d), each in its class if all went well: z when R last grew, else the last z, and how it went."""
        p, N, (count, d) = self.params, self.params.sphere_points, z.shape
        z, best = z.clone(), z.clone()
        R = torch.full((count,), p.radius, dtype=torch.float64, device=z.device)
        steps, last, rejected, growths, grew, rounds = torch.zeros(6, count, dtype=torch.long, device=z.device)
        with suppress(BudgetSpent):
            for _ in ctx.steps("brepmi", p.max_rounds):
                going = (steps - last < p.patience) & (rejected < p.max_rejections) & (growths < p.max_growths)
                if not len(row := going.nonzero()[:, 0]):
                    break
                rounds[row] += 1
                alpha = (R[row] / 3).clamp(max=p.largest_step)
                u = R[row].float()[:, None, None] * normalize(spheres.take(row).normal(len(row), N, d), dim=2)
                q = phi(z[row, None] + u, row)
                grow = q.sum(1) > p.inside * N
                grown = row[grow]
                R[grown], last[grown], growths[grown] = p.growth * R[grown], steps[grown], growths[grown] + 1
                c = (q - 1) / 2  # points outside repel, those inside do not attract
                M = (c[..., None] * u).mean(1) / R[row].float()[:, None]  # u on the old radius, R the new, as released
                proposal = (z[row] + alpha.float()[:, None] * M).clamp(-p.bound, p.bound)
                inside = phi(proposal[:, None], row)[:, 0] > 0
                rejected[row[~inside]] += 1
                moved, grown, stayed = row[inside], row[inside & grow], row[inside & ~grow]
                z[moved], rejected[moved], steps[stayed] = proposal[inside], 0, steps[stayed] + 1
                best[grown], grew[grown] = z[grown], grew[grown] + 1
        facts = {"grew": grew, "radius": R, "rounds": rounds, "finished": steps - last >= p.patience}
        return torch.where(grew[:, None] > 0, best, z), facts
