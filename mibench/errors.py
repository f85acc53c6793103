"""Errors that a user sees as a sentence, and the exit codes of the command line other than 0."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_FAILED = 1  # some stages failed
EXIT_USAGE = 2  # wrong names or parameters
EXIT_ENVIRONMENT = 3  # something is missing on this machine
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """Wrong input. The message says what was expected, what was found and what to type."""

    exit_code = EXIT_USAGE


class MissingError(UserError):
    """Something this machine lacks: a data package, a weights file, a GPU, disk space."""

    exit_code = EXIT_ENVIRONMENT


class StageFailed(Exception):
    """A stage could not produce its result (for example a loss became NaN); nothing was stored."""

    exit_code = EXIT_FAILED


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the nearest ones that do."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return UserError(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")
