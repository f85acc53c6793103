"""LOMMA: logit loss, feature regulariser, distilled students, against definitions; spec 18, check 4."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence

from mibench.contracts import AttackContext, ImageSet, Loop, Oracle, PriorModel, Rows, TrackInfo
from mibench.errors import UserError
from mibench.keys import stream_seed
from mibench.nets import build_classifier
from mibench.nets.base import Classifier, Output
from mibench.nets.faces import VGG16, FaceNet64
from mibench.primitives import distillation
from mibench.primitives.distillation import Ensemble, EnsembleParams, distil, prepare_ensemble, soft_kl
from mibench.primitives.losses import (
    cross_entropy,
    ensemble_logit_loss,
    ensemble_mean,
    feature_distance,
    negative_logit,
)
from mibench.primitives.training import pack
from mibench.random import Stream
from mibench.registry import Registry
from mibench.weights.fit import load_published

CLASSES = 4
TRACK = TrackInfo("t", "faces", resolution=32, channels=1, num_classes=CLASSES, fill=(0.5,))


class Small(AttackContext):
    """A context without a stage: streams by name, loops without a folder, noise as public images."""

    def __init__(self, public: int = 10, track: TrackInfo = TRACK, weights: dict[str, Any] | None = None) -> None:
        self.device, self.track, self.seed = torch.device("cpu"), track, 7
        self.images_per_identity, self.identities = 2, list(range(track.num_classes))
        images = Stream(5).uniform(public, track.channels, track.resolution, track.resolution)
        self.public = ImageSet(images, torch.full((public,), -1), track.num_classes)
        self.artifact: dict[str, Tensor] = {}
        self.weights = weights or {}
        self.loaded: list[str] = []

    def stream(self, name: str) -> Stream:
        return Stream(stream_seed(name))

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Loop:
        return Loop(name, steps, state, None, None)

    def steps(self, name: str, count: int) -> Iterator[int]:
        return iter(range(count))

    def load_weights(self, net: nn.Module, weights: str) -> None:
        self.loaded.append(weights)
        load_published(net, self.weights[weights])


def network(seed: int = 0, arch: str = "convnet") -> Classifier:
    torch.manual_seed(seed)
    net = build_classifier(arch, CLASSES, 1, 32)
    net(Stream(seed).uniform(16, 1, 32, 32))
    return net.eval()


def small(**params: Any) -> EnsembleParams:
    fast: dict[str, Any] = {"students": ("convnet",) * 3, "pretrained": False, "student_steps": 2, "student_batch": 4}
    return EnsembleParams(**fast | params)


def reference_of(target: Classifier) -> Tensor:
    return torch.linspace(0, 1, target.feature_dim)


def ensemble(target: Classifier, students: list[Classifier], ctx: Small, rows: Rows, **params: Any) -> Ensemble:
    """The loss that an attack uses, with these students and p_reg = ``reference_of(target)``."""
    ctx.artifact = pack(**{f"student{index}": student for index, student in enumerate(students)})
    dim = target.feature_dim
    ctx.artifact |= {"features.mean": reference_of(target), "features.std": torch.full((dim,), 0.5)}
    names = ("convnet",) * max(len(students), 1)
    return Ensemble(Oracle(target, "white_box", CLASSES), rows, ctx, small(students=names, **params))


# --- losses ----------------------------------------------------------------------------------------------------------


def test_losses_and_their_gradients_are_the_definitions() -> None:
    stream = Stream(0)
    logits = [stream.normal(5, CLASSES).requires_grad_(True) for _ in range(3)]
    labels = stream.integers(CLASSES, 5)
    features, reference = stream.normal(5, 6).requires_grad_(True), stream.normal(6)
    loss = ensemble_logit_loss(logits, labels, features, reference, 0.7)
    for row in range(5):
        y = int(labels[row])
        own = sum(-float(o.detach()[row, y]) for o in logits) / 3
        distance = sum((float(features.detach()[row, d]) - float(reference[d])) ** 2 for d in range(6)) / 6
        assert float(loss.detach()[row]) == pytest.approx(own + 0.7 * distance, rel=1e-5, abs=1e-6)
    loss.sum().backward()
    one_hot = torch.eye(CLASSES)[labels]
    for o in logits:
        torch.testing.assert_close(o.grad, -one_hot / 3)
    torch.testing.assert_close(features.grad, 0.7 * 2 / 6 * (features - reference).detach())


def test_logit_loss_notices_a_shift_and_cross_entropy_does_not() -> None:
    logits, labels = Stream(0).normal(5, CLASSES), torch.tensor([0, 1, 2, 3, 0])
    torch.testing.assert_close(negative_logit(logits + 2, labels), negative_logit(logits, labels) - 2)
    torch.testing.assert_close(cross_entropy(logits + 2, labels), cross_entropy(logits, labels))


def test_feature_distance_takes_one_reference_or_one_per_row() -> None:
    features, reference = Stream(0).normal(3, 5), Stream(1).normal(5)
    each = reference.expand(3, 5)
    torch.testing.assert_close(feature_distance(features, reference), feature_distance(features, each))
    assert feature_distance(features, features).tolist() == [0, 0, 0]


def test_distillation_loss_is_the_divergence_of_the_target_from_the_student() -> None:
    stream = Stream(0)
    teacher, student = 3 * stream.normal(6, 5), stream.normal(6, 5).requires_grad_(True)
    for tau in (1.0, 4.0):
        expected = kl_divergence(Categorical(logits=teacher / tau), Categorical(logits=student / tau)) / tau**2
        torch.testing.assert_close(soft_kl(teacher, student, tau), expected)
    assert float(soft_kl(teacher, teacher + 3).abs().max()) < 1e-6
    (gradient,) = torch.autograd.grad(soft_kl(teacher, student).sum(), student)
    torch.testing.assert_close(gradient, (student.softmax(1) - teacher.softmax(1)).detach())


# --- the ensemble (spec 18, check 4) ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_with_copies_of_the_target_as_students_the_loss_is_the_targets_own(count: int) -> None:
    """L_id = NLG(T) + lambda REG: an average over the models, and REG is not divided by their number."""
    target, ctx = network(), Small()
    rows, x = ctx.rows([2, 0, 3], 2), Stream(1).uniform(6, 1, 32, 32)
    out = target(x)
    reference = reference_of(target)
    expected = -out.logits[range(6), rows.label] + 0.3 * ((out.features - reference) ** 2).mean(1)
    loss = ensemble(target, [target] * count, ctx, rows, feature_weight=0.3).identity_loss(x)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    aug = ensemble(target, [target] * count, ctx, rows, variant="aug").identity_loss(x)
    torch.testing.assert_close(aug, cross_entropy(out.logits, rows.label))


def test_a_student_changes_the_logit_term_and_never_the_feature_term() -> None:
    target, one, other, ctx = network(0), network(1), network(2), Small()
    rows, x = ctx.rows([1, 3], 2), Stream(1).uniform(4, 1, 32, 32)
    both = (ensemble(target, [student], ctx, rows).identity_loss(x) for student in (one, other))
    difference = next(both) - next(both)
    logits = (one(x).logits - other(x).logits)[range(4), rows.label]
    assert float(logits.detach().abs().max()) > 0.05
    torch.testing.assert_close(difference, -logits / 2, rtol=1e-3, atol=1e-5)
    weights = (ensemble(target, [one, other], ctx, rows, feature_weight=w).identity_loss(x) for w in (0.0, 1.0))
    without, with_reg = weights
    regulariser = feature_distance(target(x).features, ctx.artifact["features.mean"])
    torch.testing.assert_close(with_reg - without, regulariser, rtol=1e-3, atol=1e-4)


def test_variants() -> None:
    target, students, ctx = network(0), [network(1), network(2)], Small()
    rows, x = ctx.rows([1, 3], 2), Stream(1).uniform(4, 1, 32, 32)
    logits = [net(x).logits for net in (target, *students)]
    reg = feature_distance(target(x).features, reference_of(target))

    def found(variant: str) -> Tensor:
        return ensemble(target, students, ctx, rows, variant=variant).identity_loss(x)

    torch.testing.assert_close(found("logit"), negative_logit(logits[0], rows.label) + reg)
    torch.testing.assert_close(found("full"), ensemble_mean(negative_logit, logits, rows.label) + reg)
    torch.testing.assert_close(found("aug"), ensemble_mean(cross_entropy, logits, rows.label))


@pytest.mark.parametrize("variant", ["full", "logit", "aug"])
def test_gradient_of_the_identity_loss(variant: str) -> None:
    """Finite differences, in double precision, along random directions, through the target and the students. The step
    is so small that hardly a ReLU changes its side."""
    target, students, ctx = network(0), [network(1), network(2)], Small()
    rows = ctx.rows([1, 3], 1)
    models = ensemble(target, students, ctx, rows, variant=variant)
    models.artifact = {name: value.double() for name, value in models.artifact.items()}
    for net in (target, *models.students):
        net.double()
    x = Stream(1).uniform(2, 1, 32, 32).double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(models.identity_loss(x).sum(), x)
    for seed in range(3):
        direction = Stream(seed).normal(2, 1, 32, 32).double()
        step = 1e-8 * direction
        ahead, behind = (models.identity_loss(x.detach() + way * step).sum() for way in (1, -1))
        slope = float((ahead - behind).detach()) / 2e-8
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-4, abs=1e-6)


def test_sampled_reference_is_normal_and_a_rows_own() -> None:
    target, ctx = network(), Small()
    rows, alone = ctx.rows([0, 1, 2, 3], 2), ctx.rows([2], 2)
    together = ensemble(target, [], ctx, rows, p_reg="sample", variant="logit")
    first, second = together.reference(), together.reference()
    assert first.shape == (8, target.feature_dim) and not torch.equal(first, second)
    own = ensemble(target, [], ctx, alone, p_reg="sample", variant="logit")
    assert torch.equal(own.reference(), first[4:6]) and torch.equal(own.reference(), second[4:6])
    standardised = (torch.stack([first, second]) - ctx.artifact["features.mean"]) / 0.5
    assert abs(float(standardised.mean())) < 0.05 and float(standardised.std()) == pytest.approx(1, abs=0.05)
    fixed = ensemble(target, [], ctx, rows, variant="logit")
    assert torch.equal(fixed.reference(), ctx.artifact["features.mean"])


# --- preparation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "dim"), [(VGG16, 2048), (FaceNet64, 512)])
def test_p_reg_has_the_dimension_of_the_features(architecture: Callable[[int], Classifier], dim: int) -> None:
    track = TrackInfo("t", "faces", resolution=64, channels=3, num_classes=CLASSES, fill=(0.5,) * 3)
    target, ctx = architecture(CLASSES), Small(3, track)
    artifact = prepare_ensemble(Oracle(target, "white_box", CLASSES), ctx, EnsembleParams(variant="logit"))
    assert {name: value.shape for name, value in artifact.items()} == {
        "features.mean": (dim,),
        "features.std": (dim,),
    }


@pytest.mark.parametrize("count", [6, 99])
def test_feature_statistics_are_those_of_shuffled_public_images(count: int) -> None:
    """Of ``statistics_images`` of them, or of all of them if there are fewer; with and without students."""
    target, ctx = network(), Small(20)
    chosen = ctx.stream("statistics").permutation(20)[:count]
    features = target(ctx.public.images[chosen]).features.detach().double()
    mean = features.sum(0) / len(chosen)
    std = ((features - mean).square().sum(0) / (len(chosen) - 1)).sqrt()
    for variant in ("logit", "full"):
        oracle = Oracle(network(), "white_box", CLASSES)
        artifact = prepare_ensemble(oracle, ctx, small(variant=variant, statistics_images=count))
        torch.testing.assert_close(artifact["features.mean"].double(), mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(artifact["features.std"].double(), std, rtol=1e-3, atol=1e-4)
        asked = len(chosen) if variant == "logit" else 20
        assert oracle.counts() == {"shared": {"search": {"forward": asked, "gradient": 0, "label": 0}}}


def test_aug_needs_no_statistics_and_logit_no_students() -> None:
    oracle, ctx = Oracle(network(), "white_box", CLASSES), Small()
    assert not [name for name in prepare_ensemble(oracle, ctx, small(variant="aug")) if name.startswith("features")]
    assert not [name for name in prepare_ensemble(oracle, ctx, small(variant="logit")) if name.startswith("student")]


def test_students_learn_the_targets_answers_image_by_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every student meets each public image beside the target's logits on that very image, each once per epoch."""
    target, ctx = network(), Small(13)
    monkeypatch.setattr(distillation, "CHUNK", 5)
    met: dict[int, list[int]] = {}
    usual = distillation.student_network

    def watched(arch: str, where: AttackContext) -> Classifier:
        student = usual(arch, where)
        calls = met[len(met)] = []

        def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            calls.extend(int((ctx.public.images == image).flatten(1).all(1).nonzero()) for image in args[0])

        student.register_forward_pre_hook(look)
        return student

    answers: list[Tensor] = []
    divergence = distillation.soft_kl

    def told(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
        answers.append(teacher)
        return divergence(teacher, student, tau)

    monkeypatch.setattr(distillation, "student_network", watched)
    monkeypatch.setattr(distillation, "soft_kl", told)
    prepare_ensemble(Oracle(target, "white_box", CLASSES), ctx, small(student_steps=6, students=("convnet",) * 2))
    assert len(met) == 2 and met[0] != met[1]
    for seen in met.values():
        epochs = [seen[:12], seen[12:]]  # three batches of four; the thirteenth image is left out
        assert all(len(set(epoch)) == 12 for epoch in epochs) and epochs[0] != epochs[1]
    logits = target(ctx.public.images[met[0] + met[1]]).logits.detach()
    torch.testing.assert_close(torch.cat(answers), logits, rtol=1e-4, atol=1e-5)


def test_a_student_comes_to_answer_like_the_target() -> None:
    target, ctx = network(), Small(64)
    logits = target(ctx.public.images).logits.detach()
    teacher = 2 * (logits - logits.mean(0)) / logits.std(0)
    torch.manual_seed(3)
    student = build_classifier("convnet", CLASSES, 1, 32)
    before = float(soft_kl(teacher, student.eval()(ctx.public.images).logits.detach()).mean())
    distil(ctx, "student", student, teacher, small(student_steps=60, student_batch=32))
    after = float(soft_kl(teacher, student(ctx.public.images).logits).mean())
    assert after < 0.3 * before and not student.training


def test_pretrained_students_start_from_their_own_imported_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "distil", lambda ctx, name, student, teacher, p: student)
    files = {}
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        net = build_classifier("efficientnet_b0", 1000, 3, 32)
        published = {key.removeprefix("backbone."): value for key, value in net.state_dict().items()}
        files[name] = {key.replace("head.", "classifier.1."): value for key, value in published.items()}
    ctx = Small(4, weights=files)
    params = EnsembleParams(students=("efficientnet_b0",) * 2, student_weights=("second", "first"))
    artifact = prepare_ensemble(Oracle(network(), "white_box", CLASSES), ctx, params)
    assert ctx.loaded == ["second", "first"]
    for index, name in enumerate(ctx.loaded):
        for key in ("features.0.0.weight", "features.8.0.weight"):
            torch.testing.assert_close(artifact[f"student{index}/backbone.{key}"], files[name][key])


