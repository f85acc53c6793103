"""StyleGAN2 against its definition with one weight tensor per row, its levels, and the prior's view of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import functional as vision

from mibench.contracts import TrackInfo
from mibench.errors import UserError
from mibench.nets.base import parameter_count
from mibench.nets.stylegan2 import Block, StyledConv, StyleGAN2, ToRgb, upsample
from mibench.protocol.params import resolve
from mibench.random import RowStreams, Stream
from mibench.registry import Registry

SETTINGS: dict[str, Any] = {
    "z_dim": 10,
    "w_dim": 12,
    "img_resolution": 32,
    "mapping_layers": 3,
    "channel_base": 256,
    "channel_max": 20,
}


@pytest.fixture
def net() -> StyleGAN2:
    """Every parameter and buffer random, so that none can be left out unseen."""
    torch.manual_seed(3)
    net = StyleGAN2(**SETTINGS, conv_clamp=None).eval().requires_grad_(False)
    for name, value in net.state_dict().items():
        if name.endswith(("bias", "w_avg", "noise_strength")):
            value.copy_(torch.randn_like(value))
    return net


def z(rows: int) -> Tensor:
    return torch.randn(rows, 10, generator=torch.Generator().manual_seed(rows))


# --- layers against their definition -------------------------------------------------------------------------------


def filtered(x: Tensor, up: int, padding: tuple[int, int]) -> Tensor:
    """Zeros between the pixels of (C, H, W), padding, the 16 taps one by one, gain up^2."""
    channels, height, width = x.shape
    spread = torch.zeros(channels, height * up, width * up)
    spread[:, ::up, ::up] = x
    before, after = padding
    padded = functional.pad(spread, (before, after, before, after))
    size = (padded.shape[1] - 3, padded.shape[2] - 3)
    out = torch.zeros(channels, *size)
    taps = [1.0, 3.0, 3.0, 1.0]
    for i, a in enumerate(taps):
        for j, b in enumerate(taps):
            out += a * b / 64 * padded[:, i : i + size[0], j : j + size[1]]
    return out * up**2


def modulated(layer: StyledConv, x: Tensor, w: Tensor) -> Tensor:
    """One row with weights of its own: modulated, demodulated, convolved. (I, H, W), (D,) -> (O, H', W')."""
    style = layer.affine(w[None])[0]
    weight = layer.weight * style[None, :, None, None]
    weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
    if not layer.up:
        out = functional.conv2d(x[None], weight, padding=1)[0]
    else:
        full = functional.conv_transpose2d(x[None], weight.transpose(0, 1), stride=2)[0]
        out = filtered(full, 1, (1, 1)) * 4
    out = out + layer.noise_const * layer.noise_strength + layer.bias[:, None, None]
    return torch.where(out > 0, out, 0.2 * out) * math.sqrt(2)


@pytest.mark.parametrize("name", ["conv0", "conv1"])
def test_styled_convolution_is_one_convolution_per_row(net: StyleGAN2, name: str) -> None:
    block = net.body.get_submodule("b16")
    layer = block.get_submodule(name)
    assert isinstance(layer, StyledConv)
    side = 8 if layer.up else 16
    x, w = torch.randn(3, layer.weight.shape[1], side, side), torch.randn(3, 12)
    expected = torch.stack([modulated(layer, *row) for row in zip(x, w, strict=True)])
    torch.testing.assert_close(layer(x, w, "const"), expected, rtol=1e-4, atol=1e-5)


def test_upsampling_puts_zeros_between_pixels_and_filters() -> None:
    x = torch.randn(2, 3, 5, 7)
    kernel = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64
    expected = torch.stack([filtered(row, 2, (2, 1)) for row in x])
    torch.testing.assert_close(upsample(x, kernel), expected)
    flat = upsample(torch.ones(1, 1, 8, 8), kernel)
    torch.testing.assert_close(flat[..., 2:-2, 2:-2], torch.ones(1, 1, 12, 12))  # brightness is kept


def test_mapping_by_hand(net: StyleGAN2) -> None:
    latent = z(4)
    x = latent / (latent.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for index, inputs in enumerate((10, 12, 12)):
        layer = net.mapping.get_submodule(f"fc{index}")
        x = x @ (layer.weight * 0.01 / math.sqrt(inputs)).T + 0.01 * layer.bias
        x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
    w = net.map(latent)
    assert w.shape == (4, 8, 12) and net.num_ws == 8
    torch.testing.assert_close(w, x[:, None].expand(-1, 8, -1), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(net.map(3 * latent), w)  # only the direction of z counts


def test_truncation_draws_the_first_layers_to_the_mean(net: StyleGAN2) -> None:
    w, mean = net.map(z(4)), net.mapping.w_avg
    torch.testing.assert_close(net.map(z(4), 0.5, 3)[:, :3], (w[:, :3] + mean) / 2)
    assert torch.equal(net.map(z(4), 0.5, 3)[:, 3:], w[:, 3:])
    torch.testing.assert_close(net.map(z(4), 0.0), mean.expand_as(w))
    assert torch.equal(net.map(z(4), 0.3, 0), w)
    assert torch.equal(net.map(z(4), 1.0, 3), w)


def test_conv_clamp_bounds_every_layer() -> None:
    torch.manual_seed(0)
    net = StyleGAN2(**SETTINGS, conv_clamp=0.5).requires_grad_(False)
    w = 50 * torch.randn(2, 8, 12)
    features = net.block(2, w, net.block(1, w, net.block(0, w, None)))
    assert float(features.abs().max()) == 0.5
    colours = net.body.get_submodule("b16").get_submodule("torgb")
    assert isinstance(colours, ToRgb)
    assert float(colours(20 * features, w[:, 5]).abs().max()) == 0.5


# --- the whole -----------------------------------------------------------------------------------------------------


def test_a_row_alone_is_the_row_in_a_batch(net: StyleGAN2) -> None:
    together = net(z(7))
    assert together.shape == (7, 3, 32, 32)
    scale = max(1.0, float(together.abs().max()))
    for index in range(7):
        torch.testing.assert_close(net(z(7)[index : index + 1])[0], together[index], rtol=0, atol=1e-5 * scale)


def test_gradient_reaches_z_of_its_own_row_alone(net: StyleGAN2) -> None:
    latent = z(3).requires_grad_(True)
    (gradient,) = torch.autograd.grad(net(latent)[1].sum(), latent)
    assert float(gradient[1].abs().max()) > 0
    assert float(gradient[[0, 2]].abs().max()) == 0


def test_every_tensor_changes_the_image(net: StyleGAN2) -> None:
    before, near = net(z(2)), net.map(z(2), 0.5)
    for name, value in net.state_dict().items():
        kept = value.clone()
        value.add_(0.3 * torch.randn_like(value))
        moved = net.map(z(2), 0.5) if name == "mapping.w_avg" else net(z(2))
        assert not torch.equal(moved, near if name == "mapping.w_avg" else before), name
        value.copy_(kept)
    assert torch.equal(net(z(2)), before)


def carried(net: StyleGAN2, w: Tensor, start: int, features: Tensor | None, image: Tensor | None) -> Tensor:
    """The blocks from ``start`` on, by hand, onto the colours ``image`` of those before."""
    x = features
    for index in range(start, net.blocks):
        x = net.block(index, w, x)
        colours = net.body.get_submodule(f"b{net.resolutions[index]}").get_submodule("torgb")(x, w[:, 2 * index + 1])
        image = colours if image is None else upsample(image, net.kernel) + colours
    assert image is not None
    return (image + 1) / 2


def test_blocks_make_the_image_and_a_late_start_drops_the_colours_before(net: StyleGAN2) -> None:
    """IF-GMI: the variant without the earlier colours is the one used."""
    w = net.map(z(3))
    whole = net.synthesis(w)
    torch.testing.assert_close(carried(net, w, 0, None, None), whole)
    features, image = None, None
    for start in range(1, net.blocks):
        features = net.block(start - 1, w, features)
        assert features.shape[2:] == (net.resolutions[start - 1],) * 2
        block = net.body.get_submodule(f"b{net.resolutions[start - 1]}")
        assert isinstance(block, Block)
        colours = block.torgb(features, w[:, 2 * start - 1])
        image = colours if image is None else upsample(image, net.kernel) + colours
        late = net.synthesis(w, start, features)
        torch.testing.assert_close(late, carried(net, w, start, features, None))
        torch.testing.assert_close(carried(net, w, start, features, image), whole)
        assert float((late - whole).abs().max()) > 1e-2


def test_noise_is_stored_absent_or_the_callers(net: StyleGAN2) -> None:
    w = net.map(z(3))
    const, none = net.synthesis(w), net.synthesis(w, noise="none")
    assert torch.equal(net.synthesis(w), const) and not torch.equal(none, const)
    drawn = net.synthesis(w, noise=Stream(1))
    assert torch.equal(drawn, net.synthesis(w, noise=Stream(1)))
    assert not torch.equal(drawn, net.synthesis(w, noise=Stream(2))) and not torch.equal(drawn, const)
    names = [(0, row, 0) for row in range(3)]
    together = net.synthesis(w, noise=RowStreams(names, "noise"))
    alone = net.synthesis(w[1:2], noise=RowStreams(names[1:2], "noise"))
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-5)
    for name, value in net.state_dict().items():
        if name.endswith("noise_strength"):
            value.zero_()
    torch.testing.assert_close(net.synthesis(w), none)


def test_what_does_not_fit_is_said(net: StyleGAN2) -> None:
    w = net.map(z(2))
    with pytest.raises(ValueError, match=r"takes latents \(N, 10\)"):
        net(torch.zeros(2, 9))
    with pytest.raises(ValueError, match=r"expected w \(N, 8, 12\)"):
        net.synthesis(w[:, 0])
    with pytest.raises(ValueError, match="block 1 takes features"):
        net.synthesis(w, 1)
    with pytest.raises(ValueError, match="block 0 takes no features"):
        net.synthesis(w, 0, torch.zeros(2, 20, 4, 4))
    with pytest.raises(ValueError, match="there are 4 blocks"):
        net.synthesis(w, 4, torch.zeros(2, 8, 32, 32))
    with pytest.raises(ValueError, match="power of two"):
        StyleGAN2(img_resolution=48)


def test_the_published_sizes() -> None:
    """Config F at 1024 pixels has 30,370,060 parameters, the count that its authors' code prints."""
    with torch.device("meta"):
        faces, dogs, small = StyleGAN2(), StyleGAN2(img_resolution=512), StyleGAN2(img_resolution=64)
    assert parameter_count(faces) == 30_370_060
    assert (faces.num_ws, dogs.num_ws, small.num_ws) == (18, 16, 10)
    sizes = [block.conv1.weight.shape[0] for block in faces.body.children() if isinstance(block, Block)]
    assert sizes == [512, 512, 512, 512, 512, 256, 128, 64, 32]


