"""Losses, trajectories, metrics and formulas compute what the methods' published code computes on the same numbers: of
``math`` what the benchmark was built on, of ``newer`` the methods since, in the precision stored."""

from __future__ import annotations

import json
from pathlib import Path

import adapters
import numpy as np
import pytest
import torch
from torch import Tensor

DATA = Path(__file__).parent / "data"
CASES = {
    (file, case): facts
    for file in ("math", "newer")
    for case, facts in json.loads((DATA / f"{file}.json").read_text()).items()
}
NOT_BUILT = ("diffmi",)  # its prior needs hours on a GPU


def arrays(file: str, case: str, side: str) -> dict[str, Tensor]:
    start = f"{case}/{side}/"
    with np.load(DATA / f"{file}.npz") as stored:
        return {key.removeprefix(start): torch.from_numpy(stored[key]) for key in stored if key.startswith(start)}


@pytest.mark.parametrize(("file", "case"), [pair for pair in CASES if not pair[1].startswith(NOT_BUILT)])
def test_case_matches_the_published_code(file: str, case: str) -> None:
    assert case in adapters.MATH, f"tests/parity/adapters.py has no adapter for {case}"
    outputs, expected = adapters.MATH[case](arrays(file, case, "in"), CASES[file, case]), arrays(file, case, "out")
    assert expected and set(outputs) >= set(expected)
    for name, reference in expected.items():
        ours = outputs[name].detach()
        assert ours.shape == reference.shape and ours.dtype == reference.dtype, name
        if not reference.is_floating_point():
            assert torch.equal(ours, reference), name
            continue
        error = torch.linalg.vector_norm(ours - reference) / torch.linalg.vector_norm(reference)
        assert error < 1e-4, f"{case}/{name}: relative error {error:.2e}"


def test_adapters_name_known_cases() -> None:
    assert set(adapters.MATH) <= {case for _, case in CASES}
