"""Style latents of a public generator, and a pool of them, scored once per target and shared by all identities: where
attacks on pretrained generators start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from mibench.contracts import AttackContext, BaseParams, Oracle, PriorModel, PriorRef, TrackInfo
from mibench.errors import StageFailed
from mibench.nets.generator import Generator
from mibench.primitives.queries import in_chunks
from mibench.random import Rng


@torch.no_grad()
def score_pool(oracle: Oracle, latents: Tensor, render: Callable[[Tensor], Tensor], mirrored: bool) -> Tensor:
    """(S, K) softmax scores of the images ``render(latents)``, clamped to [0, 1]; the mean of an image and its mirror
    if ``mirrored``. Booked under "search"."""

    def scores(w: Tensor) -> Tensor:
        x = render(w).clamp(0, 1)
        answer = oracle.scores(x)
        return (answer + oracle.scores(x.flip(3))) / 2 if mirrored else answer

    with oracle.phase("search"):
        return in_chunks(scores, latents)


def top_of_pool(scores: Tensor, labels: Sequence[int], count: int) -> Tensor:
    """(len(labels), count) indices of the pool members with the highest score for each label, best first, distinct."""
    return scores[:, list(labels)].topk(count, dim=0).indices.T


@torch.no_grad()
def style_pool(generator: Generator, latents: Tensor) -> Tensor:
    """(S, latent_dim) -> one untruncated w per latent, (S, w_dim); in chunks, because a generator may repeat w."""
    return in_chunks(lambda z: generator.map(z)[:, 0], latents)


def mean_styles(generator: Generator, rng: Rng, count: int, of: int) -> Tensor:
    """(count, w_dim), each the mean of ``of`` untruncated w of new latents."""
    latents = rng.normal(1, count * of, generator.latent_dim)[0]
    return style_pool(generator, latents).unflatten(0, (count, of)).mean(1)


def render_single(generator: Generator, w: Tensor, psi: float = 1.0, cutoff: int | None = None) -> Tensor:
    """Images in [0, 1] of one w (N, w_dim) each, the same in all layers and then truncated."""
    layers = w[:, None].expand(-1, generator.num_ws, -1)
    return generator.synthesis(generator.truncate(layers, psi, cutoff)).clamp(0, 1)


def synthesise(generator: Generator, w: Tensor) -> Tensor:
    """Images of one w (N, w_dim) each, the same in all layers, as the generator leaves them."""
    return generator.synthesis(w[:, None].expand(-1, generator.num_ws, -1))


def draw(prior: PriorModel, latents: Tensor, label: Tensor) -> Tensor:
    """(N, latent_dim) -> images in [0, 1], of the classes ``label`` (N,) where the prior has any."""
    return prior(latents, *([label] if prior.generator.conditional else [])).clamp(0, 1)


# --- what attacks inherit -------------------------------------------------------------------------------------------


class StyleParams(BaseParams):
    """Which generator an attack searches."""

    prior: str = Field("dcgan", description="the generator: id of a prior with scope public")
    prior_params: dict[str, Any] = Field(default_factory=dict, description="parameters of that prior")


class PoolParams(StyleParams):
    """The generator, and the pool of its latents; an attack gives the numbers its own defaults."""

    pool: int = Field(5000, ge=1, description="latents in the candidate search (S)")
    truncation: float = Field(0.5, gt=0, description="psi, scale of the pool's latents")
    truncation_cutoff: int | None = Field(8, ge=1, description="layers of w that are truncated")


class StyleSearch:
    """Part of an attack on the style latents of a generator that is a parameter."""

    params: Any  # StyleParams and more
    track: TrackInfo

    def prior(self) -> PriorRef:
        return PriorRef(self.params.prior, self.params.prior_params)


class UntruncatedPoolParams(PoolParams):
    """``PoolParams``, and how often the search runs."""

    restarts: int | None = Field(None, ge=1, description="runs per identity; default: the track's images")


class TruncatedPool(StyleSearch):
    """Part of an attack whose pool is truncated w (PPA, IF-GMI): once per target, the mean confidence in each image
    and its mirror; per identity, the best."""

    def pool(self, prior: PriorModel, ctx: AttackContext) -> Tensor:
        """The (S, num_ws, d) style latents that every identity's candidates come from."""
        z = ctx.stream("pool").normal(self.params.pool, prior.latent_dim)
        return prior.generator.map(z, self.params.truncation, self.params.truncation_cutoff)

    def prepare(self, oracle: Oracle, prior: PriorModel | None, ctx: AttackContext) -> dict[str, Tensor]:
        """(S, K) confidence of the target in each pool image: mean softmax of the image and its mirror."""
        assert prior is not None
        return {"confidence": score_pool(oracle, self.pool(prior, ctx), prior.generator.synthesis, mirrored=True)}

    def candidates(self, prior: PriorModel, labels: Sequence[int], ctx: AttackContext, count: int) -> Tensor:
        """(len(labels) * count, d): one w of each identity's best, best first. Raises StageFailed if too many."""
        if count > self.params.pool:
            raise StageFailed(f"{count} candidates were asked for, of a pool of {self.params.pool}.")
        best = top_of_pool(ctx.artifact["confidence"], labels, count)
        return self.pool(prior, ctx)[best.flatten(), 0]


class UntruncatedPool(StyleSearch):
    """Part of an attack whose pool is single w, truncated only when an image is rendered (MIRROR)."""

    def pool(self, prior: PriorModel, ctx: AttackContext) -> Tensor:
        """The (S, d) untruncated style latents that every identity's search starts from."""
        return style_pool(prior.generator, ctx.stream("pool").normal(self.params.pool, prior.latent_dim))

    def render(self, prior: PriorModel, w: Tensor) -> Tensor:
        """(N, d) -> images in [0, 1]."""
        return render_single(prior.generator, w, self.params.truncation, self.params.truncation_cutoff)

    def restarts(self, ctx: AttackContext) -> int:
        """How often the search runs for an identity: it gives one image."""
        return self.params.restarts or ctx.images_per_identity

    def best_of_pool(
        self, oracle: Oracle, prior: PriorModel | None, ctx: AttackContext, count: int
    ) -> tuple[Tensor, Tensor]:
        """(K, runs, count) indices and p_y of the pool members with the highest p_y of each class y, best first; they
        are dealt out to the runs in turn."""
        assert prior is not None
        runs = self.restarts(ctx)
        if count * runs > self.params.pool:
            raise StageFailed(f"{runs} runs from {count} latents each need a pool of {count * runs}.")
        scores = score_pool(oracle, self.pool(prior, ctx), lambda w: self.render(prior, w), mirrored=False)
        best = top_of_pool(scores, range(self.track.num_classes), count * runs)
        p_y = scores.T.gather(1, best)
        return best.unflatten(1, (count, runs)).mT.contiguous(), p_y.unflatten(1, (count, runs)).mT.contiguous()
