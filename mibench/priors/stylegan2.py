"""A published StyleGAN2-ADA generator as a prior (Karras et al., NeurIPS 2020): FFHQ, MetFaces, AFHQ dogs or one's own.

PPA (Struppek et al., ICML 2022) and IF-GMI (Qiu et al., ECCV 2024) cut the middle 800 pixels out of the faces of 1024
and resize them with antialiasing to the target's input; dogs are not cropped. Nothing is trained.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from mibench.contracts import BaseParams, Generator, Prior, PriorContext, PriorModel
from mibench.data.digiface import to_grey
from mibench.nets.stylegan2 import StyleGAN2


class View(Generator):
    """The generator seen through a crop and the track's resolution and channels; its levels stay the generator's."""

    def __init__(self, generator: StyleGAN2, crop: int | None, resolution: int, grey: bool) -> None:
        super().__init__()
        self.generator, self.crop, self.resolution, self.grey = generator, crop, resolution, grey
        self.latent_dim, self.num_ws = generator.latent_dim, generator.num_ws
        self.negative_slope = generator.negative_slope

    def at(self, side: int) -> View:
        return View(self.generator, self.crop, side, self.grey)

    @property
    def w_dim(self) -> int:
        return self.generator.w_dim

    @property
    def mean_w(self) -> Tensor:
        return self.generator.mean_w

    @property
    def blocks(self) -> int:
        return self.generator.blocks

    def map(self, latents: Tensor, truncation: float = 1.0, cutoff: int | None = None) -> Tensor:
        return self.generator.map(latents, truncation, cutoff)

    def block(self, index: int, w: Tensor, features: Tensor | None) -> Tensor:
        return self.generator.block(index, w, features)

    def synthesis(self, w: Tensor, start: int = 0, features: Tensor | None = None) -> Tensor:
        return self.seen(self.generator.synthesis(w, start, features))

    def forward(self, latents: Tensor) -> Tensor:
        return self.synthesis(self.map(latents))

    def seen(self, images: Tensor) -> Tensor:
        """(N, C, R, R) -> (N, 1 or C, r, r): centre crop, grey if the track is, antialiased bilinear resize."""
        if self.crop is not None:
            edge = (images.shape[-1] - self.crop) // 2
            images = images[:, :, edge : edge + self.crop, edge : edge + self.crop]
        if self.grey:
            images = to_grey(images)
        if images.shape[-1] == self.resolution:
            return images
        return functional.interpolate(images, (self.resolution, self.resolution), mode="bilinear", antialias=True)


class PublishedStyleGAN2(Prior):
    """Constant noise, float32, (image + 1) / 2, not clamped."""

    scope = "public"

    class Params(BaseParams):
        weights: str | None = Field(None, description="id that `mibench import-checkpoint FILE --as stylegan2` prints")
        z_dim: int = Field(512, ge=1)
        w_dim: int = Field(512, ge=1)
        img_resolution: int = Field(1024, ge=4, description="pixels, a power of two of at least 4")
        img_channels: int = Field(3, ge=1)
        mapping_layers: int = Field(8, ge=1)
        channel_base: int = Field(32768, ge=1, description="channels at resolution r: this / r")
        channel_max: int = Field(512, ge=1, description="channels at most")
        conv_clamp: float | None = Field(256.0, gt=0, description="bound on activations")
        centre_crop: int | None = Field(800, ge=1, description="middle pixels that are kept; none for no crop")

        @model_validator(mode="after")
        def _sizes(self) -> Self:
            if self.img_resolution & (self.img_resolution - 1):
                raise ValueError("expected a power of two as img_resolution")
            if (self.centre_crop or 0) > self.img_resolution:
                raise ValueError("expected centre_crop <= img_resolution")
            if self.channel_base < self.img_resolution:
                raise ValueError("expected channel_base >= img_resolution")
            return self

    def skip(self) -> str | None:
        made, wanted = self.params.img_channels, self.track.channels
        if self.params.weights is None:
            return (
                "StyleGAN2 is unavailable: it needs published weights, which are not part of mibench. Download "
                "a .pkl of stylegan2-ada-pytorch and type: mibench import-checkpoint FILE --as stylegan2"
            )
        if (made, wanted) != (3, 1) and made != wanted:
            return f"this StyleGAN2 makes images with {made} channels, {self.track.id} has {wanted}"
        return None

    def seeded(self) -> bool:
        return False

    def build(self) -> PriorModel:
        settings = self.params.model_dump(exclude={"weights", "centre_crop"})
        grey = self.track.channels < self.params.img_channels
        view = View(StyleGAN2(**settings), self.params.centre_crop, self.track.resolution, grey)
        return PriorModel(view, self.params.z_dim)

    def train(self, ctx: PriorContext, model: PriorModel) -> None:
        """Published weights are used as they are."""
        assert isinstance(model.generator, View)
        ctx.load_weights(model.generator.generator, self.params.weights)
