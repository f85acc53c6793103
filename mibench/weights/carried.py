"""Weights that come with the program: generators trained once, on public images only, by ``scripts/train_priors.py``.

``mibench/data/weights/carried.json`` names them, each with its SHA-256; a file is never replaced under its name, so
that a name says what a stage was computed with. The header of a file holds its recipe and the hash of what it was
trained on.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from safetensors.torch import load
from torch import Tensor

from mibench.errors import MissingError

FOLDER = Path(__file__).parents[1] / "data" / "weights"
INDEX = FOLDER / "carried.json"


@lru_cache(maxsize=1)
def carried() -> dict[str, str]:
    """SHA-256 of each file, by its name without suffix."""
    hashes: dict[str, str] = json.loads(INDEX.read_text(encoding="utf-8"))
    return hashes


def load_carried(name: str) -> dict[str, Tensor]:
    """The tensors, as float32. Raises MissingError if the file is missing or not the one that the index names."""
    path = FOLDER / f"{name}.safetensors"
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != carried()[name]:
        raise MissingError(
            f"{path} is missing or damaged; it comes with mibench. "
            f"Type: pip install --force-reinstall --no-deps mibench"
        )
    return {key: value.float() if value.is_floating_point() else value for key, value in load(content).items()}
