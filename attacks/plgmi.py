"""PLG-MI: pseudo label-guided model inversion via a conditional GAN (Yuan et al., AAAI 2023)."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field
from torch import Tensor

from mibench.contracts import Access, Attack, AttackContext, Oracle, PriorModel, PriorRef, Reconstruction
from mibench.images.augment import VIEWS, Views
from mibench.primitives.alignment import AlignParams, aligned
from mibench.primitives.losses import IdentityLoss, identity_loss
from mibench.primitives.recovery import recover_conditionally


class PlgMi(Attack):
    """Minimise MM(T(A1(G(z, y))), y) + MM(T(A2(G(z, y))), y) over z by Adam, y fixed; A1 and A2 are fresh random views
    of each image in every step."""

    access = Access.WHITE_BOX
    deviations = (
        "The evaluator sees what the track shows it of every attack, at 64 pixels 8-bit pictures; released code "
        "resizes the generator's floats. The files that released code saves stretch each image to its own range.",
        "Batches of the relabelled public images are drawn with replacement.",
        "With views=smooth crops lie between pixels, brightness comes before contrast and contrast keeps the mean over "
        "channels. views=kornia is as released, but for an order of the two, and a grey image's mean, of each image.",
        "Each identity and restart has its own random numbers; released code gives identities i and i + 60 the same.",
        "On the small tracks the GAN is narrower and trained for fewer steps at a higher learning rate.",
    )

    class Params(AlignParams):
        iterations: int = Field(600, ge=0, description="steps, at least 0")
        lr: float = Field(0.1, gt=0)
        loss: IdentityLoss = Field("margin", description="the identity loss of the logits; published is margin")
        views: Views = Field("smooth", description="crops between pixels, or as released, with kornia's arithmetic")
        restarts: int | None = Field(None, ge=1, description="restarts per identity; default: the track's images")
        prior_params: dict[str, Any] = Field(default_factory=dict, description="parameters of the conditional GAN")

    def prior(self) -> PriorRef:
        return PriorRef("cgan", self.params.prior_params)

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        p = self.params
        rows = ctx.rows(labels, p.restarts or ctx.images_per_identity)
        rng, view = rows.streams("view"), VIEWS[p.views]

        def identity(x: Tensor) -> Tensor:
            return identity_loss(p.loss, oracle.logits(view(x, rng, 1.0), rows), rows.label)

        def both(x: Tensor) -> Tensor:
            return identity(x) + identity(x)

        loss = aligned(both, rows.streams("align"), ctx, p)
        yield from recover_conditionally(rows, prior, loss, ctx.steps("plgmi", p.iterations), p.lr)
