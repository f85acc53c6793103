"""The networks of the 224-pixel protocols against torchvision and timm; what defenses change; where weights start."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torchvision
from torch import Tensor, nn

from mibench.errors import MissingError, UserError
from mibench.nets import build_classifier
from mibench.nets.base import Classifier, parameter_count
from mibench.nets.faces import StagedVGG16
from mibench.nets.skips import NarrowBlock
from mibench.random import Stream
from mibench.weights.fit import load_published
from mibench.weights.initial import load_initial
from mibench.weights.kinds import fit
from mibench.weights.starting import STARTS, missing, start_of


def on_meta(arch: str, classes: int, resolution: int = 224) -> Classifier:
    with torch.device("meta"):
        return build_classifier(arch, classes, 3, resolution)


@torch.no_grad()
def shaken(net: nn.Module) -> nn.Module:
    """Batch norms away from neutral, so that every part shows in the answers."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.eval()


def library(arch: str) -> nn.Module:
    torch.manual_seed(0)
    if arch == "resnest101":
        timm = pytest.importorskip("timm", reason="timm is not installed")
        return shaken(timm.create_model("resnest101e", pretrained=False))
    more = {"init_weights": True, "transform_input": True} if arch == "inception_v3" else {}
    return shaken(getattr(torchvision.models, arch)(weights=None, **more))


