"""Resumable state without pickle: a nested structure of plain values and tensors, as JSON and safetensors.

``state.json`` names the tensor file beside it, so that replacing it switches to the new state in one step.
"""

from __future__ import annotations

import hashlib
import json
import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mibench.keys import digest
from mibench.store import atomic
from mibench.store.manifest import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
FILE = "state.json"


def save_state(path_dir: Path, step: int, tree: Any) -> None:
    """Store ``tree`` as the state after ``step``; an earlier state survives any failure.

    ``tree`` nests dict (keys int or str), list, tuple, int, float, str, bool, None and dense tensors. Tensors
    are stored exactly and come back on the CPU, detached.

    Raises:
        TypeError: anything else in the tree; the message says where.
        MissingError: the disk is full or read-only.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    content: dict[str, Any] = {"schema": SCHEMA, "step": step, "tree": _encode(tree, tensors, "state")}
    path_dir = Path(path_dir)
    with atomic.writing(path_dir):
        path_dir.mkdir(parents=True, exist_ok=True)
        scratch = atomic.temporary(path_dir / "tensors")
        try:
            save_file(tensors, scratch)
            content["sha256"] = file_sha256(scratch)
            content["tensors"] = f"tensors-{content['sha256'][:16]}.safetensors"
            atomic.sync(scratch)
            scratch.replace(path_dir / content["tensors"])
        finally:
            scratch.unlink(missing_ok=True)
        atomic.write_text(path_dir / FILE, json.dumps({**content, "checksum": digest(content)}))
    for file in path_dir.iterdir():  # the state before this one, and what killed processes left
        earlier = file.match("tensors-*.safetensors") and file.name != content["tensors"]
        if earlier or atomic.TEMPORARY.fullmatch(file.name):
            with suppress(OSError):
                file.unlink()


def load_state(path_dir: Path) -> tuple[int, Any] | None:
    """The last ``(step, tree)`` saved to ``path_dir``; None if there is none or it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    path_dir = Path(path_dir)
    try:
        content = json.loads((path_dir / FILE).read_bytes())
        checksum = content.pop("checksum")
        if checksum != digest(content) or content["schema"] != SCHEMA:
            return None
        data = (path_dir / Path(content["tensors"]).name).read_bytes()
        if hashlib.sha256(data).hexdigest() != content["sha256"]:
            return None
        return content["step"], _decode(content["tree"], load(data))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None


def _encode(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    """JSON in which an object with one member stands for what JSON lacks: a tensor, a tuple, a dict, NaN."""
    import torch

    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided:
            raise TypeError(f"Cannot store {where}: a {value.layout} tensor.")
        name = str(len(tensors))
        # a copy, because safetensors refuses tensors that share memory
        tensors[name] = value.detach().resolve_conj().resolve_neg().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if type(value) is list:
        return [_encode(item, tensors, f"{where}[{index}]") for index, item in enumerate(value)]
    if type(value) is tuple:
        return {"tuple": [_encode(item, tensors, f"{where}[{index}]") for index, item in enumerate(value)]}
    if isinstance(value, dict):
        for key in value:
            if type(key) not in (int, str):
                raise TypeError(f"Cannot store {where}: key {key!r} is neither int nor str.")
        return {"dict": [[key, _encode(item, tensors, f"{where}[{key!r}]")] for key, item in value.items()]}
    raise TypeError(f"Cannot store {where}: a {type(value).__name__} is neither a plain value nor a tensor.")


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    [(tag, content)] = value.items()
    match tag:
        case "tensor":
            return tensors[content]
        case "float":
            return float(content)
        case "tuple":
            return tuple(_decode(item, tensors) for item in content)
        case "dict":
            return {key: _decode(item, tensors) for key, item in content}
    raise ValueError(f"unknown tag {tag!r}")
