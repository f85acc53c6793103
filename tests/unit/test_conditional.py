"""PLG-MI and LOKT: their networks, views, losses, GANs and searches; spec 18, checks 5, 7 and 14."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from mibench.contracts import AttackContext, ImageSet, Loop, Oracle, PriorModel, TrackInfo
from mibench.errors import StageFailed, UserError
from mibench.images.augment import VIEWS, Views, either_jitter, jitter, rotate, whole_pixel_crop
from mibench.keys import stream_seed
from mibench.nets import build_classifier, conditional
from mibench.nets.base import Classifier, Output
from mibench.nets.conditional import (
    AuxiliaryDiscriminator,
    ConditionalBatchNorm,
    ConditionalGenerator,
    Judgement,
    ProjectionDiscriminator,
)
from mibench.primitives.losses import max_margin, negative_logit
from mibench.protocol.methods import Kind
from mibench.random import RowStreams, Stream
from mibench.registry import Registry
from mibench.weights.fit import load_published

CLASSES, LATENT = 4, 6
TRACK = TrackInfo("t", "faces", resolution=32, channels=1, num_classes=CLASSES, fill=(0.5,))


def plugin(kind: Kind, name: str, **params: Any) -> Any:
    cls: Any = Registry().plugin(kind, name)
    return cls(cls.Params(**params), TRACK)


def module(kind: Kind, name: str) -> ModuleType:
    return sys.modules[type(plugin(kind, name)).__module__]


class Context(AttackContext):
    """A context without a stage, for attacks and, with ``oracle``, for priors."""

    def __init__(self, public: int = 12, oracle: Oracle | None = None, stop: int | None = None) -> None:
        self.device, self.track, self.seed = torch.device("cpu"), TRACK, 7
        self.images_per_identity, self.identities = 2, list(range(CLASSES))
        self.public = ImageSet(Stream(5).uniform(public, 1, 32, 32), torch.full((public,), -1), CLASSES)
        self.artifact: dict[str, Tensor] = {}
        self.oracle, self.loaded, self.state = oracle, list[str](), dict[str, Any]()

    def stream(self, name: str) -> Stream:
        return Stream(stream_seed(name))

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Loop:
        self.state = state
        return Loop(name, steps, state, None, None)

    def steps(self, name: str, count: int) -> Iterator[int]:
        return iter(range(count))

    def load_weights(self, net: nn.Module, weights: str) -> None:
        self.loaded.append(weights)


class Scripted:
    """An Rng that answers ``uniform`` with the given tensors, in order."""

    def __init__(self, *values: Tensor) -> None:
        self._values = iter(values)

    def uniform(self, n: int, *shape: int) -> Tensor:
        return next(self._values).reshape(n, *shape)

    def normal(self, n: int, *shape: int) -> Tensor:
        raise AssertionError("not scripted")


def classifier(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    net = build_classifier("convnet", CLASSES, 1, 32)
    net(Stream(seed).uniform(16, 1, 32, 32))
    return net.eval()


class Never(Classifier):
    """A target that must not be asked."""

    def forward(self, images: Tensor, rng: Any = None) -> Output:
        raise AssertionError("the target was asked")


def prior_model(seed: int = 0) -> PriorModel:
    torch.manual_seed(seed)
    return PriorModel(ConditionalGenerator(CLASSES, 32, 1, 2, LATENT), LATENT).eval().requires_grad_(False)


# --- networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("resolution", "channels"), [(32, 1), (32, 3), (64, 1), (64, 3)])
def test_networks_of_all_sizes(resolution: int, channels: int) -> None:
    labels = torch.tensor([0, 3, 3])
    torch.manual_seed(0)
    generator = ConditionalGenerator(CLASSES, resolution, channels, 4, LATENT)
    images = generator(Stream(0).normal(3, LATENT), labels)
    assert images.shape == (3, channels, resolution, resolution) and float(images.detach().abs().max()) <= 1
    assert float(images.detach().min()) < 0, "tanh, not rescaled"
    assert ProjectionDiscriminator(CLASSES, resolution, channels, 4)(images, labels).shape == (3,)
    judged = AuxiliaryDiscriminator(CLASSES, resolution, channels, 4)(images)
    assert judged.real.shape == (3,) and judged.logits.shape == (3, CLASSES)


def test_generator_takes_one_label_for_each_latent() -> None:
    generator = ConditionalGenerator(CLASSES, 32, 1, 2, LATENT)
    z = Stream(0).normal(3, LATENT)
    for labels in (None, torch.zeros(2, dtype=torch.int64), torch.zeros(3, 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match="one label for each latent"):
            generator(z, labels)
    with pytest.raises(UserError, match="32 or 64"):
        ConditionalGenerator(CLASSES, 48, 1)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 2, 5, 8)], ids=str)
def test_upsampling_is_bilinear(shape: tuple[int, ...]) -> None:
    x = Stream(0).normal(*shape).requires_grad_(True)
    expected = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    ours = conditional._upsample(x)
    torch.testing.assert_close(ours, expected)
    weights = Stream(1).normal(*ours.shape)
    gradients = [torch.autograd.grad((weights * y).sum(), x)[0] for y in (ours, expected)]
    torch.testing.assert_close(*gradients)


def test_conditional_norm_belongs_to_the_class() -> None:
    norm = ConditionalBatchNorm(3, CLASSES)
    x, labels = 2 + 3 * Stream(0).normal(6, 3, 4, 4), torch.tensor([0, 1, 0, 1, 2, 1])
    plain = functional.batch_norm(x, None, None, training=True)
    torch.testing.assert_close(norm(x, labels), plain)
    with torch.no_grad():
        norm.gain.weight[1], norm.shift.weight[1] = 2.0, 5.0
    expected = plain.clone()
    expected[labels == 1] = 2 * plain[labels == 1] + 5
    torch.testing.assert_close(norm(x, labels), expected)


def test_projection_adds_the_inner_product_with_the_class() -> None:
    """D(x, y) - D(x, y') = <e_y - e_y', h>, with the embedding divided by its largest singular value."""
    critic = ProjectionDiscriminator(CLASSES, 32, 1, 4).double()
    x = Stream(0).uniform(5, 1, 32, 32).double()
    for _ in range(200):  # the power iteration converges
        critic(x, torch.zeros(5, dtype=torch.int64))
    critic.eval()
    first, second = (critic(x, torch.full((5,), y)) for y in (1, 3))
    embedding = critic.embedding.weight_orig / torch.linalg.matrix_norm(critic.embedding.weight_orig, 2)
    expected = critic.features(x) @ (embedding[1] - embedding[3])
    torch.testing.assert_close(first - second, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", [ProjectionDiscriminator, AuxiliaryDiscriminator])
def test_which_layers_are_spectrally_normalised(kind: Any) -> None:
    """Every layer of the projection discriminator; of the other everything but its two heads."""
    net = kind(CLASSES, 32, 1, 4)
    layers = {n: m for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)}
    normalised = {name for name, layer in layers.items() if hasattr(layer, "weight_orig")}
    assert set(layers) - normalised == (set() if kind is ProjectionDiscriminator else {"real", "head"})
    more = (torch.zeros(2, dtype=torch.int64),) if kind is ProjectionDiscriminator else ()
    for _ in range(200):
        net(Stream(0).uniform(2, 1, 32, 32), *more)
    for name in normalised:
        assert float(torch.linalg.matrix_norm(layers[name].weight.detach().flatten(1), 2)) == pytest.approx(
            1, abs=0.02
        ), name


def test_discriminators_start_from_xaviers_weights() -> None:
    """Variance 2 gain^2 / (fan in + fan out), gain sqrt(2) on 3x3 kernels."""
    torch.manual_seed(0)
    net = ProjectionDiscriminator(200, 64, 3, 32)
    for layer, gain in ((net.downs[2].conv1, math.sqrt(2)), (net.downs[3].shortcut, 1.0), (net.embedding, 1.0)):
        weight = layer.weight_orig
        fans = sum(weight.shape[:2]) * weight[0, 0].numel()
        assert float(weight.std()) == pytest.approx(gain * math.sqrt(2 / fans), rel=0.05)


def test_published_weights_of_another_number_of_classes_do_not_fit() -> None:
    def published(classes: int) -> dict[str, Tensor]:
        net = ConditionalGenerator(classes, 64, 3, 4, LATENT)
        theirs = {mine: name for name, mine in net.published_names.items()}
        names = (max((mine for mine in theirs if key.startswith(f"{mine}.")), key=len) for key in net.state_dict())
        return {theirs[m] + k.removeprefix(m): v for (k, v), m in zip(net.state_dict().items(), names, strict=True)}

    torch.manual_seed(0)
    state, net = published(CLASSES), ConditionalGenerator(CLASSES, 64, 3, 4, LATENT)
    assert {"l1.weight", "block2.b1.weights.weight", "block5.c_sc.bias", "b6.running_var"} <= state.keys()
    load_published(net, state)
    torch.testing.assert_close(net.state_dict()["ups.3.shortcut.bias"], state["block5.c_sc.bias"], rtol=0, atol=0)
    with pytest.raises(UserError, match=r"block2\.b1\.weights\.weight \(5, 64\) instead of \(4, 64\)"):
        load_published(net, published(CLASSES + 1))


# --- max margin (check 5) ----------------------------------------------------------------------------------


def test_max_margin_is_the_distance_to_the_best_other() -> None:
    logits, labels = 3 * Stream(0).normal(50, 7), Stream(1).integers(7, 50)
    labels[:25] = logits[:25].argmax(1)
    ours = max_margin(logits, labels)
    for row, y, loss in zip(logits.tolist(), labels.tolist(), ours.tolist(), strict=True):
        other = max(value for k, value in enumerate(row) if k != y)
        assert loss == pytest.approx(-(row[y] - other), abs=1e-6)
    assert torch.equal(ours < 0, logits.argmax(1) == labels) and bool((ours < 0).any()) and bool((ours > 0).any())


def test_max_margin_ignores_a_constant_and_the_negative_logit_does_not() -> None:
    logits, labels = Stream(0).normal(9, 7), Stream(1).integers(7, 9)
    torch.testing.assert_close(max_margin(logits + 5, labels), max_margin(logits, labels))
    torch.testing.assert_close(negative_logit(logits + 5, labels), negative_logit(logits, labels) - 5)


# --- views -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0.0, 3.0, -5.0, 90.0])
@pytest.mark.parametrize("size", [16, 17])
def test_rotation_is_torchvisions(degrees: float, size: int) -> None:
    images = Stream(0).uniform(2, 3, size, size)
    turn = torch.tensor([[1.0, 0.0], [0.5, 0.0]])  # all of it; none
    ours = rotate(images, Scripted(turn), degrees)
    expected = tv.rotate(images[:1], -degrees, InterpolationMode.BILINEAR)
    inside = slice(2, -2) if degrees % 90 else slice(None)  # torchvision darkens the border twice
    torch.testing.assert_close(ours[:1, :, inside, inside], expected[..., inside, inside], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ours[1:], images[1:])


def test_rotation_and_its_gradient_are_grid_samples() -> None:
    images = Stream(0).uniform(3, 2, 16, 16).requires_grad_(True)
    ours = rotate(images, Scripted(torch.tensor([[1.0, 0.2], [0.25, 0.2], [0.75, 0.6]])), 10.0, p=0.5)
    angle = torch.deg2rad(torch.tensor([10.0, -5.0, 0.0]))
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(3)
    theta = torch.stack([cos, sin, zero, -sin, cos, zero], 1).reshape(3, 2, 3)
    grid = functional.affine_grid(theta, [3, 2, 16, 16], align_corners=False)
    expected = functional.grid_sample(images, grid, align_corners=False)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    weights = Stream(1).normal(*ours.shape)
    gradients = [torch.autograd.grad((weights * y).sum(), images)[0] for y in (ours, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-4)


def test_rotation_happens_with_its_probability() -> None:
    images = Stream(0).uniform(4000, 1, 4, 4)
    turned = (rotate(images, Stream(1), 5.0, 0.5) - images).abs().amax((1, 2, 3)) > 1e-6
    assert 0.45 < float(turned.float().mean()) < 0.55


@pytest.mark.parametrize("size", [32, 64])
def test_the_order_of_a_rotations_gradient_sums_cannot_matter(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No look-up reads a pixel, the black border apart, more than twice: its gradient is a sum of at most two."""
    seen: list[Tensor] = []
    usual = Tensor.gather
    monkeypatch.setattr(Tensor, "gather", lambda x, dim, index: [seen.append(index), usual(x, dim, index)][1])
    rotate(torch.zeros(1000, 1, size, size), Stream(0), 5.0)
    assert len(seen) == 4
    for index in seen:
        times = torch.stack([row.bincount(minlength=(size + 4) ** 2) for row in index[:, 0]])
        inside = times.unflatten(1, (size + 4, size + 4))[:, 2:-2, 2:-2]
        assert int(inside.max()) == 2


def test_jitter_is_torchvisions_on_grey_images() -> None:
    images = Stream(0).uniform(3, 1, 8, 8)
    u = torch.tensor([[1.0, 0.0, 0.1], [0.25, 0.75, 0.1], [0.0, 1.0, 0.9]])
    ours = jitter(images, Scripted(u), 0.2, p=0.5)
    colour = images.expand(-1, 3, -1, -1)
    for i, (brightness, contrast) in enumerate([(1.2, 0.8), (0.9, 1.1)]):
        expected = tv.adjust_contrast(tv.adjust_brightness(colour[i], brightness), contrast)[:1]
        torch.testing.assert_close(ours[i], expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(ours[2], images[2])


@pytest.mark.parametrize("first", [True, False], ids=["brightness first", "contrast first"])
def test_either_jitter_is_torchvisions_on_colour_images(first: bool) -> None:
    images = Stream(0).uniform(2, 3, 8, 8)
    order = 0.2 if first else 0.7
    ours = either_jitter(images, Scripted(torch.tensor([[1.0, 0.0, 0.1, order], [1.0, 0.0, 0.9, order]])), 0.2, p=0.5)
    steps = [lambda x: tv.adjust_brightness(x, 1.2), lambda x: tv.adjust_contrast(x, 0.8)]
    expected = images[0]
    for step in steps if first else reversed(steps):
        expected = step(expected)
    torch.testing.assert_close(ours[0], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(ours[1], images[1])


def test_crops_of_whole_pixels_are_slices_resized_with_aligned_corners() -> None:
    """Of 16 pixels, area 0.8 is 14.3 of them and 0.95 is 15.6, which is the image's 16 and drawn again."""
    images = Stream(0).uniform(3, 2, 16, 16)
    tries = torch.zeros(3, 10)
    tries[1, :3], tries[2] = 0.75, 1.0
    ours = whole_pixel_crop(images, Scripted(tries, torch.tensor([[0.0, 0.99], [0.5, 0.34], [0.5, 0.5]])), (0.8, 1.0))
    for image, crop, (top, left) in zip(images, ours, [(0, 2), (1, 1)], strict=False):
        cut = image[None, :, top : top + 14, left : left + 14]
        expected = functional.interpolate(cut, (16, 16), mode="bilinear", align_corners=True)[0]
        torch.testing.assert_close(crop, expected, rtol=0, atol=1e-5)
    assert torch.equal(ours[2], images[2]), "ten tries as large as the image: all of it"


def test_crops_of_whole_pixels_have_every_size_and_place() -> None:
    """Sides 58 to 63 of 64, as often as area in (0.8, 1) rounds to them; places of a side alike."""
    n, ramp = 6000, torch.arange(64.0).expand(1, 64, 64)
    crops = whole_pixel_crop(ramp.expand(6000, 1, 64, 64), Stream(0), (0.8, 1.0))[:, 0, 0]
    start, side = crops[:, 0].round(), (crops[:, -1] - crops[:, 0]).round() + 1
    least = (63.5 / 64) ** 2  # where a side would be the image's
    for pixels in range(57, 64):
        area = [min(max(((pixels + d) / 64) ** 2, 0.8), least) for d in (-0.5, 0.5)]
        expected = (area[1] - area[0]) / (least - 0.8)
        assert float((side == pixels).float().mean()) == pytest.approx(expected, abs=4 * (0.25 / n) ** 0.5)
    places = start[side == 60].long().bincount(minlength=5) / (side == 60).sum()
    assert len(places) == 5 and float((places - 0.2).abs().max()) < 0.06


@pytest.mark.parametrize("kind", ["smooth", "kornia"])
def test_views_differ_per_image_and_do_not_depend_on_the_others(kind: Views) -> None:
    images, random_view = Stream(0).uniform(1, 1, 32, 32).expand(6, -1, -1, -1), VIEWS[kind]

    def views(rows: list[int]) -> Tensor:
        streams = RowStreams([(0, row, 0) for row in rows], "view")
        return torch.stack([random_view(images[: len(rows)], streams, 0.5) for _ in range(2)], 1)

    together = views(list(range(6)))
    for row in range(6):
        torch.testing.assert_close(views([row])[0], together[row])
    flat = together.flatten(0, 1).flatten(1)
    assert float((torch.cdist(flat, flat) + torch.eye(12)).min()) > 0.1
    assert float(flat.min()) >= 0 and float(flat.max()) <= 1 + 1e-6


# --- PLG-MI's labels (check 7) and losses ------------------------------------------------------------------


def test_every_class_gets_its_best_images() -> None:
    scores = Stream(0).normal(40, 7).softmax(1)
    ours = module("prior", "cgan").top_images(scores, 5)
    assert ours.shape == (7, 5)
    for label in range(7):
        ranking = sorted(range(40), key=lambda i, c=label: -float(scores[i, c]))  # type: ignore[misc]
        assert ours[label].tolist() == ranking[:5]
    assert ours.flatten().unique().numel() < 35, "an image may serve several classes"


def test_labels_do_not_depend_on_the_order_of_images() -> None:
    scores, order = Stream(0).normal(40, 7).softmax(1), Stream(1).permutation(40)
    top = module("prior", "cgan").top_images
    assert torch.equal(order[top(scores[order], 5)], top(scores, 5))


def test_hinge_losses() -> None:
    losses = module("prior", "cgan")
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, -0.5, 3.0])
    assert float(losses.discriminator_loss(real, fake)) == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 0.5 + 4) / 3)
    logits = torch.tensor([[1.0, 4.0], [0.0, 2.0], [3.0, 3.0]])
    margin = (3.0 - 2.0 + 0.0) / 3
    loss = losses.generator_loss(fake, logits, torch.tensor([0, 1, 0]), 0.2)
    assert float(loss) == pytest.approx(-0.5 / 3 + 0.2 * margin)


