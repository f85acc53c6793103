"""Stage keys and seeds: pure functions, so that the same question always has the same name."""

from __future__ import annotations

import hashlib
import json
from typing import Any

KEY_SCHEMA = 1


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces; tuples are lists; integers and floats stay distinct; NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``, as 64 hexadecimal characters."""
    return hashlib.sha256(_bytes(value)).hexdigest()


def _bytes(value: Any) -> bytes:
    """Of a file's name that is not UTF-8 the bytes that it has."""
    return canonical(value).encode(errors="surrogateescape")


def stage_key(
    kind: str,
    plugin: str,
    version: int,
    params: dict[str, Any],
    seed: int,
    track_part: Any,
    inputs: dict[str, str],
) -> str:
    """The name of a stage's result: 64 hexadecimal characters.

    ``params`` are the non-default ones; ``inputs`` maps a role to its parent's key, so a change anywhere above
    changes everything below and nothing else. Device, workers, paths and compute batch are not in it.
    """
    return digest(
        {
            "schema": KEY_SCHEMA,
            "kind": kind,
            "plugin": plugin,
            "version": version,
            "params": params,
            "seed": seed,
            "track": track_part,
            "inputs": inputs,
        }
    )


def stream_seed(*parts: str | int) -> int:
    """A 63-bit seed that depends on every part: base seed, role, stream name, identity, restart."""
    return int.from_bytes(hashlib.sha256(_bytes(list(parts))).digest()[:8], "big") >> 1


def joint_version(engine: int, plugin: int) -> int:
    """A stage's version: the engine's of this kind of stage and the method's, in one number."""
    return engine * 1000 + plugin


def split_version(version: int) -> tuple[int, int]:
    """The engine's and the method's version of a stage."""
    return divmod(version, 1000)


def version_text(version: int) -> str:
    """``1.2``: the engine's version of this kind of stage, and the method's."""
    return ".".join(map(str, split_version(version)))
