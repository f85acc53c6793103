"""The methods of a submission: their source is there, is what was run, and is looked at by its syntax tree alone."""

from __future__ import annotations

import hashlib
from typing import cast

from mibench.keys import split_version
from mibench.protocol.method_files import Entry
from mibench.protocol.methods import Kind
from mibench.protocol.stage_kinds import STAGE_KINDS
from mibench.registry import Registry
from mibench.store.manifest import Manifest
from mibench.submission import model
from mibench.submission.contents import Submission
from mibench.submission.layout import Refused, shown
from mibench.submission.strict import LINES, Outline, read_outline

USUAL = {"mibench", "torch", "torchvision", "pydantic", "numpy", "math", "typing", "collections", "dataclasses"}
USUAL |= {"functools", "itertools", "copy"}
_BASE = {"defense": "Defense", "attack": "Attack", "prior": "Prior"}


def method_of(stage: Manifest, registry: Registry) -> Kind | None:
    """What a stage's method is, if its source belongs into a submission: every defense and attack, and a prior that the
    engine does not bring."""
    kind = STAGE_KINDS[stage.kind].method
    ours = kind == "prior" and registry.is_prior_of_ours(stage.plugin)
    return None if ours else cast("Kind | None", kind)


def file_name(kind: str, name: str) -> str:
    """Where the source of a method lies in a submission; that of an installed package is ``package/name``."""
    return f"plugins/{kind}s/{name.replace('/', '--')}.py"


def parts(stage: Manifest) -> list[tuple[str, int, str]]:
    """Id, version and source hash of the methods behind a stage: several for a combination of defenses."""
    names, hashes = stage.plugin.split("+"), stage.source_sha256.split("+")
    if len(names) != len(hashes) or not all(hashes):
        raise Refused(f"{stage.kind} {stage.key[:12]} does not say the source of {shown(stage.plugin)}.")
    version = split_version(stage.version)[1]
    versions = stage.params.get("versions", {}) if len(names) > 1 else {names[0]: version}
    if not isinstance(versions, dict):
        raise Refused(f"{stage.kind} {stage.key[:12]} does not say the versions of its parts.")
    return [(name, versions.get(name, 1), sha256) for name, sha256 in zip(names, hashes, strict=True)]


def check_plugins(sent: Submission, registry: Registry) -> tuple[str, list[str]]:
    """A sentence, and notes. Each method behind a stage has its source here, with the hash that its manifests name; a
    method of the same version as here has the source that it has here."""
    needed: dict[tuple[str, str], tuple[int, str]] = {}
    for stage in sent.stages.values():
        kind = method_of(stage, registry)
        for name, version, sha256 in parts(stage) if kind else ():
            known = needed.setdefault((str(kind), name), (version, sha256))
            if known != (version, sha256):
                raise Refused(f"{kind} {name} was run with two different sources. Submit them apart.")
    declared = {(plugin.kind, plugin.id): plugin for plugin in sent.index.plugins}
    if declared.keys() != needed.keys() or len(declared) != len(sent.index.plugins):
        raise Refused("submission.json must name the methods of its runs once each, and no others.")
    files = {file.path for file in sent.index.files if file.path.startswith("plugins/")}
    if files != {plugin.file for plugin in sent.index.plugins}:
        raise Refused("plugins/ must hold the source of each method of the runs, and nothing else.")
    notes: list[str] = []
    for plugin in sent.index.plugins:
        version, sha256 = needed[plugin.kind, plugin.id]
        if (plugin.version, plugin.source_sha256) != (version, sha256):
            raise Refused(f"submission.json names another version or source of {plugin.id} than its manifests.")
        if plugin.file != file_name(plugin.kind, plugin.id):
            raise Refused(f"The source of {plugin.kind} {plugin.id} belongs to {file_name(plugin.kind, plugin.id)}.")
        path = sent.folder / plugin.file
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise Refused(f"{plugin.file} is not the source that was run: its SHA-256 is not its manifests'.")
        outline = read_outline(path, plugin.file, _BASE[plugin.kind])
        if outline.version != version:
            raise Refused(f"{plugin.file} declares version {outline.version}; version {version} was run.")
        model.read(Entry, plugin.entry, f"the registry entry of {plugin.id}")
        notes += _notes(plugin, outline, registry)
    return f"the sources of {len(needed)} methods are those that were run; none was imported", notes


def _notes(plugin: model.Plugin, outline: Outline, registry: Registry) -> list[str]:
    notes = [f"{plugin.file} has {outline.lines} lines, more than {LINES}."] if outline.lines > LINES else []
    foreign = [name for name in outline.imports if name not in USUAL]
    if foreign:
        notes.append(f"{plugin.file} imports {shown(', '.join(foreign))}.")
    kind: Kind = plugin.kind
    if plugin.id not in registry.entries(kind):
        return [*notes, f"{kind.capitalize()} {plugin.id} is new here: add its file and its section of registry.yaml."]
    here, path = registry.version(kind, plugin.id), registry.path(kind, plugin.id)
    if here > plugin.version:
        return [*notes, f"{kind.capitalize()} {plugin.id} has version {here} here: the runs are of {plugin.version}."]
    if here < plugin.version:
        return [*notes, f"{kind.capitalize()} {plugin.id} is an update: version {plugin.version}, here {here}."]
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != plugin.source_sha256:
        raise Refused(
            f"The source of {kind} {plugin.id} is not the one here, but has the same version {here}. Raise `version` "
            "in its file and run again, or give it an id of its own."
        )
    return notes
