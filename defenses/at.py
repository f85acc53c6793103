"""Adversarial training (Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018), a
control: a robust classifier is expected to leak more, not less."""

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from mibench.contracts import Batch, Classifier, Defense, LoopHooks, Progress, Stream, TrainContext
from mibench.primitives.adversarial import ChangeParams


class AdversarialTraining(Defense):
    """L = CE(T(x'), y), x' the image within epsilon of x that steps away from y found."""

    deviations = ("Sizes are those of AT-AT's code run as adversarial training; the recipe is the track's.",)

    class Params(ChangeParams):
        epsilon: float = Field(5e-3, gt=0, le=1, description="largest change of a pixel, in [0, 1] units")
        alpha: float = Field(5e-4, gt=0, le=1, description="what a step changes in a pixel, in [0, 1] units")
        iterations: int = Field(10, ge=1, description="steps, at least 1")

    def train(self, ctx: TrainContext) -> Classifier:
        return ctx.default_train(inside=LoopHooks(objective=self.objective))

    def objective(self, net: Classifier, batch: Batch, rng: Stream, progress: Progress) -> Tensor:
        def similarity(images: Tensor) -> Tensor:
            return -cross_entropy(net(images, rng).logits, batch.labels)

        changed = self.params.changed(batch.images, rng.uniform(*batch.images.shape), similarity)
        return cross_entropy(net(changed, rng).logits, batch.labels)