# --- LOKT's losses (check 14) ------------------------------------------------------------------------------


def test_acgan_losses_and_no_class_loss_on_reals() -> None:
    losses = module("prior", "tacgan")
    real = Judgement(Stream(0).normal(6), Stream(1).normal(6, CLASSES).requires_grad_(True))
    fake = Judgement(Stream(2).normal(6), Stream(3).normal(6, CLASSES).requires_grad_(True))
    answers = Stream(4).integers(CLASSES, 6)
    bce = functional.binary_cross_entropy
    honest = bce(real.real.sigmoid(), torch.ones(6)) + bce(fake.real.sigmoid(), torch.zeros(6))
    classes = functional.cross_entropy(fake.logits, answers)
    loss = losses.discriminator_loss(real, fake, answers, 1.5)
    torch.testing.assert_close(loss, honest + 1.5 * classes)
    torch.testing.assert_close(losses.discriminator_loss(real, fake, None, 1.5), honest)
    on_real, on_fake = torch.autograd.grad(loss, (real.logits, fake.logits), allow_unused=True)
    assert on_real is None and float(on_fake.abs().sum()) > 0
    expected = bce(fake.real.sigmoid(), torch.ones(6)) + 1.5 * classes
    torch.testing.assert_close(losses.generator_loss(fake, answers, 1.5), expected)


