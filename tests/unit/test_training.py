"""The training loop: a function of its seed, resumable to the bit, and honest about what it selects on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mibench.contracts import Batch, Context, ImageSet, Loop, Output, Progress
from mibench.errors import StageFailed
from mibench.keys import stream_seed
from mibench.nets.small import ConvNet
from mibench.primitives import training
from mibench.primitives.samplers import identity_balanced
from mibench.primitives.training import fit_classifier, fit_student, pack, shuffled, unpack
from mibench.protocol.tracks import RecipeSection
from mibench.random import Stream

CLASSES = 3
DATA = ImageSet(Stream(0).uniform(19, 1, 32, 32), torch.arange(19) % CLASSES, CLASSES)
RECIPE = RecipeSection(
    arch="convnet",
    epochs=3,
    batch=8,
    lr=0.01,
    weight_decay=0.01,
    shift=0.1,
    flip=True,
    rotate=10.0,
    scale=0.1,
    light=0.1,
)
STEPS = 9  # three epochs of ceil(19 / 8) batches


class Killed(Exception):
    """Stands for a process that ends between two steps."""


class DroppingOut(ConvNet):
    """Has a layer that draws from torch's global generator."""

    def __init__(self) -> None:
        super().__init__(CLASSES, channels=1, resolution=32)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(self.feature_dim, CLASSES))


def _fit(
    seed: int = 0,
    recipe: RecipeSection = RECIPE,
    folder: Path | None = None,
    kill_at: int | None = None,
    reporter: Any = None,
    data: ImageSet = DATA,
    **hooks: Any,
) -> dict[str, Tensor]:
    """The trained weights. Whatever was drawn from torch's generator before must not matter."""
    torch.manual_seed(stream_seed("weights", seed))
    net = DroppingOut()
    torch.randn(3 if kill_at is None else 5)

    def stream(name: str) -> Stream:
        return Stream(stream_seed("toy", seed, name))

    def loop(name: str, steps: int, state: dict[str, Any]) -> Loop:
        return _Mortal(kill_at, name, steps, state, folder, reporter, seed)

    fit_classifier(net, data, recipe, stream, loop, "train", **hooks)
    assert not net.training
    return {key: value.clone() for key, value in net.state_dict().items()}


