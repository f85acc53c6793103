"""A restricted reader of published pickles: it takes tensors and settings and runs nothing that the file carries.

A pickle is a program whose only way to anything outside is a global name. Here a name is looked up in ``_STAND_INS``
alone, by module and exact name; what it gives are stand-ins of this module, which build tensors and plain containers
and ignore code. Any other name, and the other doors (persistent ids, the extension registry, a memo larger than the
file), are refused before anything is built.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mibench.errors import UserError

_CODES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}  # numpy's numbers, no objects


class Refused(UserError):
    """The file asks for something that a checkpoint of tensors does not need."""


class _Inert:
    """What a pickle may hold but not change."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Refused("It tries to change something that this program uses to read it.")


class Module(_Inert):
    """A network layer as the file describes it: the name of its class and its attributes. Its source is ignored."""

    __slots__ = ("attributes", "name")

    def __init__(self, meta: Any) -> None:
        state = meta.get("state") if isinstance(meta, dict) else None
        name = meta.get("class_name") if isinstance(meta, dict) else None
        if not isinstance(state, dict) or not isinstance(name, str):
            raise Refused("A layer in it has no class name or no state.")
        self.name, self.attributes = name, state

    def table(self, name: str) -> dict[str, Any]:
        """``_modules``, ``_parameters`` or ``_buffers`` by name."""
        table = self.attributes.get(name)
        return table if isinstance(table, dict) else {}


class _Table(dict[Any, Any]):
    """In the place of OrderedDict, EasyDict and namespaces."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


class _Code(_Inert):
    """In the place of ``numpy.dtype``."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in _CODES:
            raise Refused(f"It holds numpy values of type {code!r}.")
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if isinstance(state, tuple) and len(state) > 1 and state[1] == ">" else "<"


class _Storage(_Inert):
    __slots__ = ("flat",)

    def __init__(self, flat: Tensor) -> None:
        self.flat = flat


class _Array(_Inert):
    """A tensor; wrapped, so that the file cannot reach a tensor's methods."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _scalar(kind: Any, data: Any) -> float | int | bool:
    if not isinstance(kind, _Code) or not isinstance(data, bytes):
        raise Refused("A number in it is not stored as numpy stores numbers.")
    value: float | int | bool = np.frombuffer(data, np.dtype(kind.order + kind.code), 1)[0].item()
    return value


def _bytes(text: Any, encoding: Any) -> bytes:
    """How old protocols write bytes: ``_codecs.encode(text, "latin1")``."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused(f"It encodes text as {encoding!r}.")
    return text.encode("latin-1")


def _storage(data: Any) -> _Storage:
    """The storage inside a tensor is a small torch file of its own; torch reads it as one that holds only tensors."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickle protocols
            storage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = asked_for(error)
        raise Refused(_unknown_global(asked) if asked else "A tensor in it is not whole.") from None
    dtype = torch.uint8 if isinstance(storage, torch.UntypedStorage) else storage.dtype
    return _Storage(torch.empty(0, dtype=dtype).set_(storage))


def asked_for(error: Exception) -> str | None:
    """The global name that ``torch.load(weights_only=True)`` refused, or None if something else was wrong."""
    match = re.search(r"GLOBAL ([\w.]+)", str(error))
    return match[1] if match else None


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Array:
    if not isinstance(storage, _Storage) or not all(isinstance(n, int) and n >= 0 for n in (offset, *size, *stride)):
        raise Refused("A tensor in it has no plain shape.")
    if math.prod(size) > len(storage.flat):  # expanded: a small file must not become a large tensor
        raise Refused("A tensor in it is larger than its values.")
    return _Array(torch.as_strided(storage.flat, tuple(size), tuple(stride), offset).clone())


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


_LAYER = ("torch_utils.persistence", "_reconstruct_persistent_obj")
_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    _LAYER: Module,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("collections", "OrderedDict"): _Table,
    ("dnnlib.util", "EasyDict"): _Table,
    ("argparse", "Namespace"): _Table,
    ("numpy", "dtype"): _Code,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("builtins", "set"): frozenset,
    ("__builtin__", "set"): frozenset,
    ("_codecs", "encode"): _bytes,
}


class _Function(_Inert):
    """A stand-in that is called: an object of its own, so that nothing can be set on the function itself."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        stand_in = _STAND_INS.get((module, name))
        if stand_in is None:
            raise Refused(_unknown_global(f"{module}.{name}"))
        if stand_in is _Table:  # protocol 2 makes dictionaries from the class itself
            return type("Table", (_Table,), {})  # a fresh one, which the file may spoil
        return _Function(stand_in)

    def persistent_load(self, pid: Any) -> Any:
        raise Refused("It refers to something outside itself by a persistent id.")


def _unknown_global(name: str) -> str:
    if name.startswith("dnnlib.tflib."):
        return (
            f"It asks for {name}: this is a TensorFlow network. Expected a file of stylegan2-ada-pytorch, whose "
            "legacy.py converts older ones."
        )
    return f"It asks for {name}, which no tensor needs. Nothing of it was run."


def read_pickle(data: bytes) -> Any:
    """The content of a pickle: numbers, text, containers, ``Module`` and tensors (as ``tensors_of`` finds them).

    Raises Refused if it asks for anything else, UserError if it is damaged.
    """
    try:
        _look_over(data)
        return _Unpickler(io.BytesIO(data)).load()
    except UserError:
        raise
    except MemoryError:
        raise UserError("It needs more memory than there is.") from None
    except Exception as error:  # every opcode fails in its own way on damaged data
        raise UserError(
            f"It is damaged or cut off ({type(error).__name__}: {_first_line(error)}). Download it again."
        ) from None


def _look_over(data: bytes) -> None:
    """Read the opcodes without doing what they say: doors that need no global name are refused here."""
    count = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data), start=1):
        if opcode.name in ("PERSID", "BINPERSID"):
            raise Refused("It refers to something outside itself by a persistent id.")
        if opcode.name in ("EXT1", "EXT2", "EXT4"):
            raise Refused(f"It asks for number {argument} of Python's extension registry.")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise Refused(f"It asks for a memo of {argument:,} entries at opcode {count}.")


def tensor(value: Any) -> Tensor | None:
    """The tensor that ``read_pickle`` found here, or None."""
    return value.tensor if isinstance(value, _Array) else None


def tensors_of(value: Any, depth: int = 4) -> Any:
    """``value`` with the tensors in its dictionaries, down to ``depth``, unwrapped."""
    if isinstance(value, Mapping) and depth:
        return {key: tensors_of(inner, depth - 1) for key, inner in value.items()}
    unwrapped = tensor(value)
    return value if unwrapped is None else unwrapped


# For torch.load(weights_only=True): what old training scripts leave beside the tensors, as (stand-in, name).
SAFE_FOR_TORCH: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    (_Code, "numpy.dtype"),
    (_Table, "argparse.Namespace"),
    (_Table, "dnnlib.util.EasyDict"),
]
