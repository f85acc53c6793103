"""Label smoothing and negative label smoothing (Struppek et al., "Be Careful What You Smooth For", ICLR 2024)."""

from pydantic import Field
from torch import Tensor

from mibench.contracts import Batch, Defense, DefenseParams, Output, Progress


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """mean over rows of (1 - alpha) (-lp_y) + alpha (-mean_c lp_c), lp = log softmax(logits); alpha may be negative."""
    log_p = logits.log_softmax(1)
    own = log_p.gather(1, labels[:, None])[:, 0]
    return -((1 - alpha) * own + alpha * log_p.mean(1)).mean()


def scheduled(alpha: float, progress: Progress) -> float:
    """alpha at an epoch, as released: a negative alpha is 0 for the first half, ramps to half of itself until three
    quarters, then jumps to its full value. A positive one is constant."""
    e, half, late = progress.epoch, progress.epochs // 2, 3 * progress.epochs // 4
    if alpha >= 0 or e >= late:
        return alpha
    return 0.0 if e < half else alpha * (e + 1 - half) / (progress.epochs - half)


class LabelSmoothing(Defense):
    """Positive alpha flattens the target's outputs and leaks more; negative alpha sharpens them."""

    deviations = (
        "Epochs 50 and 75 of the released 100 are one half and three quarters of the recipe's epochs.",
        "The released configurations have alpha at 0; -0.05, and the recipe at 64 pixels, are those of other papers' "
        "code.",
    )

    class Params(DefenseParams):
        alpha: float = Field(-0.05, gt=-1, lt=1, description="smoothing factor, in (-1, 1)")

    def loss(self, batch: Batch, output: Output, progress: Progress) -> Tensor:
        return smoothed_cross_entropy(output.logits, batch.labels, scheduled(self.params.alpha, progress))
