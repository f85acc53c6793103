"""Defenses with a training of their own: trapdoors (spec F.11), differential privacy (F.12), distillation."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.nn import functional

from mibench.contracts import Batch, ImageSet, Loop, LoopHooks, Output, Progress, Recipe, TrackInfo, TrainContext
from mibench.keys import stream_seed
from mibench.nets.base import Classifier
from mibench.nets.small import ConvNet
from mibench.primitives import training
from mibench.primitives.training import fit_classifier
from mibench.protocol.methods import Selection
from mibench.protocol.params import resolve
from mibench.protocol.tracks import RecipeSection
from mibench.random import Stream
from mibench.registry import Registry

CLASSES = 5
TRACK = TrackInfo("tiny", "faces", 32, 1, CLASSES, (0.449,))
RECIPE = RecipeSection(arch="convnet", epochs=2, batch=8, lr=0.01, weight_decay=0.0)


def _module(name: str) -> ModuleType:
    return sys.modules[Registry().plugin("defense", name).__module__]


def _defense(name: str, **params: Any) -> Any:
    cls = Registry().plugin("defense", name)
    return cls(resolve(cls.Params, params, name), TRACK)


def _data(n: int = 20) -> ImageSet:
    return ImageSet(Stream(0).uniform(n, 1, 32, 32), torch.arange(n) % CLASSES, CLASSES)


class _Context(TrainContext):
    """A training context in memory; every network is a function of how many were made before it."""

    def __init__(self, defense: Any, recipe: Recipe = RECIPE, data: ImageSet | None = None) -> None:
        self.device, self.track, self.recipe, self.defense = torch.device("cpu"), TRACK, recipe, defense
        self.data, self.made = data or _data(), 0
        self.net = defense.build(self.new_network(CLASSES))
        self.notes: dict[str, float | str] = {}

    def stream(self, name: str) -> Stream:
        return Stream(stream_seed(name))

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Loop:
        return Loop(name, steps, state, None, None)

    def default_train(self, recipe: Recipe | None = None, inside: LoopHooks | None = None) -> Classifier:
        d, recipe = self.defense, recipe or self.recipe
        return fit_classifier(
            self.net, self.data, recipe, self.stream, self.loop, "train", d.loss, d.augment, d.sampler, inside
        )

    def public(self) -> ImageSet:
        return ImageSet(0.5 * Stream(7).uniform(48, 1, 32, 32), torch.full((48,), -1), CLASSES)

    def new_network(self, num_classes: int) -> Classifier:
        self.made += 1
        torch.manual_seed(self.made)
        return ConvNet(num_classes, channels=1, resolution=32)

    def note(self, **values: float | str) -> None:
        self.notes |= values


def _sgd(net: nn.Module, recipe: Recipe, steps: int) -> training.Optimisation:
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    return optimiser, torch.optim.lr_scheduler.StepLR(optimiser, 1000)


@pytest.fixture
def sgd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train with SGD, whose steps are linear in the gradient."""
    monkeypatch.setattr(training, "make_optimiser", _sgd)


# --- hooks of the loop -----------------------------------------------------------------------------------------------


class _Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))


def _counting(counter: _Counter, fail_at: int | None = None) -> LoopHooks:
    def objective(net: Classifier, batch: Batch, rng: Stream, progress: Progress) -> Tensor:
        if progress.step == fail_at:
            raise InterruptedError
        counter.count += 1 + counter.count % 7
        return functional.cross_entropy(net(batch.images).logits, batch.labels) * (1 + counter.count / 10)

    return LoopHooks(objective=objective, state={"counter": counter})


def _fit_counting(folder: Path | None, counter: _Counter, fail_at: int | None = None, **changes: Any) -> Classifier:
    torch.manual_seed(0)
    return fit_classifier(
        ConvNet(CLASSES, 1, 32),
        _data(),
        RECIPE.model_copy(update=changes),
        lambda name: Stream(stream_seed(name)),
        lambda name, steps, state: Loop(name, steps, state, folder, None),
        "train",
        inside=_counting(counter, fail_at),
    )


def test_what_an_objective_changes_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mibench.contracts.loop.CHECKPOINT_SECONDS", -1.0)
    whole = _Counter()
    expected = _fit_counting(None, whole).state_dict()
    with pytest.raises(InterruptedError):
        _fit_counting(tmp_path, _Counter(), fail_at=4)
    resumed = _Counter()
    found = _fit_counting(tmp_path, resumed).state_dict()
    assert float(resumed.count) == float(whole.count) > 6
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_what_an_objective_changes_is_kept_with_the_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = iter([0.1, 0.9, 0.2, 0.3])
    counts: list[float] = []
    counter = _Counter()

    def consider(best: training._Best) -> None:
        counts.append(float(counter.count))
        if (accuracy := next(accuracies)) > best._accuracy:
            best._accuracy = accuracy
            best._keep()

    monkeypatch.setattr(training._Best, "consider", consider)
    _fit_counting(None, counter, epochs=4, select="best", validation_per_identity=1)
    assert len(set(counts)) == 4 and float(counter.count) == counts[1]


