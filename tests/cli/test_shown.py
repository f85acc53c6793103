"""On tracks whose evaluator is shown floats: what an attack draws for it, and that the evaluator sees just that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import Cli, make_root
from torch.nn import functional

from mibench.images.pixels import read_png
from mibench.nets import build_classifier

PKL = Path(__file__).parents[1] / "parity" / "data" / "stylegan2_tiny.pkl"  # draws 64 pixels; the track has 32
SIDE, ATTACKS = 48, ("ppa", "ifgmi", "gmi")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[dict[str, Any]]]]:
    """By attack: the folder of its reconstructions, and the evaluation of each image. And the evaluator's folder."""
    folder = tmp_path_factory.mktemp("shown")
    root = make_root(folder / "root", {"evaluator": {"resolution": SIDE, "resize": "rendered"}})
    cli = Cli(folder / "home", root)
    shutil.copy(PKL, folder / "tiny.pkl")
    told = json.loads(cli("import-checkpoint", str(folder / "tiny.pkl"), "--as", "stylegan2", "--json").stdout)
    settings = told["settings"] | {"weights": told["id"], "centre_crop": None}
    prior = f"attack.prior_params={json.dumps(settings)}"
    for attack in ATTACKS:
        options = () if attack == "gmi" else ("--set", "attack.prior=stylegan2", "--set", prior)
        cli.run("--track", "tiny", "--device", "cpu", "--attack", attack, *options)
    found = {}
    for path in cli.home.glob("store/evaluate/*/*/manifest.json"):
        manifest = json.loads(path.read_text())
        key = manifest["inputs"]["invert"]
        [invert] = cli.home.glob(f"store/invert/*/{key}*")
        plugin = json.loads((invert / "manifest.json").read_text())["plugin"]
        found[plugin] = (invert, json.loads((path.parent / "images.json").read_text()))
    [evaluator] = cli.home.glob("store/evaluator/*/*/model.safetensors")
    return found | {"evaluator": (evaluator, [])}


def _shown(invert: Path) -> torch.Tensor:
    files = sorted((invert / "shown").glob("*.safetensors"))
    parts = [load_file(file)["images"] for file in files]
    assert all(part.dtype == torch.float16 for part in parts)
    return torch.cat(parts).float()


def _pictures(invert: Path, table: list[dict[str, Any]]) -> torch.Tensor:
    return torch.stack([read_png(invert / entry["file"], 1) for entry in table])


def _smooth(images: torch.Tensor) -> torch.Tensor:
    """What 32 pixels hold of them."""
    return functional.interpolate(images, (32, 32), mode="bilinear", antialias=True)


@pytest.mark.parametrize("attack", ["ppa", "ifgmi"])
def test_a_generator_draws_at_the_evaluators_resolution(runs: Any, attack: str) -> None:
    """More than the pictures of 32 pixels hold; but the same images."""
    invert, table = runs[attack]
    shown, pictures = _shown(invert), _pictures(invert, table)
    assert shown.shape == (len(table), 1, SIDE, SIDE)
    enlarged = functional.interpolate(pictures, (SIDE, SIDE), mode="bilinear")
    detail, difference = (shown - enlarged).abs().amax(), (_smooth(shown) - pictures).abs().amax()
    assert difference < 1 / 255 and detail > difference


def test_a_generator_of_one_size_is_resized_as_floats(runs: Any) -> None:
    invert, table = runs["gmi"]
    enlarged = functional.interpolate(_pictures(invert, table), (SIDE, SIDE), mode="bilinear")
    torch.testing.assert_close(_shown(invert), enlarged, rtol=0, atol=0.5 / 255 + 1e-3)


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_evaluator_sees_these_floats(runs: Any, attack: str) -> None:
    invert, table = runs[attack]
    net = build_classifier("small_resnet", 5, 1, SIDE)
    net.load_state_dict(load_file(runs["evaluator"][0]))
    with torch.no_grad():
        confidence = net.eval()(_shown(invert)).logits.softmax(1)
    own = [float(row[entry["label"]]) for row, entry in zip(confidence, table, strict=True)]
    assert own == pytest.approx([entry["confidence"] for entry in table], abs=1e-4)
