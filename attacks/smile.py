"""SMILE: long-tailed surrogates and gradient-free refinement, about a thousand queries per identity (Li et al., CVPR
2025)."""

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mibench.contracts import Access, Attack, AttackContext, Oracle, PriorModel, Reconstruction
from mibench.nets.small import ConvNet
from mibench.primitives.embedding import fit_people, no_people, people_embedding
from mibench.primitives.evolution import log, one_plus_one
from mibench.primitives.experts import Experts, class_weights, surrogate_loss
from mibench.primitives.latents import PBox, descend_adam, ramps
from mibench.primitives.pool import UntruncatedPool, UntruncatedPoolParams, score_pool, top_of_pool
from mibench.primitives.queries import in_chunks
from mibench.primitives.training import fit_student, pack, unpack
from mibench.random import Stream


class Smile(UntruncatedPool, Attack):
    """Scores of one pool teach a surrogate of several experts; the best of the pool descends on it, without queries; a
    (1+1) evolution strategy on the target refines the result."""

    access = Access.SCORES
    effort = ("local_steps", "budget", "pool")
    stops_early = True
    deviations = (
        "The surrogate starts from a small network that tells the labelled public people apart, and each expert has a "
        "batch norm of its own; published is InceptionResnetV1 of another face data set with one that they share.",
        "KL and CE of each image have its own class's weight; released code multiplies means by the sum of the weights "
        "(literal_weighting).",
        "Classes are counted among the min(10, K/3) largest scores of an image; published is 10.",
        "What the diversity term divides by is at least 1e-8; released code can divide by 0.",
        "The (1+1) strategy that nevergrad's NGOpt comes to at this budget is written out.",
        "It runs once for each image that the track asks for, from the best of the pool in turn.",
        "A generator without mapping network (DCGAN) has w = z, with a plain box around the pool's mean.",
    )

    class Params(UntruncatedPoolParams):
        pool: int = Field(2500, ge=2, description="latents scored once per target (N)")
        truncation: float = Field(0.7, gt=0, description="psi, applied when an image is rendered")
        experts: int = Field(3, ge=1, description="E")
        people_steps: int = Field(400, ge=1, description="training steps of the network that the experts start from")
        steps: int = Field(3900, ge=1, description="training steps of the experts (200 epochs)")
        batch: int = Field(128, ge=2)
        lr: float = Field(1e-3, gt=0, description="of the experts")
        beta: float = Field(0.9, ge=0, lt=1, description="of the class weights")
        literal_weighting: bool = Field(False, description="the released code's means times the sum of the weights")
        local_steps: int = Field(201, ge=0, description="on the surrogate")
        local_lr: float = Field(0.2, gt=0, description="with MIRROR's ramps")
        local_box: float = Field(1.0, gt=0, description="half the box of these steps, in standard deviations")
        budget: int = Field(1000, ge=1, description="queries of each run of the refinement")
        step: float = Field(1.0, gt=0, description="step size of the refinement at its start")
        box: float = Field(1.7, gt=0, description="half the box of the refinement, in standard deviations")

    def skip(self) -> str | None:
        reason: str | None = no_people(self.track)
        return reason

    def surrogate(self, ctx: AttackContext, people: nn.Module) -> Experts:
        net = next(part for part in people.modules() if isinstance(part, ConvNet))
        return Experts(net, self.params.experts, ctx.track.num_classes).to(ctx.device)

    def prepare(self, oracle: Oracle, prior: PriorModel | None, ctx: AttackContext) -> dict[str, Tensor]:
        """The surrogate S, and ``best`` (K, runs), indices of the pool's best for each class."""
        assert prior is not None
        p, pool = self.params, self.pool(prior, ctx)
        scores = score_pool(oracle, pool, lambda w: self.render(prior, w), mirrored=False)
        log_p = log(scores)
        omega = class_weights(log_p, p.beta, max(1, min(10, -(-log_p.shape[1] // 3))))
        with torch.no_grad():
            images = in_chunks(lambda w: self.render(prior, w), pool)
        S = self.surrogate(ctx, fit_people(ctx, people_embedding(ctx, None), p.people_steps))

        def loss(step: int, rng: Stream) -> Tensor:
            i = rng.integers(len(images), p.batch)
            return surrogate_loss(S(images[i]), log_p[i], omega, literal=p.literal_weighting)["loss"]

        fit_student(ctx, "surrogate", S, p.steps, loss, torch.optim.Adam(S.experts.parameters(), p.lr))
        return {"best": top_of_pool(scores, range(log_p.shape[1]), self.restarts(ctx)).contiguous()} | pack(S=S)

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        p, pool, runs = self.params, self.pool(prior, ctx), self.restarts(ctx)
        ctx.check_labels(labels)
        S = unpack(self.surrogate(ctx, people_embedding(ctx, None)), ctx.artifact, "S")
        near, far = (PBox.of(pool, prior.generator.negative_slope, width) for width in (p.local_box, p.box))

        def search(label: int) -> Reconstruction:
            rows = ctx.rows([label], runs)
            start, noise = pool[ctx.artifact["best"][label]], rows.streams("evolution")

            def local(w: Tensor) -> Tensor:
                return cross_entropy(S(self.render(prior, w)).mean(0), rows.label, reduction="none")

            def fitness(w: Tensor) -> Tensor:
                return log(oracle.scores(self.render(prior, w), rows).gather(1, rows.label[:, None])[:, 0])

            rate = ramps(p.local_lr, p.local_steps, first=1)
            w = descend_adam(start, local, range(p.local_steps), rate, project=near.clip)
            with torch.no_grad():
                w, f = one_plus_one(w, fitness, lambda: noise.normal(runs, start.shape[1]), far.clip, p.budget, p.step)
                images, initial = self.render(prior, w), self.render(prior, start)
            return Reconstruction(label, images, initial, f.exp())

        for i in ctx.steps("smile", len(labels)):  # by themselves: decisions hang on the last bit of an answer
            yield search(labels[i])
