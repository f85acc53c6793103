"""Published checkpoints that were imported: content-addressed tensors under ``MIBENCH_HOME/weights``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from mibench.errors import MissingError
from mibench.store.atomic import write_json
from mibench.store.manifest import file_sha256


def weights_folder(home: Path) -> Path:
    return home / "weights"


def save_imported(home: Path, sha256: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> str:
    """Store the tensors of a published file under an id, the first 16 characters of the file's SHA-256; the id.
    ``facts`` (what it is, the file's name, its settings) stand beside it as JSON, written last."""
    name = sha256[:16]
    folder = weights_folder(home)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{name}.part"
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, part)
    part.replace(folder / f"{name}.safetensors")
    stored = file_sha256(folder / f"{name}.safetensors")
    write_json(folder / f"{name}.json", facts | {"sha256": sha256, "stored_sha256": stored})
    return name


def load_imported(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors under their published names, and the facts, from the weights folder. Raises MissingError if they are
    not there or damaged."""
    how = "Import them with `mibench import-checkpoint FILE --as KIND`; with `--list` it shows what is there."
    try:
        facts: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    except (OSError, ValueError):
        raise MissingError(f"No imported weights have the id {name!r}. {how}") from None
    path = folder / f"{name}.safetensors"
    if not path.is_file() or file_sha256(path) != facts["stored_sha256"]:
        raise MissingError(f"The imported weights {name!r} are damaged. {how}")
    return load_file(path), facts
