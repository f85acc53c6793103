"""All checks of a method, in their order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mibench.checking.lines import Line
from mibench.checking.source import entry_checks, source_checks
from mibench.protocol.methods import Kind
from mibench.registry import Registry


def check(registry: Registry, kind: Kind, name: str, home: Path) -> Iterator[Line]:
    """All checks of one method, in the order in which they are made; ``home`` is an empty folder to compute
    in. After a failure that makes the rest meaningless (the file cannot be imported, nothing was computed) it ends."""
    source = registry.source(kind, name)
    yield from source_checks(source)
    yield from entry_checks(registry, source)
    if source.problem is not None:
        return
    # torch, two seconds, for what can be imported at all; what the text shows is said at once
    from mibench.checking.attack import attack_checks
    from mibench.checking.bench import Bench
    from mibench.checking.defense import defense_checks
    from mibench.checking.params import class_checks
    from mibench.checking.prior import prior_checks

    passed = True
    for line in class_checks(registry, kind, name):
        passed &= line.ok is not False
        yield line
    if passed:
        checks = {"defense": defense_checks, "attack": attack_checks, "prior": prior_checks}
        yield from checks[kind](Bench(registry, home), name)
