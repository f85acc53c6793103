"""Where methods come from besides registry.yaml: files that the user names, and installed packages.

Everything here is read from source text; no method is imported. A file is ``mine.py`` with, if there is one, its entry
beside it in ``mine.yaml``; ``MIBENCH_PLUGINS`` names such files (``--plugin`` adds to it; workers inherit it). A
package offers entry points in the groups ``mibench.defenses``, ``mibench.attacks``, ``mibench.priors`` and
``mibench.metrics``; what it offers is called ``package/name``, and its entry lies as package data beside the module: in
``name.yaml``, or in the .yaml called like the module.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mibench.boundary import read_text, sentences
from mibench.errors import UserError
from mibench.protocol.methods import Kind
from mibench.protocol.yaml_files import read_yaml

VARIABLE = "MIBENCH_PLUGINS"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
CONTROL = "control"
BASES: dict[str, Kind] = {"Defense": "defense", "Attack": "attack", "Prior": "prior"}


class Paper(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    title: str
    venue: str
    year: int
    url: str = Field(pattern=r"^https?://")
    authors: tuple[str, ...] = ()
    form: Literal["inproceedings", "article", "misc"] = "inproceedings"  # as BibTeX calls it


class Entry(BaseModel):
    """One method: what a list shows of it. ``presets`` name parameter sets; a track's ``preset`` applies by itself.
    ``costs`` says, for presets, what one run costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    title: str
    summary: str = ""  # what the method does, in two sentences
    kind: str = ""  # of a defense: baseline, control, data, regulariser, architecture, training, output
    family: str | None = None  # of an attack: control, or what it searches, and how
    adaptive: bool = False  # an attack made to get around one defense
    paper: Paper | None = None
    licence: str | None = None  # SPDX identifier; without one the registry's
    access: str | None = None
    prior: str | None = None
    scope: str | None = None
    presets: dict[str, dict[str, Any]] = Field(default_factory=dict)
    costs: dict[str, str] = Field(default_factory=dict)
    reported: tuple[str, ...] = ()  # its names in results/reported.csv

    @property
    def about(self) -> dict[str, Any]:
        """What a page says of the method: the fields that are set (``mibench.records.MethodFacts``)."""
        names = ("title", "kind", "family", "access", "prior", "adaptive", "presets", "costs")
        facts = {name: value for name in names if (value := getattr(self, name))}
        facts |= {"summary": _short(self.summary)} if self.summary else {}
        return facts | ({"reference": self.paper.model_dump(mode="json", exclude_defaults=True)} if self.paper else {})

    @property
    def control(self) -> bool:
        """Whether it is there to tell what others' figures mean, and does not compete with them."""
        return CONTROL in (self.kind, self.family)


@dataclass(frozen=True)
class MethodFile:
    """Where one method is. ``class_name`` is its class, if the file need not have only one; ``module`` is set for what
    is imported as part of an installed package. ``problem`` says why it cannot be used."""

    kind: Kind
    id: str
    path: Path
    entry: Entry
    class_name: str | None = None
    module: str | None = None
    problem: str | None = None


# --- files ---------------------------------------------------------------------------------------------------------


def named_files() -> list[Path]:
    """The plugin files that ``MIBENCH_PLUGINS`` names."""
    return [Path(text) for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text]


def use_file(path: Path) -> None:
    """Add a plugin file for this process and its workers. Raises UserError if there is no such file."""
    path = path.expanduser().absolute()
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"There is no plugin file {path}. Expected a .py file; `mibench new defense NAME` writes one.")
    files = [str(path), *(str(known) for known in named_files() if known != path)]
    os.environ[VARIABLE] = os.pathsep.join(files)


def file_source(path: Path) -> MethodFile:
    """The method in a plugin file. Raises UserError that says what is wrong with it."""
    name = path.stem
    if not NAME.fullmatch(name):
        raise UserError(
            f"{path}: a method is called like its file, and {name!r} is not of a-z, 0-9, _ and -. Rename it."
        )
    tree = parsed(path)
    kinds = [(kind, node) for node in tree.body if isinstance(node, ast.ClassDef) and (kind := kind_of(node))]
    if len(kinds) != 1:
        raise UserError(
            f"{path} must define exactly one class that derives from Defense, Attack or Prior of mibench.contracts; "
            f"it defines {len(kinds)}."
        )
    kind, node = kinds[0]
    return MethodFile(kind, name, path, read_entry(path) or entry_of(kind, tree, node))