# --- the GANs' training ------------------------------------------------------------------------------------

SMALL = {"steps": 3, "discriminator_steps": 2, "batch": 4, "width": 2, "latent_dim": LATENT}


def trained(name: str, access: str, watch: Callable[[str, tuple[Any, ...]], None] | None = None, **params: Any) -> Any:
    """The model, the oracle and the context after training; ``watch`` sees what the discriminator is given."""
    prior = plugin("prior", name, **SMALL | params)
    oracle = Oracle(classifier(), access, CLASSES)
    ctx = Context(oracle=oracle)
    torch.manual_seed(1)
    model = prior.build()
    if watch:
        model.critic.register_forward_pre_hook(lambda net, given: watch("critic", given))
    prior.train(ctx, model)
    return model, oracle, ctx


@pytest.mark.parametrize(("name", "access"), [("cgan", "white_box"), ("tacgan", "labels")])
def test_generator_first_then_the_discriminators_steps(name: str, access: str, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int] = []
    usual = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, *a: [order.append(id(self)), usual(self, *a)][1])
    _, _, ctx = trained(name, access, **({"per_class": 5} if name == "cgan" else {}))
    g, d = id(ctx.state["opt_g"]), id(ctx.state["opt_d"])
    assert order == [g, d, d] * 3
    defaults = ctx.state["opt_d"].defaults
    assert (defaults["lr"], defaults["betas"]) == (2e-4, (0.0, 0.9))


