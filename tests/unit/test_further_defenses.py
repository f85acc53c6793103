"""Newer defenses (specification newer, B) and the hook for images that are mixed with their labels."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from torch import Tensor
from torch.nn import functional

from mibench.contracts import Batch, ImageSet, Loop, Output, Progress, TrackInfo
from mibench.errors import UserError
from mibench.keys import stream_seed
from mibench.nets.small import ConvNet
from mibench.primitives.adversarial import pgd
from mibench.primitives.samplers import held_out
from mibench.primitives.training import fit_classifier
from mibench.protocol.params import resolve
from mibench.protocol.tracks import RecipeSection
from mibench.random import Stream
from mibench.registry import Registry

CLASSES = 5
TRACK = TrackInfo("tiny", "faces", 32, 1, CLASSES, (0.449,))
RECIPE = RecipeSection(arch="convnet", epochs=2, batch=8, lr=0.01, weight_decay=0.0)
START = Progress(0, 1, 0, 1)
REGISTRY = Registry()


def _module(name: str) -> ModuleType:
    return sys.modules[REGISTRY.plugin("defense", name).__module__]


def _defense(name: str, track: TrackInfo = TRACK, **params: Any) -> Any:
    cls = REGISTRY.plugin("defense", name)
    return cls(resolve(cls.Params, params, name), track)


def _images(n: int, side: int = 32) -> Tensor:
    return Stream(0).uniform(n, 1, side, side)


def _batch(n: int = 20) -> Batch:
    return Batch(_images(n), torch.arange(n) % CLASSES)


def _network(seed: int = 0) -> ConvNet:
    torch.manual_seed(seed)
    return ConvNet(CLASSES, 1, 32)


def _fit(recipe: RecipeSection = RECIPE, **hooks: Any) -> dict[str, Tensor]:
    net, batch = _network(), _batch()
    data = ImageSet(batch.images, batch.labels, CLASSES)
    streams, loop = (lambda name: Stream(stream_seed(name))), (lambda *given: Loop(*given, None, None))
    fit_classifier(net, data, recipe, streams, loop, "train", **hooks)
    return net.state_dict()


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


# --- images mixed with their labels ----------------------------------------------------------------------------------


def _relabelled(share: float, other: Callable[[Tensor], Tensor]) -> Callable[[Batch, Stream], Batch]:
    return lambda batch, rng: replace(batch, others=other(batch.labels), share=share)


def test_a_share_of_one_is_training_as_usual_and_a_share_of_none_is_training_on_the_others() -> None:
    usual = _fit()
    assert _same(usual, _fit(mix=_relabelled(1.0, lambda labels: (labels + 1) % CLASSES)))
    others = _fit(mix=_relabelled(0.0, lambda labels: (labels + 1) % CLASSES))
    assert not _same(usual, others)

    def next_label(batch: Batch, output: Output, progress: Progress) -> Tensor:
        return functional.cross_entropy(output.logits, (batch.labels + 1) % CLASSES)

    assert _same(others, _fit(loss=next_label))


def test_the_loss_of_another_defense_is_asked_about_both_labels() -> None:
    asked = []

    def loss(batch: Batch, output: Output, progress: Progress) -> Tensor:
        asked.append(batch.labels.tolist())
        return functional.cross_entropy(output.logits, batch.labels)

    _fit(RECIPE.model_copy(update={"epochs": 1}), loss=loss, mix=_relabelled(0.3, lambda labels: labels.flip(0)))
    assert len(asked) == 6 and all(one == other[::-1] for one, other in zip(asked[::2], asked[1::2], strict=True))


def test_what_mixing_draws_changes_no_other_draw() -> None:
    """The order and the augmentation of a run do not depend on whether, and how much, a defense draws to mix."""

    def drawing(batch: Batch, rng: Stream) -> Batch:
        rng.uniform(7)
        return batch

    varied = RECIPE.model_copy(update={"shift": 0.1, "flip": True})
    assert _same(_fit(varied), _fit(varied, mix=drawing))


@pytest.mark.parametrize("a", [0.2, 1.0, 3.0])
def test_shares_follow_the_beta_distribution(a: float) -> None:
    drawn = Stream(3).beta(a, a, 4000)
    assert drawn.shape == (4000,) and float(drawn.min()) >= 0 and float(drawn.max()) <= 1
    assert scipy.stats.kstest(drawn.double().numpy(), scipy.stats.beta(a, a).cdf).pvalue > 0.01


def test_mixup_mixes_every_image_with_another_of_the_batch() -> None:
    batch = _batch()
    out = _defense("mixup").mix(batch, Stream(1))
    by_hand = torch.stack([out.share * batch.images + (1 - out.share) * other for other in batch.images])
    for i, image in enumerate(out.images):
        [j] = [j for j in range(20) if torch.allclose(by_hand[j, i], image, atol=1e-6)]
        assert out.others[i] == batch.labels[j]
    assert torch.equal(out.labels, batch.labels)
    one = torch.arange(20)
    assert torch.allclose(_module("mixup").mixture(batch.images, one, 0.3), batch.images, atol=1e-6)


def test_cutmix_pastes_pixels_and_counts_them() -> None:
    defense, batch = (
        _defense("cutmix"),
        Batch(torch.arange(20.0).reshape(20, 1, 1, 1).expand(20, 1, 32, 32) / 20, _batch().labels),
    )
    shares = []
    for seed in range(300):
        out = defense.mix(batch, Stream(seed))
        changed = out.images != batch.images
        for i in range(20):
            values = out.images[i].unique().tolist()
            partner = [v for v in values if v != float(batch.images[i, 0, 0, 0])]
            assert len(partner) <= 1
            if partner:
                assert int(batch.labels[round(partner[0] * 20)]) == int(out.others[i])
                assert float(changed[i].float().mean()) == pytest.approx(1 - out.share)
        shares.append(out.share)
    # E(1 - lam) = 1/2 before the border cuts; a square of side s keeps (s - s^2 / 4)^2, s^2 = 1 - lam uniform.
    kept = sum(((u**0.5) - u / 4) ** 2 for u in torch.linspace(0, 1, 1001).tolist()) / 1001
    assert sum(shares) / len(shares) == pytest.approx(1 - kept, abs=0.04)
    lam = float(Stream(4).beta(1.0, 1.0, 1))
    assert _defense("cutmix", literal=True).mix(batch, Stream(4)).share == lam


def test_cutmix_leaves_the_other_batches_alone() -> None:
    batch, mixed = _batch(), 0
    for seed in range(400):
        out = _defense("cutmix", p=0.25).mix(batch, Stream(seed))
        mixed += out.others is not None
        assert out.others is not None or out is batch
    assert mixed == pytest.approx(100, abs=4 * math.sqrt(400 * 0.25 * 0.75))


# --- cutout ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "share"), [(0.5, 0.19), (0.586, 0.25)])
def test_cutout_hides_what_its_docstring_says(side: float, share: float) -> None:
    images = 0.6 + 0.3 * _images(4000)
    hidden = _defense("cutout", side=side).augment(images, Stream(1)) != images
    assert float(hidden.float().mean()) == pytest.approx(share, abs=0.008)
    rows, columns = hidden.any(3).sum(2), hidden.any(2).sum(2)
    length = round(side * 32)
    assert int(rows.max()) == int(columns.max()) == length and int(rows.min()) == length - length // 2
    assert torch.equal(hidden.sum((1, 2, 3)), (rows * columns)[:, 0]), "a rectangle"


def test_cutout_fills_with_the_tracks_constant_and_literally_twice_as_wide() -> None:
    images = 0.6 + 0.3 * _images(200)
    out = _defense("cutout", side=0.25, literal=True).augment(images, Stream(1))
    hidden = out != images
    assert int(hidden.any(3).sum(2).max()) == 16 and bool((out[hidden] == torch.tensor(0.449)).all())


# --- LoFt ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 3])
def test_the_logits_of_loft_have_the_rank_of_its_head(rank: int) -> None:
    net = _defense("loft", rank=rank).build(_network()).double().eval()
    output = net(_images(40).double())
    centred = output.logits - net.head[-1].bias
    assert int(torch.linalg.matrix_rank(centred, atol=1e-10)) == rank
    assert torch.equal(output.features, _network().double().eval()(_images(40).double()).features), "the head's input"


def test_the_confidence_loss_draws_every_image_to_one_confidence() -> None:
    """As a function of p_y: falls until exp(-1/8), rises after it, flat where the answer is wrong."""
    p = torch.linspace(0.001, 0.999, 999, dtype=torch.float64, requires_grad=True)
    logits = torch.stack([p.log(), (1 - p).log()], 1)
    label = torch.zeros(1, dtype=torch.long)
    loss = _module("loft").confidence_loss
    values = torch.stack([loss(row[None], label, 8.0, 0.25) for row in logits])
    (slope,) = torch.autograd.grad(values.sum(), p)
    least = math.exp(-1 / 8)
    assert bool((slope[p < least] <= 0).all()) and bool((slope[p > least] > 0).all())
    assert float(p[values.argmin()].detach()) == pytest.approx(least, abs=1e-3)
    assert float(slope[:200].abs().max()) < 1e-4
    assert float(values.detach().min()) == pytest.approx(-0.25 / (8 * math.e), rel=1e-4)


def test_the_adaptation_has_a_recipe_of_its_own() -> None:
    recipe = RecipeSection(arch="convnet", epochs=100, batch=96, lr=1e-3, weight_decay=0.1, crop=(0.9, 1.0), flip=True)
    own = _defense("loft", confidence=True).adaptation(recipe)
    assert (own.optimiser, own.lr, own.momentum, own.epochs, own.milestones) == ("sgd", 2e-5, 0.9, 5, (3, 4))
    assert own.flip and own.crop is None and own.batch == 96 and own.gamma == 0.1


# --- adversarial training and its opposite ---------------------------------------------------------------------------


def test_pgd_stays_in_its_box_and_in_the_range_and_reaches_a_corner() -> None:
    """On a linear loss every step has the same sign: x' is the box's corner where the range allows it."""
    images, direction = _images(6, 8), Stream(2).normal(6, 1, 8, 8)
    start = 0.1 * (2 * Stream(3).uniform(6, 1, 8, 8) - 1)
    found = pgd(images, start, lambda x: (direction * x).sum(), 0.1, 0.05, 5)
    assert torch.allclose(found, (images - 0.1 * direction.sign()).clamp(0, 1), atol=1e-6)
    one = pgd(images, torch.zeros_like(images), lambda x: (direction * x).sum(), 0.1, 0.03, 1)
    assert torch.allclose(one, (images - 0.03 * direction.sign()).clamp(0, 1), atol=1e-6)


def test_a_wrong_class_is_never_the_label_and_every_other_one_comes() -> None:
    labels = torch.arange(1000) % CLASSES
    wrong = _module("atat").wrong_classes(labels, Stream(1).integers(CLASSES, 1000), CLASSES)
    pairs = set(zip(labels.tolist(), wrong.tolist(), strict=True))
    assert pairs == {(i, j) for i in range(CLASSES) for j in range(CLASSES) if i != j}


class _Counted(ConvNet):
    """Counts the batches that it sees in training mode."""

    seen = 0

    def forward(self, images: Tensor, rng: Any = None) -> Output:
        self.seen += self.training
        return super().forward(images, rng)


@pytest.mark.parametrize(("name", "passes"), [("atat", 5 + 2), ("at", 10 + 1)])
def test_every_pass_of_a_step_is_in_training_mode(name: str, passes: int) -> None:
    net = _Counted(CLASSES, 1, 32).train()
    loss = _defense(name).objective(net, _batch(), Stream(1), START)
    assert net.seen == passes and all(p.grad is None for p in net.parameters())
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_adversarial_training_goes_away_from_the_label_and_its_opposite_towards_another() -> None:
    """Seen in the loss of one step: the changed images are worse known, or the wrong class is better liked."""
    net, batch = _network().eval(), _batch()
    clean = functional.cross_entropy(net(batch.images).logits, batch.labels)
    against = _defense("at", epsilon=0.1, alpha=0.02).objective(net, batch, Stream(1), START)
    assert bool(against > clean)
    atat = _defense("atat", epsilon=0.1, alpha=0.02)
    wrong = (batch.labels + 1) % CLASSES
    changed = atat.towards(net, batch.images, wrong, Stream(1))
    assert float((changed - batch.images).abs().max()) <= 0.1 + 1e-6
    before, after = (functional.cross_entropy(net(x).logits, wrong) for x in (batch.images, changed))
    assert bool(after < before)
    weightless = _defense("atat", weight=0).objective(net, batch, Stream(1), START)
    assert torch.equal(weightless, clean)


# --- DCD -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "curvature", "flipped", "moved"), [(0.2, 1.0, 0, 4), (0.5, 0.5, 2, 2), (0.0, 0.0, 0, 0)]
)
def test_dcd_counts(loss: float, curvature: float, flipped: int, moved: int) -> None:
    """Rows (n + s) + (s + own) and exactly floor(rho n) other labels in each protected class, none of them its own."""
    data = ImageSet((255 * _images(20)).floor() / 255, torch.arange(20) % CLASSES, CLASSES)  # four images each
    defense = _defense("dcd", loss_control=loss, curvature_control=curvature)
    surrogates, classes = 0.5 * torch.ones(6, 1, 32, 32), torch.tensor([0, 0, 0, 2, 2, 2])
    out = defense.poisoned(data, surrogates, classes, [0, 2], Stream(1))
    images, labels = out.images[:], out.labels
    assert len(out) == len(labels) == (20 + 6) + (6 + 8)
    assert torch.allclose(images[:20], data.images) and torch.equal(labels[20:32], classes.repeat(2))
    for c, rows in ((0, slice(32, 36)), (2, slice(36, 40))):
        mine = data.labels == c
        assert int((labels[:20][mine] != c).sum()) == flipped and int((labels[rows] != c).sum()) == moved
        assert torch.allclose(images[rows], data.images[mine], atol=5 * 8 / 255) and not torch.equal(
            images[rows], data.images[mine]
        )
    unprotected = (data.labels != 0) & (data.labels != 2)
    assert torch.equal(labels[:20][unprotected], data.labels[unprotected])
    deviation = 255 * (images[32:] - data.images[own_of(data.labels)])
    assert float(deviation.mean()) == pytest.approx(-0.5, abs=0.3), "cut down to bytes, less what the range cuts off"
    assert float(deviation.std()) == pytest.approx(8, rel=0.1)


def own_of(labels: Tensor) -> Tensor:
    return _module("dcd").own_images(labels, [0, 2])


# --- SSD -------------------------------------------------------------------------------------------------------------


def _distributions(n: int, k: int, sharpness: float, seed: int) -> Tensor:
    return (sharpness * Stream(seed).normal(n, k).double()).softmax(1)


def test_water_filling_is_the_least_divergence_within_the_budget() -> None:
    """Against a general solver, and by its constraints."""
    f, q = _distributions(6, 5, 2.0, 1), _distributions(6, 5, 2.0, 2)
    distance = (f - q).abs().sum(1)
    budget = distance * torch.tensor([0.1, 0.3, 0.5, 0.9, 1.1, 0.0]).double()
    p = _module("ssd").water_filling(f, q, budget)
    assert torch.allclose(p.sum(1), torch.ones(6).double(), atol=1e-12) and bool((p > 0).all())
    assert torch.allclose((p - f).abs().sum(1), torch.minimum(budget, distance), atol=1e-12)
    assert torch.equal(p[4], q[4]) and torch.allclose(p[5], f[5], atol=1e-12)
    for f_row, q_row, p_row, limit in zip(f.numpy(), q.numpy(), p.numpy(), budget.numpy(), strict=True):
        # p = f + up - down, up and down >= 0, makes the constraint linear
        def divergence(x: Any, f: Any = f_row, q: Any = q_row) -> float:
            p = np.maximum(f + x[:5] - x[5:], 1e-15)
            return float((p * np.log(p / q)).sum())

        constraints = [
            {"type": "eq", "fun": lambda x: x[:5].sum() - x[5:].sum()},
            {"type": "ineq", "fun": lambda x, limit=limit: limit - x.sum()},
            {"type": "ineq", "fun": lambda x, f=f_row: f + x[:5] - x[5:] - 1e-9},
        ]
        start = np.full(10, 1e-4 * float(f_row.min()))
        found = scipy.optimize.minimize(divergence, start, bounds=[(0, 1)] * 10, constraints=constraints, tol=1e-12)
        ours = float((p_row * np.log(p_row / q_row)).sum())
        assert ours <= found.fun + 1e-6


def _shielded(**params: Any) -> tuple[ConvNet, Any]:
    defense = _defense("ssd", **params)
    net = defense.build(_network())
    net.head.means.copy_(_distributions(CLASSES, CLASSES, 2.0, 5))
    return net.eval(), defense


@torch.no_grad()
def test_the_shield_is_up_only_where_it_is_served_and_keeps_its_budget() -> None:
    plain, images = _network().eval()(_images(200)).logits, _images(200)
    net, defense = _shielded(epsilon=0.2)
    assert torch.equal(net(images, Stream(1)).logits, plain)
    served = defense.deploy(net)(images, Stream(1)).logits
    f, p = plain.double().softmax(1), served.double().softmax(1)
    assert torch.allclose(served.exp().sum(1), torch.ones(200), atol=1e-5), "log scores"
    assert bool(((p - f).abs().sum(1) <= 0.2 * _module("ssd").entropy(f) + 1e-6).all())
    assert not torch.allclose(p, f, atol=1e-3)
    assert torch.equal(served, net(images, Stream(1)).logits) and not torch.equal(served, net(images, Stream(2)).logits)


@torch.no_grad()
def test_without_a_budget_nothing_changes_and_with_any_the_drawn_class_is_served() -> None:
    images = _images(2000)
    plain = _network().eval()(images).logits.double().softmax(1)
    net, defense = _shielded(epsilon=0, temperature=0.5)
    assert torch.allclose(defense.deploy(net)(images, Stream(1)).logits.exp().double(), plain, atol=1e-6)
    net, defense = _shielded(epsilon=1000, temperature=0.5)
    served = defense.deploy(net)(images, Stream(1)).logits.exp().double()
    drawn = (served[:, None] - net.head.means[None]).abs().sum(2).argmin(1)
    assert torch.allclose(served, net.head.means[drawn], atol=1e-6)
    counts = torch.bincount(drawn, minlength=CLASSES)
    expected = (plain / 0.5).softmax(1).sum(0)
    assert scipy.stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 0.01


def test_held_out_images_are_a_share_of_each_person() -> None:
    labels = torch.arange(35) % CLASSES
    held = held_out(labels, 0.3, Stream(1))
    assert [int(held[labels == label].sum()) for label in range(CLASSES)] == [3] * CLASSES  # ceil(2.1) of 7
    assert not held_out(labels, 0.0, Stream(1)).any()
    assert int(held_out(labels, 0.99, Stream(1)).sum()) == 6 * CLASSES
    assert not torch.equal(held, held_out(labels, 0.3, Stream(2)))
    with pytest.raises(UserError, match="single training image"):
        held_out(torch.tensor([0, 0, 1]), 0.1, Stream(1))


def test_the_shield_leaves_the_training_as_it_is() -> None:
    """Its target has the weights of the undefended one, so that only its answers differ."""
    undefended = _fit()
    defense, batch = _defense("ssd"), _batch()
    net = defense.build(_network())
    data = ImageSet(batch.images, batch.labels, CLASSES)
    streams, loop = (lambda name: Stream(stream_seed(name))), (lambda *given: Loop(*given, None, None))
    fit_classifier(net, data, RECIPE, streams, loop, "train", defense.loss, defense.augment, defense.sampler)
    named = {name.replace("head.inner.", "head."): value for name, value in net.state_dict().items()}
    del named["head.means"]
    assert _same(undefended, named) and undefended.keys() == named.keys()


# --- SCA -------------------------------------------------------------------------------------------------------------


def _layer(threshold: float, tau: float = 10.0, iterations: int = 60) -> Any:
    torch.manual_seed(0)
    return _module("sca").SparseCoding(1, 16, 5, threshold, tau, iterations)


def _smooth(n: int = 4) -> Tensor:
    return functional.avg_pool2d(_images(n, 36), 5, 1)


def test_atoms_have_norm_one_and_the_code_is_sparser_for_a_larger_threshold() -> None:
    assert torch.allclose(_layer(0.5).dictionary.flatten(1).norm(dim=1), torch.ones(16))
    codes = [_layer(threshold)(_smooth()) for threshold in (0.1, 0.5, 1.5, 1e6)]
    active = [float((code > 0).float().mean()) for code in codes]
    assert all(float(code.min()) >= 0 for code in codes) and active == sorted(active, reverse=True)
    assert active[-1] == 0 and 0.02 < active[1] < 0.3
    assert codes[0].shape == (4, 16, 32, 32)


def test_a_faster_code_is_the_slow_one() -> None:
    slow, fast = _layer(0.5, 100.0, 500)(_smooth()), _layer(0.5, 10.0, 50)(_smooth())
    assert float((fast - slow).norm() / slow.norm()) < 0.05


def test_competition_explains_the_image_better_than_what_fits() -> None:
    """Drawn from its code, an image is nearer than from the rectified drive; and light or contrast changes no code."""
    x, layer = _smooth(), _layer(0.1, 30.0, 300)
    normal = (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)

    def error(code: Tensor) -> float:
        drawn = functional.conv_transpose2d(code, layer.dictionary, padding=2)
        return float((drawn - normal).norm() / normal.norm())

    drive = functional.relu(functional.conv2d(normal, layer.dictionary, padding=2) - 0.1)
    assert error(layer(x)) < 0.6 < error(drive)
    assert torch.allclose(layer(0.5 * x + 0.2), layer(x), atol=1e-3)


def test_sca_replaces_two_convolutions_and_their_dictionaries_stay() -> None:
    net = _defense("sca", iterations=5).build(_network())
    kinds = [type(stage[0]).__name__ for stage in net.convs]
    assert kinds == ["SparseCoding", "SparseCoding", "Conv2d", "Conv2d"]
    assert not any("dictionary" in name for name, _ in net.named_parameters())
    assert net(_images(3)).features.shape == (3, net.feature_dim)
    assert "small network" in _defense("sca", replace(TRACK, arch="vgg16")).skip()