class _Mortal(Loop):
    def __init__(self, kill_at: int | None, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._kill_at = kill_at

    def __iter__(self) -> Iterator[int]:
        for step in super().__iter__():
            if step == self._kill_at:
                raise Killed
            yield step


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the state after every step."""
    monkeypatch.setattr("mibench.contracts.loop.CHECKPOINT_SECONDS", -1.0)


# --- seeds -------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_gives_others() -> None:
    first = _fit(0)
    assert _same(first, _fit(0))
    other = _fit(1)
    assert not any(torch.equal(first[key], other[key]) for key in first if key.endswith("weight"))


def test_the_seed_reaches_order_augmentation_and_weights_separately() -> None:
    """With the same start, other streams still give other weights."""
    torch.manual_seed(0)
    start = DroppingOut().state_dict()

    def fit(order: int, augment: int) -> dict[str, Tensor]:
        net = DroppingOut()
        net.load_state_dict(start)
        seeds = {"train.order": order, "train.augment": augment}
        fit_classifier(
            net,
            DATA,
            RECIPE,
            lambda name: Stream(stream_seed(seeds[name.rpartition(".")[0]], name)),
            lambda name, steps, state: Loop(name, steps, state, None, None),
            "train",
        )
        return net.state_dict()

    base = fit(0, 0)
    assert _same(base, fit(0, 0))
    assert not _same(base, fit(1, 0)) and not _same(base, fit(0, 1))


def test_dropout_depends_on_the_seed_and_the_step_alone() -> None:
    def masks(seed: int) -> list[Tensor]:
        torch.manual_seed(99)
        return [torch.rand(5) for _ in Loop("train", 3, {}, None, None, seed)]

    first, again, other = torch.stack(masks(0)), torch.stack(masks(0)), torch.stack(masks(1))
    assert torch.equal(first, again)
    assert len(torch.cat([first, other]).unique(dim=0)) == 6


def test_training_learns() -> None:
    images = torch.zeros(18, 1, 32, 32)
    for i in range(18):
        images[i, :, :, (i % CLASSES) * 10 : (i % CLASSES) * 10 + 10] = 1
    data = ImageSet(images, torch.arange(18) % CLASSES, CLASSES)
    net = ConvNet(CLASSES, 1, 32)
    recipe = RecipeSection(arch="convnet", epochs=12, batch=6, lr=0.01, weight_decay=0.0)
    fit_classifier(net, data, recipe, lambda n: Stream(1), lambda *a: Loop(*a, None, None), "train")
    assert torch.equal(net(images).logits.argmax(1), data.labels)


# --- resuming ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("select", ["last", "best"])
@pytest.mark.parametrize("kill_at", [1, 3, 5, STEPS - 1])
def test_interrupted_training_resumes_to_the_bit(select: str, kill_at: int, tmp_path: Path, every_step: None) -> None:
    recipe = RECIPE.model_copy(update={"select": select, "validation_per_identity": 1, "batch": 7})
    expected = _fit(recipe=recipe)
    with pytest.raises(Killed):
        _fit(recipe=recipe, folder=tmp_path, kill_at=kill_at)
    steps: list[int] = []

    def reporter(step: int, *_: object) -> None:
        steps.append(step)

    assert _same(_fit(recipe=recipe, folder=tmp_path, reporter=reporter), expected)
    assert steps[-1] == STEPS
    assert _same(_fit(recipe=recipe, folder=tmp_path), expected), "resumed when all was done"


def test_resuming_continues_and_does_not_start_again(tmp_path: Path, every_step: None) -> None:
    asked: list[int] = []

    def loss(batch: Batch, output: Output, progress: Progress) -> Tensor:
        asked.append(progress.step)
        return functional.cross_entropy(output.logits, batch.labels)

    with pytest.raises(Killed):
        _fit(folder=tmp_path, kill_at=4, loss=loss)
    _fit(folder=tmp_path, loss=loss)
    assert asked == list(range(STEPS))


def test_several_interruptions_and_an_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is of step 2, the kill at step 6: the steps between are computed again."""
    expected = _fit()
    monkeypatch.setattr("mibench.contracts.loop.CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(Killed):
        _fit(folder=tmp_path, kill_at=2)
    monkeypatch.setattr("mibench.contracts.loop.CHECKPOINT_SECONDS", 1e9)
    with pytest.raises(Killed):
        _fit(folder=tmp_path, kill_at=6)
    assert _same(_fit(folder=tmp_path), expected)


def test_what_is_drawn_after_a_loop_does_not_depend_on_interruptions(tmp_path: Path) -> None:
    """A network made after a finished loop (a student, a second stage) starts the same when that loop was resumed."""
    after = []
    for before in (1, 2):
        torch.manual_seed(before)
        net = nn.Linear(2, 2)
        for _ in Loop("first", 3, {"net": net}, tmp_path, None):
            torch.randn(before)
        after.append(torch.randn(4))
    assert torch.equal(*after)


def test_loops_of_other_names_keep_their_own_state(tmp_path: Path) -> None:
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    list(Loop("a", 2, {"net": a}, tmp_path, None))
    assert list(Loop("b", 2, {"net": b}, tmp_path, None)) == [0, 1]
    again = nn.Linear(2, 2)
    assert list(Loop("a", 2, {"net": again}, tmp_path, None)) == []
    assert torch.equal(again.weight, a.weight)


# --- failures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_fails_at_its_step(value: float, tmp_path: Path) -> None:
    def loss(batch: Batch, output: Output, progress: Progress) -> Tensor:
        return output.logits.abs().sum() * (value if progress.step == 4 else 1.0)

    with pytest.raises(StageFailed, match=rf"The loss of 'train' became {value} at step 4 of {STEPS}\."):
        _fit(loss=loss, folder=tmp_path)


def test_a_sampler_without_batches_fails_and_does_not_hang() -> None:
    def empty(labels: Tensor, batch: int, rng: Stream) -> Iterator[Tensor]:
        return iter(())

    with pytest.raises(StageFailed, match="An epoch of 19 images has no batch of 8"):
        _fit(sampler=empty)


def test_best_needs_validation_images() -> None:
    with pytest.raises(StageFailed, match="validation_per_identity >= 1"):
        _fit(recipe=RECIPE.model_copy(update={"select": "best"}))


# --- selection ---------------------------------------------------------------------------------------------


def _collect(recipe: RecipeSection, data: ImageSet = DATA) -> set[float]:
    """The mean grey of every image that reached the loss, which names the image."""
    plain = recipe.model_copy(update={"shift": 0.0, "flip": False, "rotate": 0.0, "scale": 0.0, "light": 0.0})
    seen: set[float] = set()

    def loss(batch: Batch, output: Output, progress: Progress) -> Tensor:
        seen.update(round(float(image.mean()), 4) for image in batch.images)
        return functional.cross_entropy(output.logits, batch.labels)

    _fit(recipe=plain, loss=loss, data=data)
    return seen


def _greys(n: int = 18) -> ImageSet:
    """Image i is the grey i / n."""
    return ImageSet((torch.arange(n) / n)[:, None, None, None].expand(n, 1, 32, 32), torch.arange(n) % CLASSES, CLASSES)


def test_best_trains_on_everything_but_the_validation_images() -> None:
    data = _greys()
    everything = {round(i / 18, 4) for i in range(18)}
    assert _collect(RECIPE, data) == everything
    recipe = RECIPE.model_copy(update={"select": "best", "validation_per_identity": 2})
    held = everything - _collect(recipe, data)
    assert len(held) == 2 * CLASSES
    labels = [round(grey * 18) % CLASSES for grey in held]
    assert all(labels.count(label) == 2 for label in range(CLASSES))


class _Moody(ConvNet):
    """In eval mode it gets every grey image right or every one wrong, as ``script`` says; keeps its weights then."""

    def __init__(self, script: list[bool]) -> None:
        super().__init__(CLASSES, channels=1, resolution=32)
        self.script = iter(script)
        self.kept: list[dict[str, Tensor]] = []

    def forward(self, images: Tensor, rng: Any = None) -> Output:
        output = super().forward(images, rng)
        if self.training:
            return output
        self.kept.append({key: value.clone() for key, value in self.state_dict().items()})
        labels = (images.mean((1, 2, 3)) * 18).round().long() % CLASSES
        shown = labels if next(self.script) else (labels + 1) % CLASSES
        return output._replace(logits=functional.one_hot(shown, CLASSES).float())


@pytest.mark.parametrize(
    ("script", "kept"), [([False, True, True], 1), ([True, False, False], 0), ([False, False, True], 2)], ids=str
)
def test_best_keeps_the_weights_of_the_first_best_epoch(script: list[bool], kept: int) -> None:
    recipe = RecipeSection(
        arch="convnet", epochs=3, batch=8, lr=0.01, weight_decay=0.0, select="best", validation_per_identity=2
    )
    net = _Moody(script)
    fit_classifier(net, _greys(), recipe, lambda n: Stream(1), lambda *a: Loop(*a, None, None), "train")
    assert len(net.kept) == 3, "once per epoch"
    assert _same(net.state_dict(), net.kept[kept])
    assert not any(_same(net.kept[kept], other) for i, other in enumerate(net.kept) if i != kept)


def test_best_measures_accuracy_on_the_held_out_images_in_eval_mode() -> None:
    net = DroppingOut()
    validation = ImageSet(DATA.images[:6], DATA.labels[:6], CLASSES)
    best = training._Best(net.train(), validation)
    best.consider()
    assert net.training
    predicted = net.eval()(validation.images).logits.argmax(1)
    assert best._accuracy == pytest.approx(float((predicted == validation.labels).float().mean()))


# --- hooks -------------------------------------------------------------------------------------------------


def test_progress_counts_epochs_and_steps_from_zero() -> None:
    seen: list[Progress] = []

    def loss(batch: Batch, output: Output, progress: Progress) -> Tensor:
        seen.append(progress)
        return functional.cross_entropy(output.logits, batch.labels)

    _fit(loss=loss)
    assert [p.epoch for p in seen] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [p.step for p in seen] == list(range(STEPS)) and {(p.epochs, p.steps) for p in seen} == {(3, STEPS)}


def test_the_defense_augments_last_and_the_loss_sees_it() -> None:
    def augment(images: Tensor, rng: Stream) -> Tensor:
        assert images.min() >= 0 and images.max() <= 1
        return torch.full_like(images, 0.25)

    def loss(batch: Batch, output: Output, progress: Progress) -> Tensor:
        assert (batch.images == 0.25).all()
        return functional.cross_entropy(output.logits, batch.labels)

    _fit(augment=augment, loss=loss)


def test_an_epoch_shows_every_image_once_in_its_own_order() -> None:
    first, second = (torch.cat(list(shuffled(19, 8, Stream(seed)))) for seed in (0, 1))
    assert sorted(first.tolist()) == list(range(19)) and not torch.equal(first, second)
    assert [len(b) for b in shuffled(19, 8, Stream(0))] == [8, 8, 3]
    assert [len(b) for b in shuffled(17, 8, Stream(0))] == [8, 8], "batch norm cannot use a single image"


def _record(batches: list[list[int]]) -> Callable[[Batch, Output, Progress], Tensor]:
    def loss(batch: Batch, output: Output, progress: Progress) -> Tensor:
        batches.append(batch.labels.tolist())
        return functional.cross_entropy(output.logits, batch.labels)

    return loss


def test_a_p_by_k_sampler_shapes_every_training_batch() -> None:
    """Also past the sampler's epochs, which are shorter than the recipe's."""
    batches: list[list[int]] = []
    _fit(sampler=lambda labels, batch, rng: identity_balanced(labels, batch, 4, rng), loss=_record(batches))
    assert len(batches) == STEPS
    for labels in batches:
        assert len(labels) == 8 and sorted(labels.count(label) for label in set(labels)) == [4, 4]


def test_a_sampler_that_declines_leaves_the_shuffled_epoch() -> None:
    declined: list[list[int]] = []
    plain: list[list[int]] = []
    _fit(sampler=lambda labels, batch, rng: None, loss=_record(declined))
    _fit(loss=_record(plain))
    assert declined == plain


def test_parameters_without_gradient_stay() -> None:
    torch.manual_seed(0)
    net = ConvNet(CLASSES, 1, 32)
    net.freeze(2)
    before = {key: value.clone() for key, value in net.named_parameters()}
    fit_classifier(net, DATA, RECIPE, lambda n: Stream(1), lambda *a: Loop(*a, None, None), "train")
    for name, value in net.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith(("convs.0", "convs.1")), name


def test_the_loop_reports_its_last_step_and_loss() -> None:
    told: list[tuple[int, int, float | None, str]] = []
    loop = Loop("train", 5, {}, None, lambda *event: told.append(event))
    for step in loop:
        loop.report(loss=torch.tensor(float(step)))
    assert told[-1] == (5, 5, 4.0, "train")


# --- students --------------------------------------------------------------------------------------------------------


class _StudentContext(Context):
    """Loops in a folder, streams by name."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def stream(self, name: str) -> Stream:
        return Stream(stream_seed(name))

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Loop:
        return Loop(name, steps, state, self.folder, None)


def _student(folder: Path | None, stop_at: int | None = None) -> nn.Module:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 5, 0.5)

    def loss(step: int, rng: Stream) -> Tensor:
        if step == stop_at:
            raise InterruptedError
        assert net.training
        x = rng.normal(16, 3)
        return (net(x)[:, 0] - x.sum(1)).square().mean()

    return fit_student(_StudentContext(folder), "student", net, 20, loss, optimiser, schedule)


def test_a_student_learns_is_frozen_and_resumes_to_the_bit(tmp_path: Path, every_step: None) -> None:
    whole = _student(None)
    assert not whole.training and not any(p.requires_grad for p in whole.parameters())
    with pytest.raises(InterruptedError):
        _student(tmp_path, stop_at=11)
    resumed = _student(tmp_path)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    x = Stream(5).normal(64, 3)
    error = (whole(x)[:, 0] - x.sum(1)).square().mean()
    assert error < 0.7 * x.sum(1).square().mean()


def test_packed_networks_unpack_by_name() -> None:
    one, other = (nn.Linear(2, 2) for _ in range(2))
    artifact = pack(a=one, ab=other)
    for name, source in (("a", one), ("ab", other)):
        filled = unpack(nn.Linear(2, 2), artifact, name)
        assert torch.equal(filled.weight, source.weight) and not filled.weight.requires_grad
    with pytest.raises(RuntimeError, match="Missing"):
        unpack(nn.Linear(2, 2), artifact, "b")