def read_entry(path: Path) -> Entry | None:
    """The registry entry beside a plugin file, ``mine.yaml``; None if there is none. That of a package's method is
    called like its entry point and lies beside its module. Raises UserError."""
    beside = path.with_suffix(".yaml")
    if not os.path.lexists(beside):
        return None
    with sentences(f"{beside} is not a registry entry"):
        return Entry.model_validate(read_yaml(beside, "registry entry"))


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file. Raises UserError if it cannot be read or is no Python."""
    text = read_text(path, "Python file")
    with sentences(f"{path} is not Python"):
        try:
            return ast.parse(text)
        except SyntaxError as error:
            raise UserError(f"{path}, line {error.lineno}, is not Python: {error.msg}.") from None


def kind_of(node: ast.ClassDef) -> Kind | None:
    """What a class is, by the names of its bases."""
    bases = [base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases]
    return next((BASES[base] for base in bases if base in BASES), None)


def entry_of(kind: Kind, tree: ast.Module, node: ast.ClassDef) -> Entry:
    """An entry for a method without one: the first sentence of the file's docstring, the class's, and its access."""
    text = ast.get_docstring(tree) or ast.get_docstring(node) or node.name
    title = " ".join(text.split()).partition(". ")[0].rstrip(".")[:120]
    access = next((value.attr.lower() for value in assigned(node, "access") if isinstance(value, ast.Attribute)), None)
    summary = _short(ast.get_docstring(node) or "")
    return Entry(title=title, summary=summary, access=access if kind == "attack" else None)


def _short(text: str) -> str:
    """In one line, as long as a record keeps it."""
    return textwrap.shorten(text, 300, placeholder=" ...")


def assigned(node: ast.ClassDef, name: str) -> Iterator[ast.expr]:
    """What the body of a class sets ``name`` to."""
    for statement in node.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            yield statement.value
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == name and statement.value:
            yield statement.value


def literal(node: ast.ClassDef, name: str) -> Any:
    """A class attribute that is written down as a plain value; None if there is none."""
    for value in assigned(node, name):
        try:
            return ast.literal_eval(value)
        except (ValueError, TypeError):
            return None
    return None


def defaults(tree: ast.Module, node: ast.ClassDef) -> dict[str, Any]:
    """The parameters of a method and their defaults, by name: of its class ``Params`` and of what that inherits from
    modules that the file imports from. What is no plain value (``8 / 255``) is given as it is written."""
    own = [part for part in node.body if isinstance(part, ast.ClassDef) and part.name == "Params"]
    return _fields(tree, own[0]) if own else {}


def _fields(tree: ast.Module, node: ast.ClassDef) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(node.bases):
        found |= _inherited(tree, base.id) if isinstance(base, ast.Name) else {}
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
            for value in _default(statement.value):
                found[statement.target.id] = value
    return found


def _inherited(tree: ast.Module, name: str) -> dict[str, Any]:
    """The fields of a base class, which is in the file itself or in a module that it names."""
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef) and statement.name == name:
            return _fields(tree, statement)
        if isinstance(statement, ast.ImportFrom) and any(
            (part.asname or part.name) == name for part in statement.names
        ):
            path = module_file(statement.module or "")
            return _inherited(parsed(path), name) if path else {}
    return {}


def _default(value: ast.expr) -> Iterator[Any]:
    """Of ``a: int = 3`` and of ``a: int = Field(3, ...)``; nothing where there is no default."""
    if isinstance(value, ast.Call):
        factory = [word.value for word in value.keywords if word.arg == "default_factory"]
        if factory:
            yield {"dict": {}, "list": []}.get(ast.unparse(factory[0]), ast.unparse(factory[0]))
            return
        if not value.args:
            return
        value = value.args[0]
    try:
        yield ast.literal_eval(value)
    except (ValueError, TypeError):
        yield ast.unparse(value)


# --- packages ------------------------------------------------------------------------------------------------------


def package_sources(kind: Kind) -> list[MethodFile]:
    """What installed packages offer of a kind, broken ones with their reason."""
    return [_offered(kind, point) for point in offers(f"mibench.{kind}s")]


@cache
def offers(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group, sorted by what they are called here."""
    return tuple(sorted(entry_points(group=group), key=offered_name))


def offered_name(point: EntryPoint) -> str:
    """``package/name``."""
    package = re.sub(r"[-_.]+", "-", point.dist.name if point.dist else "unknown").lower()
    return f"{package}/{point.name.lower()}"


def _offered(kind: Kind, point: EntryPoint) -> MethodFile:
    name = offered_name(point)
    try:
        path, tree, node = offered_class(point)
        own = path.with_name(f"{name.partition('/')[2]}.py")  # of a module that offers several, each has an entry
        entry = read_entry(own) or read_entry(path) or entry_of(kind, tree, node)
    except UserError as error:
        return MethodFile(kind, name, Path(), Entry(title=f"unusable: {error}"), problem=str(error))
    return MethodFile(kind, name, path, entry, node.name, point.module)


def offered_class(point: EntryPoint) -> tuple[Path, ast.Module, ast.ClassDef]:
    """The file, its syntax tree and the class that an entry point names. Raises UserError saying what is wrong."""
    package, _, name = offered_name(point).partition("/")
    if not NAME.fullmatch(name) or not NAME.fullmatch(package):
        raise UserError(f"the entry point {point.name!r} of {package} is not of a-z, 0-9, _ and -")
    if not point.attr or "." in point.attr:
        raise UserError(f"its entry point says {point.value!r}, where module:Class was expected")
    path = module_file(point.module)
    if path is None:
        raise UserError(f"its module {point.module} was not found")
    tree = parsed(path)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == point.attr:
            return path, tree, node
    raise UserError(f"{point.module} does not define the class {point.attr}")


def module_file(name: str) -> Path | None:
    """Where the source of a module lies, found without importing anything (not its parent packages either)."""
    where: Any = None
    spec: ModuleSpec | None = None
    for depth, _ in enumerate(parts := name.split("."), start=1):
        full = ".".join(parts[:depth])
        finders = sys.meta_path if depth == 1 else [PathFinder]
        specs = (finder.find_spec(full, where) for finder in finders if hasattr(finder, "find_spec"))
        spec = next((each for each in specs if each is not None), None)
        if spec is None:
            return None
        where = spec.submodule_search_locations
    path = Path(spec.origin) if spec and spec.origin and spec.has_location else None
    return path if path is not None and path.suffix == ".py" else None