def test_cgan_asks_once_to_label_and_with_gradients_for_the_generator() -> None:
    _, oracle, _ = trained("cgan", "white_box", per_class=5)
    assert oracle.counts() == {"shared": {"prior": {"forward": 12, "gradient": 3 * 4, "label": 0}}}


def test_cgans_reals_are_noisy_images_of_their_pseudo_class() -> None:
    seen: list[tuple[Any, ...]] = []
    trained("cgan", "white_box", lambda _, given: seen.append(given), per_class=3, noise=0.001, steps=20)
    ctx = Context()
    scores = classifier()(ctx.public.images).logits.softmax(1)
    best = [set(sorted(range(12), key=lambda i, c=c: -float(scores[i, c]))[:3]) for c in range(CLASSES)]  # type: ignore[misc]
    reals = [given for given in seen if float(given[0].detach().min()) >= 0 and float(given[0].detach().std()) > 0.2]
    assert len(reals) == 20 * 2
    for images, labels in reals:
        for image, label in zip(images, labels.tolist(), strict=True):
            added = image - ctx.public.images
            fits = [i for i in range(12) if float(added[i].min()) >= 0 and float(added[i].max()) <= 0.001]
            assert len(fits) == 1 and fits[0] in best[label] and float(added[fits[0]].max()) > 0.0009