@pytest.mark.parametrize(
    ("arch", "size"),
    [("resnet18", 64), ("resnet50", 64), ("resnest101", 64), ("maxvit_t", 224), ("inception_v3", 299)],
)
@torch.no_grad()
def test_same_weights_same_logits_as_the_library(arch: str, size: int) -> None:
    theirs = library(arch)
    net = build_classifier(arch, 1000, 3, size).eval()
    load_published(net, theirs.state_dict())
    x = Stream(1).uniform(2, 3, size, size)
    wanted = theirs(x)
    torch.testing.assert_close(net(x).logits, wanted, rtol=1e-4, atol=2e-5)
    assert float((wanted[0] - wanted[1]).abs().max()) > 2e-4
    normalised = build_classifier(arch, 1000, 3, size, (0.5, 0.5)).eval()
    load_published(normalised, theirs.state_dict())
    torch.testing.assert_close(normalised(x).logits, theirs(2 * x - 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arch", "features", "millions"),
    [
        ("resnet18", 512, 11.45),
        ("resnet34", 512, 21.56),
        ("resnet50", 2048, 24.59),
        ("resnet101", 2048, 43.59),
        ("resnet152", 2048, 59.23),
        ("densenet121", 1024, 7.50),
        ("densenet161", 2208, 27.64),
        ("densenet169", 1664, 13.37),
        ("resnest101", 2048, 47.31),
        ("maxvit_t", 512, 30.68),
    ],
)
def test_sizes_and_taps(arch: str, features: int, millions: float) -> None:
    if arch == "resnest101":
        pytest.importorskip("timm", reason="timm is not installed")
    net = on_meta(arch, 530)
    assert net.feature_dim == features and parameter_count(net) == pytest.approx(millions * 1e6, abs=0.006e6)
    output = net.eval()(torch.empty(1, 3, 224, 224, device="meta"))
    assert output.features.shape == (1, features) and output.logits.shape == (1, 530)
    maps = [tuple(output.hidden[f"stage{n}"].shape[2:]) for n in (1, 2, 3, 4)]
    assert maps == [(56, 56), (28, 28), (14, 14), (7, 7)]
    of_parts = [id(p) for part in [*dict(net.stages()).values(), net.head] for p in part.parameters()]
    assert sorted(of_parts) == sorted(id(p) for p in net.parameters())


@pytest.mark.parametrize(
    ("arch", "classes", "size", "stem", "trainable", "total"),
    [
        ("vgg16", 1000, 64, True, 13_855_208, 16_776_232),
        ("ir152", 1000, 64, True, 17_825_256, 62_599_848),
        ("ir152", 1000, 64, False, 17_827_176, 62_599_848),
        ("facenet64", 1000, 64, True, 34_391_912, 35_437_224),
        ("facenet64", 1000, 64, False, 34_393_832, 35_437_224),
        ("resnet18", 530, 224, True, 8_665_618, 11_448_402),
    ],
)
def test_what_tl_dmi_freezes_exactly(
    arch: str, classes: int, size: int, stem: bool, trainable: int, total: int
) -> None:
    net = on_meta(arch, classes, size)
    net.freeze_for_transfer(stem=stem)
    bias = 2048 if arch == "vgg16" else 0  # fixed at 0, and not counted among the trainable ones
    assert parameter_count(net) == total
    assert parameter_count(net, trainable=True) == trainable
    assert bias == sum(p.numel() for name, p in net.named_parameters() if name == "norm.bias")


@pytest.mark.parametrize(
    ("arch", "classes", "trainable", "total"),
    [
        ("resnet34", 530, 13.4, 21.56),
        ("resnet50", 530, 16.05, 24.59),
        ("resnet152", 530, 16.05, 59.23),
        ("resnest101", 530, 26.97, 47.31),
        ("resnest101", 120, 26.13, 46.47),
        ("maxvit_t", 530, 18.07, 30.68),
    ],
)
def test_what_tl_dmi_freezes(arch: str, classes: int, trainable: float, total: float) -> None:
    if arch == "resnest101":
        pytest.importorskip("timm", reason="timm is not installed")
    net = on_meta(arch, classes)
    net.freeze_for_transfer()
    assert parameter_count(net) / 1e6 == pytest.approx(total, abs=0.006)
    assert parameter_count(net, trainable=True) / 1e6 == pytest.approx(trainable, abs=0.06 if trainable < 14 else 0.006)


def test_frozen_statistics_stay_and_others_adapt() -> None:
    images = Stream(0).uniform(4, 3, 64, 64)
    for statistics in (False, True):
        net = build_classifier("resnet18", 3, 3, 64)
        net.freeze_for_transfer(statistics)
        norms = [net.get_submodule(f"backbone.features.{name}") for name in ("bn1", "layer4.0.bn1")]
        before = [cast(Tensor, norm.running_mean).clone() for norm in norms]
        net.train()(images)
        moved = [not torch.equal(a, cast(Tensor, b.running_mean)) for a, b in zip(before, norms, strict=True)]
        assert moved == [not statistics, True]


# --- shortcuts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "size"), [("resnet18", 64), ("resnet50", 64), ("resnest101", 64), ("maxvit_t", 224), ("ir152", 64)]
)
def test_shortcuts_at_one_change_nothing_and_at_zero_are_gone(arch: str, size: int) -> None:
    if arch == "resnest101":
        pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    net = cast(Classifier, shaken(build_classifier(arch, 4, 3, size)))
    x = Stream(1).uniform(2, 3, size, size)
    with torch.no_grad():
        plain = net(x).logits
        names = list(net.state_dict())
        assert torch.equal(net.scale_shortcuts(1.0)(x).logits, plain)
        half = net.scale_shortcuts(0.5)(x).logits
        gone = net.scale_shortcuts(0.0)(x).logits
    assert list(net.state_dict()) == names
    assert float((half - plain).abs().max()) > 1e-4 < float((gone - half).abs().max())
    if arch.startswith("resn"):
        shortcut = cast(Any, net.get_submodule("backbone.features.layer4.0.downsample"))
        weights = [p for p in shortcut.parameters()]
        net(x).logits.sum().backward()
        assert weights and all(p.grad is None or float(p.grad.abs().max()) == 0 for p in weights)
        other = cast(Any, net.get_submodule("backbone.features.layer3.0.downsample"))
        assert float(next(other.parameters()).grad.abs().max()) > 0


@torch.no_grad()
def test_a_resnet_without_last_shortcuts_is_its_branch() -> None:
    """Against the branch of the last block computed by hand."""
    net = cast(Classifier, shaken(build_classifier("resnet18", 4, 3, 64).scale_shortcuts(0.0)))
    block = cast(Any, net.get_submodule("backbone.features.layer4.1"))
    x = Stream(2).uniform(2, 512, 2, 2)
    wanted = torch.relu(block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x))))))
    torch.testing.assert_close(block(x), wanted)


