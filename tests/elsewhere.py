"""A device that nobody has: tensors that compute here and claim to be elsewhere, so that code which forgets to move one
fails on any machine. Unlike tensors without data they have values, and gradients flow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)
HERE = torch.device("cpu")
_GETTERS = {getattr(Tensor, name).__get__: name for name in ("device", "is_cuda", "is_cpu")}
# indices may stay on the CPU, and so may what is copied from
_MIXED = {Tensor.__getitem__, Tensor.__setitem__, Tensor.copy_, Tensor.index_put_}
_AS_THEY_ARE = ("_parse_to", "_has_compatible_shallow_copy_type")  # how ``Module.to`` goes about it
_TO_HOST = {Tensor.numpy, Tensor.__array__}


class Elsewhere(TorchFunctionMode):
    """Inside, ``DEVICE`` exists. A call with tensors of both devices raises RuntimeError, as it would there."""

    def __init__(self) -> None:
        super().__init__()
        self._there: dict[int, StorageWeakRef] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _GETTERS:
            there = self._is_there(args[0])
            return {"device": DEVICE if there else HERE, "is_cuda": there, "is_cpu": not there}[_GETTERS[func]]
        if func is torch.device or func.__name__ in _AS_THEY_ARE:
            return func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [t for t in given if self._is_there(t)]
        asked = self._asked(func, args, kwargs)
        if func in _TO_HOST and there:
            raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() first.")
        if func not in (Tensor.to, Tensor.cpu, torch.tensor, torch.as_tensor):
            self._check(func, given, there, kwargs)
        args, kwargs = tree_map(lambda leaf: HERE if _means(leaf, DEVICE) else leaf, (args, kwargs))
        kwargs.pop("pin_memory", None)
        out = func(*args, **kwargs)
        if asked is not None and asked == HERE and there and any(out is t for t in there):
            out = out.clone()  # moved: another tensor
        elif asked == DEVICE and out is not None and not there and any(out is t for t in given):
            out = out.clone()
        if asked == DEVICE or (asked is None and there):
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor):
                    self._mark(leaf)
        return out

    def _asked(self, func: Any, args: Any, kwargs: Any) -> torch.device | None:
        """The device that the call names."""
        if func is Tensor.cpu:
            return HERE
        if func is Tensor.cuda:
            return DEVICE
        named = [kwargs["device"]] if kwargs.get("device") is not None else []
        if func is Tensor.to:
            named += [a for a in args[1:] if isinstance(a, str | torch.device)]
            named += [DEVICE if self._is_there(a) else HERE for a in args[1:] if isinstance(a, Tensor)]
        return next((DEVICE if _means(name, DEVICE) else HERE for name in named), None)

    def _check(self, func: Any, given: list[Tensor], there: list[Tensor], kwargs: Any) -> None:
        if kwargs.get("generator") is not None and _means(kwargs.get("device"), DEVICE):
            raise RuntimeError(f"{func.__name__}: a generator of the CPU for numbers on {DEVICE}")
        if (func in _MIXED and self._is_there(given[0])) or func.__name__ == "__set__":  # ``data`` is replaced
            return
        strays = [t for t in given if t.ndim and not self._is_there(t)]  # numbers may stay where they are
        if there and strays and any(t.ndim for t in there):
            sizes = [tuple(t.shape) for t in strays]
            raise RuntimeError(f"{getattr(func, '__name__', func)}: tensors on {DEVICE} and on the CPU ({sizes})")

    def _is_there(self, tensor: Tensor) -> bool:
        with torch._C.DisableTorchFunction():
            known = self._there.get(tensor.untyped_storage()._cdata)
        return known is not None and not known.expired()

    def _mark(self, tensor: Tensor) -> None:
        with torch._C.DisableTorchFunction():
            storage = tensor.untyped_storage()
            self._there[storage._cdata] = StorageWeakRef(storage)


def _means(value: Any, device: torch.device) -> bool:
    return isinstance(value, str | torch.device) and str(value).partition(":")[0] == device.type
