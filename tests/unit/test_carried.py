"""Weights that come with the program: intact, small, trained on public images, and what priors do with them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from mibench.checking.track import smallest
from mibench.contracts import PriorContext, PriorModel
from mibench.errors import MissingError
from mibench.nets.conditional import ConditionalGenerator, for_every_class
from mibench.priors.dcgan import Dcgan
from mibench.priors.wgan_gp import WganGp
from mibench.registry.loading import track_info
from mibench.weights import carried as module
from mibench.weights.carried import FOLDER, carried, load_carried

TRACK = track_info(smallest())
MIB = 2**20


@pytest.mark.parametrize("name", sorted(carried()))
def test_a_carried_file_is_the_one_that_the_index_names(name: str) -> None:
    path = FOLDER / f"{name}.safetensors"
    assert path.stat().st_size < 3 * MIB
    tensors = load_carried(name)
    assert tensors and all(value.dtype == torch.float32 or not value.is_floating_point() for value in tensors.values())
    with safe_open(path, "pt") as file:
        recipe = file.metadata()
    trained = json.loads(recipe["params"])["steps"], json.loads(recipe.get("taught", '{"steps": 0}'))["steps"]
    assert len(recipe["images"]) == 64 and max(trained) > 0 and "licence" in recipe


def test_nothing_is_carried_that_the_index_does_not_name() -> None:
    assert {path.stem for path in FOLDER.glob("faces*.safetensors")} == carried().keys()
    assert sum((FOLDER / f"{name}.safetensors").stat().st_size for name in carried()) < 15 * MIB


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A carried WGAN-GP called ``start``."""
    torch.manual_seed(5)
    model = WganGp(WganGp.Params(width=4), TRACK).build()
    tensors = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    save_file(tensors, tmp_path / "start.safetensors")
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    content = (tmp_path / "start.safetensors").read_bytes()
    monkeypatch.setattr(module, "carried", lambda: {"start": hashlib.sha256(content).hexdigest()})
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def test_a_damaged_file_is_a_sentence(file: dict[str, Any], tmp_path: Path) -> None:
    assert load_carried("start").keys() == file.keys()
    path = tmp_path / "start.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(MissingError, match="damaged"):
        load_carried("start")


class _Context(PriorContext):
    """Carries one file and trains nothing."""

    def load_weights(self, net: nn.Module, weights: str, part: str = "") -> None:
        tensors = load_carried(weights)
        start = f"{part}." if part else ""
        net.load_state_dict({k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)})

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Any:
        return range(steps)


def equal(net: nn.Module, tensors: dict[str, torch.Tensor], prefix: str = "") -> bool:
    return all(torch.equal(value, tensors[prefix + key]) for key, value in net.state_dict().items())


def test_with_no_step_a_prior_is_what_it_starts_from(file: dict[str, torch.Tensor]) -> None:
    prior = WganGp(WganGp.Params(width=4, steps=0, start="start"), TRACK)
    model: PriorModel = prior.build()
    assert not equal(model, file) and not prior.seeded(), "one for all seeds"
    prior.train(_Context(), model)
    assert equal(model, file)


@pytest.mark.parametrize("kind", [WganGp, Dcgan])
def test_no_steps_without_a_start(kind: Any) -> None:
    with pytest.raises(ValidationError, match="start"):
        kind.Params(steps=0)
    start = kind(kind.Params(steps=0, start="x"), TRACK)
    assert not start.seeded() and kind(kind.Params(steps=1, start="x"), TRACK).seeded()


def test_every_class_starts_equal() -> None:
    torch.manual_seed(0)
    single, many = ConditionalGenerator(1, 32, 1, 4, 8), ConditionalGenerator(3, 32, 1, 4, 8)
    nn.init.normal_(single.ups[0].norm1.gain.weight)
    many.load_state_dict(for_every_class(single.state_dict(), 3))
    z = torch.randn(3, 8)
    expected = single.eval()(z, torch.zeros(3, dtype=torch.long))
    assert torch.allclose(many.eval()(z, torch.arange(3)), expected, atol=1e-6)
