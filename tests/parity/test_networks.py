"""Networks with published checkpoints compute what the published code computes with the same weights."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import adapters
import fill
import numpy as np
import pytest
import torch
from torch import Tensor

from mibench.weights.kinds import fit
from mibench.weights.pickles import read_pickle

DATA = Path(__file__).parent / "data"
FILES = ("kedmi_networks", "plgmi_networks", "stylegan2_generator")
HOME = {name: file for file in FILES for name in json.loads((DATA / f"{file}.json").read_text())}
ENTRIES = {name: json.loads((DATA / f"{file}.json").read_text())[name] for name, file in HOME.items()}


@lru_cache(maxsize=1)  # IR152's 62.6 M values take a second or two
def published_state(name: str) -> dict[str, Tensor]:
    return {
        key: torch.from_numpy(np.asarray(fill.values(key, tuple(shape)), dtype=np.float32))
        for key, shape in ENTRIES[name]["tensors"].items()
    }


def expected_outputs(name: str) -> dict[str, Tensor]:
    """``<network>.<output>``; a file of one network has the outputs alone."""
    start = "" if HOME[name] == name else f"{name}."
    with np.load(DATA / f"{HOME[name]}.npz") as arrays:
        return {key.removeprefix(start): torch.from_numpy(arrays[key]) for key in arrays if key.startswith(start)}


def inputs(entry: dict[str, Any]) -> list[Tensor]:
    """What the network takes, in order: one array, or PLG-MI's pair with the labels."""
    if "input" in entry:
        return [fill.inputs(entry["input"]["name"], entry["input"]["shape"], entry["input"]["kind"])]
    named = {
        "latent128": lambda: fill.inputs("latent128", (2, 128)),
        "2 * uniform(image64) - 1": lambda: 2 * fill.inputs("image64", (2, 3, 64, 64), "uniform") - 1,
    }
    return [named[v]() if isinstance(v, str) else torch.tensor(v) for v in entry["inputs"].values()]


@pytest.mark.parametrize(
    ("name", "prefix"), [(name, prefix) for name in ENTRIES for prefix in ("", "module.")], ids=str
)
def test_network_matches_the_published_one(name: str, prefix: str) -> None:
    entry = ENTRIES[name]
    state = {prefix + key: value for key, value in published_state(name).items()}
    run = adapters.NETWORKS[name](entry, state)
    outputs = run(*inputs(entry))
    expected = expected_outputs(name)
    assert expected and set(outputs) >= set(expected)
    for key, reference in expected.items():
        assert outputs[key].shape == reference.shape
        error = torch.linalg.vector_norm(outputs[key] - reference) / torch.linalg.vector_norm(reference)
        assert error < 1e-3, f"{name}.{key}: relative error {error:.2e}"


def test_every_network_has_an_adapter() -> None:
    assert set(adapters.NETWORKS) == set(ENTRIES)


def test_the_published_file_makes_the_reference_images() -> None:
    """The code that the file carries raises when it is executed; what it computes is known without it."""
    content = read_pickle((DATA / "stylegan2_tiny.pkl").read_bytes())
    fitted = fit("stylegan2", content)
    entry = {"config": fitted.settings | {"c_dim": 0, "num_fp16_res": 0}}
    outputs = adapters.NETWORKS["stylegan2_generator"](entry, fitted.tensors)(*inputs(ENTRIES["stylegan2_generator"]))
    expected = expected_outputs("stylegan2_generator")
    assert set(outputs) == set(expected) and len(expected) == 4
    for key, reference in expected.items():
        error = torch.linalg.vector_norm(outputs[key] - reference) / torch.linalg.vector_norm(reference)
        assert error < 1e-5, f"{key}: relative error {error:.2e}"
    filled = published_state("stylegan2_generator")
    assert set(fitted.tensors) == set(filled)
    assert all(torch.equal(fitted.tensors[name], value) for name, value in filled.items())