def test_dense_blocks_with_fewer_channels() -> None:
    with torch.device("meta"):
        net, tenth, whole = (on_meta("densenet121", 7, 64).scale_shortcuts(k) for k in (0.0, 0.1, 1.0))
    assert net.feature_dim == 32 and net(torch.empty(2, 3, 64, 64, device="meta")).logits.shape == (2, 7)
    assert cast(nn.Linear, net.head).in_features == 32
    channels = 512
    for _ in range(16):
        channels = round(0.1 * channels) + 32
    assert tenth.feature_dim == channels
    assert whole.feature_dim == 1024


@torch.no_grad()
def test_a_narrow_block_with_everything_kept_is_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.densenet._DenseBlock(3, 8, 4, 6, 0.0).eval()
    ours = NarrowBlock(3, 8, 6, 4, 1.0).eval()
    ours.load_state_dict(
        {f"layers.{int(k[10]) - 1}{k[11:]}": v for k, v in theirs.state_dict().items()}  # denselayer1.norm1...
    )
    x = Stream(0).normal(2, 8, 5, 5)
    torch.testing.assert_close(ours(x), theirs(x))


def test_networks_without_shortcuts_say_so() -> None:
    with pytest.raises(NotImplementedError, match="no shortcuts"):
        on_meta("vgg16", 3, 64).scale_shortcuts(0.0)
    with pytest.raises(NotImplementedError, match="TL-DMI has no rule"):
        build_classifier("convnet", 3, 1, 32).transfer_frozen()


# --- the evaluator and the digits ------------------------------------------------------------------------------------


def test_inceptions_auxiliary_head_takes_part_in_training_only() -> None:
    torch.manual_seed(0)
    net = build_classifier("inception_v3", 5, 3, 299)
    x = Stream(0).uniform(2, 3, 299, 299)
    output = net.train()(x)
    assert output.hidden["aux"].shape == (2, 1000) and output.logits.shape == (2, 5)
    with torch.no_grad():
        assert list(net.eval()(x).hidden) == ["features"]


@torch.no_grad()
def test_inceptions_input_transform_kept_and_dropped() -> None:
    """Kept is torchvision's network as it comes with weights, dropped the one that is built without naming any; the
    step between them moves mean 0.5 and std 0.5 to ImageNet's."""
    with torch.device("meta"):
        assert not torchvision.models.inception_v3(weights=None, init_weights=False).transform_input
    torch.manual_seed(0)
    theirs: Any = shaken(torchvision.models.inception_v3(weights=None, init_weights=False, transform_input=True))
    for module in theirs.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)  # so that the input shows in the answers
    kept, dropped = (build_classifier("inception_v3", 1000, 3, 299, (0.5, 0.5)).eval() for _ in range(2))
    for net in (kept, dropped):
        load_published(net, theirs.state_dict())
    assert dropped.without_input_transform() is dropped
    x = Stream(1).uniform(2, 3, 299, 299)

    def apart(one: Tensor, other: Tensor) -> float:
        return float((one - other).norm() / other.norm())

    assert apart(kept(x).logits, theirs(2 * x - 1)) < 1e-4
    theirs.transform_input = False
    assert apart(dropped(x).logits, theirs(2 * x - 1)) < 1e-4
    mean, std = (torch.tensor(row).reshape(1, 3, 1, 1) for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    by_hand = ((2 * x - 1) * std / 0.5 + (mean - 0.5) / 0.5 + 1) / 2
    assert apart(dropped(by_hand).logits, kept(x).logits) < 1e-3 < 1e-2 < apart(dropped(x).logits, kept(x).logits)
    [note] = fit("inception_v3", theirs.state_dict()).notes
    assert "do not tell whether it was trained with its input transform" in note
    with pytest.raises(NotImplementedError, match="ResNet18 does not transform"):
        on_meta("resnet18", 3).without_input_transform()


@pytest.mark.parametrize(("arch", "features"), [("mcnn", 256), ("scnn", 512)])
def test_digits(arch: str, features: int) -> None:
    net = build_classifier(arch, 5, 1, 32)
    output = net(torch.zeros(2, 1, 32, 32))
    assert output.features.shape == (2, features) and len(output.hidden) == 3
    with pytest.raises(UserError, match="grey images of 32"):
        build_classifier(arch, 5, 3, 64)


# --- checkpoints as they are distributed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "wrap"),
    [
        ("resnet18", lambda state: state),  # a plain state dict
        ("resnet18", lambda state: {f"model.{name}": value for name, value in state.items()}),  # PPA
        (
            "resnet18",  # MIDRE, under torch.compile
            lambda state: {
                "epoch": 99,
                "model_state_dict": {f"_orig_mod.model.{name}": value for name, value in state.items()},
                "optimizer_state_dict": {},
            },
        ),
        ("maxvit_t", lambda state: state),
    ],
    ids=["plain", "PPA", "MIDRE", "MaxViT"],
)
def test_published_targets_are_recognised(kind: str, wrap: Any) -> None:
    theirs = getattr(torchvision.models, kind)(weights=None)
    if kind == "resnet18":
        theirs.fc = nn.Linear(512, 530)
    found = fit(kind, wrap(theirs.state_dict()))
    classes = 530 if kind == "resnet18" else 1000
    assert found.settings == {"num_classes": classes, "channels": 3, "resolution": 224}
    assert set(found.tensors) == set(theirs.state_dict())


