"""Judge a run's reconstructions. This stage imports no defense, attack or prior: it reads files and asks the judges."""

from __future__ import annotations

import json
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from mibench.images.pixels import Pixels, Shown
from mibench.metrics import METRICS
from mibench.metrics.evidence import Evidence, nearest_private
from mibench.metrics.panel import answers
from mibench.nets.frozen import frozen
from mibench.registry.guard import undisturbed
from mibench.stages.job import Job, load_weights, predict
from mibench.stages.panel import judged
from mibench.store.atomic import write_json


def run(job: Job) -> dict[str, Any]:
    """Writes ``images.json`` (one entry per image: verdict, confidence, nearest private image, and whom the panel's
    other judges take it for); the result holds the metrics."""
    torch.manual_seed(0)
    invert, _ = job.parent("invert")
    entries: list[dict[str, Any]] = json.loads((invert / "images.json").read_text())
    evidence = _evidence(job, invert, entries)
    metrics = {}
    for step, name in enumerate(job.track.metrics):
        module, function = METRICS[name].compute.split(":")
        with undisturbed():  # a package's metric changes no other
            compute = attrgetter(function)(import_module(module))
        metrics[name] = compute(evidence)
        job.progress(step + 1, len(job.track.metrics), None, name)
    probability, verdict = evidence.logits.softmax(1), evidence.logits.argmax(1)
    _, nearest = nearest_private(evidence.features, evidence.label, evidence.private_features, evidence.private_labels)
    guesses = {name: scores.argmax(1) for name, scores in answers(evidence).items() if name != "e1"}
    table = [
        entry
        | {
            "verdict": int(verdict[i]),
            "confidence": float(probability[i, entry["label"]]),
            "correct": bool(verdict[i] == entry["label"]),
            "nearest": int(nearest[i]),
        }
        | {name: int(guess[i]) for name, guess in guesses.items()}
        for i, entry in enumerate(entries)
    ]
    write_json(job.workdir / "images.json", table)
    return {
        "metrics": {name: vars(value) for name, value in metrics.items()},
        "versions": {name: METRICS[name].version for name in metrics},
    }


def _shown(job: Job, invert: Path, entries: list[dict[str, Any]]) -> Shown | None:
    """What the evaluator sees in place of the pictures, in the order of ``entries``; None if it sees these."""
    if not job.track.evaluator.shown_side:
        return None
    labels = dict.fromkeys(entry["label"] for entry in entries)
    return Shown([invert / "shown" / f"{label:06d}.safetensors" for label in labels], job.device)


def _evidence(job: Job, invert: Path, entries: list[dict[str, Any]]) -> Evidence:
    folder, _ = job.parent("evaluator")
    evaluator = job.evaluator()
    load_weights(evaluator, folder / "model.safetensors")
    evaluator = frozen(job.judging(evaluator).to(job.device))
    utility, _ = job.parent("utility")
    told = load_file(utility / "logits.safetensors")
    private, labels = job.data.private_train()
    seen, _ = job.data.private_train("evaluator")
    files = [invert / entry["file"] for entry in entries]
    initial_files = [invert / entry["file"].replace("images/", "initial/", 1) for entry in entries]
    images, initial = (Pixels.read(part, job.track.channels, job.device) for part in (files, initial_files))
    logits, features = predict(evaluator, _shown(job, invert, entries) or job.evaluator_inputs(images))
    initial_logits, _ = predict(evaluator, job.evaluator_inputs(initial))
    _, private_features = predict(evaluator, job.evaluator_inputs(Pixels.of(seen, job.device)))
    return Evidence(
        images=images.to("cpu"),
        label=torch.tensor([entry["label"] for entry in entries]),
        selected=torch.tensor([entry["selected"] for entry in entries]),
        logits=logits.cpu(),
        features=features.cpu(),
        initial_logits=initial_logits.cpu(),
        private_images=Pixels.of(private, torch.device("cpu")),
        private_labels=torch.from_numpy(np.array(labels)),
        private_features=private_features.cpu(),
        test_logits=told["logits"],
        test_labels=told["labels"],
        judges=judged(job, images),
    )
