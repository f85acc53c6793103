"""Every registered method as a file, and on the checks that its author has."""

from __future__ import annotations

import ast
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from plugins import ENGINE, LISTED, PLUGINS, PRIORS

from mibench.checking.contract import check
from mibench.checking.params import class_checks
from mibench.checking.source import source_checks, wrong_imports
from mibench.errors import UserError
from mibench.protocol.methods import Kind, Selection
from mibench.protocol.params import resolve
from mibench.registry import Registry

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")


@pytest.mark.parametrize(("kind", "name"), [pair for pair in PLUGINS if pair[0] != "prior"])
def test_check_finds_no_fault(kind: Kind, name: str, checked: Path) -> None:
    """Every line of ``mibench check``, to the last. What it computes twice also reports the same twice."""
    home = checked / kind
    home.mkdir(exist_ok=True)
    lines = list(check(Registry(), kind, name, home))
    assert [line for line in lines if line.ok is False and line.name != "time"] == []  # which is the machine's
    assert lines[-1].name == "memory", "it ended before the last line"
    one, other = (results_of(folder, name) for folder in (home, home.with_name(f"{kind}-again")))
    assert {stage for stage, _ in other} >= {"target" if kind == "defense" else "invert"}
    assert other.items() <= one.items()


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the checks of all defenses, and those of all attacks, find what they have in common."""
    return tmp_path_factory.mktemp("checked")


def results_of(home: Path, plugin: str) -> dict[tuple[str, str], Any]:
    """What the stages of a plugin reported, by kind and key."""
    manifests = [json.loads(path.read_text()) for path in home.glob("store/*/*/*/manifest.json")]
    return {(m["kind"], m["key"]): m["result"] for m in manifests if m["plugin"] == plugin}


@pytest.mark.parametrize("name", PRIORS)
def test_check_finds_no_fault_in_the_file_of_a_prior(name: str) -> None:
    lines = [*source_checks(LISTED.source("prior", name)), *class_checks(LISTED, "prior", name)]
    names = ["file", "docstrings", "stands alone", "import", "parameters", "presets", "entry and class"]
    assert [line.name for line in lines] == names
    assert [line for line in lines if line.ok is False] == []


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_unknown_parameters_are_named(kind: Kind, name: str) -> None:
    with pytest.raises(UserError, match="no_such_parameter"):
        resolve(LISTED.plugin(kind, name).Params, {"no_such_parameter": 1}, name)


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_registry_says_what_the_class_says(kind: Kind, name: str) -> None:
    """On every track; ``check`` asks on the smallest."""
    entry = LISTED.entry(kind, name)
    assert entry.costs.keys() <= entry.presets.keys()
    if kind == "attack":
        assert entry.costs.keys() >= {"paper", "small"}, "say what the presets cost"
    for track in LISTED.tracks.values():
        facts = LISTED.facts(Selection(kind, name), track)
        if kind == "attack":
            assert entry.access == facts.access
            assert entry.prior == (facts.prior["id"] if facts.prior else None)
            if facts.prior:
                LISTED.facts(Selection("prior", facts.prior["id"], (), facts.prior["params"]), track)
        if kind == "prior":
            assert entry.scope == facts.scope


@pytest.mark.parametrize(("kind", "name"), [pair for pair in PLUGINS if LISTED.entry(*pair).paper])
def test_docstring_names_the_year_of_the_paper(kind: Kind, name: str) -> None:
    path, paper = LISTED.path(kind, name), LISTED.entry(kind, name).paper
    assert paper and str(paper.year) in (ast.get_docstring(ast.parse(path.read_text())) or "")


def test_half_of_the_methods_are_shorter_than_70_lines() -> None:
    files = [LISTED.path(kind, name) for kind, name in PLUGINS if kind != "prior"]
    assert statistics.median(len(path.read_text().splitlines()) for path in files) < 70


def test_wrong_imports_are_seen() -> None:
    for line in (
        "import os",
        "from mibench.priors.dcgan import Dcgan",
        "from mibench import stages",
        "from . import re",
    ):
        assert wrong_imports(ast.parse(line), "attack"), line
    assert not wrong_imports(ast.parse("import math\nfrom mibench.contracts import Attack"), "attack")


def test_every_file_is_registered() -> None:
    assert list(LISTED.unlisted()) == []
    files = {path.stem for path in (ENGINE / "priors").glob("*.py")} - {"__init__"}
    assert files == set(PRIORS)
