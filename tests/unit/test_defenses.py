"""Defenses: the checks of their specification (F.3 to F.7), frozen layers, and parameters that are refused."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections import Counter
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mibench.contracts import Batch, Defense, ImageSet, Loop, Output, Progress, TrackInfo, TrainContext
from mibench.errors import UserError
from mibench.nets.base import Classifier
from mibench.nets.small import ConvNet
from mibench.primitives.samplers import identity_balanced
from mibench.primitives.training import fit_classifier
from mibench.protocol.params import resolve
from mibench.protocol.tracks import RecipeSection
from mibench.random import RowStreams, Stream
from mibench.registry import Registry

CLASSES = 5
TRACK = TrackInfo("tiny", "faces", 32, 1, CLASSES, (0.449,), public_labelled=True)
RECIPE = RecipeSection(arch="convnet", epochs=2, batch=8, lr=0.01, weight_decay=0.01)


def _module(name: str) -> ModuleType:
    return sys.modules[Registry().plugin("defense", name).__module__]


def _defense(name: str, track: TrackInfo = TRACK, **params: Any) -> Any:
    cls: type[Defense] = Registry().plugin("defense", name)
    return cls(resolve(cls.Params, params, name), track)


def _images(n: int = 20, classes: int = CLASSES, seed: int = 0) -> ImageSet:
    return ImageSet(Stream(seed).uniform(n, 1, 32, 32), torch.arange(n) % classes, classes)


def _network(num_classes: int = CLASSES, seed: int = 0) -> ConvNet:
    torch.manual_seed(seed)
    return ConvNet(num_classes, channels=1, resolution=32)


def _progress(epoch: int, epochs: int = 100) -> Progress:
    return Progress(epoch, epochs, epoch * 10, epochs * 10)


# --- label smoothing ---------------------------------------------------------------------------------------


def _logits(rows: int = 12) -> tuple[Tensor, Tensor]:
    return 3 * Stream(4).normal(rows, CLASSES), Stream(5).integers(CLASSES, rows)


def _ls(alpha: float, epoch: int = 99, epochs: int = 100) -> float:
    logits, labels = _logits()
    batch, output = Batch(torch.zeros(12, 1, 32, 32), labels), Output(logits, logits, {})
    return float(_defense("ls", alpha=alpha).loss(batch, output, _progress(epoch, epochs)))


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5])
def test_positive_smoothing_is_the_frameworks(alpha: float) -> None:
    logits, labels = _logits()
    expected = float(functional.cross_entropy(logits, labels, label_smoothing=alpha))
    for epoch in (0, 60, 99):
        assert _ls(alpha, epoch) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("epoch", "alpha"),
    [(0, 0.0), (49, 0.0), (50, -0.001), (51, -0.002), (74, -0.025), (75, -0.05), (99, -0.05)],
)
def test_negative_smoothing_sets_in_late(epoch: int, alpha: float) -> None:
    """Spec F.3, through the loss, which is linear in alpha."""
    logits, labels = _logits()
    log_p = logits.log_softmax(1)
    own, everyone = -log_p[range(12), labels].mean(), -log_p.mean(1).mean()
    assert _ls(-0.05, epoch) == pytest.approx(float((1 - alpha) * own + alpha * everyone), rel=1e-6)
    assert _module("ls").scheduled(-0.05, _progress(epoch)) == pytest.approx(alpha, abs=1e-12)


# --- BiDO --------------------------------------------------------------------------------------------------


def _kernels(m: int = 32, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Two Gaussian kernels and a label kernel of eight classes."""
    bido, stream = _module("bido"), Stream(6)
    a = stream.normal(m, 40).to(dtype)
    b = (a[:, :20] + stream.normal(m, 20)).to(dtype)
    one_hot = functional.one_hot(torch.arange(m) % 8).to(dtype)
    return bido.gaussian_kernel(a, 5.0), bido.gaussian_kernel(b, 5.0), one_hot @ one_hot.T