def test_cgan_needs_enough_public_images() -> None:
    with pytest.raises(StageFailed, match="13 images per class were asked for, of 12"):
        trained("cgan", "white_box", per_class=13)


def test_imported_weights_are_not_trained() -> None:
    model, oracle, ctx = trained("cgan", "white_box", weights="0123")
    assert ctx.loaded == ["0123"] and oracle.counts() == {} and model.critic is None and not ctx.state


def test_tacgan_asks_for_labels_of_fakes_after_the_warmup() -> None:
    _, oracle, _ = trained("tacgan", "labels", warmup=1)
    assert oracle.counts() == {"shared": {"prior": {"forward": 0, "gradient": 0, "label": 2 * 2 * 4}}}


@pytest.mark.parametrize("fakes_first", [False, True])
@pytest.mark.parametrize(("name", "access"), [("cgan", "white_box"), ("tacgan", "labels")])
def test_critics_see_reals_and_fakes_in_the_order_asked_for(name: str, access: str, fakes_first: bool) -> None:
    """Of the three looks of a step the first is the generator's, at fakes, the others are the discriminator's. The two
    orders train the same losses; only spectral normalisation can tell them apart."""
    public, seen = Context().public.images, list[bool]()
    params: dict[str, Any] = {"discriminator_steps": 1, "fakes_first": fakes_first}
    params |= {"per_class": 5, "noise": 0.0} if name == "cgan" else {}

    def watch(_: str, given: tuple[Any, ...]) -> None:
        distance = torch.cdist(given[0].detach().flatten(1), public.flatten(1)).amin(1)
        seen.append(bool((distance < 1e-4).all()))

    trained(name, access, watch, **params)
    assert seen == [False, not fakes_first, fakes_first] * 3


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize(("name", "access"), [("cgan", "white_box"), ("tacgan", "labels")])
def test_the_order_matters_to_normalised_critics_alone(name: str, access: str, normalised: bool) -> None:
    more: dict[str, Any] = {"normalised": normalised} | ({"per_class": 5} if name == "cgan" else {})
    one, other = (trained(name, access, fakes_first=first, **more)[0].state_dict() for first in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True)) is not normalised


