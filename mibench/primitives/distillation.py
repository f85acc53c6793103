"""Several models instead of one: students of the target, distilled on public images, and the identity loss over them.

Model augmentation and the feature regulariser of LOMMA (Nguyen et al., CVPR 2023), independent of the attack that
searches the latents. Attacks without gradients of the target train such students as surrogates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mibench.contracts import AttackContext, BaseParams, Oracle, PriorModel, Rows
from mibench.nets import build_classifier, classifier_type
from mibench.nets.base import Classifier
from mibench.nets.imagenet import ImageNetClassifier
from mibench.primitives.losses import cross_entropy, ensemble_logit_loss, ensemble_mean
from mibench.primitives.queries import CHUNK
from mibench.primitives.training import Epochs, fit_student, pack, unpack

DEVIATIONS = (
    "The target answers about each public image once, in eval mode; the students learn from these answers in all "
    "epochs (the same numbers, unless the target is stochastic).",
    "Each identity and restart has its own random numbers; released code gives identities i and i + 60 the same.",
    "If fewer than 5050 public images exist, the feature statistics are those of all of them.",
    "On the small tracks the students are three convnets that were not pretrained, trained for 600 steps or fewer.",
    "On the small tracks the GAN is narrower and trained for fewer steps, on public images drawn with replacement.",
)


class EnsembleParams(BaseParams):
    """Parameters of the identity loss over the target and its students; the defaults are LOMMA's."""

    variant: Literal["full", "logit", "aug"] = Field(
        "full", description="logit: logit loss, no students; aug: students, cross-entropy; full: students, logit loss"
    )
    feature_weight: float = Field(
        1.0, ge=0, description="lambda, the weight of REG beside the mean of the logit losses"
    )
    p_reg: Literal["mean", "sample"] = Field(
        "mean", description="what REG draws features to: their public mean, or each step a draw from N(mean, std)"
    )
    statistics_images: int = Field(5050, ge=2, description="public images behind p_reg, at least 2; all if fewer exist")
    students: tuple[str, ...] = Field(
        ("efficientnet_b0", "efficientnet_b1", "efficientnet_b2"), min_length=1, description="their architectures"
    )
    pretrained: bool = Field(True, description="students start from the ImageNet weights in student_weights")
    student_weights: tuple[str, ...] = Field((), description="ids of imported ImageNet weights, one per student")
    student_steps: int = Field(9380, ge=1, description="at least 1 (20 epochs over 30,000 images)")
    student_batch: int = Field(64, ge=2, description="at least 2")
    student_lr: float = Field(0.02, gt=0)
    student_momentum: float = Field(0.9, ge=0, lt=1)
    student_weight_decay: float = Field(1e-4, ge=0)
    temperature: float = Field(1.0, gt=0, description="tau of the distillation")

    @model_validator(mode="after")
    def _one_weight_per_student(self) -> EnsembleParams:
        given = len(self.student_weights)
        if given and not self.pretrained:
            raise ValueError("student_weights are used only with pretrained=true")
        if given and given != len(self.students):
            raise ValueError(f"{given} student_weights were given for {len(self.students)} students")
        without_imagenet(self.students)  # are known
        return self

    @property
    def uses_students(self) -> bool:
        return self.variant != "logit"

    @property
    def uses_features(self) -> bool:
        return self.variant != "aug"

    def missing(self) -> str | None:
        """Why the students cannot be trained, or None."""
        if not (self.uses_students and self.pretrained):
            return None
        if other := without_imagenet(self.students):
            return f"no ImageNet weights exist for {', '.join(other)}: set pretrained=false"
        if not self.student_weights:
            return (
                f"its students ({', '.join(self.students)}) start from ImageNet weights: import torchvision's files "
                "with `mibench import-checkpoint` and name their ids in student_weights, or set pretrained=false"
            )
        return None


def soft_kl(teacher: Tensor, student: Tensor, tau: float = 1.0) -> Tensor:
    """KL(softmax(o_T / tau) || softmax(o_S / tau)) / tau^2, (N,) from logits (N, K)."""
    p, log_q = (teacher / tau).softmax(1), (student / tau).log_softmax(1)
    return (torch.xlogy(p, p) - p * log_q).sum(1) / tau**2


