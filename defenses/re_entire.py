"""Hiding whole images, a control of random erasing (Tran et al., "Random Erasing vs. Model Inversion", TMLR 2025). The
paper's code for it is not released: the forms here are reconstructed from its text."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field
from torch import Tensor

from mibench.contracts import Defense, Rng, Stream
from mibench.images.augment import blank
from mibench.primitives.erasing import FillParams
from mibench.primitives.samplers import thinned
from mibench.primitives.training import shuffled


class EntireErasing(Defense):
    """Hide every training image, whole, with probability ``share`` at each visit, and leave the others as they are:
    as many hidden pixels as random erasing, but no image is seen in part.

    ``skip``: the image takes no part in the step, neither in the loss nor in batch normalisation. ``blank``: it is
    replaced by the fill and still trained on with its label, so the labels are noisy too.
    """

    deviations = ("Reconstructed from the paper's text; no code of this control is released.",)

    class Params(FillParams):
        form: Literal["skip", "blank"] = "skip"
        share: float = Field(0.25, ge=0, lt=1, description="probability of hiding an image, in [0, 1)")

    def sampler(self, labels: Tensor, batch: int, rng: Stream) -> Iterator[Tensor] | None:
        if self.params.form == "blank":
            return None
        return thinned(shuffled(len(labels), batch, rng), self.params.share, rng)

    def augment(self, images: Tensor, rng: Rng) -> Tensor:
        if self.params.form == "skip":
            return images
        return blank(images, rng, self.params.share, *self.params.filling(self.track))