def test_tacgans_discriminator_stops_its_power_iteration() -> None:
    """From the third generator step on it is in eval mode: its power vectors stay while its weights move."""

    def tensors(model: PriorModel, *ends: str) -> list[Tensor]:
        assert model.critic is not None
        return [x for name, x in model.critic.state_dict().items() if name.endswith(ends)]

    def same(one: PriorModel, other: PriorModel, *ends: str) -> list[bool]:
        return [torch.equal(a, b) for a, b in zip(tensors(one, *ends), tensors(other, *ends), strict=True)]

    two, frozen, moving = (
        trained("tacgan", "labels", steps=steps, **more)[0]
        for steps, more in [(2, {}), (4, {"evaluation_from": 2}), (4, {})]
    )
    assert tensors(two, "weight_u") and all(same(two, frozen, "weight_u", "weight_v"))
    assert not all(same(two, moving, "weight_u", "weight_v")) and not any(same(two, frozen, "weight_orig"))


@pytest.mark.parametrize(("name", "access"), [("cgan", "white_box"), ("tacgan", "labels")])
def test_paper_budgets(name: str, access: str) -> None:
    """LOKT's published 12.16 M label queries are 19,000 x 5 x 128; PLG-MI's generator asks 30,000 x 64 times."""
    p = plugin("prior", name).params
    if name == "tacgan":
        assert (p.steps - p.warmup) * p.discriminator_steps * p.batch == 12_160_000
    else:
        assert (p.steps * p.batch, p.steps * p.discriminator_steps, p.per_class) == (1_920_000, 150_000, 30)


