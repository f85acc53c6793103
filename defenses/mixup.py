"""Mixup (Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018), a control of random erasing: what
another augmentation does for privacy."""

from dataclasses import replace

from pydantic import Field
from torch import Tensor

from mibench.contracts import Batch, Defense, DefenseParams, Stream


def mixture(x: Tensor, pi: Tensor, lam: float) -> Tensor:
    """x' = lam x + (1 - lam) x_pi. (N, C, H, W), (N,) int64."""
    return lam * x + (1 - lam) * x[pi]


class Mixup(Defense):
    """L = lam CE(T(x'), y) + (1 - lam) CE(T(x'), y_pi); one lam ~ Beta(a, a) and one permutation pi per batch."""

    deviations = ("Images are mixed before the target's normalisation, which is the same as after it.",)

    class Params(DefenseParams):
        a: float = Field(1.0, gt=0, description="of Beta(a, a), above 0; the smaller, the less is mixed")

    def mix(self, batch: Batch, rng: Stream) -> Batch:
        lam, pi = float(rng.beta(self.params.a, self.params.a, 1)), rng.permutation(len(batch.labels))
        return replace(batch, images=mixture(batch.images, pi, lam), others=batch.labels[pi], share=lam)
