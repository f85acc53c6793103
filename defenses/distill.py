"""Distillation: serve a student that never saw a private image (Hinton et al., "Distilling the Knowledge in a Neural
Network", 2015). Toolboxes train such students to attack with; as a defense it has not been evaluated."""

import torch
from pydantic import Field
from torch import Tensor

from mibench.contracts import Classifier, Defense, DefenseParams, Stream, TrainContext
from mibench.images.augment import mirror
from mibench.primitives.distillation import soft_kl
from mibench.primitives.training import fit_student


class Distillation(Defense):
    """min KL(softmax T(x) || softmax S(x)) over public images x, mean over the batch; T is trained on the private
    images as usual and thrown away, S is served."""

    deviations = (
        "Not a published defense: the recipe is that of a surrogate that toolboxes train to attack with.",
        "Teacher and student are the track's architecture; published examples distil into another one.",
    )

    class Params(DefenseParams):
        epochs: int = Field(100, ge=1, description="passes over the public images, at least 1")
        batch: int = Field(128, ge=2, description="at least 2")
        lr: float = Field(0.1, gt=0)
        momentum: float = Field(0.9, ge=0, lt=1)
        temperature: float = Field(1.0, gt=0)

    def train(self, ctx: TrainContext) -> Classifier:
        p, images = self.params, ctx.public().images
        batch = min(p.batch, len(images))
        per_epoch = len(images) // batch
        teacher = ctx.default_train().requires_grad_(False)
        student = self.build(ctx.new_network(self.track.num_classes)).to(ctx.device)

        def loss(step: int, rng: Stream) -> Tensor:
            epoch, place = divmod(step, per_epoch)
            order = ctx.stream(f"student.order.{epoch}").permutation(len(images))
            x = images[order[place * batch : (place + 1) * batch]]
            if self.track.kind == "faces":
                x = mirror(x, rng)
            with torch.no_grad():
                answers = teacher(x, rng).logits
            return soft_kl(answers, student(x, rng).logits, p.temperature).mean()

        optimiser = torch.optim.SGD(student.parameters(), p.lr, p.momentum)
        fit_student(ctx, "student", student, p.epochs * per_epoch, loss, optimiser)
        return student.requires_grad_(True)
