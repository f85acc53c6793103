"""Make a submission of finished runs: what it will hold is known before anything is written."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mibench
from mibench.errors import MissingError, UserError
from mibench.protocol.tracks import Track
from mibench.records import RunRecord
from mibench.registry import Registry
from mibench.store.artifacts import Damaged, Store
from mibench.store.atomic import write_folder, writing
from mibench.store.manifest import FILE, Manifest, file_sha256
from mibench.submission import model
from mibench.submission.layout import INDEX, Refused, place_of
from mibench.submission.leaks import check_leaks, secrets_here
from mibench.submission.methods import file_name, method_of, parts
from mibench.submission.verify import verify


@dataclass(frozen=True)
class Parcel:
    """What will be published. ``files`` maps a path in the submission to the file that is copied there; ``index`` is
    submission.json without its list of files; ``about`` says of each method what it is."""

    files: dict[str, Path]
    index: dict[str, Any]
    about: tuple[str, ...]

    @property
    def sizes(self) -> dict[str, int]:
        return {name: path.stat().st_size for name, path in sorted(self.files.items())}


def gather(
    runs: Sequence[RunRecord],
    store: Store,
    registry: Registry,
    tracks: dict[str, Track],
    weights_url: str | None = None,
    images: bool = False,
) -> Parcel:
    """Everything that is published of ``runs``. ``tracks``: with their splits, as they are here. ``weights_url``: where
    the weights will be found instead, with ``{key}`` for a target's key. ``images``: the reconstructions too.

    Raises UserError for a run that cannot be submitted: unfinished, its source changed since, its artefacts gone.
    """
    if failed := next((run for run in runs if run.status != "done"), None):
        raise UserError(f"Run {failed.run} failed and has nothing to submit: {failed.reason}")
    files: dict[str, Path] = {}
    manifests = {stage.key: _manifest(store, stage.kind, stage.key) for run in runs for stage in run.stages}
    weights: list[dict[str, Any]] = []
    for manifest in manifests.values():
        folder = store.path(manifest.kind, manifest.key)
        files[f"stages/{manifest.kind}-{manifest.key}.json"] = folder / FILE
        for name in {"evaluate": ("images.json",), "utility": ("logits.safetensors",)}.get(manifest.kind, ()):
            files[f"evaluations/{manifest.key}/{name}"] = folder / name
        if manifest.kind == "target":
            entry = {"key": manifest.key} | manifest.outputs["model.safetensors"]
            if weights_url is None:
                files[f"weights/{manifest.key}.safetensors"] = folder / "model.safetensors"
            weights.append(entry | {"url": weights_url and weights_url.replace("{key}", manifest.key)})
        if manifest.kind == "invert" and images and not registry.is_control_of_ours(manifest.plugin):  # private images
            own = [name for name in manifest.outputs if name.startswith("images/")]
            files |= {f"images/{manifest.key}/{name.removeprefix('images/')}": folder / name for name in own}
    if weights_url and len(weights) > 1 and "{key}" not in weights_url:
        raise UserError(
            f"The runs have {len(weights)} targets: --weights-url needs {{key}} in it, which becomes a target's key."
        )
    if weights_url:
        _check(model.Weights, weights[0])
    plugins, about = _plugins(manifests, registry, files)
    bare = [replace(run, origin="measured", reproduced=None) for run in runs]
    index = {
        "schema": model.SCHEMA,
        "mibench": mibench.__version__,
        "tracks": {
            name: {"version": track.version, "split": track.split, "public_split": track.public.split}
            for name, track in sorted(tracks.items())
        },
        "plugins": plugins,
        "weights": weights,
        "environments": _environments(manifests),
        "runs": [run.published() for run in bare],
    }
    return Parcel(files, index, tuple(about))


def _manifest(store: Store, kind: str, key: str) -> Manifest:
    try:
        manifest = store.manifest(kind, key, verify=True)
    except Damaged as error:
        raise UserError(f"{error}. Run the same command again: it is computed anew. Then pack.") from None
    if manifest is None:
        raise MissingError(
            f"The {kind} {key[:12]} is not in the store any more. Run the same command again, then pack."
        )
    return manifest


def _plugins(
    manifests: dict[str, Manifest], registry: Registry, files: dict[str, Path]
) -> tuple[list[dict[str, Any]], list[str]]:
    plugins: dict[tuple[str, str], dict[str, Any]] = {}
    about = []
    for manifest in manifests.values():
        kind = method_of(manifest, registry)
        if kind is None:
            continue
        _check(Manifest, manifest.to_json())
        for name, version, sha256 in parts(manifest):
            if (kind, name) in plugins:
                continue
            path, entry = registry.path(kind, name), registry.entry(kind, name)
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                raise UserError(
                    f"The source of {kind} {name} changed since the run was computed, so it would not be what is "
                    f"published. Put it back, or run again what `mibench show` ends with, with --force {manifest.kind}"
                )
            files[file_name(kind, name)] = path
            plugins[kind, name] = {
                "kind": kind,
                "id": name,
                "version": version,
                "source_sha256": sha256,
                "file": file_name(kind, name),
                "entry": entry.model_dump(mode="json"),
            }
            paper = f"; {entry.paper.title} ({entry.paper.venue} {entry.paper.year})" if entry.paper else ""
            licence = f"; licence {entry.licence}" if entry.licence else ""
            about.append(f"{kind} {name}: {entry.title}{paper}{licence}")
    return [plugins[name] for name in sorted(plugins)], about


def _check(shape: type[Any], data: dict[str, Any]) -> None:
    try:
        model.read(shape, data, shape.__name__.lower())
    except Refused as error:
        raise UserError(f"This cannot be published: {error}") from None


def _environments(manifests: dict[str, Manifest]) -> list[dict[str, Any]]:
    """The different machines and packages behind the stages; the memory that a stage took is in its manifest."""
    environments = {}
    for manifest in manifests.values():
        own = {name: value for name, value in manifest.environment.items() if name != "peak_memory_mib"}
        environments[json.dumps(own, sort_keys=True)] = own
    return [environments[name] for name in sorted(environments)]


def write(parcel: Parcel, out: Path, home: Path, registry: Registry) -> None:
    """Write the submission to ``out``, at once. It is written aside first, searched for names and paths of this machine
    and verified as a stranger's would be. Raises UserError, and leaves ``out`` as it was, if anything is wrong."""
    if out.exists() and any(out.iterdir()) and not (out / INDEX).is_file():
        raise UserError(f"{out} exists and is no submission. Name a folder that does not exist with --out.")
    with writing(out), write_folder(out) as scratch:
        listed = []
        for name, path in sorted(parcel.files.items()):
            assert place_of(name) is not None, name
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, scratch / name)
            size = (scratch / name).stat().st_size
            listed.append({"path": name, "sha256": file_sha256(scratch / name), "bytes": size})
        text = json.dumps(parcel.index | {"files": listed}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        (scratch / INDEX).write_text(text, encoding="utf-8")
        try:
            check_leaks(scratch, [INDEX, *parcel.files], secrets_here(home, registry.root))
        except Refused as error:
            raise UserError(f"Nothing was written: {error}") from None
        verdict = verify(scratch, registry)
        if not verdict.ok:
            raise UserError(f"Nothing was written: {verdict.checks[-1].message}")
