"""What a check of a method comes to: a list of lines."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One line of the list. ``ok`` is None where the question does not arise, which ``found`` explains. ``where``: of a
    failing line, ``file, line``."""

    name: str
    ok: bool | None
    found: str
    advice: str = ""
    where: str = ""