def _two_sided(a: Tensor, b: Tensor, eps: float = 1e-5) -> float:
    m = len(a)
    h = torch.eye(m, dtype=a.dtype) - 1 / m
    r = [torch.linalg.solve(h @ k @ h + eps * m * torch.eye(m, dtype=a.dtype), h @ k @ h) for k in (a, b)]
    return float((r[0] @ r[1]).trace())


def _dependence(name: str, *kernels: Tensor) -> float:
    become, measure = _module("bido").MEASURES[name]
    return float(measure(*map(become, kernels)))


def test_hsic_equals_its_two_sided_form() -> None:
    """Spec F.5; in float64, where neither form's rounding shows."""
    a, b, labels = _kernels()
    for pair in ((a, b), (a, labels), (b, labels)):
        assert _dependence("hsic", *pair) == pytest.approx(_two_sided(*pair), rel=1e-8)


def test_hsic_is_accurate_in_float32_at_the_published_batch() -> None:
    exact, single = _kernels(64), _kernels(64, torch.float32)
    for i, j in ((0, 1), (0, 2)):
        expected = _two_sided(exact[i], exact[j])
        assert _dependence("hsic", single[i], single[j]) == pytest.approx(expected, rel=1e-2)


def test_hsic_of_a_full_rank_kernel_with_itself_is_nearly_m_minus_one() -> None:
    m = 24
    identity = torch.eye(m, dtype=torch.float64)
    assert _dependence("hsic", identity, identity) == pytest.approx(m - 1, rel=1e-3)


def test_hsic_with_labels_is_at_most_classes_minus_one() -> None:
    a, _, labels = _kernels()
    assert _dependence("hsic", a, labels) <= 7
    assert _dependence("hsic", labels, labels) == pytest.approx(7, rel=1e-3)


def test_coco_of_known_kernels() -> None:
    """||HKH HKH||_F of K = c c' with a centred unit c is 1, so the measure is 1 / m."""
    c = torch.tensor([1.0, -1.0, 1.0, -1.0]) / 2
    kernel = torch.outer(c, c)
    assert _dependence("coco", kernel, kernel) == pytest.approx(0.25)
    assert _dependence("coco", kernel + 3.0, kernel) == pytest.approx(0.25), "not centred"


def test_gaussian_kernel_by_hand() -> None:
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    expected = math.exp(-25 / (2 * 2.0**2 * 2))
    assert torch.allclose(_module("bido").gaussian_kernel(rows, 2.0), torch.tensor([[1, expected], [expected, 1]]))


@pytest.mark.parametrize("measure", ["hsic", "coco"])
def test_bido_loss_punishes_data_and_rewards_labels_in_every_layer(measure: str) -> None:
    images = _images()
    net = _network().eval()
    output = net(images.images)
    batch = Batch(images.images, images.labels)
    plain = float(functional.cross_entropy(output.logits, images.labels).detach())

    def loss(**weights: float) -> float:
        bido = _defense("bido", measure=measure, **weights)
        return float(bido.loss(batch, output, _progress(0)).detach())

    bido = _defense("bido", measure=measure)
    one_hot = functional.one_hot(images.labels, CLASSES).float()
    parts = bido.dependences([z.flatten(1) for z in output.hidden.values()], images.images.flatten(1), one_hot)
    assert len(parts) == 5
    to_data, to_label = (float(torch.stack(part).sum().detach()) for part in zip(*parts, strict=True))
    assert loss(lambda_x=0.0, lambda_y=0.0) == pytest.approx(plain, rel=1e-5)
    assert loss(lambda_x=0.05, lambda_y=0.5) == pytest.approx(plain + 0.05 * to_data - 0.5 * to_label, rel=1e-4)


