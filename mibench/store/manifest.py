"""The manifest of a stored artefact: what made it, from what, and the files it consists of."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, get_origin, get_type_hints

from pydantic import Field

from mibench.errors import UserError
from mibench.keys import digest
from mibench.records import Key, Name, Names, Seconds, Text, Version

SCHEMA = 2
LATER = {2: {"usage"}}  # fields that came with a schema; before it they have their defaults
FILE = "manifest.json"
_KEY = re.compile(r"[0-9a-f]{64}")
_KIND = re.compile(r"[a-z]+")
_Started = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\.[0-9]{1,6})?(\+00:00|Z)$")]
_Sources = Annotated[str, Field(pattern=r"^([0-9a-f]{64}(\+[0-9a-f]{64}){0,9})?$")]


class Damaged(Exception):
    """A stored artefact is not what its manifest says; the message names the file and the fault."""


@dataclass(frozen=True)
class Manifest:
    """What a finished stage says of itself. ``params`` are resolved, ``non_default`` enter the key. The bounds are a
    stranger's, as in ``mibench.records``; of what lies in the store only the types are looked at."""

    kind: Text
    key: Key
    plugin: Names
    version: Version
    params: dict[str, Any]
    non_default: dict[str, Any]
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    track: Name
    track_version: Version
    inputs: dict[str, Key] = field(default_factory=dict)  # role -> key of the parent
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)  # file -> {"sha256", "bytes"}; set by publish
    seconds: Seconds = 0.0
    started: _Started = ""  # ISO 8601, UTC
    environment: dict[str, Any] = field(default_factory=dict)
    source_sha256: _Sources = ""
    result: dict[str, Any] = field(default_factory=dict)  # small, JSON
    usage: dict[str, Any] = field(default_factory=dict)  # attempts, device_seconds, steps
    schema: Annotated[int, Field(ge=1, le=SCHEMA)] = SCHEMA

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Manifest:
        """Raises ``Damaged`` when a field is missing, unknown or of another type."""
        known = set(_TYPES)
        for schema, names in LATER.items():
            if data.get("schema", SCHEMA) < schema:
                known -= names
        if data.keys() != known:
            raise Damaged(f"manifest fields differ: {', '.join(sorted(data.keys() ^ known))}")
        for name, value in data.items():
            kind = _TYPES[name]
            if not isinstance(value, (float, int) if kind is float else kind) or isinstance(value, bool):
                raise Damaged(f"manifest field {name!r} is not of type {kind.__name__}")
        return cls(**data)


_TYPES: dict[str, type] = {name: get_origin(hint) or hint for name, hint in get_type_hints(Manifest).items()}


def check_name(kind: str, key: str) -> None:
    """Raises ``ValueError`` unless ``kind`` is lower-case letters and ``key`` 64 hexadecimal characters."""
    if not _KIND.fullmatch(kind):
        raise ValueError(f"A stage kind is lower-case letters, not {kind!r}.")
    if not _KEY.fullmatch(key):
        raise ValueError(f"A stage key is 64 hexadecimal characters, not {key!r}.")


def safe_file(name: str) -> bool:
    """Whether ``name`` is a plain relative path that stays below the folder it is joined to."""
    parts = name.split("/")
    plain = name.isprintable() and "\\" not in name and PurePosixPath(name).as_posix() == name
    return plain and not {"", ".", ".."} & set(parts)


def dumps(manifest: Manifest) -> str:
    """The text of ``manifest.json``, with a checksum over its content."""
    data = manifest.to_json()
    return json.dumps({**data, "checksum": digest(data)}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read(folder: Path, kind: str, key: str, verify: bool = False) -> Manifest:
    """The checked manifest of the artefact in ``folder``; its files' sizes too, with ``verify`` also hashes.

    Raises:
        Damaged: anything in the folder is not as it was written.
        UserError: the manifest was written by a newer version of the program.
    """
    file = folder / FILE
    try:
        data = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise Damaged(f"{file} is missing") from None
    except ValueError as error:
        raise Damaged(f"{file} is not JSON ({error})") from None
    if not isinstance(data, dict):
        raise Damaged(f"{file} is not a JSON object")
    _check_content(file, data)
    try:
        manifest = Manifest.from_json(data)
    except Damaged as error:
        raise Damaged(f"{file}: {error}") from None
    if (manifest.kind, manifest.key) != (kind, key):
        raise Damaged(f"{file} belongs to {manifest.kind} {manifest.key}, not to {kind} {key}")
    for name, entry in manifest.outputs.items():
        _check_output(folder, name, entry, verify)
    return manifest


def _check_content(file: Path, data: dict[str, Any]) -> None:
    checksum = data.pop("checksum", None)
    try:
        whole = checksum == digest(data)
    except ValueError:
        whole = False
    if not whole:
        raise Damaged(f"{file} does not match its checksum")
    schema = data.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(
            f"{file} has schema {schema}; this version of mibench reads up to {SCHEMA}. "
            "Type 'pip install --upgrade mibench'."
        )
    if not isinstance(schema, int) or schema < 1:
        raise Damaged(f"{file} has the unknown schema {schema!r}")


def _check_output(folder: Path, name: str, entry: dict[str, Any], verify: bool) -> None:
    file = folder / name
    if not safe_file(name) or not file.resolve().is_relative_to(folder.resolve()):
        raise Damaged(f"{folder / FILE} names {name!r}, which is outside its folder")
    if not file.is_file():
        raise Damaged(f"{file} is missing")
    if not isinstance(entry, dict) or file.stat().st_size != entry.get("bytes"):
        raise Damaged(f"{file} has {file.stat().st_size} bytes, its manifest says {entry}")
    if verify and file_sha256(file) != entry.get("sha256"):
        raise Damaged(f"{file} does not match its SHA-256")


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
