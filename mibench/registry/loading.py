"""Import a method, and what it may know of a track."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from importlib import import_module
from types import ModuleType
from typing import Any

from mibench.errors import UserError
from mibench.protocol.method_files import MethodFile
from mibench.protocol.tracks import Track


class Unusable(UserError):
    """A method that exists and cannot be imported."""


def imported(source: MethodFile) -> ModuleType:
    """The module of a method. Raises Unusable with what went wrong, and where."""
    name = source.module or f"mibench_plugins.{source.kind}s.{source.id}"
    if name in sys.modules and (source.module or sys.modules[name].__file__ == str(source.path)):
        return sys.modules[name]
    if not source.path.is_file():
        raise UserError(
            f"{source.kind.capitalize()} {source.id!r} is in registry.yaml but {source.path} does not exist."
        )
    try:
        if source.module:
            return import_module(source.module)
        spec = importlib.util.spec_from_file_location(name, source.path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    except (Exception, SystemExit) as error:
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(source.path)
        ]
        where = f"{source.path}, line {lines[-1]}" if lines else str(source.path)
        raise Unusable(
            f"{source.kind.capitalize()} {source.id!r} cannot be imported: {type(error).__name__}: {error} ({where})."
        ) from error
    return module


def track_info(track: Track) -> Any:
    """The part of a track that plugins see."""
    from mibench.contracts import TrackInfo

    return TrackInfo(
        id=track.id,
        kind=track.kind,
        resolution=track.resolution,
        channels=track.channels,
        num_classes=track.private.identities,
        fill=track.fill,
        public_labelled=track.public.labelled,
        normalisation=track.normalisation,
        arch=track.target.arch,
        initial=track.target.initial,
    )
