"""The published face networks and the GANs: shapes, parameter counts, grouping, loading of checkpoints."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mibench.errors import UserError
from mibench.nets.base import Classifier, parameter_count
from mibench.nets.faces import IR152, VGG16, FaceNet64, FaceNet112, IrNet
from mibench.nets.gan import (
    DcganDiscriminator,
    DcganGenerator,
    GmiCritic,
    GmiGenerator,
    KedmiDiscriminator,
    MinibatchDiscrimination,
)
from mibench.weights.fit import load_published

FACES = [VGG16, IR152, FaceNet64, FaceNet112]


def on_meta(architecture: type[Classifier], *arguments: int) -> Classifier:
    """A network without numbers: enough for shapes and counts, and quick."""
    with torch.device("meta"):
        return architecture(*arguments).eval()


# --- classifiers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "total", "frozen", "trainable"),
    [
        (VGG16, 16_776_232, ("convs", 27), 13_855_208),
        (IR152, 62_599_848, ("units", 47), 17_827_176),
        (FaceNet64, 35_437_224, ("units", 6), 34_393_832),
        (FaceNet112, 44_087_976, None, 44_087_976),
    ],
)
def test_parameter_counts_are_the_published_ones(
    architecture: type[Classifier], total: int, frozen: tuple[str, int] | None, trainable: int
) -> None:
    """Of the whole network at K = 1000, and of what TL-DMI (Ho et al., CVPR 2024) leaves trainable."""
    net = on_meta(architecture, 1000)
    if frozen:
        part, layers = frozen
        getattr(net, part)[:layers].requires_grad_(False)
    assert parameter_count(net) == total
    assert parameter_count(net, trainable=True) == trainable


@pytest.mark.parametrize(
    ("architecture", "resolution", "shapes"),
    [
        (
            VGG16,
            64,
            {
                "stage1": (64, 32, 32),
                "stage2": (128, 16, 16),
                "stage3": (256, 8, 8),
                "stage4": (512, 4, 4),
                "features": (2048,),
            },
        ),
        *(
            (
                architecture,
                size,
                {
                    "stage1": (64, size // 2, size // 2),
                    "stage2": (128, size // 4, size // 4),
                    "stage3": (256, size // 8, size // 8),
                    "stage4": (512, size // 16, size // 16),
                    "features": (512,),
                },
            )
            for architecture, size in ((IR152, 64), (FaceNet64, 64), (FaceNet112, 112))
        ),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_stages(
    architecture: type[Classifier], resolution: int, shapes: dict[str, tuple[int, ...]], channels: int
) -> None:
    net = on_meta(architecture, 7, channels, resolution)
    output = net(torch.empty(2, channels, resolution, resolution, device="meta"))
    assert {name: tuple(value.shape[1:]) for name, value in output.hidden.items()} == shapes
    assert list(output.hidden) == list(shapes)
    assert output.features is output.hidden["features"]
    assert output.features.shape == (2, net.feature_dim)
    assert output.logits.shape == (2, 7)


@pytest.mark.parametrize("architecture", FACES)
def test_stages_and_head_hold_every_parameter_once(architecture: type[Classifier]) -> None:
    net = on_meta(architecture, 7)
    of_stages = [id(p) for _, stage in net.stages() for p in stage.parameters()]
    of_head = [id(p) for p in net.head.parameters()]
    assert sorted(of_stages + of_head) == sorted(id(p) for p in net.parameters())


@pytest.mark.parametrize("architecture", FACES)
def test_another_resolution_is_refused(architecture: type[Classifier]) -> None:
    expected = 112 if architecture is FaceNet112 else 64
    with pytest.raises(UserError, match=f"{architecture.__name__} takes {expected}x{expected} .* found 32x32"):
        architecture(7, 3, 32)


def test_vgg_feature_bias_stays_zero_in_training() -> None:
    torch.manual_seed(0)
    net = VGG16(5)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    gain = net.norm.weight.detach().clone()
    for _ in range(2):
        loss = functional.cross_entropy(net(torch.rand(4, 3, 64, 64)).logits, torch.arange(4))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert not torch.equal(net.norm.weight, gain)
    assert torch.count_nonzero(net.norm.bias) == 0


@pytest.mark.parametrize(
    ("architecture", "added"), [(VGG16, ["head"]), (FaceNet64, ["neck.3", "head"]), (FaceNet112, ["head"])]
)
def test_initial_weights(architecture: type[Classifier], added: list[str]) -> None:
    """Xavier-uniform: bounded by sqrt(6 / (fan in + fan out)) and filling that range; BatchNorm neutral. What is added
    to a published backbone: PyTorch's range, 1 / sqrt(fan in), for bias too."""
    torch.manual_seed(0)
    for name, module in architecture(50).named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in, fan_out = module.weight[0].numel(), module.weight.numel() // module.weight.shape[1]
            bound = 1 / math.sqrt(fan_in if name in added else (fan_in + fan_out) / 6)
            assert 0.95 * bound < module.weight.abs().max() <= bound, name
            if module.bias is not None:
                largest = float(module.bias.detach().abs().max())
                assert 0.8 * bound < largest <= bound if name in added else largest == 0, name
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert torch.all(module.weight == 1) and torch.all(module.bias == 0)


