"""Random erasing against model inversion (MIDRE; Tran et al., "Random Erasing vs. Model Inversion", TMLR 2025)."""

from pydantic import Field, field_validator
from torch import Tensor

from mibench.contracts import Defense, Rng
from mibench.images.augment import erase_rectangles
from mibench.primitives.erasing import AreaParams, ordered


class RandomErasing(Defense):
    """Erase one random square of every training image, last in the pipeline, drawn anew at every visit."""

    deviations = (
        "The fill of greyscale tracks is one constant, the luminance of the published colour fill.",
        "Code is released for ResNet-18 on FaceScrub alone; at 64 pixels, where nothing is normalised, the fill is "
        "written to images in [0, 1].",
    )

    class Params(AreaParams):
        p: float = Field(1.0, ge=0, le=1, description="probability of erasing an image, in [0, 1]")
        ratio: tuple[float, float] = Field((1.0, 1.0), description="range of height / width, 0 < low <= high")

        @field_validator("ratio")
        @classmethod
        def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
            return ordered(value)

    def augment(self, images: Tensor, rng: Rng) -> Tensor:
        p = self.params
        return erase_rectangles(images, rng, p.area, p.p, p.ratio, *p.filling(self.track))

    def adapt(self, images: Tensor, rng: Rng) -> Tensor:
        return self.augment(images, rng)