# --- the prior -----------------------------------------------------------------------------------------------------


def prior(channels: int = 1, resolution: int = 24, **values: Any) -> Any:
    track = TrackInfo("here", "faces", resolution, channels, num_classes=3, fill=(0.5,) * channels)
    cls = Registry().plugin("prior", "stylegan2")
    return cls(resolve(cls.Params, SETTINGS | {"weights": "0" * 16, "centre_crop": 26} | values, "stylegan2"), track)


@pytest.fixture
def raw() -> Any:
    torch.manual_seed(5)
    return prior().build().requires_grad_(False)


@pytest.mark.parametrize(("channels", "resolution", "crop"), [(3, 24, 26), (1, 24, 26), (1, 32, None), (3, 64, None)])
def test_view_is_torchvisions_crop_grey_and_antialiased_resize(channels: int, resolution: int, crop: int) -> None:
    model = prior(channels, resolution, centre_crop=crop).build().requires_grad_(False)
    images = model.generator.generator(z(3))
    expected = images if crop is None else vision.center_crop(images, [crop, crop])
    if channels == 1:
        expected = vision.rgb_to_grayscale(expected)
    expected = vision.resize(expected, [resolution, resolution], antialias=True)
    assert model(z(3)).shape == (3, channels, resolution, resolution)
    torch.testing.assert_close(model(z(3)), expected, rtol=1e-3, atol=2e-3 * float(expected.abs().max()))


