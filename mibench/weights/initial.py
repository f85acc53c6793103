"""Networks filled with the published weights that they start from (``mibench.weights.starting``)."""

from __future__ import annotations

from pathlib import Path

import torch

from mibench.errors import MissingError, UserError
from mibench.nets.base import Classifier
from mibench.store.manifest import file_sha256
from mibench.weights.fit import load_parts, tensors_in
from mibench.weights.starting import find, start_of


def load_initial(net: Classifier, arch: str, initial: str, weights: Path) -> str | None:
    """Fill ``net`` in place; the SHA-256 of the file, None for ``scratch``. A head for as many classes as the file has
    is loaded too, any other stays fresh. Raises MissingError, or UserError for a file that does not fit."""
    if initial == "scratch":
        return None
    path, start = find(arch, initial, weights), start_of(arch, initial)
    sha256 = file_sha256(path)
    expected = path.stem.rpartition("-")[2] if start.hashed else ""
    if not sha256.startswith(expected):
        raise MissingError(
            f"{path} is damaged: its SHA-256 does not start with {expected}. Get it again: {start.origin}"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} cannot be read as weights ({type(error).__name__}: {error}).") from None
    names = start.names if start.names is not None else getattr(net, "published_names", {})
    load_parts(net, tensors_in(content), names, start.unused, start.fresh or ("head",), optional=not start.fresh)
    return sha256