def in_stages(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's VGG16 features as five stages, cut by hand after each of its pools (6, 13, 23, 33, 43)."""
    starts = (0, 7, 14, 24, 34)
    found = {}
    for name, value in state.items():
        index, rest = int(name.split(".")[0]), name.split(".", 1)[1]
        stage = max(n for n, start in enumerate(starts) if start <= index)
        found[f"module.layer{stage + 1}.{index - starts[stage]}.{rest}"] = value
    return found


def test_bidos_vgg16_is_the_same_network_in_stages() -> None:
    theirs = torchvision.models.vgg16_bn(weights=None).features
    norm, head = nn.BatchNorm1d(2048), nn.Linear(2048, 1000)
    state = in_stages(theirs.state_dict())
    state |= {f"module.bn.{k}": v for k, v in norm.state_dict().items()}
    state |= {f"module.fc_layer.{k}": v for k, v in head.state_dict().items()}
    found = fit("vgg16_bido", {"state_dict": state})
    net = StagedVGG16(1000).eval()
    load_published(net, found.tensors)
    x = Stream(0).uniform(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(x).logits, head(norm.eval()(theirs.eval()(x).flatten(1))))


@pytest.mark.parametrize("kind", ["mcnn", "scnn"])
def test_digit_networks_as_published(kind: str) -> None:
    """Built by hand: layer1 to layer3, or all layers in one row."""
    shapes = {"mcnn": ((64, 7, 1), (128, 5, 0), (256, 5, 0))}.get(
        kind, ((32, 7, 1), (64, 5, 0), (128, 5, 0), (256, 3, 1), (512, 3, 1))
    )
    blocks, before = [], 1
    for index, (width, size, padding) in enumerate(shapes):
        pool = [nn.MaxPool2d(2)] if index < 2 else []
        blocks.append(
            nn.Sequential(nn.Conv2d(before, width, size, 1, padding), nn.BatchNorm2d(width), nn.LeakyReLU(0.2), *pool)
        )
        before = width
    row = nn.Sequential(*[layer for block in blocks for layer in block])
    parts = {f"layer{n}": block for n, block in enumerate(blocks, start=1)} if kind == "mcnn" else {"feature": row}
    theirs = nn.ModuleDict(parts | {"fc_layer": nn.Linear(before, 5)}).eval()
    found = fit(kind, theirs.state_dict())
    net = build_classifier(kind, 5, 1, 32).eval()
    load_published(net, found.tensors)
    x = Stream(0).uniform(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(x).logits, theirs["fc_layer"](row(x).flatten(1)))


# --- where weights start ---------------------------------------------------------------------------------------------


def put(folder: Path, arch: str, kind: str, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of the published name with these tensors; the hash in the name is made to fit."""
    start = start_of(arch, kind)
    path = folder / start.file
    torch.save(state, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if start.hashed:
        named = start.file.rpartition("-")[0] + f"-{sha256[:8]}.pth"
        path.rename(folder / named)
        monkeypatch.setitem(STARTS, (arch, kind), type(start)(named, *list(vars(start).values())[1:]))
    return sha256


@pytest.mark.parametrize("classes", [1000, 7])
def test_imagenet_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    theirs = library("resnet18")
    sha256 = put(tmp_path, "resnet18", "imagenet", theirs.state_dict(), monkeypatch)
    net = build_classifier("resnet18", classes, 3, 64)
    before = {name: value.clone() for name, value in net.head.state_dict().items()}
    assert load_initial(net, "resnet18", "imagenet", tmp_path) == sha256
    found = net.state_dict()
    assert all(torch.equal(found[f"backbone.features.{k}"], v) for k, v in theirs.state_dict().items() if k[:2] != "fc")
    head = theirs.state_dict()["fc.weight"] if classes == 1000 else before["weight"]
    assert torch.equal(found["head.weight"], head)


def test_vgg16_takes_the_convolutions_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = torchvision.models.vgg16_bn(weights=None).features.state_dict()
    state = {f"features.{k}": v for k, v in theirs.items()} | {"classifier.0.weight": torch.zeros(2, 2)}
    put(tmp_path, "vgg16", "imagenet", state, monkeypatch)
    net = build_classifier("vgg16", 5, 3, 64)
    load_initial(net, "vgg16", "imagenet", tmp_path)
    assert all(torch.equal(net.state_dict()[f"convs.{k}"], v) for k, v in theirs.items())


@pytest.mark.parametrize("arch", ["facenet64", "facenet112"])
def test_ms1m_backbones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str) -> None:
    torch.manual_seed(1)
    source = build_classifier("facenet112", 3, 3, 112)
    theirs = {"stem": "input_layer", "units": "body", "neck": "output_layer"}
    state = {
        f"{theirs[part]}.{rest}": value
        for (part, _, rest), value in ((name.partition("."), v) for name, v in source.state_dict().items())
        if part in theirs
    }
    put(tmp_path, arch, "ms1m", state, monkeypatch)
    net = build_classifier(arch, 5, 3, int(arch[7:]))
    neck = net.state_dict()["neck.3.weight"].clone()
    load_initial(net, arch, "ms1m", tmp_path)
    assert torch.equal(net.state_dict()["units.0.res_layer.1.weight"], state["body.0.res_layer.1.weight"])
    assert torch.equal(net.state_dict()["neck.3.weight"], neck) == (arch == "facenet64")


def test_weights_that_are_not_here_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    for arch, kind in STARTS:
        sentence = missing(arch, kind, tmp_path)
        assert sentence and start_of(arch, kind).file in sentence and "initial: scratch" in sentence
    assert missing("resnet18", "scratch", tmp_path) is None
    net = build_classifier("resnet18", 3, 3, 64)
    assert load_initial(net, "resnet18", "scratch", tmp_path) is None
    with pytest.raises(UserError, match=r"cannot start from 'ms1m'\. It can from: scratch, imagenet"):
        missing("resnet18", "ms1m", tmp_path)
    (tmp_path / start_of("resnet18", "imagenet").file).write_bytes(b"not weights")
    with pytest.raises(MissingError, match="is damaged"):
        load_initial(net, "resnet18", "imagenet", tmp_path)


def test_a_file_that_does_not_fit_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = library("resnet18").state_dict()
    del state["layer1.0.conv1.weight"]
    put(tmp_path, "resnet18", "imagenet", state, monkeypatch)
    net = build_classifier("resnet18", 3, 3, 64)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(UserError, match=r"missing: layer1\.0\.conv1\.weight"):
        load_initial(net, "resnet18", "imagenet", tmp_path)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_every_start_is_for_a_network_there_is() -> None:
    from mibench.nets import classifier_type

    assert all(classifier_type(arch) for arch, _ in STARTS)
