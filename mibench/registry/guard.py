"""What a method cannot do by accident or by an easy cheat: change torch or the engine for others in its process, and
open files that it must not see. Neither is a sandbox: a method is code that you run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mibench.errors import StageFailed

_MODULES = (
    "torch",
    "torch.nn",
    "torch.nn.functional",
    "torch.nn.init",
    "torch.linalg",
    "torch.special",
    "torch._C._nn",
)
_CLASSES = ("torch.Tensor", "torch.nn.Module", "torch.nn.Linear", "torch.nn.Conv2d", "torch.nn.BatchNorm2d")
_ABSENT = object()


@contextmanager
def undisturbed() -> Iterator[list[str]]:
    """Compare the attributes of torch's and mibench's modules and classes before and after, and restore those that
    were replaced or hidden. Yields a list that then holds their names. Other new attributes stay.

    This keeps a careless or cheating method from changing how another one is computed in the same process; it is no
    sandbox. Judging happens in a process that imports no method."""
    before = {(name, owner): dict(vars(owner)) for name, owner in _owners().items()}
    changed: list[str] = []
    try:
        yield changed
    finally:
        for (name, owner), values in before.items():
            changed += [f"{name}.{attribute}" for attribute in _restore(owner, values)]


def _owners() -> dict[str, Any]:
    names = [*_MODULES, *(name for name in sys.modules if name.partition(".")[0] == "mibench")]
    owners: dict[str, Any] = {name: sys.modules[name] for name in names if name in sys.modules}
    for name, module in list(owners.items()):
        for attribute, value in list(vars(module).items()):
            if isinstance(value, type) and value.__module__ == name and name.startswith("mibench"):
                owners[f"{name}.{attribute}"] = value
    for name in _CLASSES:
        module_name, _, attribute = name.rpartition(".")
        if module_name in sys.modules:
            owners[name] = getattr(sys.modules[module_name], attribute)
    return owners


def _restore(owner: Any, before: dict[str, Any]) -> Iterator[str]:
    now = dict(vars(owner))
    for attribute in before.keys() | now.keys():
        if attribute.startswith("__"):
            continue
        if attribute in before and now.get(attribute, _ABSENT) is not before[attribute]:
            setattr(owner, attribute, before[attribute])
            if getattr(now.get(attribute), "__wrapped__", None) is not before[attribute] or not _torchs(now[attribute]):
                yield attribute  # else torch itself wrapped it, when a part of torch was first imported
        elif attribute not in before and isinstance(owner, type) and hasattr(super(owner, owner), attribute):
            delattr(owner, attribute)  # it hid an inherited one
            yield attribute


def _torchs(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and code.co_filename.startswith(sys.modules["torch"].__path__[0])


# --- files ---------------------------------------------------------------------------------------------------------

_PROCESSES = {"subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "os.spawn", "os.fork", "os.forkpty"}
_FILES = {"open", "os.listdir", "os.scandir", "os.link", "os.symlink", "os.rename"}


class _Wall:
    """What is closed now. (Not two names of this module: they would change, which ``undisturbed`` undoes.)"""

    def __init__(self) -> None:
        self.folders: tuple[str, ...] = ()
        self.watched = False


_wall = _Wall()


@contextmanager
def closed(folders: Iterable[Path]) -> Iterator[None]:
    """While a method computes: what Python opens below ``folders``, and every new process, raises StageFailed. Files
    that are open already stay readable."""
    if not _wall.watched:
        sys.addaudithook(_watch)
        _wall.watched = True
    before, _wall.folders = _wall.folders, (*_wall.folders, *(os.path.realpath(folder) for folder in folders))
    try:
        yield
    finally:
        _wall.folders = before


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not _wall.folders:
        return
    if event in _PROCESSES:
        raise StageFailed(f"The method started another process ({event}). It must compute in this one.")
    if event in _FILES and arguments and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if any(path == folder or path.startswith(folder + os.sep) for folder in _wall.folders):
            raise StageFailed(f"The method opened {path}. What it may see is in its context.")
