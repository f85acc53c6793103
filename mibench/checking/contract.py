"""Does a method keep the contract? Checks on the smallest track, each with what it found and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mibench.protocol.methods import Kind
    from mibench.registry import Registry


@dataclass(frozen=True)
class Check:
    """One line of the list. ``ok`` is None where the question does not arise, which ``found`` explains."""

    name: str
    ok: bool | None
    found: str
    advice: str = ""


def check(registry: Registry, kind: Kind, name: str, home: Path) -> Iterator[Check]:
    """All checks of one defense or attack, in the order in which they are made; ``home`` is an empty folder to compute
    in. After a failure that makes the rest meaningless (the file cannot be imported, nothing was computed) it ends."""
    from mibench.checking.source import entry_checks, source_checks

    source = registry.source(kind, name)
    yield from source_checks(source)
    yield from entry_checks(registry, source)
    if source.problem is not None:
        return
    from mibench.checking.attack import attack_checks
    from mibench.checking.bench import Bench
    from mibench.checking.defense import defense_checks
    from mibench.checking.params import class_checks

    passed = True
    for line in class_checks(registry, kind, name):
        passed &= line.ok is not False
        yield line
    if passed:
        checks = defense_checks if kind == "defense" else attack_checks
        yield from checks(Bench(registry, home), name)
