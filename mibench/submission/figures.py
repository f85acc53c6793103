"""Are the figures of a submission those that its tables give? What the tables do not hold (top-5, distances) can only
be looked at for consistency: a mean that is the mean of its identities, an interval that is theirs."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mibench.metrics import METRICS
from mibench.metrics.evidence import macro, top_k
from mibench.protocol.tracks import Track
from mibench.records import MetricValue
from mibench.running.assembly import Question, assemble
from mibench.stats import bootstrap_interval
from mibench.store.manifest import Manifest
from mibench.submission import model
from mibench.submission.contents import Submission
from mibench.submission.layout import Refused, shown
from mibench.submission.strict import read_json, read_tensor

if TYPE_CHECKING:
    from torch import Tensor

CLOSE = 1e-6
JUDGED = (
    "verdict",
    "confidence",
    "correct",
    "nearest",
    "e2",
    "e3",
)  # what the evaluator adds to the attack's own table
GUESSES = {"att1": "verdict", "att1_e2": "e2", "att1_e3": "e3"}  # whom a judge takes an image for
OF_ALL = {"fid"}  # one number of all images, with no parts
# Of a stage; None in older records:
LATER = {"inputs", "attempts", "device_seconds", "device", "peak_memory_mib", "non_default"}
RECOMPUTED = ("nat1", "att1", "att1_selected", "conf", "att1_e2", "att1_e3", "att_maj", "att_min")


def check_outputs(sent: Submission) -> str:
    """The tables, weights and images in the folder are the outputs that manifests name."""
    for stage in sent.stages.values():
        if stage.kind in ("evaluate", "utility"):
            name = "images.json" if stage.kind == "evaluate" else "logits.safetensors"
            _same_file(sent, f"evaluations/{stage.key}/{name}", stage, name)
    targets = {stage.key: stage for stage in sent.stages.values() if stage.kind == "target"}
    weights = {entry.key: entry for entry in sent.index.weights}
    if weights.keys() != targets.keys() or len(weights) != len(sent.index.weights):
        raise Refused("submission.json must name the weights of each target once, and of nothing else.")
    for key, entry in weights.items():
        output = targets[key].outputs.get("model.safetensors")
        if output is None or output != {"sha256": entry.sha256, "bytes": entry.bytes}:
            raise Refused(f"The weights of target {key[:12]} are not those that its manifest names.")
        if entry.url is None:
            _same_file(sent, f"weights/{key}.safetensors", targets[key], "model.safetensors")
    expected = {file.path for file in sent.index.files if file.path.startswith(("evaluations/", "weights/"))}
    known = {f"weights/{key}.safetensors" for key, entry in weights.items() if entry.url is None}
    known |= {
        f"evaluations/{s.key}/{'images.json' if s.kind == 'evaluate' else 'logits.safetensors'}"
        for s in sent.stages.values()
        if s.kind in ("evaluate", "utility")
    }
    if extra := expected - known:
        raise Refused(f"{min(extra)} belongs to no stage of the submission.")
    images = [file.path for file in sent.index.files if file.path.startswith("images/")]
    for path in images:
        _, key, name = path.split("/")
        if key not in sent.stages or sent.stages[key].kind != "invert":
            raise Refused(f"{path} belongs to no attack of the submission.")
        _same_file(sent, path, sent.stages[key], f"images/{name}")
    away = sum(entry.url is not None for entry in weights.values())
    return f"tables, weights and {len(images)} images are the stages' own" + (
        f"; the weights of {away} targets are elsewhere and were not looked at" if away else ""
    )


def _same_file(sent: Submission, path: str, stage: Manifest, name: str) -> None:
    file = next((file for file in sent.index.files if file.path == path), None)
    output = stage.outputs.get(name)
    if file is None or output is None:
        raise Refused(f"There is no {path}, which the manifest of {stage.kind} {stage.key[:12]} asks for. Pack again.")
    if output != {"sha256": file.sha256, "bytes": file.bytes}:
        raise Refused(f"{path} is not what the manifest of {stage.kind} {stage.key[:12]} says was computed.")


def check_records(sent: Submission, known: dict[str, Track]) -> str:
    """Everything in a run's record that manifests say too is the same there."""
    environments = {json.dumps(_shared(stage.environment), sort_keys=True) for stage in sent.stages.values()}
    if {json.dumps(item, sort_keys=True) for item in sent.index.environments} != environments:
        raise Refused("submission.json names other environments than the manifests. Pack again.")
    for record in sent.records:
        labels = (record.defense_label, record.attack_label)
        asked = Question(record.run, known[record.track], record.seeds, *labels, record.deviations, record.methods)
        said, made = record.to_json(), assemble(asked, sent.roles(record), [], record.created).to_json()
        made["stages"] = [_as_old_as(stage, line) for stage, line in zip(made["stages"], said["stages"], strict=True)]
        for name, value in made.items():
            if said[name] != value:
                raise Refused(
                    f"Run {record.run}: {name} in its record is {shown(_first(said[name], value))}, its manifests "
                    "say otherwise. Pack again what was computed."
                )
    return f"{len(sent.records)} records say what their manifests say"


