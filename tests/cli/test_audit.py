"""`mibench model audit`: a network of torchvision's that was trained elsewhere, from a file and from a factory."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from tiny import Cli

from mibench.audit.findings import recognised
from mibench.audit.foreign import Foreign, Way, fingerprint, make_network
from mibench.audit.prepare import prepare
from mibench.audit.request import AuditRequest
from mibench.data.synthfaces import faces
from mibench.errors import UserError

CLASSES = ["<b>ann", "bob", "cyd"]
SIDE = 32
SHORT = ("--attack", "miface[iterations=20,patience=5]", "--epochs", "1", "--resolution", "32", "--normalise", "half")
SHORT += ("--device", "cpu")
FACTORY = """
import torch, torchvision

def load():
    net = torchvision.models.resnet18(num_classes=3)
    net.load_state_dict(torch.load({path!r}))
    return net
"""


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engineer's folder: images by class, and a ResNet-18 that knows them."""
    folder = tmp_path_factory.mktemp("owner")
    images, labels = [], []
    for label, name in enumerate(CLASSES):
        pixels = faces(np.full(8, label), np.arange(8), SIDE, 3)[:, 0]
        (folder / "photos" / name).mkdir(parents=True)
        for index, image in enumerate(pixels):
            picture = Image.fromarray(image).convert("RGB")
            picture.save(folder / "photos" / name / f"{index}.png")
            images.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255)
            labels.append(label)
    x, y = (torch.stack(images) - 0.5) / 0.5, torch.tensor(labels)
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=3)
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(40):
        for part in torch.randperm(len(x)).split(12):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(net(x[part]), y[part]).backward()
            optimiser.step()
    net.eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, folder / "model.pth")
    torch.save(net.state_dict(), folder / "plain.pth")
    assert (net(x).argmax(1) == y).float().mean() > 0.9
    (folder / "mynets.py").write_text(FACTORY.format(path=str(folder / "plain.pth")))
    return folder


@pytest.mark.slow
def test_audit_of_a_weights_file_and_of_a_factory(owner: Path, tmp_path: Path, tiny_root: Path) -> None:
    cli, out = Cli(tmp_path / "home", tiny_root), tmp_path / "out"
    data = ("--data", str(owner / "photos"), "--out", str(out))
    done = cli("model", "audit", str(owner / "model.pth"), "--arch", "resnet18", *data, *SHORT)
    found = json.loads((out / "audit.json").read_text())
    [row] = found["attacks"]
    assert row["attack"].startswith("miface") and all(
        0 <= row[r]["value"] <= 1 for r in ("own", "undefended", "defended")
    )
    assert found["natural_accuracy"]["own"]["value"] > 0.6, "the model is served as it was trained"
    assert {item["class"] for item in found["recognised"]} == set(CLASSES) and found["chance"] == pytest.approx(1 / 3)
    assert found["p"] >= 1 / 6 - 1e-9 and found["verdict"]["leaks"] is not True and not found["exposed"]
    assert found["judge"]["n"] == 6 and 0 <= found["judge"]["accuracy"] <= 1 and found["photos"]["value"] is not None
    assert sum(item["share"] for item in found["answers"]) == pytest.approx(1) and found["unfinished"] is None
    assert not list((tmp_path / "home" / "store").glob("features/*")), "what is not shown is not computed"
    assert found["verdict"]["title"] in done.stdout.splitlines()[0]
    assert "model.pth names the class of" in done.stderr and "target     " in done.stderr
    planned = cli("model", "audit", str(owner / "model.pth"), "--arch", "resnet18", *data, *SHORT, "--plan").stdout
    assert "model.pth names the class of" in planned and "Everything was computed before." in planned
    page = (out / "audit.html").read_text()
    assert "<b>ann" not in page and "&lt;b&gt;ann" in page
    assert page.count("data:image/png;base64,") >= 6 and not re.search(r"(src|href)=\"(?!data:)", page)
    assert found["verdict"]["sentence"].split(",")[0] in page and "--public DIR" in page
    assert any(step.startswith("Attack it in other ways: mibench run --track") for step in found["next"])
    again = (
        "run",
        "--track",
        str(out / "track.yaml"),
        "--plugin",
        str(out / "own_model.py"),
        "--device",
        "cpu",
        "--json",
    )
    runs = json.loads(cli(*again, "--defense", "own_model", "--attack", SHORT[1]).stdout)["runs"]
    assert [run["cached"] for run in runs] == [True, True], "the same keys as the audit's"

    other = tmp_path / "other"
    factory = (
        "model",
        "audit",
        "mynets:load",
        "--data",
        str(owner / "photos"),
        "--out",
        str(other),
        "--json",
        "--quiet",
    )
    same = json.loads(cli(*factory, *SHORT, PYTHONPATH=str(owner)).stdout)
    assert same["attacks"][0]["own"]["value"] == row["own"]["value"], "the same weights by another way"
    assert same["natural_accuracy"]["own"] == found["natural_accuracy"]["own"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"arch": "resnet19"}, "resnet19"),
        ({"arch": "resnet34"}, "not one of resnet34"),
        ({"arch": None}, "Add --arch"),
        ({"data": "two"}, r"wrong shape: fc"),
        ({"data": "nowhere"}, "There is no folder"),
        ({"data": "photos/bob"}, "class folder"),
        ({"public": "nowhere"}, "There is no folder"),
        ({"checkpoint": "page.pth"}, "web page"),
        ({"checkpoint": "gone.pth"}, "no checkpoint file"),
        ({"normalise": "1:2:3"}, "--normalise"),
        ({"normalise": "0.5:0"}, "positive"),
        ({"channels": 1}, "in 1 channel"),
        ({"normalise": "0.5:2"}, "0 to 1, or in 0 to 255"),
        ({"normalise": "nan:1"}, "--normalise"),
        ({"public": "photos"}, "must not be the private ones"),
        ({"val": "photos/bob"}, "must not be the private ones"),
        ({"expect_accuracy": 95.0}, "a share between 0 and 1"),
        ({"class_order": "random"}, "takes lexicographic, natural"),
        ({"class_order": "short.txt"}, "it lacks cyd"),
        ({"entry": "ema"}, "no entry 'ema'"),
        ({"checkpoint": "mynets:load", "arch": None, "entry": "ema"}, "leave --entry out"),
        ({"identities": 4}, "--identities 4"),
        ({"checkpoint": "mynets:nothing", "arch": None}, "mynets:nothing failed"),
        ({"checkpoint": "mynets:load"}, "leave --arch out"),
        ({"checkpoint": "mynets:load", "arch": None, "transform_input": True}, "leave --transform-input out"),
        ({"transform_input": True}, "does not transform"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said_before_anything_is_computed(
    owner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], reason: str
) -> None:
    monkeypatch.chdir(owner)
    monkeypatch.syspath_prepend(str(owner))
    monkeypatch.setenv("PYTHONPATH", "")
    (owner / "page.pth").write_text("<!DOCTYPE html><p>Quota exceeded")
    (owner / "short.txt").write_text("<b>ann\nbob\n")
    for name in ("bob", "cyd"):
        shutil.copytree(owner / "photos" / name, owner / "two" / name, dirs_exist_ok=True)
    given: dict[str, Any] = {"checkpoint": "model.pth", "arch": "resnet18", "data": "photos", "public": None}
    given |= {"resolution": SIDE, "channels": 3, "normalise": "half", "epochs": 1, "images": 1}
    given |= changes
    for name in ("data", "public", "val"):
        given[name] = Path(given[name]) if given.get(name) else None
    with pytest.raises(UserError, match=reason):
        prepare(AuditRequest(**given, out=tmp_path / "out"), tmp_path / "home")
    assert not (tmp_path / "out").exists()