def test_counts_and_noise_of_the_target_outlive_an_interruption() -> None:
    oracle, resumed = (Oracle(classifier(), "scores", CLASSES, seed=3) for _ in range(2))
    x = Stream(0).uniform(2, 1, 32, 32)
    oracle.scores(x)
    assert oracle._shared is not None
    oracle._shared.normal(5)
    state = oracle.state_dict()
    resumed.load_state_dict(state)
    for each in (oracle, resumed):
        with each.phase("prior"):
            each.labels(x)
    assert resumed.counts() == oracle.counts() and resumed.counts()["shared"]["optimisation"]["forward"] == 2
    assert resumed._shared is not None and torch.equal(resumed._shared.normal(5), oracle._shared.normal(5))


# --- the searches ------------------------------------------------------------------------------------------

FAST: dict[str, Any] = {
    "iterations": 3,
    "per_class": 3,
    "surrogates": ("convnet", "small_resnet"),
    "pretrained": False,
    "surrogate_steps": 2,
    "surrogate_batch": 4,
}


def test_plgmi_asks_about_two_views_a_step_and_nothing_else() -> None:
    oracle = Oracle(classifier(), "white_box", CLASSES)
    items = list(plugin("attack", "plgmi", iterations=5).invert(oracle, prior_model(), [1, 3], Context()))
    one = {"optimisation": {"forward": 0, "gradient": 5 * 2 * 2, "label": 0}}
    assert oracle.counts() == {"1": one, "3": one}
    assert [item.label for item in items] == [1, 3] and all(len(item.images) == 2 for item in items)


def test_plgmi_raises_the_margin_of_its_class() -> None:
    target, prior = classifier(), prior_model()
    items = list(
        plugin("attack", "plgmi", iterations=30).invert(
            Oracle(target, "white_box", CLASSES), prior, range(CLASSES), Context()
        )
    )
    margins = [
        max_margin(target(images).logits, torch.full((2,), item.label)).mean()
        for item in items
        for images in (item.initial, item.images)
    ]
    before, after = torch.stack(margins).unflatten(0, (-1, 2)).unbind(1)
    assert bool((after < before).all())


