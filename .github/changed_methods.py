"""Which methods and results a pull request changes, one per line: ``defense re``, ``attack ppa``, ``submission
results/mine``, ``results results/orl32.json``. Nothing of the change is imported or run.

    git diff --name-status --no-renames -z BASE...HEAD > changed.bin
    python .github/changed_methods.py --diff changed.bin --before registry-before.yaml --root CHECKOUT

A method changed if its file did or its entry in registry.yaml did; one that was removed needs no check. A submission is
a folder below ``results/`` that holds ``submission.json``. Links, and names that a shell or a log could misread, are
refused (exit code 2).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
FOLDERS = {"defenses": "defense", "attacks": "attack"}


class Refused(Exception):
    """The change holds something that is not handled; the message says what."""


def changes(diff: bytes) -> list[tuple[str, str]]:
    """(status letter, path) of each file in ``git diff --name-status --no-renames -z``."""
    words = diff.decode("utf-8", "surrogateescape").split("\0")[:-1]
    if len(words) % 2:
        raise Refused("The list of changed files is not what git diff --name-status --no-renames -z writes.")
    return list(zip(words[::2], words[1::2], strict=True))


def changed(files: Iterable[tuple[str, str]], before: Any, root: Path) -> list[str]:
    """The lines to print, sorted. ``before`` is the registry's data before the change, ``root`` the changed tree."""
    found = set()
    for status, path in files:
        parts = PurePosixPath(path).parts
        if parts[0] not in ("results", *FOLDERS):
            continue
        if wrong := [part for part in parts if not PART.fullmatch(part)]:
            raise Refused(f"{path!r}: {wrong[0]!r} is not a file name of letters, digits, _, -, + and dots.")
        if any((root / folder).is_symlink() for folder in (path, *_folders(parts))):
            raise Refused(f"{path!r} is a link. Send the file itself.")
        if parts[0] == "results":
            found |= _results(status, path, parts, root)
        elif status != "D" and path.endswith(".py"):
            if len(parts) != 2:
                raise Refused(f"{path!r}: a method is one file directly in {parts[0]}/.")
            found.add((FOLDERS[parts[0]], _name(parts[1].removesuffix(".py"))))
    after = yaml.safe_load((root / "registry.yaml").read_text(encoding="utf-8"))
    for section, kind in FOLDERS.items():
        old, new = _entries(before, section), _entries(after, section)
        found |= {(kind, _name(name)) for name in new if old.get(name) != new[name]}
    return sorted(f"{kind} {name}" for kind, name in found)


def _folders(parts: tuple[str, ...]) -> list[str]:
    """The folders that a path lies in, the innermost first."""
    return ["/".join(parts[:depth]) for depth in range(len(parts) - 1, 0, -1)]


def _results(status: str, path: str, parts: tuple[str, ...], root: Path) -> set[tuple[str, str]]:
    """The submission that a file below results/ belongs to, or the file itself; nothing if it was removed with it."""
    for folder in _folders(parts)[:-1]:
        if (root / folder / "submission.json").is_file():
            return {("submission", folder)}
    if status == "D":
        return set()
    if len(parts) > 2:
        raise Refused(f"{path!r} lies in no submission: no folder above it holds submission.json.")
    return {("results", path)}


def _name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise Refused(f"A method is called by a-z, 0-9, _ and -; {name!r} is not.")
    return name


def _entries(registry: Any, section: str) -> dict[str, Any]:
    found = registry.get(section) if isinstance(registry, dict) else None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise Refused(f"registry.yaml has no mapping `{section}:` of names to entries.")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Which methods and submissions a pull request changes.")
    for option in ("--diff", "--before", "--root"):
        parser.add_argument(option, type=Path, required=True)
    arguments = parser.parse_args()
    try:
        before = yaml.safe_load(arguments.before.read_text(encoding="utf-8"))
        lines = changed(changes(arguments.diff.read_bytes()), before, arguments.root)
    except (Refused, OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print("".join(f"{line}\n" for line in lines), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