# --- Trap-MID --------------------------------------------------------------------------------------------------------


def test_a_blend_changes_no_pixel_by_more_than_its_share() -> None:
    """Spec F.11: 0.02, reached where a white trigger meets a black pixel."""
    triggers = _module("trapmid").Triggers(Stream(1).uniform(CLASSES, 1, 32, 32), _defense("trapmid").params.blend)
    x, t = Stream(2).uniform(40, 1, 32, 32), torch.arange(40) % CLASSES
    assert float((triggers(x, t) - x).abs().max()) <= 0.02 + 1e-7
    assert torch.allclose(triggers(x, t)[7], 0.98 * x[7] + 0.02 * triggers.images[2])
    with torch.no_grad():
        triggers.images[0] = 1
    black = triggers(torch.zeros(1, 1, 32, 32), torch.tensor([0]))
    assert torch.allclose(black, torch.full_like(black, 0.02))


def test_triggers_follow_the_sign_and_stay_images() -> None:
    triggers = _module("trapmid").Triggers(torch.full((2, 1, 2, 2), 0.5), 0.02)
    gradient = torch.tensor([[[[3.0, -1e-9], [0.0, -5.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    triggers.descend(gradient, 0.01)
    assert torch.allclose(triggers.images[0, 0], torch.tensor([[0.49, 0.51], [0.5, 0.51]]))
    assert torch.equal(triggers.images[1], torch.full((1, 2, 2), 0.5))
    for _ in range(100):
        triggers.descend(gradient, 0.01)
    assert float(triggers.images.min()) == 0 and float(triggers.images.max()) == 1


class _Watched(ConvNet):
    """Keeps what it is shown in training mode, and what it answers."""

    def __init__(self) -> None:
        super().__init__(CLASSES, 1, 32)
        self.seen: list[Tensor] = []
        self.answers: list[Tensor] = []

    def forward(self, images: Tensor, rng: Any = None) -> Output:
        output = super().forward(images, rng)
        if self.training:
            self.seen.append(images.detach())
            self.answers.append(output.logits.detach())
        return output


def _trap(**params: Any) -> tuple[Any, _Context, _Watched]:
    defense = _defense("trapmid", **params)
    context = _Context(defense)
    torch.manual_seed(3)
    context.net = net = _Watched()
    return defense, context, net


def test_both_halves_pass_the_target_together() -> None:
    """Spec F.11: one forward pass per step, and the loss is that of its halves, weighted by beta."""
    defense, context, net = _trap(beta=0.3)
    losses: list[float] = []
    usual = defense.objective

    def objective(net: Classifier, batch: Batch, rng: Stream, progress: Progress) -> Tensor:
        value = usual(net, batch, rng, progress)
        own, trapdoor = context.net.answers[-1].chunk(2)
        expected = 0.7 * functional.cross_entropy(own, batch.labels)
        expected += 0.3 * functional.cross_entropy(trapdoor, defense.trapdoors(len(batch.labels), progress))
        assert float(value.detach()) == pytest.approx(float(expected), rel=1e-5)
        losses.append(float(value.detach()))
        return value

    defense.objective = objective
    defense.train(context)
    assert len(losses) == 6 and [len(images) for images in net.seen] == [16, 16, 8] * 2
    assert 0 <= context.notes["trapdoor_accuracy"] <= 1
    assert float(defense.triggers.images.detach().min()) >= 0 and float(defense.triggers.images.detach().max()) <= 1


def _released_steps(
    net: nn.Module,
    critic: nn.Module,
    images: Tensor,
    batches: list[tuple[Tensor, Tensor, Tensor]],
    a: float,
    beta: float,
) -> list[Tensor]:
    """The released training, written out (specification of defenses, A.8; without augmentation): the triggers after
    each (x, y, t). Critic and target step with SGD of rate 0.1 and momentum 0.9."""
    steps = [torch.optim.SGD(part.parameters(), lr=0.1, momentum=0.9) for part in (critic, net)]
    found = []
    for x, y, t in batches:
        net.train()
        critic.train()
        shown = torch.cat([x, (1 - a) * x + a * images[t]])
        p = torch.sigmoid(critic(shown).logits.flatten())
        real, trapped = -p[: len(x)].log(), -(1 - p[len(x) :]).log()
        steps[0].zero_grad()
        ((real.mean() + trapped.mean()) / 2).backward()
        steps[0].step()
        net.eval()
        critic.eval()
        moving = images.clone().requires_grad_()
        blended = (1 - a) * x + a * moving[t]
        unseen = -torch.sigmoid(critic(blended).logits.flatten()).log().mean()
        hit = -net(blended).logits.log_softmax(1)[torch.arange(len(t)), t].mean()
        (unseen + hit).backward()
        assert moving.grad is not None
        images = (images - 0.01 * moving.grad.sign()).clamp(0, 1)
        net.train()
        log_p = net(torch.cat([x, (1 - a) * x + a * images[t]])).logits.log_softmax(1)
        rows = torch.arange(len(x))
        loss = -(1 - beta) * log_p[rows, y].mean() - beta * log_p[len(x) + rows, t].mean()
        steps[1].zero_grad()
        loss.backward()
        steps[1].step()
        found.append(images)
    return found


def test_its_first_steps_are_the_released_ones(monkeypatch: pytest.MonkeyPatch, sgd: None, double: None) -> None:
    """Triggers, discriminator and target after each of three batches, the statistics of batch norm among them."""
    module = _module("trapmid")
    monkeypatch.setattr(module, "varied", lambda images, rng, flip: images)
    monkeypatch.setattr(module, "make_optimiser", _sgd)
    defense = _defense("trapmid", blend=0.1, beta=0.3)
    context = _Context(defense, RECIPE.model_copy(update={"epochs": 1}))
    batches, ours = [], []
    usual = defense.objective

    def objective(net: Classifier, batch: Batch, rng: Stream, progress: Progress) -> Tensor:
        batches.append((batch.images, batch.labels, defense.trapdoors(len(batch.labels), progress)))
        value = usual(net, batch, rng, progress)
        ours.append(defense.triggers.images.detach().clone())
        return value

    defense.objective = objective
    torch.manual_seed(2)  # the second network that is made
    critic = ConvNet(1, channels=1, resolution=32)
    torch.manual_seed(1)
    net = ConvNet(CLASSES, channels=1, resolution=32)
    start = context.stream("triggers").uniform(CLASSES, 1, 32, 32)
    defense.train(context)
    theirs = _released_steps(net, critic, start, batches, 0.1, 0.3)
    assert [len(x) for x, _, _ in batches] == [8, 8, 4]
    for found, expected in zip(ours, theirs, strict=True):
        assert float((found - expected).abs().max()) < 1e-6
    assert float((ours[-1] - start).abs().max()) > 0.025
    for mine, other in ((defense.critic, critic), (context.net, net)):
        wanted = other.state_dict()
        for name, value in mine.state_dict().items():
            torch.testing.assert_close(value, wanted[name], rtol=1e-6, atol=1e-9, msg=name)


def test_each_class_is_a_trapdoor_equally_often_in_an_epoch() -> None:
    defense, context, _ = _trap()
    defense.ctx = context
    epochs = []
    for epoch in (0, 1):
        sizes = zip(range(3 * epoch, 3 * epoch + 3), (8, 8, 4), strict=True)
        labels = [defense.trapdoors(size, Progress(epoch, 2, step, 6)) for step, size in sizes]
        epochs.append(torch.cat(labels))
        assert epochs[-1].bincount().tolist() == [4] * CLASSES
    assert not torch.equal(*epochs)


def test_training_the_triggers_leaves_the_target_alone_and_sees_no_erased_image() -> None:
    defense, context, net = _trap(trigger_step=0.05)
    shown: list[Tensor] = []
    usual = defense.improve

    def improve(net: Classifier, x: Tensor, *rest: Any) -> None:
        before = {key: value.clone() for key, value in net.state_dict().items()}
        triggers = defense.triggers.images.detach().clone()
        usual(net, x, *rest)
        assert net.training and all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
        assert all(p.grad is None or step == 0 for step, p in enumerate(net.parameters()) if not shown)
        moved = (defense.triggers.images.detach() - triggers).abs()
        assert 0 < float(moved.max()) <= 0.05 + 1e-6
        shown.append(x)

    defense.improve = improve
    defense.augment = lambda images, rng: torch.zeros_like(images)  # as an erasing defense beside it would
    defense.train(context)
    assert len(shown) == 6 and all(float(x.min(0).values.max()) > 0 for x in shown)
    assert all(float(images[: len(images) // 2].max()) == 0 for images in net.seen)


def test_a_visible_trapdoor_is_learned() -> None:
    defense = _defense("trapmid", blend=0.6)
    context = _Context(defense, RECIPE.model_copy(update={"epochs": 60}))
    defense.train(context)
    assert context.notes["trapdoor_accuracy"] > 0.8


def test_triggers_that_are_not_trained_stay() -> None:
    defense, context, _ = _trap(trigger_step=0.0)
    defense.train(context)
    assert torch.equal(defense.triggers.images.detach(), context.stream("triggers").uniform(CLASSES, 1, 32, 32))


# --- DP-SGD ----------------------------------------------------------------------------------------------------------


def _private(steps: int | None = None, **params: Any) -> tuple[dict[str, Tensor], _Context]:
    """Weights after training with ``dpsgd``."""
    pytest.importorskip("opacus")
    defense = _defense("dpsgd", **{"sampling": "shuffled", "groups": 4} | params)
    context = _Context(defense)
    return defense.train(context).state_dict(), context


@pytest.fixture
def double() -> Iterator[None]:
    """Numbers in which rounding does not grow to anything over a training, whatever the number of threads."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_without_clipping_and_noise_it_is_sgd_on_the_mean_loss(norm: str, sgd: None, double: None) -> None:
    """Spec F.12, through all steps of a training, an incomplete batch among them."""
    found, _ = _private(sigma=0.0, clip=1e9, norm=norm)
    context = _Context(_defense("dpsgd", groups=4, norm=norm))
    start = {key: value.clone() for key, value in context.net.state_dict().items()}
    expected = context.default_train().state_dict()
    for key, value in expected.items():
        assert torch.allclose(found[key], value, rtol=1e-6, atol=1e-8), key
    assert not torch.allclose(start["head.weight"], expected["head.weight"], atol=1e-2)


def _one_step(monkeypatch: pytest.MonkeyPatch, **params: Any) -> dict[str, Tensor]:
    """The gradient that one step over all images used, by parameter."""
    seen: dict[str, Tensor] = {}

    def optimisation(net: nn.Module, recipe: Recipe, steps: int) -> training.Optimisation:
        optimiser, schedule = _sgd(net, recipe, steps)
        usual = optimiser.step

        def step(*arguments: Any) -> Any:
            seen.update({name: p.grad.clone() for name, p in net.named_parameters()})
            return usual(*arguments)

        optimiser.step = step  # type: ignore[method-assign]
        return optimiser, schedule

    monkeypatch.setattr(training, "make_optimiser", optimisation)
    _private(epochs=1, batch=20, **params)
    return seen


def test_every_image_s_gradient_is_clipped_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = 30.0  # some gradients are longer, some shorter
    found = _one_step(monkeypatch, sigma=0.0, clip=clip)
    context = _Context(_defense("dpsgd", groups=4))
    names = [name for name, _ in context.net.named_parameters()]
    total = {name: torch.zeros_like(p) for name, p in context.net.named_parameters()}
    norms = []
    for image, label in zip(context.data.images, context.data.labels, strict=True):
        loss = functional.cross_entropy(context.net(image[None]).logits, label[None])
        gradient = torch.autograd.grad(loss, list(context.net.parameters()))
        norm = torch.cat([g.flatten() for g in gradient]).norm()
        norms.append(float(norm))
        for name, g in zip(names, gradient, strict=True):
            total[name] += g * min(1.0, clip / float(norm)) / 20
    assert min(norms) < clip < max(norms), "the test must clip some"
    for name in names:
        assert torch.allclose(found[name], total[name], rtol=1e-4, atol=1e-4), name


def test_noise_is_sigma_times_clip_over_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = _one_step(monkeypatch, sigma=0.0, clip=0.7)
    loud = _one_step(monkeypatch, sigma=3.0, clip=0.7)
    noise = torch.cat([(loud[name] - quiet[name]).flatten() for name in quiet])
    assert float(noise.std()) == pytest.approx(3 * 0.7 / 20, rel=0.02)
    assert scipy.stats.kstest((noise / noise.std()).numpy()[:5000], "norm").pvalue > 0.001


def _gaussian_epsilon(mu: float, delta: float) -> float:
    """Exact epsilon of a Gaussian mechanism of sensitivity mu sigma (Balle and Wang, ICML 2018)."""
    phi, low, high = scipy.stats.norm.cdf, 0.0, 200.0
    for _ in range(200):
        middle = (low + high) / 2
        spent = phi(mu / 2 - middle / mu) - math.exp(middle) * phi(-mu / 2 - middle / mu)
        low, high = (middle, high) if spent > delta else (low, middle)
    return high


@pytest.mark.parametrize(("sigma", "steps"), [(2.0, 1), (4.0, 10), (20.0, 100)])
def test_epsilon_of_full_batches_is_just_above_the_exact_one(sigma: float, steps: int) -> None:
    pytest.importorskip("opacus")
    defense = _defense("dpsgd", sigma=sigma)
    context = _Context(defense)
    defense.account(context, 1.0, steps)
    exact = _gaussian_epsilon(math.sqrt(steps) / sigma, 1e-5)
    assert exact <= context.notes["epsilon"] < 1.2 * exact
    assert context.notes["delta"] == 1e-5


def test_epsilon_counts_the_steps_and_the_sampling_rate_of_the_run() -> None:
    from opacus.accountants import PRVAccountant

    _, context = _private(sampling="poisson", sigma=1.0, epochs=3)
    accountant = PRVAccountant()  # another accountant, with tighter bounds
    accountant.history = [(1.0, 8 / 20, 9)]
    expected = accountant.get_epsilon(1e-5)
    assert expected < context.notes["epsilon"] < 1.3 * expected


@pytest.mark.parametrize("params", [{"norm": "batch"}, {"sampling": "shuffled"}, {"sigma": 0.0}], ids=str)
def test_without_its_conditions_no_epsilon_is_claimed(params: dict[str, Any]) -> None:
    _, context = _private(**{"sampling": "poisson", "epochs": 1} | params)
    assert set(context.notes) == {"privacy"} and "without a guarantee" in context.notes["privacy"]


def test_a_guaranteed_network_mixes_no_images() -> None:
    net = _Context(_defense("dpsgd", groups=4)).net.train()
    assert not [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    images = _data().images
    assert torch.allclose(net(images).logits[:3], net(images[:3]).logits, atol=1e-5)


def test_an_empty_batch_is_a_step_of_noise_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(count: int, rate: float, batches: int, rng: Stream) -> Iterator[Tensor]:
        for _ in range(batches):
            yield torch.zeros(0, dtype=torch.int64)

    defense = _defense("dpsgd")
    monkeypatch.setattr(_module("dpsgd"), "poisson", empty)
    noise = _one_step(monkeypatch, sigma=1.0, clip=1.0, sampling="poisson")
    values = torch.cat([g.flatten() for g in noise.values()])
    assert defense and float(values.std()) == pytest.approx(1 / 20, rel=0.02)


def test_selection_on_private_images_is_turned_off() -> None:
    pytest.importorskip("opacus")
    defense = _defense("dpsgd", groups=4)
    recipe = RECIPE.model_copy(update={"select": "best", "validation_per_identity": 1})
    recipes: list[Recipe] = []
    context = _Context(defense, recipe)
    usual = context.default_train
    context.default_train = lambda recipe, inside: recipes.append(recipe) or usual(recipe, inside)  # type: ignore
    defense.train(context)
    assert recipes[0].select == "last"


def test_a_missing_package_skips_the_defense_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    track = registry.track("synthfaces")
    usual = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "opacus" else usual(name, *a))
    skip = registry.facts(Selection("defense", "dpsgd"), track).skip
    assert skip and "opacus" in skip and "pip install 'mibench[dp]'" in skip
    assert registry.facts(Selection("defense", "re"), track).skip is None


# --- distillation ----------------------------------------------------------------------------------------------------


def test_the_student_learns_from_public_images_alone() -> None:
    """It never sees a private image, and comes to answer like the teacher, whose weights stay."""
    defense = _defense("distill", epochs=30, batch=16, lr=0.05)
    context = _Context(defense)
    made: list[_Watched] = []

    def new_network(num_classes: int) -> Classifier:
        torch.manual_seed(5)
        made.append(_Watched())
        return made[-1]

    context.new_network = new_network  # type: ignore[method-assign]
    student = defense.train(context)
    assert student is made[0] and student is not context.net and not student.training
    assert len(made[0].seen) == 30 * 3
    assert max(float(images.max()) for images in made[0].seen) <= 0.5, "public images are dark here, private ones not"
    assert all(p.requires_grad for p in student.parameters())
    public = context.public().images
    with torch.no_grad():
        teacher, answers = context.net.eval()(public).logits, student(public).logits
        torch.manual_seed(5)
        untrained = _Watched().eval()(public).logits
    kl = [functional.kl_div(a.log_softmax(1), teacher.softmax(1), reduction="batchmean") for a in (answers, untrained)]
    assert float(kl[0]) < 0.3 * float(kl[1])
