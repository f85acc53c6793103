"""What the site is told besides the runs: the catalogue, and where a private image lies for a local build."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mibench.metrics import METRICS
from mibench.protocol.method_files import Entry
from mibench.protocol.methods import Kind
from mibench.protocol.tracks import Track
from mibench.publish import Catalogue
from mibench.registry import Registry


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
    return Catalogue(tracks, known, _methods(registry, "attack"), metrics)


def _methods(registry: Registry, kind: Kind) -> dict[str, dict[str, object]]:
    return {name: _method_facts(registry, kind, name, entry) for name, entry in registry.entries(kind).items()}


def _method_facts(registry: Registry, kind: Kind, name: str, entry: Entry) -> dict[str, object]:
    facts: dict[str, object] = {
        "title": entry.title,
        "kind": entry.kind,
        "code_version": registry.version(kind, name),
        "access": entry.access,
        "prior": entry.prior,
        "family": entry.family,
        "adaptive": entry.adaptive,
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


def private_image(registry: Registry, home: Path, track: str, label: int, index: int) -> Path | None:
    """A private training image as a PNG under ``home``, for local pages only; None where the data is not here."""
    from mibench.data import cache_folder, load
    from mibench.data.tracked import is_tracked
    from mibench.errors import UserError

    if track not in registry.tracks:
        return None
    protocol = registry.tracks[track]
    folder = cache_folder(protocol, home)
    try:
        if is_tracked(protocol):
            folder = folder.with_name(f"{folder.name}-{load(protocol, home).split[:16]}")
    except UserError:
        return None
    path = home / "cache" / "private" / folder.name / f"{index}.png"
    if not path.is_file():
        from PIL import Image

        from mibench.store.atomic import write_file

        try:
            images, labels = load(protocol, home).private_train()
        except UserError:
            return None
        if not 0 <= index < len(labels) or labels[index] != label:
            return None
        pixels = images[index]
        with write_file(path) as scratch:
            Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(scratch, "PNG")
    return path