def test_ir_units_add_a_strided_shortcut() -> None:
    """Where channels match, the shortcut picks every second pixel; nothing follows the sum."""
    net = on_meta(FaceNet64, 5)
    assert isinstance(net, IrNet)
    first = type(net.units[0])(64, 64, 2).eval()
    nn.init.zeros_(first.res_layer[4].weight)
    x = torch.randn(2, 64, 8, 8)
    assert torch.equal(first(x), x[:, :, ::2, ::2])


# --- published checkpoints ---------------------------------------------------------------------------------


def published(net: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """A fresh state dict under the KED-MI names of VGG16, without step counters."""
    names = {"convs": "feature", "norm": "bn", "head": "fc_layer"}
    state = {}
    for key, value in net.state_dict().items():
        part, rest = key.split(".", 1)
        if not key.endswith("num_batches_tracked"):
            state[f"{prefix}{names[part]}.{rest}"] = torch.full_like(value, 0.5)
    return state


@pytest.fixture
def vgg() -> VGG16:
    return VGG16(5)


def test_a_checkpoint_as_data_parallel_saved_it_loads(vgg: VGG16) -> None:
    load_published(vgg, {"state_dict": published(vgg, "module."), "epoch": 50})
    assert all(torch.all(p == 0.5) for p in vgg.parameters())
    assert torch.all(vgg.norm.running_mean == 0.5)
    assert not vgg.norm.bias.requires_grad


def test_what_does_not_fit_is_named_and_changes_nothing(vgg: VGG16) -> None:
    nn.init.constant_(vgg.head.bias, 0.25)
    state = published(vgg)
    del state["bn.running_var"]
    state["fc_layer.weight"] = torch.zeros(9, 2048)
    state["feature.output_layer.0.weight"] = torch.zeros(3)
    with pytest.raises(UserError) as caught:
        load_published(vgg, state)
    message = str(caught.value)
    assert "VGG16" in message
    assert "missing: bn.running_var." not in message  # entries are separated by semicolons
    assert "missing: bn.running_var;" in message
    assert "unexpected: convs.output_layer.0.weight" not in message
    assert "unexpected: feature.output_layer.0.weight;" in message
    assert "wrong shape: fc_layer.weight (9, 2048) instead of (5, 2048)." in message
    assert torch.all(vgg.head.bias == 0.25)


def test_a_long_list_of_keys_is_cut(vgg: VGG16) -> None:
    with pytest.raises(UserError, match=r"missing: feature\.0\.weight, .* and 79 more\."):
        load_published(vgg, {})


# --- minibatch discrimination ------------------------------------------------------------------------------


def closeness_by_loop(features: Tensor, projection: Tensor, group: int) -> Tensor:
    """The definition, term by term."""
    result = torch.zeros(len(features), projection.shape[1], dtype=features.dtype)
    for i in range(len(features)):
        start = i - i % group
        for k in range(projection.shape[1]):
            mine = features[i] @ projection[:, k]
            others = (features[j] @ projection[:, k] for j in range(start, start + group))
            result[i, k] = sum(torch.exp(-(mine - other).abs().sum()) for other in others) - 1
    return result


@pytest.mark.parametrize("group", [1, 2, 3, 6])
def test_minibatch_discrimination_and_its_gradient_equal_the_definition(group: int) -> None:
    torch.manual_seed(group)
    module = MinibatchDiscrimination(features=5, kernels=4, dim=3).double()
    features = (0.2 * torch.randn(6, 5, dtype=torch.float64)).requires_grad_()
    weights = torch.randn(6, 4, dtype=torch.float64)
    ours, definition = module(features, group), closeness_by_loop(features, module.projection, group)
    torch.testing.assert_close(ours, definition)
    wanted = (features, module.projection)
    ours_grad = torch.autograd.grad((ours * weights).sum(), wanted)
    torch.testing.assert_close(ours_grad, torch.autograd.grad((definition * weights).sum(), wanted))


def test_rows_depend_on_their_own_group_only() -> None:
    torch.manual_seed(0)
    net = KedmiDiscriminator(num_classes=7, resolution=32, channels=1, width=4, mbd=(6, 3)).eval()
    nn.init.normal_(net.minibatch.projection, std=0.01)  # so that rows are close enough to notice each other
    images = torch.rand(12, 1, 32, 32)
    together = net(images, group=4)
    apart = torch.cat([net(images[start : start + 4]).logits for start in (0, 4, 8)])
    torch.testing.assert_close(together.logits, apart)
    changed = images.clone()
    changed[5] = 0
    other = net(changed, group=4)
    torch.testing.assert_close(other.logits[[0, 1, 2, 3, 8, 9, 10, 11]], together.logits[[0, 1, 2, 3, 8, 9, 10, 11]])
    assert ((other.logits[[4, 6, 7]] - together.logits[[4, 6, 7]]).abs().amax(1) > 1e-3).all()
    torch.testing.assert_close(other.features[[4, 6, 7]], together.features[[4, 6, 7]])


@pytest.mark.parametrize("group", [0, 5, 16])
def test_a_group_must_divide_the_batch(group: int) -> None:
    with pytest.raises(ValueError, match=f"8 rows are not a multiple of the group of {group}"):
        MinibatchDiscrimination(5, 4, 3)(torch.randn(8, 5), group)


# --- GANs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resolution", "channels", "start"), [(32, 1, (256, 4, 4)), (64, 3, (512, 4, 4)), (64, 1, (512, 4, 4))]
)
def test_gmi_networks(resolution: int, channels: int, start: tuple[int, int, int]) -> None:
    generator, critic = GmiGenerator(resolution, channels), GmiCritic(resolution, channels)
    assert generator.unflatten.unflattened_size == start
    images = generator(torch.randn(3, 100))
    assert images.shape == (3, channels, resolution, resolution)
    assert images.min() >= 0 and images.max() <= 1
    assert critic.layers[:-1](images).shape == (3, *start)
    assert critic(images).shape == (3,)