# --- parameters ------------------------------------------------------------------------------------------------------


def test_parameters_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValidationError, match="only with pretrained=true"):
        EnsembleParams(pretrained=False, student_weights=("a", "b", "c"))
    with pytest.raises(ValidationError, match="2 student_weights were given for 3 students"):
        EnsembleParams(student_weights=("a", "b"))
    with pytest.raises(UserError, match="convnett"):
        EnsembleParams(students=("convnett",), pretrained=False)


@pytest.mark.parametrize("name", ["lomma_gmi", "lomma_kedmi"])
def test_without_imagenet_weights_the_attack_says_why_it_cannot_run(name: str) -> None:
    def reason(**params: Any) -> str | None:
        attack: Any = Registry().plugin("attack", name)
        skipped: str | None = attack(attack.Params(**params), TRACK).skip()
        return skipped

    assert "student_weights" in str(reason()) and "pretrained=false" in str(reason())
    assert "convnet" in str(reason(students=("convnet", "efficientnet_b0")))
    assert reason(pretrained=False) is None
    assert reason(student_weights=("a", "b", "c")) is None
    assert reason(variant="logit") is None


# --- the attacks -----------------------------------------------------------------------------------------------------


class Draw(nn.Module):
    """A generator z (N, 6) -> images, remembering the largest |z| it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 32 * 32)
        self.largest = 0.0

    def forward(self, z: Tensor) -> Tensor:
        self.largest = max(self.largest, float(z.detach().abs().max()))
        return torch.sigmoid(self.layer(z)).reshape(-1, 1, 32, 32)


class Judge(nn.Module):
    """A critic with a scalar, or K logits."""

    def __init__(self, outputs: int | None) -> None:
        super().__init__()
        self.scalar = outputs is None
        self.layer = nn.Linear(32 * 32, outputs or 1)

    def forward(self, images: Tensor) -> Any:
        score = self.layer(images.flatten(1))
        return score[:, 0] if self.scalar else Output(score, score, {})


def attack_of(name: str, **params: Any) -> Any:
    cls: Any = Registry().plugin("attack", name)
    fast = {"students": ("convnet",) * 2, "pretrained": False, "student_steps": 2, "student_batch": 4}
    return cls(cls.Params(**fast | params), TRACK)


def prior_of(outputs: int | None) -> PriorModel:
    torch.manual_seed(4)
    return PriorModel(Draw(), 6, Judge(outputs)).eval().requires_grad_(False)


@pytest.mark.parametrize("variant", ["full", "logit", "aug"])
def test_first_step_on_gmi_follows_the_loss_of_the_paper(variant: str) -> None:
    """One Nesterov step from z_0 = clamp(z_0 - (1 + m) lr g), g of 100 L_id - D over 60, computed here."""
    target, ctx, model = network(), Small(), prior_of(None)
    attack = attack_of("lomma_gmi", iterations=1, lr=5.0, variant=variant, feature_weight=0.4)
    oracle = Oracle(target, "white_box", CLASSES)
    ctx.artifact = attack.prepare(oracle, model, ctx)
    found = {item.label: item for item in attack.invert(oracle, model, [1, 3], ctx)}
    assert sorted(found) == [1, 3] and all(item.selected is None for item in found.values())

    students = [network() for _ in range(0 if variant == "logit" else 2)]
    for index, student in enumerate(students):
        own = {k.split("/")[1]: v for k, v in ctx.artifact.items() if k.startswith(f"student{index}/")}
        student.load_state_dict(own)
    labels = torch.tensor([1, 1, 3, 3])
    z = ctx.rows([1, 3], 2).streams("latent").normal(4, 6).requires_grad_(True)
    x = model.generator(z)
    outputs = [net(x) for net in (target, *students)]
    if variant == "aug":
        identity = sum(cross_entropy(o.logits, labels) for o in outputs) / 3
    else:
        identity = -sum(o.logits[range(4), labels] for o in outputs) / len(outputs)
        identity = identity + 0.4 * (outputs[0].features - ctx.artifact["features.mean"]).square().mean(1)
    critic = model.critic
    assert critic is not None
    (gradient,) = torch.autograd.grad((100 * identity - critic(x)).sum() / 60, z)
    moved = (z - 1.9 * 5.0 * gradient).clamp(-1, 1).detach()
    assert float((moved - z.detach()).abs().max()) > 0.1
    images = torch.cat([found[label].images for label in (1, 3)])
    torch.testing.assert_close(images, model.generator(moved), rtol=1e-4, atol=1e-5)
    initial = torch.cat([found[label].initial for label in (1, 3)])
    torch.testing.assert_close(initial, x.detach())


def test_on_kedmi_the_generator_sees_clamped_latents_only() -> None:
    target, ctx, model = network(), Small(), prior_of(CLASSES)
    attack = attack_of("lomma_kedmi", iterations=5, bound=0.8)
    oracle = Oracle(target, "white_box", CLASSES)
    ctx.artifact = attack.prepare(oracle, model, ctx)
    found = list(attack.invert(oracle, model, [0, 2], ctx))
    assert [item.label for item in found] == [0, 2]
    assert all(len(item.images) == 2 and math.isfinite(item.notes["mean_sigma"]) for item in found)
    draw = next(module for module in model.generator.modules() if isinstance(module, Draw))
    assert draw.largest == pytest.approx(0.8)


@pytest.mark.parametrize(("name", "rows"), [("lomma_gmi", 2), ("lomma_kedmi", 1)])
def test_queries_are_the_hand_computed_ones(name: str, rows: int) -> None:
    """10 public images once, shared; then one image with gradient per row and step. Students ask nothing."""
    ctx, model = Small(), prior_of(CLASSES if rows == 1 else None)
    attack = attack_of(name, iterations=7)
    oracle = Oracle(network(), "white_box", CLASSES)
    ctx.artifact = attack.prepare(oracle, model, ctx)
    list(attack.invert(oracle, model, [0, 1, 2, 3], ctx))
    each = {"optimisation": {"forward": 0, "gradient": 7 * rows, "label": 0}}
    shared = {"search": {"forward": 10, "gradient": 0, "label": 0}}
    assert oracle.counts() == {"shared": shared} | {str(label): each for label in range(4)}
