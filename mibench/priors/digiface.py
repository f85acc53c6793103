"""The untouched DCGAN of synthetic DigiFace-1M faces as a prior: nothing is trained, and its faces are nobody's."""

from __future__ import annotations

from torch import Tensor, nn

from mibench.contracts import Generator, Prior, PriorContext, PriorModel
from mibench.data.digiface import face_crop, load_generator


class _FaceCrop(nn.Module):
    def __init__(self, resolution: int, channels: int) -> None:
        super().__init__()
        self.resolution, self.channels = resolution, channels

    def forward(self, images: Tensor) -> Tensor:
        return face_crop(images, self.resolution, grey=self.channels == 1)


class _Faces(Generator):
    def __init__(self, resolution: int, channels: int) -> None:
        super().__init__()
        self.generator = load_generator("cpu")
        self.latent_dim = self.generator.latent_dim
        self.resolution, self.channels = resolution, channels

    def parts(self) -> list[nn.Module]:
        *inner, last = self.generator.parts()
        return [*inner, nn.Sequential(last, _FaceCrop(self.resolution, self.channels))]


class DigiFace(Prior):
    """64x64 colour samples, grey if the track is, cropped to the face and resized to the track's resolution."""

    scope = "public"

    def seeded(self) -> bool:
        return False

    def build(self) -> PriorModel:
        return PriorModel(_Faces(self.track.resolution, self.track.channels), 100)

    def train(self, ctx: PriorContext, model: PriorModel) -> None:
        """Published weights are used as they are."""
