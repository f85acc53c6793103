"""Moving a generator towards images that an attack found (PPDG-MI; Peng et al., NeurIPS 2024): latents that stay, the
pivots, and weights tuned so that the pivots show what was found."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from mibench.contracts import BaseParams, Generator, PriorModel
from mibench.primitives.latents import descend_adam, ramps
from mibench.primitives.pool import synthesise
from mibench.primitives.training import descend
from mibench.random import Rng

Distance = Callable[[Tensor, Tensor], Tensor]  # features (n, d) of generated, (m, d) of found images -> a scalar


def conditional_transport(source: Tensor, found: Tensor) -> Tensor:
    """CT: what it costs, in 1 - cosine, to move each set onto the other, each row to where a softmax of the dot
    products sends it: 1/2 mean_j sum_i softmax_i(A)_ij c_ij + 1/2 mean_i sum_j softmax_j(A)_ij c_ij, A = Y S^T."""
    affinity = found @ source.T
    cost = 1 - normalize(found) @ normalize(source).T
    return ((affinity.softmax(0) * cost).sum(0).mean() + (affinity.softmax(1) * cost).sum(1).mean()) / 2


def mean_discrepancy(source: Tensor, found: Tensor) -> Tensor:
    """MMD with five Gaussian kernels, whose widths h 2^(k - 2), k = 0 ... 4, are constants for the gradient; h is the
    mean squared distance of two different points of the pool."""
    pool = torch.cat([source, found])
    squares = pool.square().sum(1)
    distance = (squares[:, None] + squares - 2 * pool @ pool.T).clamp(min=0)
    h = distance.detach().sum() / (len(pool) ** 2 - len(pool))
    kernel = torch.stack([torch.exp(-distance / (h * 2.0 ** (k - 2))) for k in range(5)]).sum(0)
    n = len(source)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def pointwise(source: Tensor, found: Tensor) -> Tensor:
    """PW: the summed squared differences of the features, image by image."""
    return (source - found).square().sum()


DISTANCES: dict[str, Distance] = {"ct": conditional_transport, "mmd": mean_discrepancy, "pw": pointwise}


def noise_scales(pool: Tensor, steps: int, noise: float = 0.05) -> list[float]:
    """How much noise is added to the pivots in each step: ``noise`` s max(0, 1 - t / 0.75)^2 with t = step / steps, s
    the root of the summed variance of the pool's latents (S, d)."""
    s = float(((pool - pool.mean(0)).square().sum() / len(pool)).sqrt())
    return [noise * s * max(0.0, 1 - step / steps / 0.75) ** 2 for step in range(steps)]


def find_pivots(
    pool: Tensor,
    count: int,
    loss: Callable[[Tensor], Tensor],
    steps: int,
    rng: Rng,
    lr: float = 0.01,
    watch: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """StyleGAN2's projection: (count, d) latents that minimise ``loss`` (n, d) -> a scalar, by Adam from the mean of
    ``pool`` (S, d), with noise that ends after three quarters of the steps. ``watch`` as in ``descend_adam``."""
    scales = iter(noise_scales(pool, steps))
    start = pool.mean(0).expand(count, -1)

    def noisy(w: Tensor) -> Tensor:
        return loss(w + next(scales) * rng.normal(*w.shape))[None]

    return descend_adam(start, noisy, range(steps), ramps(lr, max(steps, 1)), watch=watch)


def tune(generator: nn.Module, loss: Callable[[], Tensor], steps: Iterable[int], lr: float) -> list[float]:
    """All weights of ``generator``, in place, by Adam down ``loss``; the loss before each step. Pass a copy: a prior is
    everybody's."""
    optimiser = torch.optim.Adam(generator.requires_grad_(True).parameters(), lr)
    losses = []
    for _ in steps:
        value = loss()
        losses.append(float(value.detach()))
        descend(optimiser, value)
    generator.requires_grad_(False)
    return losses


class TuningParams(BaseParams):
    """How a generator is tuned; the defaults are those of PPDG-MI with transport."""

    distance: Literal["ct", "mmd", "pw"] = Field("ct", description="dist: transport, discrepancy, or image by image")
    pivot_steps: int = Field(150, ge=1)
    pivot_lr: float = Field(0.01, gt=0, description="highest rate, between warm-up and ramp-down")
    prior_weight: float = Field(0.1, ge=0, description="of the critic's term, while pivots are sought")
    tuning_steps: int = Field(25, ge=0, description="0 leaves the generator as it is")
    tuning_lr: float = Field(3e-4, gt=0)


def tuned(
    prior: PriorModel, w: Tensor, f: Callable[[Tensor], Tensor], mapped: Tensor, rng: Rng, p: TuningParams
) -> Generator:
    """A copy of the prior's generator, tuned to the images X* of ``w`` (n, d): pivots with dist(f(G(w)), f(X*)) + 0.1
    softplus(-D(G(w))) least, then weights with dist(f(G(pivots)), f(X*)) least. ``mapped``: (S, d) untruncated w, whose
    mean all pivots start from. Without a critic there is no second term."""
    G, critic, distance = copy.deepcopy(prior.generator), prior.critic, DISTANCES[p.distance]
    with torch.no_grad():
        found = f(synthesise(G, w))  # not clamped, as released

    def far(w: Tensor) -> Tensor:
        x = synthesise(G, w)
        apart = distance(f(x), found)
        return apart if critic is None else apart + p.prior_weight * softplus(-critic(x)).mean()

    pivots = find_pivots(mapped, len(w), far, p.pivot_steps, rng, p.pivot_lr)
    tune(G, lambda: distance(f(synthesise(G, pivots)), found), range(p.tuning_steps), p.tuning_lr)
    return G