def test_attacks_that_need_public_images_are_not_begun_without(owner: Path, tmp_path: Path, tiny_root: Path) -> None:
    cli = Cli(tmp_path / "home", tiny_root)
    words = ("model", "audit", str(owner / "model.pth"), "--arch", "resnet18", "--data", str(owner / "photos"))
    words += ("--out", str(tmp_path / "out"))
    assert "needs public images" in cli(*words, *SHORT[2:], "--attack", "gmi", code=2).stderr


def test_a_foreign_network_is_a_classifier() -> None:
    """Logits are the network's, features what its last layer is given; nothing is registered twice."""
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v3_small(num_classes=4).eval()
    net = Foreign(network, 4, Way((0.5, 0.4, 0.3), (0.2,), 64, head="classifier.3")).eval()
    images = torch.rand(3, 3, 32, 32)
    mean = torch.tensor([0.5, 0.4, 0.3]).reshape(1, 3, 1, 1)
    x = torch.nn.functional.interpolate((images - mean) / 0.2, (64, 64), mode="bilinear", antialias=True)
    output = net(images)
    torch.testing.assert_close(output.logits, network(x))
    torch.testing.assert_close(net.head(output.features), output.logits)
    assert output.features.shape == (3, net.feature_dim) and len(net.state_dict()) == len(network.state_dict())
    flipped = Foreign(network, 4, Way((0.5, 0.4, 0.3), (0.2,), 64, bgr=True)).eval()
    torch.testing.assert_close(flipped(images).logits, network(x.flip(1)))
    assert torch.equal(flipped.head(output.logits), output.logits), "without a head features are the logits"


@torch.no_grad()
def test_whether_a_network_transforms_its_input_must_be_said() -> None:
    """No tensor tells it; said, it is torchvision's network of that kind."""
    torch.manual_seed(0)
    theirs = torchvision.models.googlenet(weights=None, num_classes=4, init_weights=False, transform_input=True).eval()
    images = torch.rand(2, 3, 64, 64)
    for said in (True, False):
        network: Any = make_network("googlenet", "", 4, said).eval()
        network.load_state_dict(theirs.state_dict())
        theirs.transform_input = said
        assert torch.equal(network(images), theirs(images))
    with pytest.raises(UserError, match="Was googlenet trained with its input transform"):
        make_network("googlenet", "", 4)
    with pytest.raises(UserError, match="resnet18 does not transform its input"):
        make_network("resnet18", "", 4, transform_input=False)


def test_fingerprints_tell_weights_apart() -> None:
    one, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    assert fingerprint(one) == fingerprint(one) != fingerprint(other)
    other.load_state_dict(one.state_dict())
    assert fingerprint(one) == fingerprint(other)
    other.bias.data[0] += 1e-7
    assert fingerprint(one) != fingerprint(other)


def test_nobody_is_exposed_without_runs() -> None:
    assert recognised(["a"], []) == []
