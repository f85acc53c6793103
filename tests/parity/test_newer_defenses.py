"""The newer defenses compute what their published code computes on the same numbers, in the precision stored."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mibench.contracts import Batch, Defense, Output, Progress, TrackInfo
from mibench.primitives.adversarial import pgd
from mibench.primitives.training import mixed
from mibench.registry import Registry

DATA = Path(__file__).parent / "data"
CASES = json.loads((DATA / "newer.json").read_text())
METHODS = ("atat", "ssd", "loft", "dcd", "sca", "cutout", "cutmix", "mixup")  # first word of a case: its defense
TRACK = TrackInfo("parity", "faces", resolution=16, channels=3, num_classes=7, fill=(0.5,))

Arrays = dict[str, Tensor]
Case = dict[str, Any]


def _module(name: str) -> ModuleType:
    return sys.modules[Registry().plugin("defense", name).__module__]


def _mixed_loss(arrays: Arrays, share: float) -> Tensor:
    """What the training loop makes of the default loss of a batch that was mixed."""
    labels, output = arrays["label"], Output(arrays["logits"], arrays["logits"], {})
    batch = Batch(arrays["images"], labels, None, labels[arrays["permutation"]], share)
    return mixed(Defense(None, TRACK).loss, batch, output, Progress(0, 1, 0, 1))


def _mixup(arrays: Arrays, case: Case) -> Arrays:
    images = _module("mixup").mixture(arrays["images"], arrays["permutation"], case["lam"])
    return {"images": images, "loss": _mixed_loss(arrays, case["lam"])}


def _cutmix(arrays: Arrays, case: Case) -> Arrays:
    place = (case["lam"], case["row"], case["column"])
    images, stayed = _module("cutmix").pasted(arrays["images"], arrays["permutation"], *place)
    losses = {"loss_drawn": _mixed_loss(arrays, case["lam"]), "loss_exact": _mixed_loss(arrays, stayed)}
    return {"images": images, "kept_share": torch.tensor(stayed, dtype=torch.float64)} | losses


def _cutout(arrays: Arrays, case: Case, literal: bool = False) -> Arrays:
    images, place = arrays["images"], (arrays["row"], arrays["column"])
    mask = _module("cutout").squares(images.shape[-1], *place, case["length"], literal)
    return {"images": torch.where(mask, case["fill"], images)}


def _ssd_water_filling(arrays: Arrays, case: Case) -> Arrays:
    return {"scores": _module("ssd").water_filling(arrays["scores"], arrays["reference"], arrays["budget"])}


def _ssd_output(arrays: Arrays, case: Case) -> Arrays:
    ssd, f = _module("ssd"), arrays["scores"]
    return {
        "probability": ssd.class_probability(f, case["temperature"]),
        "entropy": ssd.entropy(f),
        "scores": ssd.shielded(f, arrays["class_means"], arrays["drawn"], case["epsilon"]),
    }


def _dcd_noisy_copy(arrays: Arrays, case: Case) -> Arrays:
    return {"images": _module("dcd").noisy_copy(arrays["images"], arrays["noise"], case["sigma"])}


def _dcd_training_set(arrays: Arrays, case: Case) -> Arrays:
    labels = (arrays["label"], arrays["surrogate_label"], case["protected"])
    changes = (arrays["flipped"], arrays["flipped_to"], arrays["copies_to"])
    source, label = _module("dcd").training_set(*labels, *changes)
    return {"source": source, "label": label}


def _sca_code(arrays: Arrays, case: Case) -> Arrays:
    assert case["stride"] == 1
    settings = (case["threshold"], case["tau"], case["iterations"])
    return {"code": _module("sca").sparse_code(arrays["images"], arrays["dictionary"], *settings)}


def _loft_head(arrays: Arrays, case: Case) -> Arrays:
    features, classes = arrays["features"].shape[1], len(arrays["up_bias"])
    head: nn.Sequential = _module("loft").low_rank_head(features, case["rank"], classes, case["activation"])
    names = ("norm_weight", "norm_bias", "running_mean", "running_var")
    keys = ("0.weight", "0.bias", "0.running_mean", "0.running_var")
    state = {key: arrays[name] for key, name in zip(keys, names, strict=True)}
    state |= {
        f"{i}.{part}": arrays[f"{way}_{part}"] for i, way in ((1, "down"), (3, "up")) for part in ("weight", "bias")
    }
    head.load_state_dict(state, strict=False)
    with torch.no_grad():
        return {"logits_eval": head.eval()(arrays["features"]), "logits_train": head.train()(arrays["features"])}


def _loft_confidence_loss(arrays: Arrays, case: Case) -> Arrays:
    logits = arrays["logits"].requires_grad_()
    loss = _module("loft").confidence_loss(logits, arrays["label"], case["gamma"], case["alpha"])
    return {"loss": loss, "gradient": torch.autograd.grad(loss, logits)[0]}


def _atat_targets(arrays: Arrays, case: Case) -> Arrays:
    return {"target": _module("atat").wrong_classes(arrays["label"], arrays["draw"], case["classes"])}


def _atat_pgd(arrays: Arrays, case: Case) -> Arrays:
    def loss(x: Tensor) -> Tensor:
        logits = torch.tanh((2 * x - 1).flatten(1) @ arrays["t1"]) @ arrays["t2"]
        return functional.cross_entropy(logits, arrays["target"])

    images, settings = arrays["images"], (case["epsilon"], case["step"], case["iterations"])
    return {"change": pgd(images, arrays["start"], loss, *settings) - images}


def _atat_loss(arrays: Arrays, case: Case) -> Arrays:
    assert case["clean_weight"] == 1
    logits, labels = (arrays["clean_logits"], arrays["adversarial_logits"]), (arrays["label"], arrays["target"])
    return {"loss": _module("atat").anti_adversarial_loss(*logits, *labels, case["adversarial_weight"])}


ADAPTERS: dict[str, Callable[[Arrays, Case], Arrays]] = {
    "mixup": _mixup,
    "cutmix": _cutmix,
    "cutout": _cutout,
    "cutout_literal": partial(_cutout, literal=True),
    "atat_targets": _atat_targets,
    "atat_pgd": _atat_pgd,
    "atat_loss": _atat_loss,
    "ssd_water_filling": _ssd_water_filling,
    "ssd_output": _ssd_output,
    "dcd_noisy_copy_surrogate": _dcd_noisy_copy,
    "dcd_noisy_copy_target": _dcd_noisy_copy,
    "dcd_training_set": _dcd_training_set,
    "sca_code": _sca_code,
    "loft_head": _loft_head,
    "loft_confidence_loss": _loft_confidence_loss,
}


def arrays_of(case: str, side: str) -> Arrays:
    start = f"{case}/{side}/"
    with np.load(DATA / "newer.npz") as stored:
        return {key.removeprefix(start): torch.from_numpy(stored[key]) for key in stored if key.startswith(start)}


@pytest.mark.parametrize("case", ADAPTERS)
def test_case_matches_the_published_code(case: str) -> None:
    outputs, expected = ADAPTERS[case](arrays_of(case, "in"), CASES[case]), arrays_of(case, "out")
    assert expected and set(outputs) >= set(expected)
    for name, reference in expected.items():
        ours = outputs[name].detach()
        assert ours.dtype == reference.dtype and ours.shape == reference.shape, name
        if not reference.is_floating_point():
            assert torch.equal(ours, reference), name
            continue
        error = torch.linalg.vector_norm(ours - reference) / torch.linalg.vector_norm(reference)
        assert error < 1e-4, f"{case}/{name}: relative error {error:.2e}"


def test_every_case_of_a_registered_defense_has_an_adapter() -> None:
    registered = set(Registry().entries("defense")) & set(METHODS)
    assert set(ADAPTERS) == {case for case in CASES if case.split("_")[0] in registered}
