"""Where the files beside the package are: the site's templates, the methods and the registry."""

from __future__ import annotations

from pathlib import Path

from mibench.errors import MissingError


def resource_root() -> Path:
    """The folder that holds ``site/``, ``defenses/``, ``attacks/`` and ``registry.yaml``.

    A wheel carries them in ``mibench/_bundled``; in a source checkout they lie next to the package.
    Raises MissingError when neither is there."""
    package = Path(__file__).resolve().parent
    for root in (package / "_bundled", package.parent):
        if (root / "registry.yaml").is_file():
            return root
    raise MissingError(
        f"registry.yaml was found neither in {package / '_bundled'} nor in {package.parent}. "
        "Install mibench again (pip install --force-reinstall mibench) or run from a complete checkout."
    )
