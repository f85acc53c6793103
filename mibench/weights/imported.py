"""Published checkpoints that were imported: content-addressed tensors under ``MIBENCH_HOME/weights``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from mibench.errors import MissingError
from mibench.store.atomic import write_file, write_json
from mibench.store.manifest import file_sha256

_ID = re.compile(r"[0-9a-f]{16}")
_HOW = "Import them with `mibench import-checkpoint FILE --as KIND`; with `--list` it shows what is there."


def save_imported(folder: Path, sha256: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """Store the tensors of a published file under an id, the first 16 characters of the file's SHA-256; the id.
    ``facts`` (what it is, the file's name, its settings) stand beside it as JSON, written last."""
    name = sha256[:16]
    path = folder / f"{name}.safetensors"
    with write_file(path) as part:
        save_file({key: tensor.detach().cpu().clone().contiguous() for key, tensor in tensors.items()}, part)
    write_json(folder / f"{name}.json", {**facts, "id": name, "sha256": sha256, "stored_sha256": file_sha256(path)})
    return name


def imported_facts(folder: Path, name: str) -> dict[str, Any]:
    """What stands beside the weights ``name``. Raises MissingError if they are not there or damaged."""
    if not _ID.fullmatch(name):
        raise MissingError(f"{name!r} is no id of imported weights: expected 16 characters of 0-9 and a-f. {_HOW}")
    try:
        facts: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
        stored = facts["stored_sha256"]
    except OSError:
        raise MissingError(f"No imported weights have the id {name!r}. {_HOW}") from None
    except (ValueError, TypeError, KeyError):
        stored = None
    path = folder / f"{name}.safetensors"
    if stored is None or not path.is_file() or file_sha256(path) != stored:
        raise MissingError(f"The imported weights {name!r} are damaged; import the file again. {_HOW}")
    return facts


def load_imported(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors under their published names, and the facts, from the weights folder. Raises MissingError if they are
    not there or damaged."""
    facts = imported_facts(folder, name)
    return load_file(folder / f"{name}.safetensors"), facts


def all_imported(folder: Path) -> list[dict[str, Any]]:
    """The facts of everything that was imported, by id; of damaged ones only the id and ``damaged``."""
    all_facts = []
    for path in sorted(folder.glob("*.json")):
        if _ID.fullmatch(path.stem):
            try:
                all_facts.append(imported_facts(folder, path.stem))
            except MissingError:
                all_facts.append({"id": path.stem, "damaged": True})
    return all_facts
