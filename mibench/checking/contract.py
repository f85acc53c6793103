"""All checks of a method, in their order."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mibench.boundary import in_words
from mibench.checking.lines import Line
from mibench.checking.source import ENTRY_LINES, entry_checks, source_checks
from mibench.errors import UserError
from mibench.protocol.method_files import MethodFile, kind_of, parsed
from mibench.protocol.methods import Kind
from mibench.registry import Registry


def check(registry: Registry, kind: Kind, name: str, home: Path) -> Iterator[Line]:
    """All checks of one method, in the order in which they are made; ``home`` is an empty folder to compute
    in. After a failure that makes the rest meaningless (the file cannot be imported, nothing was computed) it ends."""
    source = registry.source(kind, name)
    for line in _checks(registry, source, kind, name, home):
        yield replace(line, where=_place(source, line)) if line.ok is False and not line.where else line


def _place(source: MethodFile, line: Line) -> str:
    """Where a failing line is to be corrected: the entry, the hook that it is called like, or else the class."""
    if line.name in ENTRY_LINES:
        beside = source.path.with_suffix(".yaml")
        return str(beside) if beside.is_file() else f"the entry of {source.id} in registry.yaml"
    try:
        nodes = [node for node in parsed(source.path).body if isinstance(node, ast.ClassDef)]
    except UserError:
        return str(source.path)
    own = next((node for node in nodes if kind_of(node) == source.kind), None)
    if own is None:
        return str(source.path)
    hooks = [node.lineno for node in own.body if isinstance(node, ast.FunctionDef) and node.name == line.name]
    return f"{source.path}, line {(hooks or [own.lineno])[0]}"


def _checks(registry: Registry, source: MethodFile, kind: Kind, name: str, home: Path) -> Iterator[Line]:
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
        try:
            yield from checks[kind](Bench(registry, home), name)
        except Exception as error:  # the method's, at any time that it is called
            yield Line("runs", False, in_words(error), "A hook of yours raised it, at the line that is named.")
