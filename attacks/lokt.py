"""LOKT: label-only model inversion via knowledge transfer (Nguyen et al., NeurIPS 2023)."""

from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mibench.contracts import Access, Attack, AttackContext, BaseParams, Oracle, PriorModel, PriorRef, Reconstruction
from mibench.images.augment import VIEWS, Views
from mibench.primitives.distillation import new_students, stored_students, without_imagenet
from mibench.primitives.losses import cross_entropy, ensemble_mean, max_margin
from mibench.primitives.queries import in_chunks
from mibench.primitives.recovery import recover_conditionally
from mibench.primitives.training import fit_student, pack
from mibench.random import Stream


class Lokt(Attack):
    """Surrogates S learn the target's labels of synthetic images; PLG-MI's search attacks them: minimise
    mean_S [MM(S(A1(G(z, y))), y) + MM(S(A2(G(z, y))), y)] over z by Adam; each S has its own A1, A2. The target is
    asked before, never during."""

    version = 2
    access = Access.LABELS
    deviations = (
        "The evaluator sees what the track shows it of every attack, at 64 pixels 8-bit pictures; released code "
        "resizes floats. Batches are drawn with replacement; the cosine goes step by step.",
        "With views=smooth crops lie between pixels, brightness comes before contrast and contrast keeps the mean over "
        "channels. views=kornia is as released, but for an order of the two, and a grey image's mean, of each image.",
        "Each identity and restart has its own random numbers; released code gives identities i and i + 60 the same.",
        "On the small tracks the GAN is narrower and trained for fewer steps at a higher learning rate, and the "
        "surrogates are small networks that were not pretrained.",
    )

    class Params(BaseParams):
        iterations: int = Field(600, ge=0, description="steps, at least 0")
        lr: float = Field(0.1, gt=0)
        views: Views = Field("smooth", description="crops between pixels, or as released, with kornia's arithmetic")
        restarts: int | None = Field(None, ge=1, description="restarts per identity; default: the track's images")
        per_class: int = Field(500, ge=1, description="synthetic images of each class, labelled by the target")
        surrogates: tuple[str, ...] = Field(
            ("densenet121_flat", "densenet161_flat", "densenet169_flat"), min_length=1, description="architectures"
        )
        pretrained: bool = Field(True, description="they start from the ImageNet weights in surrogate_weights")
        surrogate_weights: tuple[str, ...] = Field((), description="ids of imported ImageNet weights, one for each")
        surrogate_steps: int = Field(23_400, ge=1, description="at least 1 (200 epochs of 117 batches)")
        surrogate_batch: int = Field(256, ge=2)
        surrogate_lr: float = Field(0.1, gt=0)
        surrogate_momentum: float = Field(0.9, ge=0, lt=1)
        surrogate_weight_decay: float = Field(5e-4, ge=0)
        prior_params: dict[str, Any] = Field(default_factory=dict, description="parameters of the T-ACGAN")

        @model_validator(mode="after")
        def _one_weight_per_surrogate(self) -> Self:
            given, expected = len(self.surrogate_weights), (0, len(self.surrogates)) if self.pretrained else (0,)
            if given not in expected:
                raise ValueError(f"{given} surrogate_weights do not go with this pretrained and these surrogates")
            if without_imagenet(self.surrogates) and self.pretrained:
                raise ValueError("not all of these surrogates have ImageNet weights: set pretrained=false")
            return self

    def skip(self) -> str | None:
        if self.params.pretrained and not self.params.surrogate_weights:
            return (
                "its surrogates need ImageNet weights: name imported ids in surrogate_weights, or set pretrained=false"
            )
        return None

    def prior(self) -> PriorRef:
        return PriorRef("tacgan", self.params.prior_params)

    def prepare(self, oracle: Oracle, prior: PriorModel | None, ctx: AttackContext) -> dict[str, Tensor]:
        """The surrogates, trained on 1/2 CE(S(x), yhat) + 1/2 CE(S(A(x)), yhat) with yhat = T(x), x = G(z, y')."""
        p = self.params
        assert prior is not None
        y = torch.arange(ctx.track.num_classes, device=ctx.device).repeat_interleave(p.per_class)
        z = ctx.stream("synthetic").normal(len(y), prior.latent_dim)
        with torch.no_grad(), oracle.phase("search"):
            yhat = in_chunks(lambda z, y: oracle.labels(prior(z, y)), z, y)

        def fit(S: nn.Module, name: str) -> nn.Module:
            def loss(step: int, rng: Stream) -> Tensor:
                i = rng.integers(len(y), p.surrogate_batch)
                x = prior(z[i], y[i]).detach()
                logits = [S(view).logits for view in (x, VIEWS[p.views](x, rng, 0.5))]
                return ensemble_mean(cross_entropy, logits, yhat[i]).mean()

            decay = p.surrogate_weight_decay
            sgd = torch.optim.SGD(S.parameters(), p.surrogate_lr, p.surrogate_momentum, weight_decay=decay)
            cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, p.surrogate_steps)
            return fit_student(ctx, name, S, p.surrogate_steps, loss, sgd, cosine)

        surrogates = new_students(ctx, p.surrogates, p.surrogate_weights)
        return pack(**{f"surrogate{i}": fit(S, f"surrogate{i}") for i, S in enumerate(surrogates)})

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        p = self.params
        rows = ctx.rows(labels, p.restarts or ctx.images_per_identity)
        rng, view = rows.streams("view"), VIEWS[p.views]
        surrogates = stored_students(ctx, p.surrogates, "surrogate")

        def margin(x: Tensor) -> Tensor:
            return ensemble_mean(max_margin, [S(view(x, rng, 1.0)).logits for S in surrogates], rows.label)

        def loss(x: Tensor) -> Tensor:
            return margin(x) + margin(x)

        yield from recover_conditionally(rows, prior, loss, ctx.steps("lokt", p.iterations), p.lr)
