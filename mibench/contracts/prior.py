"""A generative model of what private images may look like, and what its training receives."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from mibench.contracts.context import Context
from mibench.contracts.oracle import Oracle
from mibench.contracts.values import Access, ImageSet, TrackInfo
from mibench.nets.generator import Generator, Plain
from mibench.protocol.params import BaseParams


class PriorModel(nn.Module):
    """A trained prior. ``generator`` maps latents (N, latent_dim) to images (a module that is no ``Generator`` becomes
    one); ``critic`` is whatever the recipe trained against it, or None."""

    def __init__(self, generator: nn.Module, latent_dim: int, critic: nn.Module | None = None) -> None:
        super().__init__()
        self.generator = generator if isinstance(generator, Generator) else Plain(generator, latent_dim)
        if self.generator.latent_dim != latent_dim:
            raise ValueError(f"the generator takes latents of {self.generator.latent_dim} numbers, not {latent_dim}")
        self.latent_dim = latent_dim
        self.critic = critic

    def forward(self, latents: Tensor, *labels: Tensor) -> Tensor:
        """Images; a conditional generator takes the labels (N,) too."""
        images: Tensor = self.generator(latents, *labels)
        return images


class PriorContext(Context):
    """What ``Prior.train`` receives. ``oracle`` is None unless the prior's scope is ``target``."""

    public: ImageSet
    oracle: Oracle | None


class Prior:
    """A recipe for a generative model of what private images may look like."""

    version: ClassVar[int] = 1
    scope: ClassVar[str] = "public"  # "public" or "target"
    access: ClassVar[Access] = Access.SCORES  # what a prior with scope "target" asks of the target

    class Params(BaseParams):
        pass

    def __init__(self, params: Any, track: TrackInfo) -> None:
        self.params = params
        self.track = track

    def skip(self) -> str | None:
        """A reason why this prior cannot be had on the track (published weights that were not imported), or None."""
        return None

    def seeded(self) -> bool:
        """Whether ``train`` draws anything. False for published weights that are taken as they are: with scope
        ``public`` they are one prior for every seed."""
        return True

    def build(self) -> PriorModel:
        """The untrained model."""
        raise NotImplementedError

    def train(self, ctx: PriorContext, model: PriorModel) -> None:
        """Train ``model`` in place."""
        raise NotImplementedError
