"""Attacks that see scores compute what their published code computes on the same numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mibench.primitives.evolution import one_plus_one
from mibench.primitives.experts import class_weights, surrogate_loss

DATA = Path(__file__).parent / "data"
CASES = json.loads((DATA / "newer.json").read_text())

Arrays = dict[str, Tensor]


def _class_weights(x: Arrays, case: dict[str, Any]) -> Arrays:
    return {"weight": class_weights(x["log_scores"], case["beta"], case["top"])}


def _surrogate_loss(x: Arrays, case: dict[str, Any]) -> Arrays:
    experts = x["experts"].requires_grad_()
    outputs: Arrays = surrogate_loss(
        experts,
        x["target_log_scores"],
        x["weight"],
        case["temperature"],
        case["ce_weight"],
        case["diversity_weight"],
        case["weighting"].startswith("literal"),
        case["clamp"],
    )
    (gradient,) = torch.autograd.grad(outputs["loss"], experts)
    return outputs | {"gradient": gradient}


def _one_plus_one(x: Arrays, case: dict[str, Any]) -> Arrays:
    noise = iter(x["noise"][1:])
    said: list[tuple[Tensor, Tensor]] = []

    def judge(w: Tensor) -> Tensor:
        return ((w @ x["generator"]).tanh() @ x["target"]).log_softmax(1)[:, case["label"]]

    best, _ = one_plus_one(
        x["start"][None],
        judge,
        lambda: next(noise)[None],
        lambda w: w.clamp(x["low"], x["high"]),
        case["budget"],
        case["sigma"],
        lambda f, s: said.append((f, s)),
    )
    fitness, sigma = (torch.cat(values) for values in zip(*said, strict=True))
    return {"best": best[0], "fitness": fitness, "sigma": sigma}


SCORES: dict[str, Callable[[Arrays, dict[str, Any]], Arrays]] = {
    "smile_class_weights": _class_weights,
    "smile_surrogate_loss": _surrogate_loss,
    "smile_surrogate_loss_per_sample": _surrogate_loss,
    "smile_one_plus_one": _one_plus_one,
}


def arrays(case: str, side: str) -> Arrays:
    start = f"{case}/{side}/"
    with np.load(DATA / "newer.npz") as stored:
        return {key.removeprefix(start): torch.from_numpy(stored[key]) for key in stored if key.startswith(start)}


@pytest.mark.parametrize("case", SCORES)
def test_case_matches_the_published_code(case: str) -> None:
    outputs, expected = SCORES[case](arrays(case, "in"), CASES[case]), arrays(case, "out")
    assert expected and set(outputs) >= set(expected)
    for name, reference in expected.items():
        ours = outputs[name].detach().to(reference.dtype)
        assert ours.shape == reference.shape, name
        error = torch.linalg.vector_norm(ours - reference) / torch.linalg.vector_norm(reference)
        assert error < 1e-4, f"{case}/{name}: relative error {error:.2e}"
