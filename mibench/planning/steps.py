"""How much there is to do in a stage, in steps that can be compared between stages of one kind. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mibench.protocol.tracks import RecipeSection, Track

# What parameters that say how often something is done are called: in a row, and for each of several candidates.
_IN_A_ROW = re.compile(r"(?:\w+_)?(?:steps|iterations|epochs|rounds|generations|episodes)")
_EACH = re.compile(r"population|starts|restarts|candidates|repeats|pseudo_private")
_USUAL = 10  # training images of a class, where only its folder says how many there are


def steps_of(kind: str, params: Mapping[str, Any], track: Track) -> float:
    """Passes over images, times their pixels: what the seconds of a stage of this kind grow with. A training counts its
    epochs and images, an attack its iterations, identities and images of each."""
    pixels = track.channels * track.resolution**2 / 1000
    people, attacked = track.private.identities, len(track.identities) * track.attack.images_per_identity
    photos = people * (track.private.train_per_identity or _USUAL)
    trainings: dict[str, tuple[RecipeSection, ...]] = {
        "evaluator": (track.evaluator,),
        "panel": (track.panel.cross,) if track.panel else (),
        "target": (track.target,),
    }
    if kind in trainings:
        epochs = sum(recipe.epochs for recipe in trainings[kind])
        return float((params.get("recipe") or {}).get("epochs", epochs)) * photos * pixels
    rows = 1 if kind in ("prior", "prepare") else attacked
    return _repeats(params) * rows * pixels


def _repeats(params: Mapping[str, Any]) -> float:
    numbers = {name: value for name, value in params.items() if isinstance(value, int) and not isinstance(value, bool)}
    in_a_row = sum(value for name, value in numbers.items() if _IN_A_ROW.fullmatch(name))
    each = 1.0
    for name, value in numbers.items():
        each *= max(value, 1) if _EACH.fullmatch(name) else 1
    return max(in_a_row, 1) * each
