"""Every command that the program prints is one that it takes: those written in its sentences are typed here, with a
word for whatever is filled in, and those that are made are made."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

import mibench
from mibench.checking.scaffold import draft
from mibench.cli import _COMMANDS, cli
from mibench.protocol.method_files import use_file
from mibench.records import Seeds
from mibench.registry import Registry
from mibench.running import recording
from mibench.running.assembly import question
from tests.typed import parse

PACKAGE = Path(mibench.__file__).parent
# A command ends at a quote, at the end of its sentence, or where words that are no longer typed begin.
_ENDS = ("`", r"\n", "$", r"'\s", r"'\.", r"\. ", r"\.$", "; ", ", ", r"\)", r" \(", " and ", " with the", " that ")
TYPED = re.compile(rf"mibench (?:{'|'.join(_COMMANDS)})\b[^`\n]*?(?={'|'.join(_ENDS)})")


def sentences(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """What a module's string literals say; ``it`` for what is filled in. Docstrings are documentation, tested there."""
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            filled = [str(part.value) if isinstance(part, ast.Constant) else "it" for part in node.values]
            yield node.lineno, "".join(filled)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation | inside:
            yield node.lineno, node.value


def printed() -> list[tuple[str, str]]:
    found = []
    for file in sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "checking" / "scaffold.py"}):  # see below
        for line, text in sentences(ast.parse(file.read_text(encoding="utf-8"))):
            found += [(f"{file.relative_to(PACKAGE)}:{line}", match[0].strip()) for match in TYPED.finditer(text)]
    return found


def test_every_command_in_a_sentence_can_be_typed() -> None:
    commands = printed()
    assert len(commands) > 25
    wrong = []
    for place, command in commands:
        try:
            parse(command.replace("...", ""))
        except (click.ClickException, ValueError) as error:
            named = "Missing parameter" in str(error) and not re.search(r" [^a-z]", command)  # spoken of, not typed
            if not named and "'it' is not one of" not in str(error):
                wrong.append(f"{place}: {command!r}: {error}")
    assert not wrong, "\n".join(wrong)


def test_what_new_prints_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "with a space"
    for kind in ("defense", "attack"):
        for command in draft(Registry(), kind, "mine-own", None, place, "photos").next:  # type: ignore[arg-type]
            parse(command)
            assert "--plugin" in command and ("--draft" in command) == (" check " in command)
    first, *typed = draft(Registry(), "track", "clinic", None, place, "photos").next
    assert first.startswith("Put images into")
    for name in ("ann", "bob"):
        (place / "photos" / name).mkdir(parents=True)
    written = draft(Registry(), "track", "clinic", None, place, "photos")
    assert written.next[0] == typed[0] and "miface" in written.next[1], "of two classes none is public"
    for command in written.next:
        parse(command)
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for path, text in written.files.items():
        path.write_text(text)
    planned = CliRunner().invoke(
        cli, ["plan", "--track", str(place / "clinic.yaml"), "--attack", "miface", "--dry-run"]
    )
    assert planned.exit_code == 0, planned.output


def test_a_run_names_the_files_of_its_own_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my methods").mkdir()
    for name in ("mine", "other"):
        file = tmp_path / "my methods" / f"{name}.py"
        file.write_text("from mibench.contracts import Defense\n\n\nclass Mine(Defense):\n    pass\n")
        use_file(file)
    track = Registry().track("orl32")
    labels = ("re+mine[p=0.5]", "gmi")
    methods = [SimpleNamespace(label=label, deviations=(), about={}) for label in labels]
    cell = SimpleNamespace(track=track, defense=methods[0], attack=methods[1], seeds=Seeds.of(0))
    planned = SimpleNamespace(run="0" * 12, cell=cell)
    asked = question(planned, recording.own_files(planned))  # type: ignore[arg-type]
    assert asked.command.endswith("--plugin 'my methods/mine.py'") and "other" not in asked.command
    parse(asked.command)
