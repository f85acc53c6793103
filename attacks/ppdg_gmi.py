"""PPDG-MI at low resolution: pseudo-private data guided model inversion (Peng et al., NeurIPS 2024), on LOMMA's GMI."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from mibench.contracts import Access, Attack, AttackContext, Oracle, PriorModel, PriorRef, Reconstruction
from mibench.errors import StageFailed
from mibench.images.augment import random_view
from mibench.primitives.alignment import CriticAlignParams, aligned
from mibench.primitives.distillation import DEVIATIONS, Ensemble, EnsembleParams, OverEnsemble
from mibench.primitives.latents import descend_nesterov
from mibench.primitives.losses import critic_prior
from mibench.primitives.wgan import critic_step, generator_step


class PpdgGmi(OverEnsemble, Attack):
    """Attack many times as LOMMA on GMI does; of each identity add the images that the target trusts most to the public
    ones, go on with the training of G and D, for this identity alone; attack again with these."""

    access = Access.WHITE_BOX
    tunes_prior = True
    block = 1  # each identity has a generator of its own
    deviations = (
        *DEVIATIONS,
        "Views are drawn for each image, not once per batch.",
        "Real images are drawn with replacement; on the small tracks half of them are pseudo-private, where released "
        "code draws from all alike, 1.6 % pseudo-private ones.",
        "The second attack runs once for each image that the track asks for.",
        "With a prior whose weights are an average (ema) the training goes on from the average.",
    )

    class Params(CriticAlignParams, EnsembleParams):
        variant: Literal["full", "logit", "aug"] = Field("logit", description="LOMMA's; released code has no students")
        candidates: int = Field(1000, ge=1, description="runs of the first attack per identity (N)")
        pseudo_private: int = Field(500, ge=1, description="of them added to the public images")
        selection_views: int = Field(100, ge=1, description="views per result that order the results")
        iterations: int = Field(1200, ge=0, description="steps, at least 0, in each of the two attacks")
        lr: float = Field(0.02, gt=0)
        momentum: float = Field(0.9, ge=0, lt=1)
        identity_weight: float = Field(100.0, ge=0)
        bound: float = Field(1.0, gt=0, description="z stays in [-bound, bound]")
        reference_batch: int = Field(60, ge=1, description="batch whose mean the published step is")
        tuning_steps: int = Field(4760, ge=0, description="critic steps of the tuning (10 epochs of 30,500 images)")
        share: float | None = Field(None, ge=0, le=1, description="of pseudo-private among real images; None: alike")
        tuning_batch: int = Field(64, ge=2)
        tuning_lr: float = Field(2e-4, gt=0)
        tuning_betas: tuple[float, float] = (0.5, 0.999)
        penalty: float = Field(10.0, ge=0)
        critic_steps: int = Field(5, ge=1, description="critic steps per generator step")
        prior_params: dict[str, Any] = Field(default_factory=dict, description="parameters of the WGAN-GP prior")

    def prior(self) -> PriorRef:
        return PriorRef("wgan_gp", self.params.prior_params)

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        p = self.params
        if p.pseudo_private > p.candidates:
            raise StageFailed(f"{p.pseudo_private} pseudo-private images of {p.candidates} runs were asked for.")
        ctx.check_labels(labels)
        for y in labels:
            _, first, trust = self.attack(oracle, prior, y, p.candidates, ctx, "first")
            model = self.tuned(prior, first[trust.topk(p.pseudo_private).indices], y, ctx)
            initial, images, score = self.attack(oracle, model, y, ctx.images_per_identity, ctx, "second")
            notes = {"round1_confidence": float(trust.mean()), "round2_confidence": float(score.mean())}
            yield Reconstruction(y, images.clamp(0, 1), initial.clamp(0, 1), score, notes=notes)

    def attack(
        self, oracle: Oracle, model: PriorModel, y: int, runs: int, ctx: AttackContext, name: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """LOMMA's descent: images at the start and at the end, the mean of p_y over views of each of these."""
        p, rows, critic = self.params, ctx.rows([y], runs), model.critic
        assert critic is not None
        models, views = Ensemble(oracle, rows, ctx, p), rows.streams(f"{name} selection")

        def identity(x: Tensor) -> Tensor:
            return p.identity_weight * models.identity_loss(x)

        loss = aligned(identity, rows.streams(f"{name} align"), ctx, p, lambda x: critic_prior(critic(x)))
        start, steps = rows.streams(f"{name} latent").normal(runs, model.latent_dim), ctx.steps(name, p.iterations)
        z = descend_nesterov(start, lambda z: loss(model(z)), steps, p.lr, p.momentum, p.bound, p.reference_batch)
        with torch.no_grad(), oracle.phase("selection"):
            images = model(z)
            passes = [oracle.scores(random_view(images, views, 1.0), rows)[:, y] for _ in range(p.selection_views)]
            return model(start), images, torch.stack(passes).mean(0)

    def tuned(self, prior: PriorModel, found: Tensor, y: int, ctx: AttackContext) -> PriorModel:
        """A copy of G and D after more training on the public images and those ``found`` (n, C, H, W)."""
        p, public, model = self.params, ctx.public.images, copy.deepcopy(prior).train().requires_grad_(True)
        share = len(found) / (len(public) + len(found)) if p.share is None else p.share
        assert model.critic is not None
        G, D = (torch.optim.Adam(m.parameters(), p.tuning_lr, p.tuning_betas) for m in (model.generator, model.critic))
        for step in range(p.tuning_steps):
            rng = ctx.stream(f"tuning.{y}.{step}")
            real = public[rng.integers(len(public), p.tuning_batch)]
            private = rng.uniform(p.tuning_batch) < share
            real[private] = found.to(real.dtype)[rng.integers(len(found), p.tuning_batch)[private]]
            critic_step(model, D, real, rng, p.penalty)
            if (step + 1) % p.critic_steps == 0:
                generator_step(model, G, p.tuning_batch, rng)
        return model.eval().requires_grad_(False)