def test_a_view_of_another_size_is_the_released_chain_to_the_evaluator() -> None:
    """Full size, centre crop, antialiased resize of the floats, nothing clamped; not by way of the track's pixels."""
    model = prior(3, 24).build().requires_grad_(False)
    full = vision.center_crop(model.generator.generator(z(3)), [26, 26])
    expected = vision.resize(full, [40, 40], antialias=True)
    got = model.generator.at(40)(z(3))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=2e-3 * float(expected.abs().max()))
    assert got.max() > 1 or got.min() < 0


def test_view_keeps_the_levels(raw: Any) -> None:
    view = raw.generator
    assert (view.latent_dim, view.num_ws, view.w_dim, view.blocks) == (10, 8, 12, 4)
    w = view.map(z(2), 0.5, 3)
    assert torch.equal(w, view.generator.map(z(2), 0.5, 3))
    features = view.block(1, w, view.block(0, w, None))
    late = view.synthesis(w, 2, features)
    assert late.shape == (2, 1, 24, 24)
    assert torch.equal(late, view.seen(view.generator.synthesis(w, 2, features)))
    assert torch.equal(view(z(2)), view.synthesis(view.map(z(2))))


def test_prior_builds_from_its_parameters_alone() -> None:
    one, other = prior().build(), prior().build()
    assert [(k, v.shape) for k, v in one.state_dict().items()] == [(k, v.shape) for k, v in other.state_dict().items()]
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(z(2)), other(z(2)))


