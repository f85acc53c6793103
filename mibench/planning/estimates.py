"""How long stages will take, from how long such stages took before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median

from mibench.keys import canonical
from mibench.planning.plan import Stage

Past = Mapping[tuple[str, ...], float]


def past_seconds(stages: Iterable[tuple[str, str, str, str, float]]) -> Past:
    """Medians of the seconds of finished stages (kind, method, track, parameters as canonical JSON, seconds), from what
    is most alike to what is least."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for kind, plugin, track, params, seconds in stages:
        for name in _names(kind, plugin, track, params):
            groups.setdefault(name, []).append(seconds)
    return {name: median(values) for name, values in groups.items()}


def estimate(stages: Iterable[Stage], past: Past) -> dict[str, float]:
    """Seconds by key: the median of past stages of the same kind, method, track and parameters; else of the same kind,
    method and track; else of the same kind and track; a stage without any such past is left out."""
    seconds = {}
    for stage in stages:
        for name in _names(stage.kind, stage.plugin, stage.track, canonical(stage.non_default)):
            if name in past:
                seconds[stage.key] = past[name]
                break
    return seconds


def filled(stages: Iterable[Stage], seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds for every stage, for deciding what comes first: what has no past counts as much as the median of those
    that have."""
    usual = median(seconds.values()) if seconds else 1.0
    return {stage.key: seconds.get(stage.key, usual) for stage in stages}


def _names(kind: str, plugin: str, track: str, params: str) -> tuple[tuple[str, ...], ...]:
    return (kind, plugin, track, params), (kind, plugin, track), (kind, track)
