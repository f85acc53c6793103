"""Every code block of README.md and docs/ works: what is typed runs, what is pasted loads.

``bash`` and ``python`` blocks run, page by page and in their order, in an empty folder per page, with a registry whose
tracks and presets are cut down so that each command takes seconds; the commands are the page's own. A comment above a
block changes that: ``<!-- file: mine.py -->`` says that the reader pastes it into that file, ``<!-- parsed only: why
-->`` that it takes long or needs what a test has not; it is then read as the program would read it. Indented blocks
are typed lines and are read in the same way. A block of any other kind fails.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import warm
import yaml
from once import Once
from tiny import PATIENCE, SECTION, edit_registry, make_root
from typed import parse

from mibench import contracts
from mibench.errors import UserError
from mibench.protocol.grid_files import read_grid
from mibench.protocol.method_files import Entry
from mibench.protocol.tracks import Track
from mibench.registry import Registry
from mibench.registry.loading import track_info
from mibench.registry.own_tracks import read_track

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMENT = re.compile(r"<!-- (file|parsed only): (.+?) -->")
SHELL = {"bash", "indented"}
KINDS = SHELL | {"python", "yaml", "toml", "json", "bibtex", "text"}
TYPED = {".", "export", "git", "mibench", "mkdocs", "mypy", "pip", "pytest", "python", "python3", "ruff"}
BASES = {"Defense": contracts.Defense, "Attack": contracts.Attack, "Prior": contracts.Prior}
GROUPS = {f"mibench.{kind}" for kind in ("defenses", "attacks", "priors", "metrics")}


@dataclass(frozen=True)
class Block:
    """A code block: its page and line, its language (``indented`` without a fence), its text, and what the comment
    above it says."""

    page: str
    line: int
    language: str
    text: str
    file: str | None = None
    parsed_only: str | None = None

    @property
    def id(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def runs(self) -> bool:
        """Whether it is executed. A method's class is only loaded."""
        if self.parsed_only is not None or self.file is not None:
            return False
        return self.language == "bash" or (self.language == "python" and contract(self.text) is None)


def blocks(page: str, text: str) -> Iterator[Block]:
    """The code blocks of a page. A block without language or end raises."""
    lines = text.splitlines()
    number, above = 0, ""
    while number < len(lines):
        line, start = lines[number], number
        if fence := re.match(r"(`{3,}|~{3,})(.*)", line):
            number += 1
            while not re.fullmatch(rf"{fence[1][0]}{{{len(fence[1])},}}\s*", lines[number]):
                number += 1
            yield _block(page, start, fence[2].strip(), lines[start + 1 : number], above)
        elif line.startswith("    ") and not (start and lines[start - 1].strip()):
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number].strip()):
                number += 1
            number -= 1
            yield _block(page, start, "indented", [each[4:] for each in lines[start : number + 1]], above)
        if line.strip():
            above = lines[number]
        number += 1


def _block(page: str, start: int, language: str, lines: list[str], above: str) -> Block:
    comment = COMMENT.fullmatch(above.strip())
    said = {comment[1].replace(" ", "_"): comment[2]} if comment else {}
    return Block(page, start + 1, language, "\n".join(lines).rstrip() + "\n", **said)


ALL = [block for page in PAGES for block in blocks(page.name, page.read_text(encoding="utf-8"))]


def of(*languages: str, which: Callable[[Block], Any] = lambda block: True) -> pytest.MarkDecorator:
    found = [block for block in ALL if block.language in languages and which(block)]
    return pytest.mark.parametrize("block", found, ids=lambda block: block.id)


def contract(text: str) -> str | None:
    """The contract of the class that Python source defines, by the names of its bases; None: no plugin."""
    bases = [
        ast.unparse(base) for node in ast.parse(text).body if isinstance(node, ast.ClassDef) for base in node.bases
    ]
    return next((base for base in bases if base in BASES), None)


# --- reading a page ------------------------------------------------------------------------------------------------


def test_blocks_are_found() -> None:
    text = "a\n\n    mibench list\n    pytest\n\nb\n\n<!-- file: x.py -->\n```python\ny = 1\n\nz = 2\n```\n- c\n    d\n"
    assert list(blocks("p", text)) == [
        Block("p", 3, "indented", "mibench list\npytest\n"),
        Block("p", 9, "python", "y = 1\n\nz = 2\n", file="x.py"),
    ]


def test_a_block_that_does_not_end_is_refused() -> None:
    with pytest.raises(IndexError):
        list(blocks("p", "```bash\nmibench list\n"))


def test_every_block_is_of_a_known_kind() -> None:
    assert [(block.id, block.language) for block in ALL if block.language not in KINDS] == []


def test_every_comment_belongs_to_a_block() -> None:
    comments = sum(len(COMMENT.findall(page.read_text(encoding="utf-8"))) for page in PAGES)
    assert comments == sum(block.file is not None or block.parsed_only is not None for block in ALL)


@of("text", which=lambda block: block.page != "commands.md")  # test_reference.py compares that one with the program
def test_text_blocks_hide_no_commands(block: Block) -> None:
    assert not re.search(r"^\s*(\$ )?(mibench|pip install) ", block.text, re.MULTILINE)


# --- what is typed -------------------------------------------------------------------------------------------------


def extras(text: str) -> list[str]:
    return [name for found in re.findall(r"\[([a-z, ]+)\]", text) for name in re.split(r",\s*", found)]


@of(*SHELL)
def test_typed_lines_can_be_typed(block: Block) -> None:
    checked = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for line in block.text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|(?!\|)", line):
            words = shlex.split(part, comments=True)
            if not words:
                continue
            assert words[0] in TYPED, f"{block.id}: {line}"
            if words[0] == "mibench":
                parse(part)
            if words[:2] == ["pip", "install"]:
                assert set(extras(part)) <= known.keys()


