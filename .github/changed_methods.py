"""Which methods and submissions a pull request changes, one per line: ``defense re``, ``attack ppa``,
``submission results/submissions/mine``. Nothing of the change is imported or run.

    git diff --name-status --no-renames -z BASE...HEAD > changed.bin
    python .github/changed_methods.py --diff changed.bin --before registry-before.yaml --after registry.yaml

A method changed if its file did or its entry in registry.yaml did; one that was removed needs no check. A submission is
the folder that holds ``submission.json``, anywhere below ``results/``. A path or name that a shell or a log could
misread is refused (exit code 2).
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


def changed(files: Iterable[tuple[str, str]], before: Any, after: Any) -> list[str]:
    """The lines to print, sorted. ``before`` and ``after`` are the registry's data."""
    found = set()
    for status, path in files:
        parts = PurePosixPath(path).parts
        if parts[0] in ("results", *FOLDERS):
            wrong = [part for part in parts if not PART.fullmatch(part)]
            if wrong:
                raise Refused(f"{path!r}: {wrong[0]!r} is not a file name of letters, digits, _, -, + and dots.")
        if status != "D" and parts[0] in FOLDERS and path.endswith(".py") and len(parts) == 2:
            found.add((FOLDERS[parts[0]], _name(parts[1].removesuffix(".py"))))
        if parts[0] == "results" and len(parts) > 2 and (folder := _submission(parts, files)):
            found.add(("submission", folder))
    for section, kind in FOLDERS.items():
        old, new = _entries(before, section), _entries(after, section)
        found |= {(kind, _name(name)) for name in new if old.get(name) != new[name]}
    return sorted(f"{kind} {name}" for kind, name in found)


def _submission(parts: tuple[str, ...], files: Iterable[tuple[str, str]]) -> str | None:
    """The submission that a file lies in: results/submissions/NAME, or results/NAME if that is a submission; None where
    all of it was removed."""
    depth = 3 if parts[1] == "submissions" else 2
    if len(parts) <= depth:
        return None
    folder = "/".join(parts[:depth])
    kept = any(status != "D" and path.startswith(f"{folder}/") for status, path in files)
    return folder if kept else None


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
    for option in ("--diff", "--before", "--after"):
        parser.add_argument(option, type=Path, required=True)
    arguments = parser.parse_args()
    try:
        before, after = (
            yaml.safe_load(path.read_text(encoding="utf-8")) for path in (arguments.before, arguments.after)
        )
        lines = changed(changes(arguments.diff.read_bytes()), before, after)
    except (Refused, OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print("".join(f"{line}\n" for line in lines), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
