"""From a checkpoint and a folder of images to a track and a method that is the checkpoint."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from mibench.audit.foreign import Way, call_factory, fingerprint, load_into, make_network
from mibench.audit.probe import examine
from mibench.audit.request import ORDERS, AuditRequest
from mibench.errors import UserError
from mibench.nets import build_classifier
from mibench.weights.entries import choose
from mibench.weights.files import read_checkpoint, read_file
from mibench.weights.fit import tensors_in
from mibench.weights.imported import save_imported
from mibench.weights.starting import weights_folder

OWN = Path(__file__).with_name("own_model.py")
_JUDGED = {"shift": 0.1, "rotate": 12.0, "scale": 0.12, "light": 0.2}
PRESET = "audited"  # holds the model's parameters, and applies on its track by itself
SMALL = "convnet"  # what is trained for comparison where the own architecture cannot be


@dataclass(frozen=True)
class Subject:
    """What is audited: the file that makes it a method, and the track it is attacked on."""

    plugin: Path
    track: Path
    compared: str  # architecture of the networks trained for comparison
    network: nn.Module
    way: Way
    notes: list[str]  # what of the network's answer is attacked
    params: dict[str, Any]  # of the method


def prepare(request: AuditRequest, home: Path) -> Subject:
    """Read and try the network, put its weights into the store and write the track. Raises UserError."""
    network, params = _from_factory(request) if request.factory else _from_file(request, home)
    way = Way(*request.normalisation, request.network_resolution, request.bgr)
    way, notes = examine(network, len(request.classes), way, request.channels, request.resolution)
    compared = request.arch if request.arch is not None and _trainable(request.arch, request) else SMALL
    subject = Subject(request.out / OWN.name, request.out / "track.yaml", compared, network, way, notes, params)
    request.out.mkdir(parents=True, exist_ok=True)
    subject.track.write_text(_track(request, compared), encoding="utf-8")
    return subject


def write_method(subject: Subject) -> None:
    """The network as a method beside its track, enough to run anything else against it: own_model.py and its entry."""
    way = asdict(subject.way) | {"side": subject.way.side or 0}
    params = {name: list(value) if isinstance(value, tuple) else value for name, value in way.items()} | subject.params
    entry = {"title": "Own model, as it is", "kind": "baseline", "presets": {PRESET: params}}
    shutil.copyfile(OWN, subject.plugin)
    subject.plugin.with_suffix(".yaml").write_text(yaml.safe_dump(entry, sort_keys=False), encoding="utf-8")


def _from_factory(request: AuditRequest) -> tuple[nn.Module, dict[str, Any]]:
    """The network with its weights, and the parameters that stand for it."""
    here = str(Path.cwd())
    sys.path.insert(0, here)  # as python -m does; for the workers, too
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    network = call_factory(request.checkpoint)
    return network, {"factory": request.checkpoint, "fingerprint": fingerprint(network)}


def _from_file(request: AuditRequest, home: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The same of a file of weights, which are put into ``home``."""
    path, arch, count = Path(request.checkpoint), request.arch or "", len(request.classes)
    bytes_read = read_file(path)
    network = make_network(arch, "", count, request.transform_input)
    try:
        tensors = tensors_in(choose(read_checkpoint(bytes_read), network, request.entry))
    except UserError as error:
        raise type(error)(f"{path.name} cannot be read as a checkpoint. {error}") from None
    load_into(network, tensors, arch)
    facts = {"kind": "own", "file": path.name, "bytes": len(bytes_read), "settings": {"arch": arch, "classes": count}}
    facts |= {"tensors": len(tensors), "numbers": sum(value.numel() for value in tensors.values()), "notes": []}
    named = hashlib.sha256(bytes_read + (request.entry or "").encode()).hexdigest()  # of each set of weights in it
    stored = save_imported(weights_folder(home), named, tensors, facts)
    params = {"arch": arch, "weights": stored, "fingerprint": fingerprint(network)}
    said = request.transform_input
    return network, params if said is None else params | {"transform_input": said}


def _trainable(arch: str, request: AuditRequest) -> bool:
    """Whether this program trains networks of that architecture on such images."""
    try:
        build_classifier(arch, len(request.classes), request.channels, request.resolution)
    except UserError:
        return False
    return True


def _track(request: AuditRequest, arch: str) -> str:
    recipe = {"epochs": request.epochs, "batch": 32, "lr": 0.003, "weight_decay": 0.0005, "shift": 0.06, "flip": True}
    data, public = request.data.resolve(), request.public
    section: dict[str, Any] = {
        "id": re.sub(r"[^a-z0-9_-]+", "-", f"audit-{data.name}".lower()).strip("-"),
        "title": f"Audit on {data.name}",
        "root": str(data),
        "resolution": request.resolution,
        "channels": request.channels,
        "preset": ["small", PRESET],
        "decode": request.decode,
        "copies": "allowed" if request.allow_copies else "refused",
        "feature_space": False,
        "private": {"class_order": request.class_order if request.class_order in ORDERS else request.classes}
        | ({"test_share": 0.2} if request.val is None else {"test_root": str(request.val.resolve())}),
        "public": {"root": str(public.resolve())} if public is not None else {"source": "none"},
        "target": {"arch": arch, **recipe},
        "evaluator": {"arch": "small_resnet", **recipe, "photos": "train", **_JUDGED},
        "attack": {
            "identities": "all" if request.identities is None else request.identities,
            "images_per_identity": request.images,
        },
    }
    return "# Written by mibench model audit.\n" + yaml.safe_dump(section, sort_keys=False, allow_unicode=True)