# --- what is pasted ------------------------------------------------------------------------------------------------


@of("python")
def test_python_compiles(block: Block) -> None:
    compile(block.text, block.id, "exec")


@of("python", which=lambda block: contract(block.text))
def test_plugins_load(block: Block, tmp_path: Path) -> None:
    base = contract(block.text)
    assert base is not None and len(block.text.splitlines()) <= 120
    path = tmp_path / "pasted.py"
    path.write_text(block.text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"docs_block_{block.line}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    [plugin] = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BASES[base]) and value.__module__ == module.__name__
    ]
    made = plugin(plugin.Params(), track_info(Registry(ROOT).track("synthfaces")))
    assert made.skip() is None and plugin.__doc__ and module.__doc__


def check_yaml(data: Any, path: Path) -> str:
    """Validate what a YAML block holds against the program's own model; what it was taken for."""
    assert isinstance(data, dict)
    if "grid" in data:
        read_grid(path)
        return "grid"
    if {"root", "source"} & data.keys():
        for folder in (data.get("root"), (data.get("public") or {}).get("root")):
            for name in "ab" if folder else "":
                (path.parent / folder / name).mkdir(parents=True, exist_ok=True)
        read_track(path)
        return "track file"
    if data.keys() == {"split"}:
        assert re.fullmatch(r"[0-9a-f]{64}", data["split"])
        return "pin"
    if "title" in data:
        Entry.model_validate(data)
        return "entry"
    [(name, section)] = data.items()
    if "source" in section:
        Track(id=name, **section)
        return "track"
    Entry.model_validate(section)
    return "entry"


@of("yaml")
def test_yaml_blocks_are_valid(block: Block, tmp_path: Path) -> None:
    path = tmp_path / (block.file or "my.yaml")
    path.write_text(block.text, encoding="utf-8")
    assert check_yaml(yaml.safe_load(block.text), path)


@pytest.mark.parametrize(
    "text", ["title: x\nkinds: data\n", "root: photos\nresolutions: 3\n", "x: {title: y, papers: {}}\n", "split: abc\n"]
)
def test_a_wrong_yaml_block_would_be_found(text: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises((ValueError, AssertionError, UserError)):
        check_yaml(yaml.safe_load(text), tmp_path / "my.yaml")


def check_toml(text: str) -> None:
    """Entry points are of the groups that are read, each ``module:Class``."""
    points = tomllib.loads(text).get("project", {}).get("entry-points", {})
    assert points.keys() <= GROUPS
    assert all(re.fullmatch(r"[\w.]+:\w+", value) for group in points.values() for value in group.values())


def check_bibtex(text: str) -> None:
    assert re.match(r"@\w+\{\w+,\n", text) and text.count("{") == text.count("}")


CHECKS: dict[str, Callable[[str], Any]] = {"toml": check_toml, "json": json.loads, "bibtex": check_bibtex}


@of(*CHECKS)
def test_data_in_other_formats_is_valid(block: Block) -> None:
    CHECKS[block.language](block.text)


# --- what runs -----------------------------------------------------------------------------------------------------

RUN = [page.name for page in PAGES if any(block.runs for block in ALL if block.page == page.name)]


@pytest.fixture(scope="module")
def small(once: Once) -> Path:
    """A folder with a root whose track ``synthfaces`` and whose preset ``small`` are cut down."""
    return once("docs-blocks", make_small)


def make_small(folder: Path) -> None:
    root = make_root(folder / "root")

    def shrink(data: dict[str, Any]) -> None:
        data["tracks"] = {"synthfaces": json.loads(json.dumps(SECTION | {"preset": "small"}))}
        for kind in ("defenses", "attacks", "priors"):
            for entry in data[kind].values():
                entry["presets"]["small"] = json.loads(json.dumps(entry["presets"]["tiny"]))

    edit_registry(root, shrink)


@pytest.fixture(scope="module")
def environment(home: Path) -> Iterator[dict[str, str]]:
    """What a reader's shell has, with ``mibench`` and ``python`` on its path."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("MIBENCH_")}
    with tempfile.TemporaryDirectory() as folder:  # whose name is short, as that of a socket must be
        found |= {
            "PATH": f"{folder}{os.pathsep}{found['PATH']}",
            "PYTHONPATH": str(ROOT),
            "MIBENCH_HOME": str(home),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "160",
        }
        socket = Path(folder, "warm")
        sources = {"mibench": warm.client(socket), "python": f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n'}
        for name, source in sources.items():
            program = Path(folder, name)
            program.write_text(source)
            program.chmod(0o755)
        with warm.listening(socket, found):
            yield found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the pages, as by a reader's: what one has computed another finds."""
    return tmp_path_factory.mktemp("docs") / "home"


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_the_page_runs(page: str, small: Path, environment: dict[str, str], tmp_path: Path) -> None:
    own = [block for block in ALL if block.page == page]
    here, root = tmp_path / "here", tmp_path / "root"
    here.mkdir()
    shutil.copytree(small / "root", root, symlinks=True)  # to which a page may add a track
    for block in own:
        if block.file is not None:
            assert (here / block.file).exists(), f"{block.id}: nothing wrote {block.file} before"
            (here / block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "yaml" and "source" in next(iter(yaml.safe_load(block.text).values()), ()):
            edit_registry(root, lambda data, text=block.text: data["tracks"].update(yaml.safe_load(text)))
        elif block.runs:
            program = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
            done = subprocess.run(
                [*program, block.text],
                cwd=here,
                env=environment | {"MIBENCH_ROOT": str(root)},
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                stdin=subprocess.DEVNULL,
            )
            assert done.returncode == 0, f"{block.id}:\n{block.text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
