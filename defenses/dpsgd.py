"""Differentially private training (Abadi et al., "Deep Learning with Differential Privacy", CCS 2016), by Opacus."""

import math
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn, optim

from mibench.contracts import Batch, Classifier, Defense, DefenseParams, LoopHooks, Progress, Stream, TrainContext
from mibench.primitives.differential_privacy import batch_norm_gradients, not_in_place, without_batch_norm
from mibench.primitives.samplers import poisson
from mibench.primitives.training import steps_per_epoch


class DpSgd(Defense):
    """Clip each image's gradient to the norm ``clip``, sum, add N(0, (sigma clip)^2), divide by the batch size.

    With Poisson batches, no batch norm and sigma > 0 the result holds epsilon at ``delta`` by Renyi accounting of the
    subsampled Gaussian mechanism: for one image more or less, not one person. Otherwise there is no guarantee.
    """

    requires = {"opacus": "dp"}
    deviations = (
        "The clipped and noised gradient goes to the track's optimiser, which on the small tracks is AdamW.",
        "The noise comes from a seeded generator, so that a run can be repeated: epsilon holds against those who do "
        "not know the seed. It leaves out the choice of hyperparameters.",
        "With norm=batch or sampling=shuffled this is clipping and noise without a guarantee.",
        "With norm=batch an image's gradient is what passes through its own activations, although the batch's "
        "statistics join the images.",
    )

    class Params(DefenseParams):
        sigma: float = Field(1.0, ge=0, description="noise multiplier, at least 0")
        clip: float = Field(1.0, gt=0, description="C, the largest norm of one image's gradient")
        delta: float = Field(1e-5, gt=0, lt=1, description="in (0, 1)")
        norm: Literal["group", "batch"] = Field("group", description="what normalises: group norm, or batch norm")
        groups: int = Field(32, ge=1, description="largest number of groups of a group norm")
        sampling: Literal["poisson", "shuffled"] = Field(
            "poisson", description="each image with the same probability in each batch, or shuffled epochs"
        )
        epochs: int | None = Field(None, ge=1, description="in place of the track's")
        batch: int | None = Field(None, ge=2, description="in place of the track's; the mean of Poisson batches")
        lr: float | None = Field(None, gt=0, description="in place of the track's")
        weight_decay: float | None = Field(None, ge=0, description="in place of the track's")

    def build(self, net: Classifier) -> Classifier:
        if self.params.norm == "group":
            without_batch_norm(net, self.params.groups)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.requires_grad_(True)  # the bias of VGG16's last one too, as published
        return net

    def train(self, ctx: TrainContext) -> Classifier:
        from opacus.grad_sample import GradSampleHooks, register_grad_sampler
        from opacus.optimizers import DPOptimizer

        p, images = self.params, len(ctx.data)
        own = {name: getattr(p, name) for name in ("epochs", "batch", "lr", "weight_decay")}
        changes: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
        recipe = ctx.recipe.model_copy(update=changes | {"select": "last"})  # selection would ask private images
        rate, batches = min(1.0, recipe.batch / images), steps_per_epoch(recipe, images)
        made: list[Any] = []

        def private(optimiser: optim.Optimizer) -> optim.Optimizer:
            made.append(
                DPOptimizer(
                    optimiser, noise_multiplier=p.sigma, max_grad_norm=p.clip, expected_batch_size=rate * images
                )
            )
            return made[0]

        def objective(net: Classifier, batch: Batch, rng: Stream, progress: Progress) -> Tensor:
            if p.sampling == "shuffled":
                made[0].expected_batch_size = len(batch.labels)
            output = net(batch.images, rng)
            return self.loss(batch, output, progress) if len(batch.labels) else output.logits.sum()

        for norm in (nn.BatchNorm1d, nn.BatchNorm2d):
            register_grad_sampler(norm)(batch_norm_gradients)
        not_in_place(ctx.net)
        hooks = GradSampleHooks(ctx.net, strict=p.norm == "group")
        sampler = (lambda labels, size, rng: poisson(images, rate, batches, rng)) if p.sampling == "poisson" else None
        net = ctx.default_train(recipe, LoopHooks(objective, private, sampler))
        hooks.remove_hooks()
        self.account(ctx, rate, recipe.epochs * batches)
        return net

    @property
    def guarantees(self) -> bool:
        return self.params.norm == "group" and self.params.sampling == "poisson" and self.params.sigma > 0

    def account(self, ctx: TrainContext, rate: float, steps: int) -> None:
        """Note what the training spent, or that nothing can be said."""
        from opacus.accountants import RDPAccountant

        if not self.guarantees:
            ctx.note(privacy="none: clipping and noise without a guarantee")
            return
        accountant = RDPAccountant()
        accountant.history = [(self.params.sigma, rate, steps)]
        epsilon = accountant.get_epsilon(self.params.delta)
        ctx.note(epsilon=epsilon if math.isfinite(epsilon) else "infinite", delta=self.params.delta)
        ctx.note(privacy=f"of one image; {steps} steps, sampling rate {rate:.4g}, sigma {self.params.sigma:g}")