def test_bido_takes_x_as_the_target_does_where_asked() -> None:
    """Mean 0.5 and std 0.5 double every distance between pixels, so the kernel of X is its own fourth power."""
    images, net, module = _images(), _network().eval(), _module("bido")
    track = dataclasses.replace(TRACK, normalisation=(0.5, 0.5))
    output, batch = net(images.images), Batch(images.images, images.labels)
    pixel, asked = (_defense("bido", track, data_space=space, lambda_y=0.0) for space in ("pixel", "model_input"))
    k_x = module.gaussian_kernel(images.images.flatten(1), 5.0)
    expected = functional.cross_entropy(output.logits, images.labels)
    for z in output.hidden.values():
        expected = expected + 0.05 * module.hsic(
            module.whitened(module.gaussian_kernel(z.flatten(1), 5.0)), module.whitened(k_x**4)
        )
    found = float(asked.loss(batch, output, _progress(0)).detach())
    assert found == pytest.approx(float(expected.detach()), rel=1e-3)
    assert float(pixel.loss(batch, output, _progress(0)).detach()) != pytest.approx(found, rel=1e-2)


def test_bido_gradients_are_finite() -> None:
    images, net = _images(), _network()
    loss = _defense("bido").loss(Batch(images.images, images.labels), net(images.images), _progress(0))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    assert net.convs[0][0].weight.grad.abs().sum() > 0


# --- P x K batches -----------------------------------------------------------------------------------------


def _check_batches(labels: Tensor, batches: list[Tensor], identities: int, per_identity: int) -> None:
    assert batches
    for indices in batches:
        counts = Counter(labels[indices].tolist())
        assert len(counts) == identities and set(counts.values()) == {per_identity}


def test_every_batch_has_p_labels_with_k_images() -> None:
    """Spec F.6: 16 labels, 4 each, of 40 identities with 4 to 13 images."""
    labels = torch.cat([torch.full((4 + identity % 10,), identity) for identity in range(40)])
    labels = labels[Stream(0).permutation(len(labels))]
    batches = list(_defense("bido").sampler(labels, 64, Stream(1)))
    _check_batches(labels, batches, 16, 4)
    everything = torch.cat(batches)
    assert len(everything.unique()) == len(everything), "an image twice in one epoch"
    used = Counter(labels[everything].tolist())
    left = [(4 + identity % 10) // 4 - used[identity] // 4 for identity in range(40)]
    assert min(left) >= 0
    assert sum(groups > 0 for groups in left) < 16, "a batch more could have been made"


def test_epochs_differ_and_repeat_with_the_seed() -> None:
    labels = torch.arange(160) % 20
    first, again, other = (torch.stack(list(identity_balanced(labels, 32, 4, Stream(s)))) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_batches_of_mid_and_bido_are_balanced_or_not() -> None:
    labels = torch.arange(27 * 40) % 40
    _check_batches(labels, list(_defense("mid", per_identity=4).sampler(labels, 64, Stream(1))), 16, 4)
    assert _defense("mid").sampler(labels, 64, Stream(1)) is None
    assert _defense("bido", per_identity=None).sampler(labels, 64, Stream(1)) is None


def test_an_identity_with_few_images_is_drawn_with_replacement() -> None:
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 2])
    batches = list(identity_balanced(labels, 12, 4, Stream(0)))
    _check_batches(labels, batches, 3, 4)
    assert len(batches) == 1


def test_fewer_identities_than_p_fill_the_batch_together() -> None:
    """MNIST has five classes and batches of 64: every batch has all of them, 12 each (not: no batch at all)."""
    labels = torch.arange(200) % 5
    batches = list(identity_balanced(labels, 64, 4, Stream(0)))
    _check_batches(labels, batches, 5, 12)
    assert len(batches) == 3


def test_a_batch_smaller_than_k_holds_one_identity() -> None:
    labels = torch.arange(20) % 5
    _check_batches(labels, list(identity_balanced(labels, 2, 4, Stream(0))), 1, 4)


# --- MID ---------------------------------------------------------------------------------------------------


def test_information_at_the_start_is_4_503_nats_per_dimension() -> None:
    """Spec F.7."""
    std = functional.softplus(torch.full((6, 9), -5.0, dtype=torch.float64))
    found = _module("mid").information(torch.zeros_like(std), std)
    assert float(found) / 9 == pytest.approx(4.503, abs=5e-4)


