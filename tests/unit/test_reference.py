"""docs/commands.md says what the commands say."""

from __future__ import annotations

from pathlib import Path

import click

from mibench.cli import cli
from mibench.cli.reference import defenses, reference, with_defenses
from mibench.registry import Registry

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"


def test_the_page_is_what_the_commands_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(cli), "type: python -m mibench.cli.reference"


def test_the_page_of_defenses_says_what_the_classes_say() -> None:
    page, registry = PAGE.with_name("defenses.md").read_text(encoding="utf-8"), Registry()
    assert with_defenses(page, defenses(registry)) == page, "type: python -m mibench.cli.reference"
    assert [name for name in registry.entries("defense") if f"### {name}\n" not in page] == []


def test_a_command_is_written_down_whole() -> None:
    @click.group()
    def program() -> None:
        """What it is."""

    @program.command()
    @click.argument("run")
    @click.argument("more", nargs=-1)
    @click.option("--out", "-o", metavar="FILE", help="Where to, <here>.")
    @click.option("--seeds", default=2, show_default=True, help="How many.")
    @click.option("--secret", hidden=True)
    def show(run: str, more: tuple[str, ...], out: str, seeds: int, secret: str) -> None:
        """Show a
        run.

        \b
        Example:
          program show a|b
        """

    text = reference(program, "program").partition("## program show")[2]
    assert (
        text
        == """

```text
program show [OPTIONS] RUN [MORE...]
```

Show a run.

Example:

```text
program show a|b
```

| option | what it does |
| --- | --- |
| `--out, -o FILE` | Where to, \\<here\\>. |
| `--seeds INTEGER` | How many. \\[default: 2\\] |
"""
    )
