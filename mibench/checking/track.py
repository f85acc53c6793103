"""The smallest track: procedural faces on which every method takes about a second. It checks, it measures nothing."""

from __future__ import annotations

from typing import Any

from mibench.protocol.methods import Kind
from mibench.protocol.tracks import Track
from mibench.registry import Registry

CAP = 4
SECTION: dict[str, Any] = {
    "version": 1,
    "title": "Procedural faces, the smallest track",
    "kind": "faces",
    "sensitive": False,
    "source": "synthfaces",
    "resolution": 32,
    "channels": 1,
    "fill": [0.449],
    "preset": "tiny",
    "private": {"identities": 5, "train_per_identity": 3, "test_per_identity": 2},
    "public": {"images": 48, "identities": 6, "labelled": True},
    "target": {
        "arch": "convnet",
        "epochs": 6,
        "batch": 8,
        "lr": 0.003,
        "weight_decay": 0.0005,
        "shift": 0.06,
        "flip": True,
    },
    "evaluator": {"arch": "small_resnet", "epochs": 2, "batch": 8, "lr": 0.003, "weight_decay": 0.0005, "shift": 0.1},
    "attack": {"identities": "all", "images_per_identity": 2},
    "metrics": [
        "nat1",
        "att1",
        "att5",
        "att1_selected",
        "att5_selected",
        "att1_step0",
        "conf",
        "knn_eval",
        "d_eval",
        "lpips",
        "fid",
    ],
}


def smallest(arch: str | None = None) -> Track:
    """The track, with another network for the target if ``arch`` names one."""
    target = SECTION["target"] | ({"arch": arch} if arch else {})
    return Track(id=f"smallest-{arch}" if arch else "smallest", **SECTION | {"target": target})


def reduced(registry: Registry, kind: Kind, name: str) -> dict[str, Any]:
    """The small parameters of a method: its preset ``tiny`` if it has one, else integers cut down to ``CAP``, as far as
    the method allows."""
    own = registry.entry(kind, name).presets.get("tiny")
    if own is not None:
        return own
    params = registry.plugin(kind, name).Params
    values: dict[str, Any] = {}
    for field, info in [*params.model_fields.items()] * 2:  # twice: one may be bounded by another
        default = info.get_default(call_default_factory=True)
        small = _small(default)
        if small != default:
            try:
                params(**values | {field: small})
            except ValueError:
                continue
            values[field] = small
    return values


def _small(value: Any) -> Any:
    """An integer, or every integer of a tuple of them, at most ``CAP``; anything else as it is."""
    if type(value) is tuple and all(type(item) is int for item in value):
        return tuple(min(item, CAP) for item in value)
    return min(value, CAP) if type(value) is int else value
