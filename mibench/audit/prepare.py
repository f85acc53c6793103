"""From a checkpoint and a folder of images to a track and a method that is the checkpoint."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mibench.audit.foreign import Foreign, call_factory, fingerprint, load_into, make_network
from mibench.data.sets.folder import classes
from mibench.errors import MissingError, UserError
from mibench.nets import build_classifier
from mibench.protocol.method_files import use_file
from mibench.weights.imported import save_imported
from mibench.weights.starting import weights_folder

OWN = Path(__file__).with_name("own_model.py")
PRESET = "audited"  # holds the model's parameters, and applies on its track by itself
SMALL = "convnet"  # what is trained for comparison where the own architecture cannot be
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "none": ((0.0,), (1.0,)),
    "half": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclass(frozen=True)
class Subject:
    """What is audited: the file that makes it a method, the track it is attacked on, and what it is called."""

    name: str
    plugin: Path
    track: Path
    classes: list[str]
    compared: str  # architecture of the networks trained for comparison


def normalisation(text: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """``imagenet``, ``half``, ``none``, or ``MEAN:STD`` with one number, or one for each channel, on each side.
    Raises UserError."""
    if text in NORMALISATIONS:
        mean, std = NORMALISATIONS[text]
    else:
        parts = text.split(":")
        try:
            mean, std = (tuple(float(number) for number in part.split(",")) for part in parts)
        except ValueError:
            raise UserError(
                f"Cannot read --normalise {text!r}. Expected {', '.join(NORMALISATIONS)}, or MEAN:STD such as 0.5:0.2."
            ) from None
    if not {len(mean), len(std)} <= {1, channels} or min(std) <= 0:
        raise UserError(f"--normalise {text} does not fit images of {channels} channel(s) with positive deviations.")
    return mean, std


def subject(
    checkpoint: str,
    arch: str | None,
    data: Path,
    public: Path | None,
    side: int,
    channels: int,
    normalise: str,
    network_side: int | None,
    epochs: int,
    identities: int | None,
    images: int,
    out: Path,
    home: Path,
) -> Subject:
    """Read and check everything, put the weights into the store and write ``out/track.yaml``
    and ``out/own_model.py`` with its entry: enough to run anything else against the model. Raises UserError."""
    if not data.is_dir():
        raise MissingError(f"There is no folder {data}. Expected --data DIR with a folder of images for each class.")
    names = classes(data)
    if len(names) < 2:
        raise MissingError(f"{data} has {len(names)} class folder(s). Expected two or more: DIR/<class>/*.jpg.")
    if public is not None and not public.is_dir():
        raise MissingError(f"There is no folder {public}. Expected --public DIR with images of other people or things.")
    if identities is not None and identities > len(names):
        raise UserError(f"--identities {identities}: there are {len(names)} classes.")
    mean, std = normalisation(normalise, channels)
    params: dict[str, Any] = {"mean": list(mean), "std": list(std), "side": network_side or 0}
    network, found = _network(checkpoint, arch, len(names), home)
    params |= found
    _try(network, len(names), mean, std, network_side, channels, side)
    compared = arch if arch is not None and _trainable(arch, len(names), channels, side) else SMALL
    path = out / "track.yaml"
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(_track(data, public, side, channels, compared, epochs, identities, images), encoding="utf-8")
    plugin = out / OWN.name
    shutil.copyfile(OWN, plugin)
    entry = {"title": "Own model, as it is", "kind": "baseline", "presets": {PRESET: params}}
    plugin.with_suffix(".yaml").write_text(yaml.safe_dump(entry, sort_keys=False), encoding="utf-8")
    use_file(plugin)
    return Subject(Path(checkpoint.partition(":")[0]).name, plugin, path, names, compared)


def _network(checkpoint: str, arch: str | None, count: int, home: Path) -> tuple[Any, dict[str, Any]]:
    """The network with its weights, and the parameters that stand for it."""
    if re.fullmatch(r"[\w.]+:\w+", checkpoint) and not Path(checkpoint).exists():
        if arch is not None:
            raise UserError("A factory makes its own network: leave --arch out.")
        here = str(Path.cwd())
        sys.path.insert(0, here)  # as python -m does; for the workers, too
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
        network = call_factory(checkpoint)
        return network, {"factory": checkpoint, "fingerprint": fingerprint(network)}
    if arch is None:
        raise UserError("Which network do the weights belong to? Add --arch, such as --arch resnet18.")
    from mibench.weights.files import read_checkpoint, read_file
    from mibench.weights.fit import tensors_in

    bytes_read = read_file(Path(checkpoint))
    name = Path(checkpoint).name
    try:
        tensors = tensors_in(read_checkpoint(bytes_read))
    except UserError as error:
        raise type(error)(f"{name} cannot be read as a checkpoint. {error}") from None
    network = make_network(arch, "", count)
    load_into(network, tensors, arch)
    facts = {"kind": "own", "file": name, "bytes": len(bytes_read), "settings": {"arch": arch, "classes": count}}
    facts |= {"tensors": len(tensors), "numbers": sum(value.numel() for value in tensors.values()), "notes": []}
    stored = save_imported(weights_folder(home), hashlib.sha256(bytes_read).hexdigest(), tensors, facts)
    return network, {"arch": arch, "weights": stored, "fingerprint": fingerprint(network)}


def _try(network: Any, count: int, mean: Any, std: Any, side: int | None, channels: int, resolution: int) -> None:
    """One image through it, so that what does not fit is said before anything is computed."""
    import torch

    net = Foreign(network, count, mean, std, side).eval()
    try:
        with torch.no_grad():
            output = net(torch.full((2, channels, resolution, resolution), 0.5))
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"The network does not take images of {resolution}x{resolution} in {channels} channel(s): {first} Say what "
            f"it takes with --resolution, --channels or --network-resolution."
        ) from None
    if output.logits.shape != (2, count):
        raise UserError(f"The network gives {output.logits.shape[1]} scores for {count} class folders.")


def _trainable(arch: str, count: int, channels: int, side: int) -> bool:
    """Whether this program trains networks of that architecture on such images."""
    try:
        build_classifier(arch, count, channels, side)
    except UserError:
        return False
    return True


def _track(
    data: Path,
    public: Path | None,
    side: int,
    channels: int,
    arch: str,
    epochs: int,
    identities: int | None,
    images: int,
) -> str:
    recipe = {"epochs": epochs, "batch": 32, "lr": 0.003, "weight_decay": 0.0005, "shift": 0.06, "flip": True}
    section: dict[str, Any] = {
        "id": re.sub(r"[^a-z0-9_-]+", "-", f"audit-{data.resolve().name}".lower()).strip("-"),
        "title": f"Audit on {data.resolve().name}",
        "root": str(data.resolve()),
        "resolution": side,
        "channels": channels,
        "preset": ["small", PRESET],
        "private": {"test_share": 0.2},
        "public": {"root": str(public.resolve())} if public is not None else {"source": "none"},
        "target": {"arch": arch, **recipe},
        "evaluator": {"arch": "small_resnet", **recipe, "shift": 0.1, "rotate": 12.0, "scale": 0.12, "light": 0.2},
        "attack": {"identities": "all" if identities is None else identities, "images_per_identity": images},
    }
    return "# Written by mibench model audit.\n" + yaml.safe_dump(section, sort_keys=False, allow_unicode=True)
