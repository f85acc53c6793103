"""A track in a file of the user's own: ``mibench run --track my.yaml``, usually on a folder of images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mibench.errors import MissingError, UserError
from mibench.protocol.tracks import Track

_ID = re.compile(r"[a-z0-9][a-z0-9_-]*")
_GREY, _COLOUR = [0.449], [0.485, 0.456, 0.406]  # mean of natural images

# A small classifier and what fits it; whoever attacks a network of another size says so in the file.
_RECIPE = {"epochs": 60, "batch": 32, "lr": 0.003, "weight_decay": 0.0005, "shift": 0.06, "flip": True}
DEFAULTS: dict[str, Any] = {
    "version": 1,
    "kind": "other",
    "sensitive": True,
    "source": "folder",
    "resolution": 64,
    "channels": 3,
    "preset": "small",
    "private": {},
    "public": {},
    "target": {"arch": "convnet", **_RECIPE},
    "evaluator": {"arch": "small_resnet", **_RECIPE, "shift": 0.1, "rotate": 12.0, "scale": 0.12, "light": 0.2},
    "attack": {"identities": "all", "images_per_identity": 4},
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
    ],
}


def read_track(path: Path) -> Track:
    """The track in ``path``: a section of registry.yaml, of which everything but the images has a default. ``root``,
    ``public.root`` and ``private.test_root`` are relative to the file. Raises UserError that says what is wrong."""
    from mibench.data.sets.folder import apart

    section = DEFAULTS | _mapping(path)
    section.setdefault("id", path.stem.lower())
    section.setdefault("title", f"Own images ({section['id']})")
    section.setdefault("fill", _GREY if section["channels"] == 1 else _COLOUR)
    section["file"] = str(path)
    if not _ID.fullmatch(str(section["id"])):
        raise UserError(f"{path}: the id {section['id']!r} must be of a-z, 0-9, _ and -. Add `id: NAME` to the file.")
    for name in ("private", "public"):
        if not isinstance(section[name], dict):
            raise UserError(f"{path}: {name} must be a mapping such as {{images: 1000}}, found {section[name]!r}.")
    for part, place in ((section, "root"), (section["public"], "root"), (section["private"], "test_root")):
        if part.get(place) is not None:
            part[place] = str((path.parent / str(part[place])).resolve())
    for other, what in (
        (section["public"].get("root"), "public images"),
        (section["private"].get("test_root"), "tests"),
    ):
        if other is not None and section.get("root") is not None:
            apart(Path(section["root"]), Path(other), what)
    if section["source"] == "folder" and "identities" not in section["private"]:
        section["private"] = {"identities": _count(path, section), **section["private"]}
    try:
        return Track(**section)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'track'}: {e['msg']}" for e in error.errors())
        raise UserError(f"{path} is not a track: {wrong}. docs/data.md shows one.") from None


def _mapping(path: Path) -> dict[str, Any]:
    from mibench.protocol.yaml_files import Loader

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
    except FileNotFoundError:
        raise UserError(f"There is no track file {path}. docs/data.md shows one.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as a track: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a track: expected `name: value` lines such as `root: photos`.")
    return {str(key): value for key, value in content.items()}


def _count(path: Path, section: dict[str, Any]) -> int:
    """How many private classes the folder has."""
    from mibench.data.sets.folder import classes, public_classes

    root = section.get("root")
    if root is None:
        raise UserError(f"{path} names no images. Add `root: DIR`, a folder that holds <class>/*.jpg.")
    if not Path(root).is_dir():
        raise MissingError(f"{path} says root: {root}, which is not a folder. Expected {root}/<class>/*.jpg.")
    names = classes(Path(root))
    share = section["public"].get("class_share") or 0
    private = len(names) - (len(public_classes(names, share)) if isinstance(share, (int, float)) else 0)
    if private < 2:
        listed = ", ".join(names) or "no folder at all"
        raise MissingError(
            f"{root} has {private} private class{'' if private == 1 else 'es'} (folders: {listed}). Expected two "
            f"or more folders <class>/ with images."
        )
    return private
