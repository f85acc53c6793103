"""AlignMI and PPDG-MI compute what their published code computes on the same numbers.

``MATH``: case name -> f(inputs by name, parameters) -> outputs by name; the functions are those that the attacks call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from mibench.primitives.alignment import View, averaged, perturbed
from mibench.primitives.latents import descend_adam, ramps
from mibench.primitives.losses import poincare
from mibench.primitives.tuning import DISTANCES, find_pivots, noise_scales, tune

DATA = Path(__file__).parent / "data"
METHODS = ("alignmi_", "ppdg_")
CASES = {name: case for name, case in json.loads((DATA / "newer.json").read_text()).items() if name.startswith(METHODS)}

Arrays = dict[str, Tensor]
Case = dict[str, Any]


class Drawn:
    """A random stream whose numbers are given."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers: Iterator[Tensor] = iter(numbers)

    def normal(self, n: int, *shape: int) -> Tensor:
        numbers = next(self.numbers)
        assert numbers.shape == (n, *shape)
        return numbers

    uniform = normal


def _aligned_gradient(arrays: Arrays, case: Case, view: View, numbers: Tensor) -> Arrays:
    w = arrays["w"].requires_grad_(True)
    (gradient,) = torch.autograd.grad(_aligned(arrays, case, view, numbers)(w).sum(), w)
    return {"gradient": gradient}


def _aligned_trajectory(arrays: Arrays, case: Case, view: View, numbers: Tensor) -> Arrays:
    objective = _aligned(arrays, case, view, numbers.flatten(0, 1))
    return {"w": descend_adam(arrays["w"], objective, range(case["iterations"]), case["lr"], tuple(case["betas"]))}


def _aligned(arrays: Arrays, case: Case, view: View, numbers: Tensor) -> Callable[[Tensor], Tensor]:
    def identity(x: Tensor) -> Tensor:
        return poincare(torch.tanh(x.flatten(1) @ arrays["t1"]) @ arrays["t2"], arrays["label"])

    mean = averaged(identity, view, case["samples"], Drawn(numbers))
    return lambda w: mean(torch.sigmoid(w @ arrays["generator"]).unflatten(1, case["shape"]))


def _permuted(images: Tensor, rng: Any) -> Tensor:
    return images.flatten(1)[:, next(rng.numbers)].view_as(images)


def _distance(arrays: Arrays, name: str) -> Arrays:
    source = arrays["source"].requires_grad_(True)
    loss = DISTANCES[name](source, arrays["target"])
    (gradient,) = torch.autograd.grad(loss, source)
    return {"loss": loss, "gradient": gradient}


def _pivots(arrays: Arrays, case: Case) -> Arrays:
    found = arrays["pseudo"] @ arrays["features"]
    losses = []

    def far(w: Tensor) -> Tensor:
        x = torch.tanh(w @ arrays["generator"])
        distance = DISTANCES[case["distance"]](x @ arrays["features"], found)
        return distance + case["prior_weight"] * softplus(-x @ arrays["critic"]).mean()

    steps, rng = case["steps"], Drawn(arrays["noise"])
    watch = lambda loss, w: losses.append(loss[0])  # noqa: E731
    pivots = find_pivots(arrays["w_pool"], len(arrays["pseudo"]), far, steps, rng, case["lr"], watch)
    rate = ramps(case["lr"], steps)
    lr = torch.tensor([rate(step) for step in range(steps)], dtype=torch.float64)
    scales = torch.tensor(noise_scales(arrays["w_pool"], steps, case["noise"]))
    return {"lr": lr, "noise_scale": scales, "loss": torch.stack(losses), "pivots": pivots}


def _tuning(arrays: Arrays, case: Case) -> Arrays:
    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.Parameter(arrays["generator"].clone())

    toy, found = Toy(), arrays["pseudo"] @ arrays["features"]

    def far() -> Tensor:
        return DISTANCES[case["distance"]](torch.tanh(arrays["pivots"] @ toy.weights) @ arrays["features"], found)

    losses = tune(toy, far, range(case["steps"]), case["lr"])
    return {"loss": torch.tensor(losses), "generator": toy.weights}


MATH: dict[str, Callable[[Arrays, Case], Arrays]] = {
    "alignmi_paa_gradient": lambda a, c: _aligned_gradient(a, c, partial(perturbed, spread=c["spread"]), a["noise"]),
    "alignmi_paa_trajectory": lambda a, c: _aligned_trajectory(
        a, c, partial(perturbed, spread=c["spread"]), a["noise"]
    ),
    "alignmi_taa_gradient": lambda a, c: _aligned_gradient(a, c, _permuted, a["permutation"]),
    "alignmi_taa_trajectory": lambda a, c: _aligned_trajectory(a, c, _permuted, a["permutation"]),
    "ppdg_ct_loss": lambda a, c: _distance(a, "ct"),
    "ppdg_mmd_loss": lambda a, c: _distance(a, "mmd"),
    "ppdg_pivots": _pivots,
    "ppdg_tuning_ct": _tuning,
    "ppdg_tuning_mmd": _tuning,
}


def arrays(case: str, side: str) -> Arrays:
    start = f"{case}/{side}/"
    with np.load(DATA / "newer.npz") as stored:
        return {key.removeprefix(start): torch.from_numpy(stored[key]) for key in stored if key.startswith(start)}


@pytest.mark.parametrize("case", CASES)
def test_case_matches_the_published_code(case: str) -> None:
    outputs = MATH[case](arrays(case, "in"), CASES[case])
    expected = arrays(case, "out")
    assert expected and set(outputs) >= set(expected)
    for name, reference in expected.items():
        ours = torch.as_tensor(outputs[name]).detach().to(reference.dtype)
        assert ours.shape == reference.shape, name
        error = torch.linalg.vector_norm(ours - reference) / torch.linalg.vector_norm(reference)
        assert error < 1e-4, f"{case}/{name}: relative error {error:.2e}"
