"""AT-AT: anti-adversarial training (Torp et al., "Reducing information dependency does not cause training data privacy.
Adversarially non-robust features do.", ICLR 2026)."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from mibench.contracts import Batch, Classifier, Defense, LoopHooks, Progress, Rng, Stream, TrainContext
from mibench.primitives.adversarial import ChangeParams


def wrong_classes(labels: Tensor, drawn: Tensor, classes: int) -> Tensor:
    """y': the drawn class, the next one where it is the label. (N,) int64 each."""
    return torch.where(drawn == labels, (drawn + 1) % classes, drawn)


def anti_adversarial_loss(clean: Tensor, changed: Tensor, labels: Tensor, wrong: Tensor, weight: float) -> Tensor:
    """CE(T(x), y) + weight CE(T(x'), y'), of the logits (N, K); a scalar."""
    return cross_entropy(clean, labels) + weight * cross_entropy(changed, wrong)


class AntiAdversarialTraining(Defense):
    """L = CE(T(x), y) + w CE(T(x'), y'), x' a change of x by steps towards a wrong class y', which the target is to
    take for it: it learns that imperceptible patterns mean a class. All passes are in training mode, as released."""

    deviations = (
        "The recipe is the track's, and its last weights are kept.",
        "Small tracks take a larger epsilon: the same one moves the logits less where there are fewer pixels.",
    )

    class Params(ChangeParams):
        weight: float = Field(0.08, ge=0, description="w, weight of the changed images' loss, at least 0")

    def train(self, ctx: TrainContext) -> Classifier:
        net = ctx.default_train(inside=LoopHooks(objective=self.objective))
        ctx.note(adversarial_hits=self.hits(net, ctx))
        return net

    def objective(self, net: Classifier, batch: Batch, rng: Stream, progress: Progress) -> Tensor:
        classes = self.track.num_classes
        wrong = wrong_classes(batch.labels, rng.integers(classes, len(batch.labels)), classes)
        changed = self.towards(net, batch.images, wrong, rng)
        clean = net(batch.images, rng).logits
        return anti_adversarial_loss(clean, net(changed, rng).logits, batch.labels, wrong, self.params.weight)

    def towards(self, net: Classifier, images: Tensor, wrong: Tensor, rng: Rng) -> Tensor:
        """x': ``images`` changed towards the classes ``wrong``."""
        start = rng.uniform(*images.shape)
        return self.params.changed(images, start, lambda x: cross_entropy(net(x, rng).logits, wrong))

    def hits(self, net: Classifier, ctx: TrainContext) -> float:
        """How often a training image, changed towards a random wrong class, is taken for it by the finished target."""
        rng, classes, data = ctx.stream("adversarial hits"), self.track.num_classes, ctx.data
        wrong = wrong_classes(data.labels, rng.integers(classes, len(data)), classes)
        parts = zip(data.images.split(512), wrong.split(512), strict=True)
        answers = [net(self.towards(net, x, part, rng), rng).logits.argmax(1) for x, part in parts]
        return float((torch.cat(answers) == wrong).float().mean())
