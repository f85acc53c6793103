"""Made-up runs and a catalogue for tests that need no training."""

from __future__ import annotations

import hashlib
import random
from typing import Any

from mibench.keys import digest, joint_version
from mibench.protocol.stage_kinds import STAGE_KINDS
from mibench.protocol.suites import Suite
from mibench.publish import Catalogue
from mibench.records import MetricValue, RunRecord, StageInfo
from mibench.store.manifest import Manifest

IDENTITIES = 10
METRICS: dict[str, dict[str, Any]] = {
    "nat1": {
        "title": "Natural accuracy",
        "direction": "high",
        "unit": "fraction",
        "help": "Top-1 on private test images.",
    },
    "att1": {
        "title": "Attack top-1",
        "direction": "low",
        "unit": "fraction",
        "help": "Macro mean over identities.",
    },
    "att5": {
        "title": "Attack top-5",
        "direction": "low",
        "unit": "fraction",
        "help": "As top-1, among the best five.",
    },
    "att1_selected": {
        "title": "Top-1, selected",
        "direction": "low",
        "unit": "fraction",
        "help": "Selected images only.",
    },
    "att1_step0": {
        "title": "Top-1, step 0",
        "direction": "low",
        "unit": "fraction",
        "help": "Before optimisation.",
    },
    "conf": {
        "title": "Confidence",
        "direction": "low",
        "unit": "fraction",
        "help": "In the attacked identity.",
    },
    "knn_eval": {
        "title": "KNN distance",
        "direction": "high",
        "unit": "squared L2",
        "help": "In evaluator features.",
    },
    "d_eval": {
        "title": "δ eval",
        "direction": "high",
        "unit": "squared L2",
        "help": "Of the selected images.",
    },
    "face_rate": {
        "title": "Face rate",
        "direction": "low",
        "unit": "fraction",
        "help": "Share with a detected face.",
    },
    "fid": {"title": "FID", "direction": None, "unit": None, "help": "Diagnostic only."},
}


def make_catalogue(**tracks: dict[str, Any]) -> Catalogue:
    """A catalogue with the track ``orl32`` (sensitive) and those given."""
    facts = {"title": "AT&T/ORL faces, 32x32 grey", "version": 1, "kind": "faces", "sensitive": True}
    facts |= {"chance": 1 / IDENTITIES, "identities": IDENTITIES, "metrics": list(METRICS), "resolution": 32}
    return Catalogue(
        tracks={"orl32": facts, **tracks},
        defenses={
            "none": {
                "title": "No defense",
                "kind": "baseline",
                "paper": None,
                "url": None,
                "year": None,
                "deviations": [],
            },
            "re": {
                "title": "Random Erasing",
                "kind": "data",
                "paper": "MIDRE",
                "url": "https://arxiv.org/abs/2409.01062",
                "year": 2025,
                "deviations": [],
            },
        },
        attacks={
            "gmi": {
                "title": "GMI",
                "family": "GAN latents",
                "access": "white_box",
                "paper": "The Secret Revealer",
                "url": "https://arxiv.org/abs/1911.07135",
                "year": 2020,
                "deviations": ["Adam in place of SGD with momentum."],
            }
        },
        metrics=METRICS,
    )


def make_claims() -> Suite:
    """Claims about defenses that made-up runs have, and about some that they have not."""
    lower = {"title": "less", "statement": "It leaks less.", "test": "lower", "attacks": "all"}
    trend = {"title": "more", "statement": "More of it leaks less.", "test": "trend", "attacks": "all", "dose": "doses"}
    return Suite.model_validate(
        {
            "schema": 1,
            "title": "Does it help?",
            "note": "Made up.",
            "groups": {},
            "cells": {},
            "seeds": 3,
            "attacks": {"all": ["gmi", "kedmi"]},
            "claims": {
                "less": lower | {"pairs": [["re", "none"], ["bido", "none"], ["other", "none"]]},
                "more": trend | {"doses": {"re": 0.25, "re[strong]": 0.45}},
            },
        }
    )