def test_lokt_shows_every_surrogate_views_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two surrogates and three steps: twelve pictures of the generated faces, no two alike; the loss is the mean over
    surrogates of two margins each."""
    prior, ctx, attack = prior_model(), Context(), plugin("attack", "lokt", **FAST)
    ctx.artifact = attack.prepare(Oracle(classifier(), "labels", CLASSES), prior, ctx)
    seen: dict[str, list[Tensor]] = {"one": [], "other": []}

    def watched(name: str) -> nn.Module:
        net = classifier(len(name)).requires_grad_(False)
        net.register_forward_pre_hook(lambda _, given: seen[name].append(given[0].detach()))
        return net

    lokt = module("attack", "lokt")
    monkeypatch.setattr(lokt, "stored_students", lambda *_: [watched("one"), watched("other")])
    list(attack.invert(Oracle(Never(), "labels", CLASSES), prior, [0, 2], ctx))
    assert len(seen["one"]) == len(seen["other"]) == 3 * 2
    pictures = torch.stack([*seen["one"], *seen["other"]]).transpose(0, 1).flatten(2)  # (R, 12, P)
    assert float((torch.cdist(pictures, pictures) + 9 * torch.eye(12)).min()) > 0.1


def test_lokt_never_asks_the_target_during_inversion() -> None:
    """Its preparation asks for the labels of the synthetic images, 3 of each class; its search asks for nothing."""
    prior, ctx, attack = prior_model(), Context(), plugin("attack", "lokt", **FAST)
    oracle = Oracle(classifier(), "labels", CLASSES)
    ctx.artifact = attack.prepare(oracle, prior, ctx)
    assert oracle.counts() == {"shared": {"search": {"forward": 0, "gradient": 0, "label": 3 * CLASSES}}}
    silent = Oracle(Never(), "labels", CLASSES)
    items = list(attack.invert(silent, prior, [0, 2], ctx))
    assert silent.counts() == {} and [item.label for item in items] == [0, 2]
    assert not torch.equal(items[0].images, items[0].initial)


class Brightness(Classifier):
    """Half of what it is shown is class 1, the brighter half; the others class 0."""

    def __init__(self, median: float) -> None:
        super().__init__()
        self.median = median

    def forward(self, images: Tensor, rng: Any = None) -> Output:
        bright = images.mean((1, 2, 3)) - self.median
        return Output(functional.pad(torch.stack([-bright, bright], 1), (0, CLASSES - 2), value=-9.0), bright, {})


def test_lokts_surrogates_learn_the_targets_labels() -> None:
    """Not the labels y' that the images were made for."""
    prior, ctx = prior_model(), Context()
    y = torch.arange(CLASSES).repeat(50)
    x = prior(Stream(99).normal(len(y), LATENT), y)
    target = Brightness(float(x.mean((1, 2, 3)).median()))
    more: dict[str, Any] = {"per_class": 50, "surrogates": ("convnet",), "surrogate_steps": 60, "surrogate_batch": 32}
    artifact = plugin("attack", "lokt", **FAST | more).prepare(Oracle(target, "labels", CLASSES), prior, ctx)
    net = build_classifier("convnet", CLASSES, 1, 32)
    net.load_state_dict({name.removeprefix("surrogate0/"): value for name, value in artifact.items()})
    truth, learnt = target(x).logits.argmax(1), net.eval()(x).logits.argmax(1)
    assert 0.4 < float(truth.float().mean()) < 0.6 and float((truth == learnt).float().mean()) > 0.8


def test_lokt_without_imagenet_weights() -> None:
    """Asked for and not there: skipped with a reason. Weights that do not go with the rest: refused."""
    reason = plugin("attack", "lokt").skip()
    assert reason and "surrogate_weights" in reason and "pretrained=false" in reason
    assert plugin("attack", "lokt", surrogate_weights=("a", "b", "c")).skip() is None
    assert plugin("attack", "lokt", **FAST).skip() is None
    for wrong, message in [
        ({"surrogate_weights": ("a", "b")}, "2 surrogate_weights"),
        ({"pretrained": False, "surrogate_weights": ("a", "b", "c")}, "3 surrogate_weights"),
        ({"surrogates": ("convnet",)}, "ImageNet"),
        ({"surrogates": ("densenet",), "pretrained": False}, "densenet"),
    ]:
        with pytest.raises((ValueError, UserError), match=message):
            plugin("attack", "lokt", **wrong)


def test_lokts_published_surrogates_have_the_published_features() -> None:
    names = plugin("attack", "lokt").params.surrogates
    assert names == ("densenet121_flat", "densenet161_flat", "densenet169_flat")
    net = build_classifier(names[0], CLASSES, 3, 64)
    assert net.feature_dim == 4096
