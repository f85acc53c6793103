"""Errors that a user sees as a sentence, and the exit codes of the command line other than 0."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

EXIT_FAILED = 1  # some stages failed
EXIT_USAGE = 2  # wrong names or parameters
EXIT_ENVIRONMENT = 3  # something is missing on this machine
EXIT_INTERRUPTED = 130


FEW = 8  # names that a sentence lists


class UserError(Exception):
    """Wrong input. The message says what was expected, what was found and what to type."""

    exit_code = EXIT_USAGE


class MissingError(UserError):
    """Something this machine lacks: a data package, a weights file, a GPU, disk space."""

    exit_code = EXIT_ENVIRONMENT


class StageFailed(Exception):
    """A stage could not produce its result (for example a loss became NaN); nothing was stored."""

    exit_code = EXIT_FAILED


def few(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - FEW:,} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the nearest ones that do, and all of them if they are few."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    if len(known) > FEW:
        first = sorted(difflib.get_close_matches(name, known, n=FEW, cutoff=0.0))
        known = [*first, *(each for each in known if each not in first)]
    listed = f"Known: {few(known)}." if known else "There is none."
    return UserError(f"Unknown {kind} {name[:100]!r}.{hint} {listed}")
