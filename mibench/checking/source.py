"""What can be said of a method without importing it: its text and its registry entry."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from mibench.checking.lines import Line
from mibench.errors import UserError
from mibench.protocol.method_files import CONTROL, Entry, MethodFile, kind_of, parsed
from mibench.protocol.methods import Kind
from mibench.publish.downloads import bibtex
from mibench.registry import Registry

LONGEST = 120  # lines of a method's file
DEFENSE_KINDS = ("baseline", CONTROL, "data", "regulariser", "architecture", "training", "output")
# The parts of mibench that a method is made of; a prior also of "data". "audit" is for the file that an audit writes.
_OPEN = {"contracts", "primitives", "images", "nets", "random", "errors", "audit"}
_REFUSED = {"defenses", "attacks", "mibench_plugins", "os", "sys", "pathlib", "random", "subprocess", "io", "pickle"}
_REFUSED |= {"socket", "urllib", "http", "shutil", "tempfile", "requests"}
_CALLS = ("open", "exec", "eval", "__import__", "compile")
_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


ENTRY_LINES = ("registry entry", "BibTeX", "licence", "presets", "entry and class")


def source_checks(source: MethodFile) -> Iterator[Line]:
    """The file: there, Python, short, documented, standing alone."""
    where = "Write it with `mibench new`, or correct the entry."
    if source.problem is not None:
        yield Line("file", False, source.problem, where)
        return
    try:
        tree = parsed(source.path)
    except UserError as error:
        yield Line("file", False, str(error), where)
        return
    lines = len(source.path.read_text(encoding="utf-8").splitlines())
    short = "Move what is not the method's own into the engine, or drop what is not needed."
    yield Line("file", lines <= LONGEST, f"{source.path.name}, {lines} lines (at most {LONGEST})", short)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and kind_of(node) == source.kind]
    lacking = [] if ast.get_docstring(tree) else ["the file (line 1)"]
    lacking += [f"{node.name} (line {node.lineno})" for node in classes if not ast.get_docstring(node)]
    docstrings = f"missing: {', '.join(lacking)}" if lacking else "of the file and of the class"
    yield Line("docstrings", not lacking, docstrings, "Say what is computed, and name the source, in a docstring.")
    wrong = wrong_imports(tree, source.kind)
    needs = f"imports or calls {', '.join(wrong)}" if wrong else "mibench, torch and what computes"
    advice = "A method gets what it needs from its context: no files, no environment, no other method."
    yield Line("stands alone", not wrong, needs, advice)


def wrong_imports(tree: ast.AST, kind: Kind) -> list[str]:
    """What a method must not import or call: another method, the engine's inside, files and the environment."""
    open_parts = _OPEN | ({"data"} if kind == "prior" else set())
    wrong: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{'.' * node.level}{node.module or ''}"]
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
            wrong.append((node.lineno, f"{node.func.id}()"))
        for name in names:
            top, _, rest = name.partition(".")
            inside = top == "mibench" and rest and rest.partition(".")[0] not in open_parts
            if name.startswith(".") or top in _REFUSED or inside:
                wrong.append((getattr(node, "lineno", 1), name))
    first: dict[str, int] = {}
    for line, name in sorted(wrong):
        first.setdefault(name, line)
    return [f"{name} (line {line})" for name, line in sorted(first.items())]


def entry_checks(registry: Registry, source: MethodFile) -> Iterator[Line]:
    """The registry entry: its fields, the paper's BibTeX, the licence."""
    entry = source.entry
    yield _fields(source.kind, entry)
    text = bibtex(source.id, {"reference": entry.paper.model_dump()}) if entry.paper else None
    optional = entry.control or entry.kind == DEFENSE_KINDS[0] or source.kind == "prior"
    advice = "Add `paper: {title, authors, venue, year, url}`; for unpublished work `venue: unpublished`."
    if text is None:
        yield Line("BibTeX", None if optional else False, "no paper in the entry", advice)
    else:
        whole = text.count("{") == text.count("}")
        authors = bool(entry.paper and entry.paper.authors)
        first_line = text.splitlines()[0].rstrip(",") + ("" if authors else " (without authors)")
        yield Line("BibTeX", whole, first_line, "Write as many { as } in the paper's fields.")
    licence = entry.licence
    advice = "Add `licence: Apache-2.0` (an SPDX identifier, under which others may use the file)."
    yield Line("licence", bool(licence and _SPDX.fullmatch(licence)), licence or "none given", advice)


def _fields(kind: Kind, entry: Entry) -> Line:
    problems = []
    if kind == "defense" and entry.kind not in DEFENSE_KINDS:
        problems.append(f"kind: one of {', '.join(DEFENSE_KINDS)}")
    if kind == "attack" and not entry.access:
        problems.append("access: white_box, scores or labels")
    if kind == "attack" and not entry.family:
        problems.append("family: what it searches, and how")
    if not 3 <= len(entry.title) <= 120:
        problems.append("title: 3 to 120 characters")
    if unknown := entry.costs.keys() - entry.presets.keys():
        problems.append(f"costs: {', '.join(unknown)} is no preset")
    lacks = f"lacks {'; '.join(problems)}" if problems else ""
    advice = "Complete the entry in registry.yaml, or in the .yaml beside."
    return Line("registry entry", not problems, lacks or entry.title, advice)
