"""CutMix (Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV
2019), a control of random erasing: it hides as much of a person, behind a part of another."""

from dataclasses import replace

from pydantic import Field
from torch import Tensor

from mibench.contracts import Batch, Defense, DefenseParams, Stream


def pasted(x: Tensor, pi: Tensor, lam: float, row: int, column: int) -> tuple[Tensor, float]:
    """x with a square of x_pi: centre (row, column), int(H sqrt(1 - lam)) // 2 to each side, cut off at the border; and
    the exact share of pixels that stayed. (N, C, H, W), (N,) int64."""
    height, width = x.shape[2:]

    def ends(centre: int, size: int) -> tuple[int, int]:
        reach = int(size * (1 - lam) ** 0.5) // 2
        return max(centre - reach, 0), min(centre + reach, size)

    (top, bottom), (left, right) = ends(row, height), ends(column, width)
    out = x.clone()
    out[:, :, top:bottom, left:right] = x[pi, :, top:bottom, left:right]
    return out, 1 - (bottom - top) * (right - left) / (height * width)


class CutMix(Defense):
    """L = s CE(T(x'), y) + (1 - s) CE(T(x'), y_pi), s the share of x in x'. lam ~ Beta(a, a), the place and the
    permutation pi are drawn once per batch, which is mixed with probability p."""

    deviations = (
        "The loss is weighed by the share of pixels that stayed; the released code keeps lam, which is another number "
        "where the border cuts the square (literal).",
    )

    class Params(DefenseParams):
        p: float = Field(1.0, ge=0, le=1, description="probability of mixing a batch, in [0, 1]")
        a: float = Field(1.0, gt=0, description="of Beta(a, a), above 0")
        literal: bool = Field(False, description="weigh the loss by lam, not by the share of pixels that stayed")

    def mix(self, batch: Batch, rng: Stream) -> Batch:
        height, width = batch.images.shape[2:]
        lam, pi = float(rng.beta(self.params.a, self.params.a, 1)), rng.permutation(len(batch.labels))
        row, column = int(rng.integers(height, 1)), int(rng.integers(width, 1))
        if float(rng.uniform(1)) >= self.params.p:
            return batch
        images, stayed = pasted(batch.images, pi, lam, row, column)
        share = lam if self.params.literal else stayed
        return replace(batch, images=images, others=batch.labels[pi], share=share)
