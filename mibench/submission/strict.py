"""Read a stranger's JSON, safetensors and Python without running anything, and refuse what is not exactly that."""

from __future__ import annotations

import ast
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mibench.submission.layout import MIB, Form, Refused, shown

DEPTH, TEXT, NAME = 24, 4000, 300  # of JSON: nesting, characters of a text, of a name
HEADER = 16 * MIB
LINES = 120
_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "F16": 2, "BF16": 2, "I32": 4, "F32": 4, "I64": 8, "F64": 8}
_NUMPY = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "I32": "<i4"}
_PNG = b"\x89PNG\r\n\x1a\n"
_OTHER = {
    b"PK": "a zip archive, such as torch.save writes",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"\x1f\x8b": "a gzip archive",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"version https://git-lfs": "a Git LFS pointer",
}


def mistaken_for(head: bytes) -> str | None:
    """What a file that begins so is, where it is something that is sent by mistake or malice."""
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page: the page of the download was saved in its place"
    return next((what for magic, what in _OTHER.items() if head.startswith(magic)), None)


def check_form(path: Path, name: str, form: Form) -> None:
    """Refuse a file whose first bytes are not those of its form."""
    with path.open("rb") as stream:
        head = stream.read(512)
    if what := mistaken_for(head):
        raise Refused(f"{name} is {what}. Expected {form}; nothing of it was run.")
    text = head.lstrip(b" \t\r\n")
    fits = {
        "json": text[:1] in (b"{", b"["),
        "png": head.startswith(_PNG),
        "py": b"\0" not in head,
        "safetensors": head[8:9] == b"{",
    }
    if not fits[form]:
        raise Refused(f"{name} is not {form}; it begins with {head[:8]!r}.")


# --- JSON ------------------------------------------------------------------------------------------------------------


def read_json(path: Path, name: str) -> Any:
    """The content of a JSON file whose size was looked at. Refuses duplicate keys, NaN, numbers too large for the
    machine, deep nesting, long texts and characters that nobody can see."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [key for key, _ in pairs]
            double = next(key for key in names if names.count(key) > 1)
            raise Refused(f"{name} has the key {shown(double)} twice in one object.")
        return found

    def constant(text: str) -> None:
        raise Refused(f"{name} holds {text}, which is no number.")

    try:
        text = path.read_bytes().decode("utf-8")
        value = json.loads(text, object_pairs_hook=once, parse_constant=constant)
    except RecursionError:
        raise Refused(f"{name} is nested deeper than {DEPTH} levels.") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are
        raise Refused(f"{name} is not JSON ({shown(error)}).") from None
    _look_through(value, name)
    return value


def _look_through(value: Any, name: str) -> None:
    pending = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        if depth > DEPTH:
            raise Refused(f"{name} is nested deeper than {DEPTH} levels.")
        if isinstance(item, dict):
            for key in item:
                _check_text(key, name, NAME)
            pending += [(part, depth + 1) for part in item.values()]
        elif isinstance(item, list):
            pending += [(part, depth + 1) for part in item]
        elif isinstance(item, str):
            _check_text(item, name, TEXT)
        elif isinstance(item, float) and not math.isfinite(item):
            raise Refused(f"{name} holds a number that is not finite.")
        elif isinstance(item, int) and abs(item) >= 2**63:
            raise Refused(f"{name} holds a number of more than 63 bits.")


def _check_text(text: str, name: str, most: int) -> None:
    if len(text) > most:
        raise Refused(f"{name} holds a text of {len(text):,} characters; at most {most:,} are allowed.")
    if not text.replace("\n", "").isprintable():
        raise Refused(f"{name} holds a text with invisible characters: {shown(text)}.")


# --- safetensors -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in its file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Refuses it unless they fill its data exactly, and nothing else is in it."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        first = stream.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= min(HEADER, size - 8):
            raise Refused(
                f"{name} is no safetensors file: its header claims {length:,} bytes, the file has {size:,} and at most "
                f"{HEADER:,} are read."
            )
        header = stream.read(length)
    found = {key: _tensor(key, entry, name) for key, entry in _parse_header(header, name).items()}
    place = 0
    for tensor in sorted(found.values(), key=lambda tensor: (tensor.begin, tensor.end)):
        if tensor.begin != place:
            raise Refused(f"{name} is no sound safetensors file: its tensors overlap or leave gaps.")
        place = tensor.end
    if place != size - 8 - length:
        raise Refused(f"{name} has {size - 8 - length:,} bytes of data; its tensors take {place:,}.")
    return found


def _parse_header(header: bytes, name: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise Refused(f"{name} names a tensor twice in its header.")
        return dict(pairs)

    try:
        value = json.loads(header.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise Refused(f"{name} is no safetensors file: its header is not JSON.") from None
    if not isinstance(value, dict):
        raise Refused(f"{name} is no safetensors file: its header is not a JSON object.")
    return value


def _tensor(key: str, entry: Any, name: str) -> Tensor:
    _check_text(key, name, NAME)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise Refused(f"{name} holds {shown(key)} beside its tensors. Save the tensors alone, without metadata.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise Refused(f"{name} holds {shown(key)} of type {shown(dtype)}. Known: {', '.join(_BYTES)}.")
    whole = isinstance(shape, list) and len(shape) <= 8 and isinstance(offsets, list) and len(offsets) == 2
    if not whole or not all(type(n) is int and 0 <= n < 2**48 for n in [*shape, *offsets]):
        raise Refused(f"{name} has no sound shape and place for {shown(key)}.")
    if offsets[1] - offsets[0] != math.prod(shape) * _BYTES[dtype]:
        raise Refused(f"{name} gives {shown(key)} a place that does not fit its shape.")
    return Tensor(dtype, tuple(shape), offsets[0], offsets[1])


def read_tensor(path: Path, name: str, key: str) -> NDArray[Any]:
    """One tensor of a small file as an array. Refused if it is not there or of a type that is not read here."""
    header = read_header(path, name)
    if key not in header or header[key].dtype not in _NUMPY:
        raise Refused(f"{name} has no tensor {key!r} of a type such as F32.")
    tensor = header[key]
    data = path.read_bytes()
    data = data[8 + struct.unpack("<Q", data[:8])[0] :][tensor.begin : tensor.end]
    return np.frombuffer(data, _NUMPY[tensor.dtype]).reshape(tensor.shape)


# --- Python ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """What a plugin's file says of itself without being run."""

    version: int
    lines: int
    imports: tuple[str, ...]  # packages


def read_source(path: Path, name: str, base: str) -> Source:
    """Look at a plugin by its syntax tree alone: one subclass of ``base``, with a docstring in the file."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
        tree = ast.parse(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise Refused(f"{name} is not Python that can be read ({type(error).__name__}).") from None
    found = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(b).rpartition(".")[2] == base for b in node.bases)
    ]
    if len(found) != 1:
        raise Refused(f"{name} must define exactly one subclass of {base}; it defines {len(found)}.")
    if not (ast.get_docstring(found[0]) or ast.get_docstring(tree)):
        raise Refused(f"{name} has no docstring: say what it does, and after which paper.")
    imports: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imports.add((node.module or "").partition(".")[0])
    return Source(_version(found[0]), len(text.splitlines()), tuple(sorted(imports - {"__future__"})))


def _version(node: ast.ClassDef) -> int:
    for statement in node.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        value = getattr(statement, "value", None)
        if target is not None and ast.unparse(target) == "version" and isinstance(value, ast.Constant):
            return value.value if type(value.value) is int else 1
    return 1
