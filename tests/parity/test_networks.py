"""Networks with published checkpoints compute what the published code computes with the same weights."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import adapters
import fill
import numpy as np
import pytest
import torch
from torch import Tensor

DATA = Path(__file__).parent / "data"
ENTRIES = json.loads((DATA / "kedmi_networks.json").read_text())


@lru_cache(maxsize=1)  # IR152's 62.6 M values take a second or two
def published_state(name: str) -> dict[str, Tensor]:
    return {
        key: torch.from_numpy(np.asarray(fill.values(key, tuple(shape)), dtype=np.float32))
        for key, shape in ENTRIES[name]["tensors"].items()
    }


def expected_outputs(name: str) -> dict[str, Tensor]:
    with np.load(DATA / "kedmi_networks.npz") as arrays:
        return {
            key.removeprefix(f"{name}."): torch.from_numpy(arrays[key]) for key in arrays if key.startswith(f"{name}.")
        }


@pytest.mark.parametrize(
    ("name", "prefix"), [(name, prefix) for name in ENTRIES for prefix in ("", "module.")], ids=str
)
def test_network_matches_the_published_one(name: str, prefix: str) -> None:
    entry = ENTRIES[name]
    state = {prefix + key: value for key, value in published_state(name).items()}
    run = adapters.NETWORKS[name](entry, state)
    given = fill.inputs(entry["input"]["name"], entry["input"]["shape"], entry["input"]["kind"])
    outputs = run(given)
    expected = expected_outputs(name)
    assert expected and set(outputs) >= set(expected)
    for key, reference in expected.items():
        assert outputs[key].shape == reference.shape
        error = torch.linalg.vector_norm(outputs[key] - reference) / torch.linalg.vector_norm(reference)
        assert error < 1e-3, f"{name}.{key}: relative error {error:.2e}"