def distil(ctx: AttackContext, name: str, student: Classifier, teacher: Tensor, p: EnsembleParams) -> nn.Module:
    """Train ``student`` on the public images, as they are, to answer like ``teacher`` (N, K), its logits on them: SGD
    with momentum over shuffled epochs, incomplete batches left out."""
    images = ctx.public.images
    batches = Epochs(ctx.stream, name, len(images), p.student_batch)

    def loss(step: int, rng: object) -> Tensor:
        index = batches(step)
        return soft_kl(teacher[index], student(images[index]).logits, p.temperature).mean()

    optimiser = torch.optim.SGD(
        student.parameters(), p.student_lr, p.student_momentum, weight_decay=p.student_weight_decay
    )
    return fit_student(ctx, name, student, p.student_steps, loss, optimiser)


def prepare_ensemble(oracle: Oracle, ctx: AttackContext, p: EnsembleParams) -> dict[str, Tensor]:
    """What ``Ensemble`` needs, once per target: the students' weights, and mean and std (d,) of the target's features.
    Each public image costs one query, booked under "search"."""
    order = ctx.stream("statistics").permutation(len(ctx.public))
    asked = order if p.uses_students else order[: p.statistics_images]
    with torch.no_grad(), oracle.phase("search"):
        outputs = [oracle.output(ctx.public.images[index]) for index in asked.split(CHUNK)]
    artifact: dict[str, Tensor] = {}
    if p.uses_features:
        features = torch.cat([output.features for output in outputs])[: p.statistics_images]
        artifact |= {"features.mean": features.mean(0), "features.std": features.std(0)}
    if p.uses_students:
        teacher = torch.cat([output.logits for output in outputs])[order.argsort()]
        for index, student in enumerate(new_students(ctx, p.students, p.student_weights)):
            artifact |= pack(**{f"student{index}": distil(ctx, f"student{index}", student, teacher, p)})
    return artifact


class OverEnsemble:
    """Part of an attack that looks at the target among students (LOMMA): when it makes no sense, what it prepares."""

    params: Any  # EnsembleParams and more

    def skip(self) -> str | None:
        reason: str | None = self.params.missing()
        return reason

    def prepare(self, oracle: Oracle, prior: PriorModel | None, ctx: AttackContext) -> dict[str, Tensor]:
        return prepare_ensemble(oracle, ctx, self.params)


def student_network(arch: str, ctx: AttackContext) -> Classifier:
    """A fresh student for the track's images and classes."""
    track = ctx.track
    net = build_classifier(arch, track.num_classes, track.channels, track.resolution, track.normalisation)
    return net.to(ctx.device)


def new_students(ctx: AttackContext, architectures: Sequence[str], weights: Sequence[str]) -> list[Classifier]:
    """Fresh students; with ``weights``, ids of imported ImageNet weights, one for each, they start from these."""
    students = [student_network(arch, ctx) for arch in architectures]
    if weights:
        for student, own in zip(students, weights, strict=True):
            ctx.load_weights(student.get_submodule("backbone"), own)
    return students


def stored_students(ctx: AttackContext, architectures: Sequence[str], name: str) -> list[nn.Module]:
    """The students in the attack's artefact, packed as ``name`` and their number; eval mode, frozen."""
    return [
        unpack(student_network(arch, ctx), ctx.artifact, f"{name}{index}") for index, arch in enumerate(architectures)
    ]


def without_imagenet(architectures: Sequence[str]) -> list[str]:
    """Those of which no ImageNet weights exist. Raises UserError if one is unknown."""
    return [arch for arch in architectures if not issubclass(classifier_type(arch), ImageNetClassifier)]


class Ensemble:
    """The target and the students from ``ctx.artifact`` as one identity loss for ``rows``."""

    def __init__(self, oracle: Oracle, rows: Rows, ctx: AttackContext, p: EnsembleParams) -> None:
        self.oracle, self.rows, self.params, self.artifact = oracle, rows, p, ctx.artifact
        self.noise = rows.streams("p_reg")
        self.students = stored_students(ctx, p.students if p.uses_students else (), "student")

    def identity_loss(self, images: Tensor) -> Tensor:
        """(R,): the mean over the models of -o_y, plus lambda REG on the target's features; without the logit loss, the
        mean of the cross-entropies."""
        p, labels = self.params, self.rows.label
        target = self.oracle.output(images, self.rows)
        logits = [target.logits, *(student(images).logits for student in self.students)]
        if not p.uses_features:
            return ensemble_mean(cross_entropy, logits, labels)
        return ensemble_logit_loss(logits, labels, target.features, self.reference(), p.feature_weight)

    def reference(self) -> Tensor:
        """p_reg: the mean of the target's public features (d,), or a draw for each row (R, d)."""
        mean, std = self.artifact["features.mean"], self.artifact["features.std"]
        return mean if self.params.p_reg == "mean" else mean + std * self.noise.normal(len(self.rows), len(mean))
