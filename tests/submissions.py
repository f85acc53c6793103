"""Made-up finished runs in a real store, packed as submissions, and ways to tamper with them. Nothing is trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from mibench.metrics import METRICS
from mibench.metrics.evidence import macro, top_k
from mibench.planning.plan import Plan, Stage
from mibench.protocol.tracks import Track
from mibench.records import MetricValue, RunRecord, Seeds
from mibench.registry import Registry
from mibench.running.recording import Recorder
from mibench.running.request import build_plan
from mibench.store.artifacts import Manifest, Store
from mibench.store.manifest import dumps
from mibench.submission.pack import gather, write

PER_IDENTITY = 2
ENVIRONMENT = {
    "mibench": "0.1.0",
    "python": "3.11.7",
    "system": "Linux",
    "machine": "x86_64",
    "packages": {"torch": "2.15.0", "lpips": "not installed"},
    "device": "cpu",
    "peak_memory_mib": 500,
    "cpu_capability": "AVX2",
    "threads": 1,
    "code": {"commit": None, "modified": None},
}


def made_runs(
    root: Path,
    home: Path,
    defenses: Sequence[str] = ("re",),
    seeds: Sequence[Seeds] = (Seeds.of(0),),
    attack: str = "ppa",
) -> tuple[list[RunRecord], Store, Registry]:
    """Runs of ``attack`` on the track ``tiny`` against ``defenses`` and none, as if they had been computed."""
    registry, store = Registry(root), Store(home)
    track = registry.track("tiny")
    chosen = [registry.select("defense", name) for name in defenses]
    plan = build_plan(registry, track, chosen, [registry.select("attack", attack)], seeds)
    found = {stage.key: published(store, plan, stage, track) for stage in plan.stages.values()}
    recorder = Recorder(store, plan, found, lambda manifests: None)
    return [RunRecord.from_json(m.result["record"]) for m in recorder.finish()], store, registry


def published(store: Store, plan: Plan, stage: Stage, track: Track) -> Manifest:
    """The manifest of a stage, made up unless it is there."""
    with store.claim(stage.kind, stage.key) as claim:
        if claim.manifest is not None:
            return claim.manifest
        torch.manual_seed(int(stage.key[:8], 16))
        result = _FILL.get(stage.kind, _fill_model)(claim.workdir, store, stage, track)
        manifest = Manifest(
            kind=stage.kind,
            key=stage.key,
            plugin=stage.plugin,
            version=stage.version,
            params=json.loads(json.dumps(stage.params)),
            non_default=json.loads(json.dumps(stage.non_default)),
            seed=stage.seed,
            track=stage.track,
            track_version=track.version,
            inputs={role: key for role, (_, key) in stage.inputs.items()},
            seconds=1.5,
            started="2026-01-02T03:04:05+00:00",
            environment=ENVIRONMENT,
            source_sha256=stage.source_sha256,
            result=result,
            usage={"attempts": 1, "device_seconds": 1.25},
        )
        store.publish(stage.kind, stage.key, claim.workdir, manifest)
    again = store.manifest(stage.kind, stage.key)
    assert again is not None
    return again


def _fill_model(folder: Path, store: Store, stage: Stage, track: Track) -> dict[str, Any]:
    save_file({"weight": torch.rand(3, 2), "count": torch.tensor(1)}, folder / "model.safetensors")
    return {"notes": {}}


def _fill_invert(folder: Path, store: Store, stage: Stage, track: Track) -> dict[str, Any]:
    entries = []
    (folder / "images").mkdir()
    for label in track.identities:
        for index in range(PER_IDENTITY):
            name = f"images/{label:06d}_{index:03d}.png"
            Image.new("L", (track.resolution, track.resolution), 10 * label + index).save(folder / name)
            entry = {"label": label, "index": index, "file": name, "score": float(torch.rand(())), "notes": {}}
            entries.append(entry | {"selected": index == 0})
    _dump(entries, folder / "images.json")
    return {"queries": {"0": {"search": {"forward": 3, "gradient": 2, "label": 0}}}}


def _fill_utility(folder: Path, store: Store, stage: Stage, track: Track) -> dict[str, Any]:
    labels = torch.arange(track.private.identities).repeat_interleave(track.private.test_per_identity or 1)
    save_file({"logits": torch.randn(len(labels), track.private.identities), "labels": labels}, folder / LOGITS)
    return {"images": len(labels)}


def _fill_evaluate(folder: Path, store: Store, stage: Stage, track: Track) -> dict[str, Any]:
    from safetensors.torch import load_file

    entries = json.loads((store.path(*stage.inputs["invert"]) / "images.json").read_text())
    answers = load_file(store.path(*stage.inputs["utility"]) / LOGITS)
    label = torch.tensor([entry["label"] for entry in entries])
    selected = torch.tensor([entry["selected"] for entry in entries])
    logits = torch.randn(len(entries), track.private.identities)
    confidence, hit = logits.softmax(1).gather(1, label[:, None])[:, 0], top_k(logits, label, 1)
    table = [
        entry
        | {
            "verdict": int(logits[i].argmax()),
            "confidence": float(confidence[i]),
            "correct": bool(hit[i]),
            "nearest": 0,
        }
        for i, entry in enumerate(entries)
    ]
    _dump(table, folder / "images.json")
    metrics = {
        "nat1": macro(top_k(answers["logits"], answers["labels"], 1), answers["labels"]),
        "att1": macro(hit, label),
        "att1_selected": macro(hit[selected], label[selected]),
        "conf": macro(confidence, label),
    }
    for name in track.metrics:
        if name not in metrics:
            none = MetricValue(None, reason="not measured") if name == "fid" else None
            metrics[name] = none or macro(torch.rand(len(entries)), label)
    return {
        "metrics": {name: vars(metrics[name]) for name in track.metrics},
        "versions": {name: METRICS[name].version for name in track.metrics},
    }


def _dump(value: Any, path: Path) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


LOGITS = "logits.safetensors"
GRADIENTS = {"images": 15, "views": 8, "cosine": 0.5, "cosine_low": 0.4, "cosine_high": 0.6, "without": 0.0}
GRADIENTS |= {"accuracy": 1.0, "accuracy_views": 1.0}
_FILL: dict[str, Callable[[Path, Store, Stage, Track], dict[str, Any]]] = {
    "invert": _fill_invert,
    "utility": _fill_utility,
    "evaluate": _fill_evaluate,
    "features": lambda *_: {"values": {}},
    "gradients": lambda *_: {"gradients": GRADIENTS},
}


def made_pack(
    root: Path,
    folder: Path,
    defenses: Sequence[str] = ("re",),
    seeds: Sequence[Seeds] = (Seeds.of(0),),
    attack: str = "ppa",
    **options: Any,
) -> Path:
    """An honest submission below ``folder``."""
    runs, store, registry = made_runs(root, folder / "home", defenses, seeds, attack)
    tracks = {"tiny": registry.track("tiny")}
    write(gather(runs, store, registry, tracks, **options), folder / "pack", store.home, registry)
    return folder / "pack"


# --- tampering -----------------------------------------------------------------------------------------------------


def one(folder: Path, pattern: str) -> Path:
    """The first file of a submission that fits."""
    return sorted(folder.glob(pattern))[0]


def reseal(folder: Path) -> None:
    """Make the index list the files as they are now."""
    index = json.loads((folder / "submission.json").read_text())
    index["files"] = [
        {
            "path": path.relative_to(folder).as_posix(),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "submission.json"
    ]
    _dump(index, folder / "submission.json")


def edit_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    index = json.loads((folder / "submission.json").read_text())
    change(index)
    _dump(index, folder / "submission.json")


def edit_stage(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a manifest, with a checksum that fits."""
    data = json.loads(path.read_text())
    del data["checksum"]
    change(data)
    path.write_text(dumps(Manifest(**data)))
