"""Losses, trajectories and metrics compute what the methods' published code computes on the same numbers."""

from __future__ import annotations

import json
from pathlib import Path

import adapters
import numpy as np
import pytest
import torch
from torch import Tensor

DATA = Path(__file__).parent / "data"
CASES = json.loads((DATA / "math.json").read_text())


def arrays(case: str, side: str) -> dict[str, Tensor]:
    start = f"{case}/{side}/"
    with np.load(DATA / "math.npz") as stored:
        return {key.removeprefix(start): torch.from_numpy(stored[key]) for key in stored if key.startswith(start)}


@pytest.mark.parametrize("case", CASES)
def test_case_matches_the_published_code(case: str) -> None:
    assert case in adapters.MATH, f"tests/parity/adapters.py has no adapter for {case}"
    outputs = adapters.MATH[case](arrays(case, "in"), CASES[case])
    expected = arrays(case, "out")
    assert expected and set(outputs) >= set(expected)
    for name, reference in expected.items():
        ours = torch.as_tensor(outputs[name]).detach().to(reference.dtype)
        assert ours.shape == reference.shape, name
        error = torch.linalg.vector_norm(ours - reference) / torch.linalg.vector_norm(reference)
        assert error < 1e-4, f"{case}/{name}: relative error {error:.2e}"


def test_adapters_name_known_cases() -> None:
    assert set(adapters.MATH) <= set(CASES)
