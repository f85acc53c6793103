"""Defenses that change the network, trained as the engine trains them, on networks that have what they change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from once import Once
from tiny import Cli, edit_registry

from mibench.contracts import TrackInfo
from mibench.nets import build_classifier
from mibench.registry import Registry

INFO = TrackInfo("t", "faces", 32, 1, 5, (0.4,))


def make(name: str, arch: str, initial: str = "scratch", **params: Any) -> Any:
    registry = Registry()
    cls = registry.plugin("defense", name)
    return cls(cls.Params(**params), TrackInfo(**{**vars(INFO), "arch": arch, "initial": initial}))


@pytest.mark.parametrize("name", ["rolss", "ssf", "tts"])
def test_networks_without_shortcuts_are_skipped_with_the_reason(name: str) -> None:
    assert "no shortcuts" in make(name, "convnet").skip() and make(name, "small_resnet").skip() is None
    assert (make(name, "densenet121").skip() is None) == (name != "tts")


def test_transfer_needs_weights_to_transfer() -> None:
    assert "random weights" in make("tl", "vgg16", source="published").skip()
    assert make("tl", "vgg16", "imagenet", source="published").skip() is None
    scratch = make("tl", "vgg16", "imagenet", source="published", recipe={"initial": "scratch"})
    assert "random weights" in scratch.skip()
    assert "starts from ms1m" in make("tl", "facenet64", "ms1m", source="none").skip()
    assert make("tl", "facenet64", "ms1m", source="none", recipe={"initial": "scratch"}).skip() is None
    net = make("tl", "vgg16", "imagenet", source="published").build(build_classifier("vgg16", 5, 3, 64))
    assert not any(p.requires_grad for p in net.convs[:27].parameters())
    assert all(p.requires_grad for p in net.convs[27:].parameters())


def test_mids_bottleneck_per_network() -> None:
    """VGG16: 1024 numbers from the flattened map, without its last batch norm; IR: 256 from the embedding."""
    info = TrackInfo("t", "faces", 64, 3, 5, (0.4, 0.4, 0.4))
    cls = Registry().plugin("defense", "mid")
    for arch, k in (("vgg16", 1024), ("facenet64", 256)):
        net = cls(cls.Params(), info).build(build_classifier(arch, 5, 3, 64)).eval()
        assert net.head.k == k
        x = torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            output, again = net(x), net(x)
        assert not torch.equal(output.logits, again.logits) and torch.equal(output.features, again.features)
        if arch == "vgg16":
            with torch.no_grad():
                assert torch.equal(output.features, net.convs(x).flatten(1))


@pytest.fixture(scope="module")
def trained(tiny_root: Path, once: Once) -> Any:
    """Runs of the three on a residual network, and the stored targets."""

    def make(folder: Path) -> None:
        root = folder / "root"
        shutil.copytree(tiny_root, root, symlinks=True)
        edit_registry(root, lambda data: data["tracks"]["tiny"]["target"].update(arch="small_resnet"))
        words = [word for name in ("rolss", "ssf", "tts", "re+rolss") for word in ("--defense", name)]
        done = Cli(folder / "home", root)(
            "run", "--track", "tiny", "--device", "cpu", "--json", *words, "--attack", "ppa"
        )
        (folder / "answer.json").write_text(done.stdout)

    folder = once("shortcuts", make)
    return Cli(folder / "home", folder / "root"), json.loads((folder / "answer.json").read_text())["runs"]


def test_they_train_and_answer_differently(trained: Any) -> None:
    cli, runs = trained
    assert {run["defense"] for run in runs} == {"none", "rolss", "ssf", "tts", "re+rolss"}
    assert all(run["status"] == "done" for run in runs)
    found = [json.loads(path.read_text()) for path in cli.home.glob("store/utility/*/*/manifest.json")]
    assert len({manifest["result"]["largest_logit"] for manifest in found}) == 5


def test_they_are_served_as_they_were_trained(trained: Any) -> None:
    """The stored accuracy on the training images, which training itself measured, is that of the served network."""
    from safetensors.torch import load_file

    from mibench.data import load

    cli, _ = trained
    registry = Registry(cli.root)
    track = registry.track("tiny")
    images, labels = load(track, cli.home).private_train()
    x, y = torch.from_numpy(images.copy()).float() / 255, torch.from_numpy(labels.copy())
    targets = list(cli.home.glob("store/target/*/*/manifest.json"))
    assert len(targets) == 5
    for path in targets:
        manifest = json.loads(path.read_text())
        defense = registry.build("defense", manifest["plugin"], manifest["params"], track)
        net = defense.build(build_classifier("small_resnet", 5, 1, 32))
        net.load_state_dict(load_file(path.parent / "model.safetensors"))
        net = defense.deploy(net.eval())
        with torch.no_grad():
            accuracy = float((net(x).logits.argmax(1) == y).float().mean())
        assert accuracy == pytest.approx(manifest["result"]["train_accuracy"])
        assert net.blocks[-1].factor == {"none": 1.0, "ssf": 0.2}.get(manifest["plugin"], 0.0)