def _as_old_as(made: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """A stage's line without what an older record does not say."""
    return {name: None if name in LATER and said.get(name) is None else value for name, value in made.items()}


def _shared(environment: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in environment.items() if name != "peak_memory_mib"}


def _first(said: Any, made: Any) -> Any:
    """Where two objects differ: the first part of ``said``."""
    if isinstance(said, dict) and isinstance(made, dict):
        return next((f"{key}: {_first(said[key], made.get(key))}" for key in said if said[key] != made.get(key)), "")
    return said


def check_figures(sent: Submission, known: dict[str, Track]) -> str:
    """The metrics, computed again from the tables where these hold what they need."""
    import torch

    consistent: set[str] = set()
    for record in sent.records:
        roles, track = sent.roles(record), known[record.track]
        metrics = record.metrics
        if set(metrics) != set(track.metrics):
            raise Refused(f"Run {record.run} must have the metrics of its track: {', '.join(track.metrics)}.")
        for name, metric in metrics.items():
            _check_consistent(record.run, name, metric, track)
        entries = _table(sent, roles, track)
        label = torch.tensor([entry.label for entry in entries])
        correct = torch.tensor([float(entry.correct) for entry in entries])
        chosen = torch.tensor([entry.selected for entry in entries])
        confidence = torch.tensor([entry.confidence for entry in entries], dtype=torch.float64)
        logits, labels = _answers(sent.folder, roles["utility"].key, track)
        made = {
            "nat1": macro(top_k(logits, labels, 1), labels),
            "att1_selected": macro(correct[chosen], label[chosen]),
            "conf": macro(confidence, label),
        }
        made |= _votes(entries, label)
        for name, value in made.items():
            if name in metrics and not _agree(metrics[name], value):
                raise Refused(
                    f"Run {record.run}: {name} is {metrics[name].value}, but its table of single answers gives "
                    f"{value.value}. Submit what was computed."
                )
        consistent |= metrics.keys() - made.keys()
    rest = f"; {', '.join(sorted(consistent))} only looked at for consistency" if consistent else ""
    return f"{', '.join(RECOMPUTED)} computed again from single answers{rest}"


def _votes(entries: list[model.Image], label: Tensor) -> dict[str, MetricValue]:
    """The figures of the panel, where its judges' answers are in the table."""
    import torch

    guesses = {name: [getattr(entry, field) for entry in entries] for name, field in GUESSES.items()}
    votes = {name: (torch.tensor(who) == label).float() for name, who in guesses.items() if None not in who}
    made = {name: macro(vote, label) for name, vote in votes.items()}
    if len(votes) == len(GUESSES):
        agreed = torch.stack([*votes.values()]).sum(0)
        made |= {name: macro((agreed >= n).float(), label) for name, n in (("att_maj", 2), ("att_min", 3))}
    return made


def _check_consistent(run: str, name: str, metric: MetricValue, track: Track) -> None:
    where, fraction = f"Run {run}: {name}", METRICS[name].unit == "fraction"
    values = list(metric.per_identity.values())
    if metric.value is None:
        if not metric.reason or values or metric.ci_low is not None or metric.ci_high is not None:
            raise Refused(f"{where} has no value and must have a reason and nothing else.")
        return
    if metric.reason is not None or (metric.ci_low is None) != (metric.ci_high is None):
        raise Refused(f"{where} has a value and must have no reason, and an interval of two ends or none.")
    numbers = [metric.value, *values, *(end for end in (metric.ci_low, metric.ci_high) if end is not None)]
    if fraction and not all(0 <= number <= 1 + CLOSE for number in numbers):
        raise Refused(f"{where} is a fraction and must lie in 0 to 1.")
    if not values and name in OF_ALL:
        return
    if not values or {int(label) for label in metric.per_identity} - set(range(track.private.identities)):
        raise Refused(f"{where} must have its values by identity, of identities that the track has.")
    low, high = bootstrap_interval(values)
    made = MetricValue(math.fsum(values) / len(values), metric.n, low, high, None, metric.per_identity)
    if not _agree(metric, made):
        raise Refused(f"{where} is not the mean of its identities, or its interval is not theirs.")


def _agree(said: MetricValue, made: MetricValue) -> bool:
    pairs = [(said.value, made.value), (said.ci_low, made.ci_low), (said.ci_high, made.ci_high)]
    pairs += [(said.per_identity.get(name), value) for name, value in made.per_identity.items()]
    same = said.n == made.n and said.per_identity.keys() == made.per_identity.keys()
    return same and all(
        a is b is None or (a is not None and b is not None and math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE))
        for a, b in pairs
    )


