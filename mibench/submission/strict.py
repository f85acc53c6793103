"""Read a stranger's JSON, safetensors and Python without running anything, and refuse what is not exactly that."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from mibench.submission.layout import MIB, Form, Refused, shown

DEPTH, TEXT, NAME = 24, 4000, 300  # of JSON: nesting, characters of a text, of a name
HEADER = 16 * MIB
DIMENSIONS = 8
LINES = 120
_TYPES = ("BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "I64", "F64")
_COMPUTED = ("F32", "F64", "I64", "I32")  # from which figures are computed
_UNSOUND = {  # what the library says of a header that it refuses, and what that means
    "invalid offset": "its tensors overlap or leave gaps",
    "invalid shape, data type": "the place of a tensor does not fit its shape",
    "expected usize": "a tensor has no sound shape and place",
}
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
        members = dict(pairs)
        if len(members) != len(pairs):
            names = [key for key, _ in pairs]
            double = next(key for key in names if names.count(key) > 1)
            raise Refused(f"{name} has the key {shown(double)} twice in one object.")
        return members

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


@contextmanager
def open_tensors(path: Path, name: str) -> Iterator[Any]:
    """A safetensors file, open in its own library, which refuses places that do not fit their shape, overlap, leave
    gaps or do not fill the file. Refused here, since the library would read it: a header of more than ``HEADER`` bytes,
    and before it is read; a tensor named twice, of which it takes the last; names that nobody can see; types and
    numbers of dimensions that no network here has; whatever else a header holds, metadata too."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(HEADER, size - 8):
            raise Refused(
                f"{name} is no safetensors file: its header claims {length:,} bytes, the file has {size:,} and at most "
                f"{HEADER:,} are read."
            )
        entries = _entries(stream.read(length), name)
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except SafetensorError as error:
        if "not fully covered" in str(error):
            taken = max((entry["data_offsets"][1] for entry in entries), default=0)
            raise Refused(f"{name} has {size - 8 - length:,} bytes of data; its tensors take {taken:,}.") from None
        meant = next((meant for said, meant in _UNSOUND.items() if said in str(error)), "it cannot be read")
        raise Refused(f"{name} is no sound safetensors file: {meant} ({shown(error)}).") from None


def _entries(header: bytes, name: str) -> list[dict[str, Any]]:
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
    for key, entry in value.items():
        _check_text(key, name, NAME)
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise Refused(f"{name} holds {shown(key)} beside its tensors. Save the tensors alone, without metadata.")
        if entry["dtype"] not in _TYPES:
            raise Refused(f"{name} holds {shown(key)} of type {shown(entry['dtype'])}. Known: {', '.join(_TYPES)}.")
        if isinstance(entry["shape"], list) and len(entry["shape"]) > DIMENSIONS:
            raise Refused(f"{name} holds {shown(key)} of more than {DIMENSIONS} dimensions.")
    return list(value.values())


def read_header(path: Path, name: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a safetensors file. Refuses one that holds anything else."""
    with open_tensors(path, name) as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118


def read_tensor(path: Path, name: str, key: str) -> NDArray[Any]:
    """One tensor of a small file as an array. Refused if it is not there or of a type that is not read here."""
    with open_tensors(path, name) as file:
        if key not in file.keys() or file.get_slice(key).get_dtype() not in _COMPUTED:  # noqa: SIM118
            raise Refused(f"{name} has no tensor {key!r} of a type such as F32.")
        return file.get_tensor(key)


# --- Python ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outline:
    """What a plugin's file says of itself without being run."""

    version: int
    lines: int
    imports: tuple[str, ...]  # packages


def read_outline(path: Path, name: str, base: str) -> Outline:
    """Look at a plugin by its syntax tree alone: one subclass of ``base``, with a docstring in the file."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
        tree = ast.parse(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise Refused(f"{name} is not Python that can be read ({type(error).__name__}).") from None
    classes = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(b).rpartition(".")[2] == base for b in node.bases)
    ]
    if len(classes) != 1:
        raise Refused(f"{name} must define exactly one subclass of {base}; it defines {len(classes)}.")
    if not (ast.get_docstring(classes[0]) or ast.get_docstring(tree)):
        raise Refused(f"{name} has no docstring: say what it does, and after which paper.")
    imports: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imports.add((node.module or "").partition(".")[0])
    return Outline(_version(classes[0]), len(text.splitlines()), tuple(sorted(imports - {"__future__"})))


def _version(node: ast.ClassDef) -> int:
    for statement in node.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        value = getattr(statement, "value", None)
        if target is not None and ast.unparse(target) == "version" and isinstance(value, ast.Constant):
            return value.value if type(value.value) is int else 1
    return 1