def test_prior_without_weights_says_how_to_get_them() -> None:
    assert prior().skip() is None
    reason = prior(weights=None).skip()
    assert "unavailable" in reason and "mibench import-checkpoint FILE --as stylegan2" in reason
    assert prior(channels=3, img_channels=1).skip() == "this StyleGAN2 makes images with 1 channels, here has 3"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"img_resolution": 48}, "power of two"),
        ({"centre_crop": 33}, "centre_crop <= img_resolution"),
        ({"channel_base": 16}, "channel_base >= img_resolution"),
        ({"mapping_layers": 0}, "greater than or equal to 1"),
    ],
)
def test_impossible_parameters_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        prior(**values)


def test_presets_are_the_published_settings() -> None:
    presets, params = Registry().entry("prior", "stylegan2").presets, Registry().plugin("prior", "stylegan2").Params
    seen = {name: params(**presets[name]) for name in ("ffhq", "metfaces", "afhqdog", "celeba64")}
    assert {name: (p.img_resolution, p.centre_crop) for name, p in seen.items()} == {
        "ffhq": (1024, 800),
        "metfaces": (1024, 800),
        "afhqdog": (512, None),
        "celeba64": (64, None),
    }
    assert all((p.z_dim, p.w_dim, p.img_channels) == (512, 512, 3) for p in seen.values())


def test_train_loads_the_generator_and_nothing_else() -> None:
    plugin, asked = prior(), []

    class Shelf:
        def load_weights(self, net: nn.Module, weights: str) -> None:
            asked.append((net, weights))

    model = plugin.build()
    plugin.train(Shelf(), model)
    assert asked == [(model.generator.generator, "0" * 16)]