def make_run(**overrides: Any) -> RunRecord:
    """A finished run of ``none`` against ``gmi`` on ``orl32``, with made-up numbers that depend on its
    names and seed.

    Any field of RunRecord can be given; ``att1`` and ``nat1`` set these two metrics. The id follows from
    the names unless ``run`` is given, and the labels from the ids."""
    fixed = {name: overrides.pop(name) for name in ("att1", "nat1") if name in overrides}
    values: dict[str, Any] = {
        "track": "orl32",
        "track_version": 1,
        "defense": "none",
        "attack": "gmi",
        "seed": 0,
    }
    values |= overrides
    values.setdefault("defense_label", values["defense"])
    values.setdefault("attack_label", values["attack"])
    names = (
        values["track"],
        values["track_version"],
        values["defense_label"],
        values["attack_label"],
        values["seed"],
    )
    rng = random.Random(repr(names))
    att1, nat1 = fixed.get("att1", rng.uniform(0.1, 0.8)), fixed.get("nat1", rng.uniform(0.7, 0.95))
    run = hashlib.sha256(repr(names).encode()).hexdigest()[:12]
    defaults = {
        "run": run,
        "defense_params": {},
        "attack_params": {"steps": 1500, "lr": 0.02, "restarts": 4},
        "status": "done",
        "created": "2026-11-23T12:00:00Z",
        "metrics": make_metrics(att1, nat1, rng),
        "stages": [
            make_stage("target", values["defense"], {"epochs": 100}, values["seed"], 31.5),
            make_stage("invert", values["attack"], {"steps": 1500, "lr": 0.02}, values["seed"], 204.25),
        ],
        "environment": {"python": "3.11.9", "device": "cpu", "packages": {"torch": "2.15.0"}},
        "queries": {
            "shared": {"prior": {"forward": 4000, "gradient": 0, "label": 0}},
            **{str(i): {"optimise": {"forward": 6000, "gradient": 6000, "label": 0}} for i in range(IDENTITIES)},
        },
        "images": [
            {
                "label": label,
                "index": index,
                "file": f"{label}/{index}.png",
                "selected": index == 0,
                "verdict": label if (correct := rng.random() < (att1 or 0)) else (label + 1) % IDENTITIES,
                "confidence": rng.random(),
                "correct": correct,
                "nearest": index,
            }
            for label in range(IDENTITIES)
            for index in range(4)
        ],
        "chance": 1 / IDENTITIES,
        "command": f"mibench run --defense {values['defense_label']} --attack {values['attack_label']}",
        "deviations": ["Adam in place of SGD with momentum."],
    }
    return RunRecord(**(defaults | values))


def make_stage(
    kind: str, plugin: str, params: dict[str, Any], seed: int = 0, seconds: float = 1.0, version: int = 1
) -> StageInfo:
    """A stage of this code."""
    key = {"target": "5e" * 8, "invert": "a7" * 8}.get(kind, "9c" * 8)
    return StageInfo(kind, key, plugin, joint_version(STAGE_KINDS[kind].version, version), params, seed, seconds)


def run_manifest(record: RunRecord, key: str = "") -> Manifest:
    """What a store keeps of a run; ``key`` names one of several records of it."""
    return Manifest(
        kind="run",
        key=digest(key or record.run),
        plugin=record.defense,
        version=1,
        params={},
        non_default={},
        seed=record.seed,
        track=record.track,
        track_version=record.track_version,
        result={"record": record.to_json()},
    )


def make_metrics(att1: float | None, nat1: float | None, rng: random.Random) -> dict[str, MetricValue]:
    """Metrics around the given two; ``fid`` was not computed."""

    def share(value: float | None) -> MetricValue:
        if value is None:
            return MetricValue(None, reason="the evaluator is not available")
        return MetricValue(value, n=40, ci_low=max(0.0, value - 0.08), ci_high=min(1.0, value + 0.09))

    per_identity = {str(i): rng.choice([0.0, 0.25, 0.5, 0.75, 1.0]) for i in range(IDENTITIES)}
    top = share(att1)
    near = att1 or 0.0
    return {
        "nat1": share(nat1),
        "att1": MetricValue(top.value, top.n, top.ci_low, top.ci_high, top.reason, per_identity if att1 else {}),
        "att5": share(min(1.0, near + 0.2)),
        "att1_selected": share(min(1.0, near + 0.05)),
        "att1_step0": share(0.1),
        "conf": share(near * 0.9),
        "knn_eval": MetricValue(1200 + 400 * (1 - near), n=40),
        "d_eval": MetricValue(12.345, n=10),
        "face_rate": share(0.9),
        "fid": MetricValue(None, reason="Inception weights are not on this machine"),
    }
