"""What every generator looks like to an attack: latents -> images, and, where it has them, its inner levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Generator(nn.Module):
    """Latents z (N, latent_dim) -> images (N, C, H, W), nominally in [0, 1]; attacks clamp what they return.

    A subclass sets ``latent_dim`` and implements ``parts`` (networks applied one after the other) or ``forward``.
    That is enough for every attack on z. Attacks on style latents see z -> w -> image: ``map`` and ``synthesis``; by
    default w is z, in one layer. Attacks on intermediate features go through ``block``: ``features`` h_0 is None, h_s
    the input of block s, and ``synthesis(w, s, h_s)`` renders the blocks from s on.
    """

    latent_dim: int
    num_ws = 1  # how many w vectors an image takes
    conditional = False  # whether it takes labels (N,) beside the latents
    negative_slope = 1.0  # of the mapping network's last leaky ReLU; 1 (the identity) where w does not end in one

    def parts(self) -> Sequence[nn.Module]:
        """The networks from the latent to the image, in order; every one but the last leaves features."""
        raise NotImplementedError(f"{type(self).__name__} exposes no inner features")

    def forward(self, latents: Tensor) -> Tensor:
        x = self.checked(latents)
        for part in self.parts():
            x = part(x)
        return x

    def checked(self, latents: Tensor) -> Tensor:
        """``latents``, if they fit. Raises ValueError otherwise."""
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise ValueError(
                f"{type(self).__name__} takes latents (N, {self.latent_dim}); found {tuple(latents.shape)}"
            )
        return latents

    def at(self, side: int) -> Generator:
        """This generator drawing images of ``side`` pixels; itself if it has only one size."""
        return self

    # --- style latents ------------------------------------------------------------------------------------------------

    @property
    def w_dim(self) -> int:
        """Length of one w vector."""
        return self.latent_dim

    @property
    def mean_w(self) -> Tensor | float:
        """What truncation draws towards: the mean w (w_dim,); here, where w is z, 0."""
        return 0.0

    def map(self, latents: Tensor, truncation: float = 1.0, cutoff: int | None = None) -> Tensor:
        """z -> w (N, num_ws, w_dim), truncated."""
        return self.truncate(self.checked(latents)[:, None], truncation, cutoff)

    def truncate(self, w: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
        """``psi`` draws the first ``cutoff`` layers (None: all) of w (N, num_ws, w_dim) towards the mean w."""
        if psi == 1:
            return w
        drawn = self.mean_w + psi * (w[:, :cutoff] - self.mean_w)
        return drawn if cutoff is None else torch.cat([drawn, w[:, cutoff:]], 1)

    def synthesis(self, w: Tensor, start: int = 0, features: Tensor | None = None) -> Tensor:
        """w (N, num_ws, w_dim) -> images; from block ``start`` on, whose input is ``features``."""
        if start == 0:
            return self(w[:, 0])
        x = features
        for part in self.parts()[start:]:
            x = part(x)
        assert x is not None
        return x

    @property
    def blocks(self) -> int:
        """How many blocks ``synthesis`` consists of; the last one makes the image."""
        return len(self.parts())

    def block(self, index: int, w: Tensor, features: Tensor | None) -> Tensor:
        """h_{index + 1}: the output of block ``index`` (not the last) on ``features`` h_index (None for block 0)."""
        part: nn.Module = self.parts()[index]
        out: Tensor = part(w[:, 0] if features is None else features)
        return out


class Plain(Generator):
    """Any module that maps latents (N, latent_dim) to images."""

    def __init__(self, net: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.net, self.latent_dim = net, latent_dim

    def forward(self, latents: Tensor) -> Tensor:
        images: Tensor = self.net(self.checked(latents))
        return images

    def parts(self) -> Sequence[nn.Module]:
        return [self]
