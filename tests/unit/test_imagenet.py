"""torchvision's networks as classifiers: the same numbers with the same weights, and its checkpoint files load."""

from __future__ import annotations

import re

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from mibench.errors import UserError
from mibench.nets import build_classifier
from mibench.nets.base import Classifier
from mibench.nets.imagenet import ImageNetClassifier
from mibench.random import Stream
from mibench.weights.fit import load_published

PLAIN = {
    "efficientnet_b0": 1280,
    "efficientnet_b1": 1280,
    "efficientnet_b2": 1408,
    "densenet121": 1024,
    "densenet161": 2208,
    "densenet169": 1664,
}
FLAT = {"densenet121_flat": 4096, "densenet161_flat": 8832, "densenet169_flat": 6656}


@torch.no_grad()
def published(arch: str) -> nn.Module:
    """torchvision's own network, its batch norms away from neutral and fitted to noise, so that answers differ."""
    torch.manual_seed(0)
    net: nn.Module = getattr(torchvision.models, arch)(weights=None)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.1)
            module.momentum = None
    net.train()(Stream(0).uniform(8, 3, 64, 64))
    return net.eval()


def ours(arch: str, num_classes: int, channels: int, resolution: int) -> ImageNetClassifier:
    net = build_classifier(arch, num_classes, channels, resolution)
    assert isinstance(net, ImageNetClassifier)
    return net.eval()


@pytest.mark.parametrize("arch", PLAIN)
@torch.no_grad()
def test_same_weights_same_logits_as_torchvision(arch: str) -> None:
    theirs, net = published(arch), ours(arch, 1000, 3, 64)
    load_published(net, theirs.state_dict())
    x = Stream(1).uniform(2, 3, 64, 64)
    expected = theirs(x)
    assert float((expected[0] - expected[1]).abs().max()) > 1e-3
    torch.testing.assert_close(net(x).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", ["efficientnet_b0", "densenet121"])
@torch.no_grad()
def test_backbone_loads_without_the_published_head_and_grey_is_repeated(arch: str) -> None:
    theirs, net = published(arch), ours(arch, 7, 1, 32)
    head = net.head.weight.clone()  # type: ignore[operator]
    load_published(net.backbone, theirs.state_dict())
    grey = Stream(1).uniform(2, 1, 32, 32)
    inputs: list[Tensor] = []
    linear = [module for module in theirs.modules() if isinstance(module, nn.Linear)][-1]
    linear.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    theirs(grey.repeat(1, 3, 1, 1))
    assert float(inputs[0].std()) > 1e-3
    torch.testing.assert_close(net(grey).features, inputs[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(net.head.weight, head), "the head is not part of the checkpoint"
    assert net(grey).logits.shape == (2, 7)


@torch.no_grad()
def test_torchvisions_older_densenet_names_load() -> None:
    """The files that torchvision distributes say ``denselayer1.norm.1`` and know no batch counter."""
    theirs = published("densenet121")
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): value
        for name, value in theirs.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    x = Stream(1).uniform(2, 3, 64, 64)
    net = ours("densenet121", 1000, 3, 64)
    load_published(net, old)
    torch.testing.assert_close(net(x).logits, theirs(x), rtol=1e-5, atol=1e-5)
    other = ours("densenet121_flat", 5, 3, 64)
    load_published(other.backbone, old)
    del old["features.denseblock1.denselayer1.norm.1.weight"]
    with pytest.raises(UserError, match=r"missing: features\.denseblock1.denselayer1.norm"):
        load_published(other.backbone, old)


@torch.no_grad()
def test_flat_densenet_is_the_last_feature_map_as_it_is() -> None:
    theirs, net = published("densenet121"), ours("densenet121_flat", 5, 3, 64)
    load_published(net.backbone, theirs.state_dict())
    x = Stream(1).uniform(2, 3, 64, 64)
    last = theirs.get_submodule("features")(x)
    assert last.shape == (2, 1024, 2, 2) and float(last.min()) < 0
    torch.testing.assert_close(net(x).features, last.flatten(1), rtol=1e-5, atol=1e-5)
    pooled = ours("densenet121", 5, 3, 64)
    load_published(pooled.backbone, theirs.state_dict())
    expected = functional.relu(last).mean((2, 3))
    torch.testing.assert_close(pooled(x).features, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("arch", "width"), [*PLAIN.items(), *FLAT.items()])
@pytest.mark.parametrize(("channels", "resolution"), [(1, 32), (3, 64)])
def test_feature_sizes_and_stages(arch: str, width: int, channels: int, resolution: int) -> None:
    with torch.device("meta"):
        net: Classifier = ours(arch, 7, channels, resolution)
    expected = width // 4 if arch in FLAT and resolution == 32 else width
    output = net(torch.empty(2, channels, resolution, resolution, device="meta"))
    assert output.features.shape == (2, expected) and net.feature_dim == expected
    assert output.logits.shape == (2, 7)
    names = [name for name, _ in net.stages()]
    assert names[0] == "stem" and names[-1] == "features" and len(names) >= 5
    assert list(output.hidden) == (names if net.taps is None else list(net.taps))
    of_stages = [id(p) for _, stage in net.stages() for p in stage.parameters()]
    of_head = [id(p) for p in net.head.parameters()]
    assert sorted(of_stages + of_head) == sorted(id(p) for p in net.parameters())


@pytest.mark.parametrize(("channels", "resolution"), [(3, 48), (2, 64), (3, 16)])
def test_other_images_are_refused(channels: int, resolution: int) -> None:
    with pytest.raises(UserError, match=f"found {channels} channels of {resolution} pixels"):
        build_classifier("efficientnet_b0", 7, channels, resolution)


def test_it_trains() -> None:
    """A step changes every stage and the head."""
    net = build_classifier("densenet121_flat", 3, 1, 32)
    before = {name: value.clone() for name, value in net.named_parameters()}
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    functional.cross_entropy(net(Stream(0).uniform(4, 1, 32, 32)).logits, torch.tensor([0, 1, 2, 0])).backward()
    optimiser.step()
    for name in ("backbone.features.conv0.weight", "backbone.features.denseblock4.denselayer16.conv2.weight"):
        assert not torch.equal(before[name], dict(net.named_parameters())[name])
