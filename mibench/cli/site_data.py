"""What the site is told besides the runs: the catalogue."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mibench.metrics import METRICS
from mibench.protocol.method_files import Entry
from mibench.protocol.methods import Kind
from mibench.protocol.suites import Suite, load_suite, suite_names
from mibench.protocol.tracks import Track
from mibench.publish import Catalogue
from mibench.registry import Registry

CLAIMS = "claims"  # the suite of this name


def catalogue(registry: Registry, defenses: Iterable[str] = ()) -> Catalogue:
    """Plain facts about tracks, methods and metrics, from the registry, and about those of ``defenses`` that are
    combinations (``re+bido``)."""
    known = _methods(registry, "defense")
    for name in sorted(set(defenses)):
        parts = name.split("+")
        if len(parts) > 1 and all(part in known for part in parts):
            title = " with ".join(str(known[part]["title"]) for part in parts)
            known[name] = {"title": title, "kind": "combination", "code_version": 1}
    tracks = {name: _track_facts(track) for name, track in {**registry.suite_tracks, **registry.tracks}.items()}
    for name, track in registry.suite_tracks.items():
        if track.reported:
            tracks[name] |= {"reported": track.reported}
    metrics = {
        name: {"title": m.title, "direction": m.direction, "unit": m.unit, "help": m.help}
        for name, m in METRICS.items()
    }
    return Catalogue(tracks, known, _methods(registry, "attack"), metrics, registry.bounds, claims_suite(registry.root))


def claims_suite(root: Path) -> Suite | None:
    """The suite whose claims the results are to decide, None where there is none."""
    return load_suite(root, CLAIMS) if CLAIMS in suite_names(root) else None


def _methods(registry: Registry, kind: Kind) -> dict[str, dict[str, object]]:
    return {name: _method_facts(registry, kind, name, entry) for name, entry in registry.entries(kind).items()}


def _method_facts(registry: Registry, kind: Kind, name: str, entry: Entry) -> dict[str, object]:
    facts: dict[str, object] = {
        "title": entry.title,
        "summary": entry.summary,
        "kind": entry.kind,
        "code_version": registry.version(kind, name),
        "access": entry.access,
        "prior": entry.prior,
        "family": entry.family,
        "adaptive": entry.adaptive,
        "defaults": registry.defaults(kind, name),
        "presets": entry.presets,
        "costs": entry.costs,
        "deviations": registry.deviations(kind, name),
    }
    if entry.reported:
        facts |= {"reported": list(entry.reported)}
    if entry.paper:
        facts |= {"paper": f"{entry.paper.title} ({entry.paper.venue} {entry.paper.year})"}
        facts |= {"url": entry.paper.url, "year": entry.paper.year, "reference": entry.paper.model_dump()}
    return facts


def _track_facts(track: Track) -> dict[str, object]:
    return {
        "title": track.title,
        "version": track.version,
        "kind": track.kind,
        "sensitive": track.sensitive,
        "publish_private": track.publish_private,
        "chance": track.chance,
        "identities": len(track.identities),
        "metrics": list(track.metrics),
        "resolution": f"{track.resolution} x {track.resolution}, {track.channels} channel(s)",
        "private": track.private.model_dump(),
        "public": track.public.model_dump(),
        "images_per_identity": track.attack.images_per_identity,
        "target": track.target.model_dump(),
        "evaluator": track.evaluator.model_dump(),
        "split": track.split,
    }
