"""What the site is told besides the runs: the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mibench.metrics import METRICS
from mibench.protocol.method_files import Entry
from mibench.protocol.methods import Kind
from mibench.protocol.suites import Suite, load_suite, suite_names
from mibench.protocol.tracks import Track
from mibench.publish import Catalogue
from mibench.records import RunRecord
from mibench.registry import Registry

CLAIMS = "claims"  # the suite of this name


def catalogue(registry: Registry, runs: Sequence[RunRecord] = ()) -> Catalogue:
    """Plain facts about tracks, methods and metrics, from the registry; about a method that it does not have, from the
    newest of ``runs`` of it, and about combinations (``re+bido``) of those that it has."""
    known, attacks = _methods(registry, "defense"), _methods(registry, "attack")
    for name in sorted({run.defense for run in runs}):
        parts = name.split("+")
        if len(parts) > 1 and all(part in known for part in parts):
            title = " with ".join(str(known[part]["title"]) for part in parts)
            known[name] = {"title": title, "kind": "combination", "code_version": 1}
    told = sorted((run for run in runs if run.methods), key=lambda run: run.created)
    known = {run.defense: _shown(dict(run.methods["defense"])) for run in told if run.methods} | known
    attacks = {run.attack: _shown(dict(run.methods["attack"])) for run in told if run.methods} | attacks
    tracks = {name: _track_facts(track) for name, track in {**registry.suite_tracks, **registry.tracks}.items()}
    for name, track in registry.suite_tracks.items():
        if track.reported:
            tracks[name] |= {"reported": track.reported}
    metrics = {
        name: {"title": m.title, "direction": m.direction, "unit": m.unit, "help": m.help}
        for name, m in METRICS.items()
    }
    return Catalogue(tracks, known, attacks, metrics, registry.bounds, claims_suite(registry.root))


def claims_suite(root: Path) -> Suite | None:
    """The suite whose claims the results are to decide, None where there is none."""
    return load_suite(root, CLAIMS) if CLAIMS in suite_names(root) else None


def _methods(registry: Registry, kind: Kind) -> dict[str, dict[str, object]]:
    return {name: _method_facts(registry, kind, name, entry) for name, entry in registry.entries(kind).items()}


def _method_facts(registry: Registry, kind: Kind, name: str, entry: Entry) -> dict[str, object]:
    facts = entry.about | {
        "defaults": registry.defaults(kind, name),
        "code_version": registry.version(kind, name),
        "deviations": registry.deviations(kind, name),
    }
    return _shown(facts) | ({"reported": list(entry.reported)} if entry.reported else {})


def _shown(facts: dict[str, Any]) -> dict[str, object]:
    """With its paper in words."""
    if paper := facts.get("reference"):
        facts |= {"paper": f"{paper['title']} ({paper['venue']} {paper['year']})"}
        facts |= {"url": paper["url"], "year": paper["year"]}
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
        "presets": list(track.presets),
        "images_per_identity": track.attack.images_per_identity,
        "target": track.target.model_dump(),
        "evaluator": track.evaluator.model_dump(),
        "split": track.split,
    }
