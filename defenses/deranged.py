"""Deranged: a control, no defense. A target of permuted labels knows nobody by the right name, so whatever an attack
draws from it must be at chance (specification of evaluation, 7.2)."""

from mibench.contracts import Classifier, Defense, ImageSet, TrainContext


class Deranged(Defense):
    """L = CE(T(x), y + 1 mod K): every person is trained under the next one's label."""

    def train(self, ctx: TrainContext) -> Classifier:
        data = ctx.data
        ctx.data = ImageSet(data.images, (data.labels + 1) % data.num_classes, data.num_classes)
        return ctx.default_train()
