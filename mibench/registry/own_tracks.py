"""A track in a file of the user's own: ``mibench run --track my.yaml``, usually on a folder of images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mibench.boundary import printable, sentences
from mibench.data import SOURCES
from mibench.data.sets import FOLDER, SETS
from mibench.errors import MissingError, UserError, unknown
from mibench.nets import known_architecture
from mibench.protocol.tracks import PublicSection, Track
from mibench.protocol.yaml_files import read_yaml

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
    section.setdefault("id", printable(path.stem.lower()))
    section.setdefault("title", f"Own images ({section['id']})")
    section.setdefault("fill", _GREY if section["channels"] == 1 else _COLOUR)
    section["file"] = printable(path)
    if not _ID.fullmatch(str(section["id"])):
        raise UserError(f"{path}: the id {section['id']!r} must be of a-z, 0-9, _ and -. Add `id: NAME` to the file.")
    for name in ("private", "public"):
        if not isinstance(section[name], dict):
            raise UserError(f"{path}: {name} must be a mapping such as {{images: 1000}}, found {section[name]!r}.")
    for part, place in ((section, "root"), (section["public"], "root"), (section["private"], "test_root")):
        if part.get(place) is not None:
            with sentences(f"{path} says {place}: {part[place]!r}, which cannot be a folder"):
                part[place] = str((path.parent / str(part[place])).resolve())
    for other, what in (
        (section["public"].get("root"), "public images"),
        (section["private"].get("test_root"), "tests"),
    ):
        if other is not None and section.get("root") is not None:
            apart(Path(section["root"]), Path(other), what)
    known = [*SOURCES, *SETS, FOLDER]
    if section["source"] not in known:
        raise UserError(f"{path}: {unknown('source of images', str(section['source']), known)}")
    try:
        if section["source"] == "folder" and "identities" not in section["private"]:
            share = PublicSection.model_validate(section["public"]).class_share
            section["private"] = {"identities": _count(path, section.get("root"), share), **section["private"]}
        return _known(path, Track(**section))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'track'}: {e['msg']}" for e in error.errors())
        raise UserError(f"{path} is not a track: {wrong}. docs/data.md shows one.") from None


def _known(path: Path, track: Track) -> Track:
    """The track, if its networks exist. Raises UserError that names the file."""
    recipes = [track.target, track.evaluator, *([track.panel.cross] if track.panel else [])]
    for recipe in recipes:
        try:
            known_architecture(recipe.arch)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    return track


def _mapping(path: Path) -> dict[str, Any]:
    content = read_yaml(path, "track file")
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a track: expected `name: value` lines such as `root: photos`.")
    return {str(key): value for key, value in content.items()}


def _count(path: Path, root: str | None, share: float | None) -> int:
    """How many private classes the folder has."""
    from mibench.data.sets.folder import classes, public_classes

    if root is None:
        raise UserError(f"{path} names no images. Add `root: DIR`, a folder that holds <class>/*.jpg.")
    if not Path(root).is_dir():
        raise MissingError(f"{path} says root: {root}, which is not a folder. Expected {root}/<class>/*.jpg.")
    names = classes(Path(root))
    private = len(names) - len(public_classes(names, share or 0))
    if private < 2:
        listed = ", ".join(names) or "no folder at all"
        raise MissingError(
            f"{path}: {root} has {private} private class{'' if private == 1 else 'es'} (folders: {listed}). Expected "
            f"two or more folders <class>/ with images."
        )
    return private