def _table(sent: Submission, roles: dict[str, Manifest], track: Track) -> list[model.Image]:
    """The judged images, which are those that the attack made."""
    name = f"evaluations/{roles['evaluate'].key}/images.json"
    raw = read_json(sent.folder / name, name)
    entries = model.read_list(model.Image, raw, name)
    own = [{key: value for key, value in entry.items() if key not in JUDGED} for entry in raw]
    text = json.dumps(own, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    output = roles["invert"].outputs.get("images.json")
    if output is None or hashlib.sha256(text.encode()).hexdigest() != output["sha256"]:
        raise Refused(f"{name} judges other images, or another selection of them, than the attack made.")
    classes = track.private.identities
    for entry in entries:
        if entry.correct != (entry.verdict == entry.label) or max(entry.verdict, entry.label) >= classes:
            raise Refused(f"{name} contradicts itself at image {entry.index} of identity {entry.label}.")
        if entry.file not in roles["invert"].outputs:
            raise Refused(f"{name} names {entry.file}, which the attack did not make.")
    if {entry.label for entry in entries} != set(track.identities):
        raise Refused(f"{name} does not cover the identities that the track attacks.")
    if len({entry.file for entry in entries}) != len(entries):
        raise Refused(f"{name} judges an image twice.")
    return entries


def _answers(folder: Path, key: str, track: Track) -> tuple[Any, Any]:
    """The target's answers on the sealed images: (n, K) logits and (n,) labels."""
    import torch

    name = f"evaluations/{key}/logits.safetensors"
    logits = torch.from_numpy(read_tensor(folder / name, name, "logits"))
    labels = torch.from_numpy(read_tensor(folder / name, name, "labels"))
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or logits.shape[1] != track.private.identities:
        raise Refused(f"{name} does not hold one answer over {track.private.identities} classes per image.")
    if not bool(torch.isfinite(logits).all()):
        raise Refused(f"{name} holds answers that are not finite.")
    counts, asked = Counter(labels.tolist()), track.private.test_per_identity
    if not set(counts) <= set(range(track.private.identities)) or (
        asked is not None and set(counts.values()) != {asked}
    ):
        raise Refused(f"{name} is not about the track's sealed images: {asked} of each identity are expected.")
    return logits, labels
