"""How long stages will take, from how long such stages took before, wherever, and how many steps they had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median

from mibench.keys import canonical
from mibench.planning.plan import Stage

Past = Mapping[tuple[str, ...], list[tuple[float, float]]]
"""What took how long: (seconds, steps) of finished stages by what is alike."""

LEAST = 1.0  # seconds of any stage: a process starts, files are read and written


def past_seconds(stages: Iterable[tuple[str, str, str, str, float, float]]) -> Past:
    """Finished stages (kind, method, track, parameters as canonical JSON, seconds, steps; 0 where they are not known),
    in groups from what is most alike to what is least."""
    groups: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for kind, plugin, track, params, seconds, steps in stages:
        for name in _names(kind, plugin, track, params):
            groups.setdefault(name, []).append((seconds, steps))
    return groups


def estimate(stages: Iterable[Stage], past: Past) -> dict[str, float]:
    """Seconds by key: the median of past stages of the same kind, method, track and parameters; else of the same kind,
    method and track; else of the same kind and method, else of the same kind, on any track. Where steps are known the
    seconds are scaled by them; without them only the very same is believed. A stage without any such past is left
    out."""
    seconds = {}
    for stage in stages:
        for place, name in enumerate(_names(stage.kind, stage.plugin, stage.track, canonical(stage.non_default))):
            known = [took * stage.steps / steps for took, steps in past.get(name, ()) if steps and stage.steps]
            known = known or ([took for took, _ in past.get(name, ())] if place == 0 else [])
            if known:
                seconds[stage.key] = max(median(known), LEAST)
                break
    return seconds


def filled(stages: Iterable[Stage], seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds for every stage, for deciding what comes first: what has no past counts as much as the median of those
    that have."""
    usual = median(seconds.values()) if seconds else 1.0
    return {stage.key: seconds.get(stage.key, usual) for stage in stages}


def _names(kind: str, plugin: str, track: str, params: str) -> tuple[tuple[str, ...], ...]:
    return (kind, plugin, track, params), (kind, plugin, track), (kind, plugin), (kind,)
