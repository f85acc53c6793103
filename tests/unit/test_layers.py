"""The floors of the engine are written down once, in pyproject.toml: nothing climbs, nothing goes round in a circle,
and the documentation shows the same ones."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
SHOWN = re.compile(r"^<!-- floors:begin -->\n+```text\n(.*?)^```\n+<!-- floors:end -->$", re.DOTALL | re.MULTILINE)


def test_every_contract_of_the_linter_holds() -> None:
    """In a process of its own: it disables the loggers that it finds."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--config", str(ROOT / "pyproject.toml")]
    done = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_module_imports_itself_by_whatever_way() -> None:
    """Imports inside functions and those for type checkers count; so does a package's ``__init__``."""
    graph = grimp.build_graph("mibench", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert sum(map(len, imports.values())) > 500, "hardly anything was read"
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_the_documentation_shows_the_same_floors() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    [floors] = [contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers"]
    [shown] = SHOWN.findall((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    assert [set(line.split(" · ")) for line in shown.splitlines()] == [set(floor.split(" | ")) for floor in floors]