def test_information_is_the_divergence_from_the_standard_normal() -> None:
    mu, std = Stream(1).normal(6, 9), 0.1 + Stream(2).uniform(6, 9)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mu, std), normal(0.0, 1.0)).sum(1).mean()
    assert float(_module("mid").information(mu, std)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("features", [512, 511])
def test_bottleneck_halves_the_features(features: int) -> None:
    head = _module("mid").Bottleneck(features, 7, mean_only=False)
    logits, extra = head.sample(torch.zeros(3, features), None)
    assert logits.shape == (3, 7) and extra["mu"].shape == extra["std"].shape == (3, features // 2)


@pytest.mark.parametrize("mean_only", [False, True])
def test_inference_is_noisy_unless_mean_only(mean_only: bool) -> None:
    net = _defense("mid", mean_only=mean_only).build(_network()).eval()
    images = _images().images
    stream = Stream(0)
    first, second = net(images, stream).logits, net(images, stream).logits
    assert torch.equal(first, second) == mean_only
    net.train()
    assert not torch.equal(net(images, stream).logits, net(images, stream).logits)


def test_bottleneck_noise_is_as_large_as_it_says_and_from_the_rows_own_stream() -> None:
    head = _module("mid").Bottleneck(40, 20, mean_only=False).eval()
    nn.init.eye_(head.classify.weight), nn.init.zeros_(head.classify.bias)  # logits are z
    features = Stream(3).normal(2000, 40)
    rows = [(0, i, 0) for i in range(2000)]
    with torch.no_grad():
        z, extra = head.sample(features, RowStreams(rows, "target"))
    eps = (z - extra["mu"]) / extra["std"]
    assert abs(float(eps.mean())) < 0.02 and float(eps.std()) == pytest.approx(1, abs=0.02)
    alone, _ = head.sample(features[700:702], RowStreams(rows[700:702], "target"))
    assert torch.allclose(alone, z[700:702], atol=1e-5)
    assert torch.allclose(extra["std"], functional.softplus(head.statistics(features)[:, 20:] - 5))


def test_mid_loss() -> None:
    images, mid = _images(), _defense("mid", beta=0.01)
    output = mid.build(_network()).eval()(images.images, Stream(0))
    found = mid.loss(Batch(images.images, images.labels), output, _progress(0))
    mu, std = output.hidden["mu"], output.hidden["std"]
    expected = functional.cross_entropy(output.logits, images.labels) + 0.01 * _module("mid").information(mu, std)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


# --- TL-DMI ------------------------------------------------------------------------------------------------


class _Context(TrainContext):
    """A training context in memory; ``pretrained`` keeps the weights after training on public images."""

    def __init__(self, defense: Any, track: TrackInfo = TRACK) -> None:
        self.device, self.track, self.recipe = torch.device("cpu"), track, RECIPE
        self.defense, self.data = defense, _images()
        self.net = defense.build(_network(seed=1))
        self.pretrained: dict[str, Tensor] = {}

    def stream(self, name: str) -> Stream:
        return Stream(sum(name.encode()))

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Loop:
        return Loop(name, steps, state, None, None)

    def default_train(self) -> Classifier:
        d = self.defense
        self.started = {key: value.clone() for key, value in self.net.state_dict().items()}
        return fit_classifier(
            self.net, self.data, self.recipe, self.stream, self.loop, "train", d.loss, d.augment, d.sampler
        )

    def fit(self, net: Classifier, data: ImageSet, name: str) -> Classifier:
        trained = fit_classifier(net, data, self.recipe, self.stream, self.loop, name)
        self.pretrained = {key: value.clone() for key, value in trained.state_dict().items()}
        return trained

    def public_labelled(self) -> ImageSet:
        return _images(24, classes=8, seed=9)

    def new_network(self, num_classes: int) -> Classifier:
        return _network(num_classes, seed=2)


@pytest.mark.parametrize("frozen", [0, 2, 4])
@pytest.mark.parametrize("statistics", [False, True])
def test_frozen_stages_keep_what_public_images_taught_them(frozen: int, statistics: bool) -> None:
    defense = _defense("tl", frozen=frozen, frozen_statistics=statistics)
    context = _Context(defense)
    trained = defense.train(context).state_dict()
    body = [key for key in trained if key.startswith("convs.") and "num_batches" not in key]
    assert len(body) == 4 * 5
    for key in body:
        stage = int(key.split(".")[1])
        assert torch.equal(context.started[key], context.pretrained[key]), "pretraining is where all stages start"
        same = torch.equal(trained[key], context.pretrained[key])
        assert same == (stage < frozen and (statistics or "running" not in key)), key
    assert trained["head.weight"].shape[0] == CLASSES
    assert not torch.equal(trained["head.weight"], context.started["head.weight"])


def test_pretraining_moves_every_stage() -> None:
    context = _Context(_defense("tl", frozen=4))
    context.defense.train(context)
    fresh = _network(8, seed=2).state_dict()
    moved = [key for key in fresh if "weight" in key and not torch.equal(fresh[key], context.pretrained[key])]
    assert len(moved) == 9


def test_more_frozen_stages_than_there_are_is_refused_before_any_training() -> None:
    with pytest.raises(UserError, match=r"tl\.frozen: ConvNet has 4 stages; 5 cannot be frozen"):
        _defense("tl", frozen=5).build(_network())


def test_transfer_is_skipped_without_labelled_public_images() -> None:
    assert _defense("tl").skip() is None
    unlabelled = TrackInfo("tiny", "digits", 32, 1, CLASSES, (0.5,))
    assert "no labelled public images" in _defense("tl", unlabelled).skip()


# --- all of them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "re", "bido", "mid", "ls", "tl"])
def test_every_defense_trains_and_serves(name: str) -> None:
    defense = _defense(name)
    context = _Context(defense)
    net = defense.deploy(defense.train(context))
    assert not net.training
    logits = net(context.data.images, Stream(0)).logits
    assert logits.shape == (20, CLASSES) and torch.isfinite(logits).all()


def test_the_undefended_loss_is_cross_entropy() -> None:
    logits, labels = _logits()
    images = Stream(0).uniform(12, 1, 32, 32)
    none = _defense("none")
    found = none.loss(Batch(images, labels), Output(logits, logits, {}), _progress(3))
    assert float(found) == pytest.approx(float(functional.cross_entropy(logits, labels)))
    assert none.augment(images, Stream(0)) is images and none.sampler(labels, 4, Stream(0)) is None


def test_random_erasing_erases_training_images_only() -> None:
    images, erasing = _images().images, _defense("re", area=(0.3, 0.3))
    share = (erasing.augment(images, Stream(0)) == TRACK.fill[0]).float().mean((1, 2, 3))
    assert torch.allclose(share, torch.full_like(share, 18**2 / 32**2))
    assert erasing.build(net := _network()) is net and erasing.deploy(net) is net


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("re", {"area": (0.4, 0.1)}),
        ("re", {"area": (0.0, 0.4)}),
        ("re", {"area": (0.1, 1.0)}),
        ("re", {"area": 0.4}),
        ("re", {"p": 1.5}),
        ("re", {"p": -0.1}),
        ("re", {"p": float("nan")}),
        ("re", {"ratio": (2.0, 1.0)}),
        ("re", {"fill": "blue"}),
        ("re", {"fill_space": "screen"}),
        ("bido", {"lambda_x": -1}),
        ("bido", {"lambda_y": float("inf")}),
        ("bido", {"measure": "mmd"}),
        ("bido", {"sigma": 0}),
        ("bido", {"per_identity": 1}),
        ("bido", {"per_identity": 2.5}),
        ("mid", {"beta": -0.1}),
        ("mid", {"mean_only": "perhaps"}),
        ("ls", {"alpha": 1}),
        ("ls", {"alpha": -1}),
        ("tl", {"frozen": -1}),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_named(name: str, params: dict[str, Any]) -> None:
    (parameter,) = params
    with pytest.raises(UserError, match=rf"{name}\.{parameter}.*found "):
        _defense(name, **params)
