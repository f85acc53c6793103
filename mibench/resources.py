"""What there is to work with: the files beside the package, and the cores."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from mibench.errors import MissingError


def resource_root() -> Path:
    """The folder that holds ``site/``, ``defenses/``, ``attacks/`` and ``registry.yaml``.

    ``MIBENCH_ROOT`` names another such folder, for methods and tracks of one's own (and for tests); worker processes
    inherit it. Otherwise: a wheel carries them in ``mibench/_bundled``, in a source checkout they lie next to the
    package. Raises MissingError when there is no registry.yaml."""
    chosen = os.environ.get("MIBENCH_ROOT")
    if chosen:
        root = Path(chosen).expanduser().absolute()
        if (root / "registry.yaml").is_file():
            return root
        raise MissingError(f"MIBENCH_ROOT is {chosen!r}, but there is no registry.yaml in it. Correct or unset it.")
    package = Path(__file__).resolve().parent
    for root in (package / "_bundled", package.parent):
        if (root / "registry.yaml").is_file():
            return root
    raise MissingError(
        f"registry.yaml was found neither in {package / '_bundled'} nor in {package.parent}. "
        "Install mibench again (pip install --force-reinstall mibench) or run from a complete checkout."
    )


def package_file(package: str, name: str) -> Path | None:
    """A file that an installed package carries, found without importing the package; None if it is not there."""
    spec = find_spec(package)
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return next((path for folder in folders if (path := Path(folder) / name).is_file()), None)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