@pytest.mark.parametrize("resolution", [32, 64])
def test_kedmi_discriminator_features_are_4x4x256(resolution: int) -> None:
    features, logits = KedmiDiscriminator(10, resolution, channels=1)(torch.rand(2, 1, resolution, resolution))
    assert features.shape == (2, 4096)
    assert logits.shape == (2, 10)


@pytest.mark.parametrize("resolution", [32, 64])
@pytest.mark.parametrize("output", ["sigmoid", "tanh"])
def test_dcgan(resolution: int, output: str) -> None:
    torch.manual_seed(0)
    generator = DcganGenerator(resolution, channels=1, width=8, latent_dim=20, output=output)
    with torch.no_grad():
        generator.layers[-1].weight.mul_(1000)  # saturate the output: the whole range is reached, and not left
    images = generator(torch.randn(16, 20))
    assert images.shape == (16, 1, resolution, resolution)
    assert 0 <= images.min() < 0.01 and 0.99 < images.max() <= 1
    assert DcganDiscriminator(resolution, channels=1, width=8)(images).shape == (16,)


def test_gans_refuse_other_resolutions() -> None:
    for build in (
        lambda: GmiGenerator(48, 1),
        lambda: GmiCritic(48, 1),
        lambda: KedmiDiscriminator(10, 48, 1),
        lambda: DcganGenerator(48, 1, 8),
        lambda: DcganDiscriminator(48, 1, 8),
    ):
        with pytest.raises(UserError, match="32 or 64 pixels, found 48"):
            build()
