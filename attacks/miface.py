"""MI-FACE: gradient descent on pixels (Fredrikson et al., "Model Inversion Attacks that Exploit Confidence Information
and Basic Countermeasures", CCS 2015)."""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from mibench.contracts import Access, Attack, AttackContext, Oracle, PriorModel, Reconstruction
from mibench.images.augment import nl_means, sharpen
from mibench.primitives.alignment import AlignParams, aligned
from mibench.primitives.latents import descend_pixels
from mibench.primitives.losses import cross_entropy, improbability, mean_square, total_variation


class MiFace(Attack):
    """x <- clip(Process(x - lambda grad c(x)), 0, 1) from x = 0, with c(x) = 1 - p_y(x) + AuxTerm(x); the iterate with
    the smallest cost. There is no generative prior."""

    version = 2
    access = Access.WHITE_BOX
    deviations = (
        "A row stops at a confidence of at least gamma; read literally, the paper stops at a cost of at most gamma.",
        "Nothing is random, so that a second run would give the same image: all images of an identity are this one.",
        "The test for no progress waits until beta iterates have been judged.",
        "Process denoises and sharpens pixels; the paper does so between the decoder and the encoder of its "
        "autoencoder model.",
    )

    class Params(AlignParams):
        iterations: int = Field(5000, ge=0, description="updates (alpha), at least 0")
        patience: int = Field(100, ge=1, description="judged iterates without progress that end a row (beta)")
        confidence: float = Field(0.99, gt=0, le=1, description="confidence that ends a row (gamma), in (0, 1]")
        lr: float = Field(0.1, gt=0, description="step length (lambda)")
        loss: Literal["prob", "ce"] = Field("prob", description="prob: 1 - p_y; ce: -log p_y")
        tv: float = Field(0.0, ge=0, description="weight of the total variation in AuxTerm")
        l2: float = Field(0.0, ge=0, description="weight of the mean squared pixel in AuxTerm")
        denoise: bool = Field(False, description="Process: non-local means, then sharpening; false: the identity")
        strength: float = Field(
            0.1, gt=0, description="of the non-local means: differences it smooths, in pixel values"
        )
        sharpness: float = Field(0.5, ge=0, description="how much of what a blur removes is added")

    def process(self, images: Tensor) -> Tensor:
        p = self.params
        return sharpen(nl_means(images, p.strength), p.sharpness) if p.denoise else images

    def invert(
        self, oracle: Oracle, prior: PriorModel | None, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        p, t = self.params, self.track
        rows = ctx.rows(labels, 1)
        views = rows.streams("align")
        identity_loss = {"prob": improbability, "ce": cross_entropy}[p.loss]

        def objective(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
            asked = rows.take(index)

            def answer(x: Tensor) -> Tensor:
                logits = oracle.logits(x, asked)
                return torch.stack([identity_loss(logits, asked.label), improbability(logits.detach(), asked.label)])

            identity, doubt = aligned(answer, views.take(index), ctx, p)(x)
            cost = identity + p.tv * total_variation(x) + p.l2 * mean_square(x)
            return cost, doubt.detach() <= 1 - p.confidence

        start = torch.zeros(len(rows), t.channels, t.resolution, t.resolution, device=ctx.device)
        steps = ctx.steps("miface", p.iterations + 1)  # the start is judged too
        images, judged = descend_pixels(start, objective, steps, p.lr, self.process, p.patience)
        for i, label in enumerate(rows.identities):
            notes = {"judged": float(judged[i])}
            image, initial = (x[i].expand(ctx.images_per_identity, -1, -1, -1) for x in (images, start))
            yield Reconstruction(label, image, initial, notes=notes)
