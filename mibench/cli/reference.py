"""``python -m mibench.cli.reference``: docs/commands.md, written from the commands themselves, and in docs/defenses.md
what registry and classes say of each defense."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from mibench.registry import Registry

HEAD = """# Commands

Written by `python -m mibench.cli.reference` from the commands themselves; a test compares the two. The option `--help`
of each command prints the same. Exit codes: 0 all done, 1 some stages failed, 2 wrong usage, 3 something is missing on
this machine, 130 interrupted.
"""


def reference(group: click.Group, name: str = "mibench") -> str:
    """The Markdown page of all commands below ``group``, in the order in which ``--help`` lists them."""
    parts = [HEAD, *(_section(path, command) for path, command in _commands(group, name))]
    return "\n".join(parts).rstrip() + "\n"


def _commands(
    group: click.Group, name: str, parent: click.Context | None = None
) -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, a group before what is in it."""
    context = click.Context(group, info_name=name, parent=parent)
    for child in group.list_commands(context):
        command = group.get_command(context, child)
        if command is None or command.hidden:
            continue
        yield f"{context.command_path} {child}", command
        if isinstance(command, click.Group):
            yield from _commands(command, child, context)


def _section(path: str, command: click.Command) -> str:
    level = "##" if path.count(" ") == 1 else "###"
    lines = [f"{level} {path}", "", "```text", _usage(path, command), "```", "", *_help(command)]
    rows = [row for parameter in command.params if (row := _row(parameter))]
    if rows:
        lines += ["| option | what it does |", "| --- | --- |", *rows, ""]
    return "\n".join(lines)


def _help(command: click.Command) -> list[str]:
    """The help text: paragraphs as they are; what click must not wrap (after ``\\b``) as typed lines."""
    lines: list[str] = []
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        kept = paragraph.lstrip().startswith("\b")
        own = [line for line in paragraph.splitlines() if line.strip() != "\b"]
        if not kept:
            lines += [_escaped(" ".join(line.strip() for line in own)), ""]
            continue
        title, *rest = own
        lines += [_escaped(title.strip()), ""] if rest else []
        lines += ["```text", *(line.removeprefix("  ") for line in rest or own), "```", ""]
    return lines


def _row(parameter: click.Parameter) -> str | None:
    """A table row: how the option is typed, what it does. Not asked of click, whose wording changes."""
    if isinstance(parameter, click.Option):
        if parameter.hidden:
            return None
        typed = ", ".join([*parameter.opts, *parameter.secondary_opts])
        if not parameter.is_flag and not parameter.count:
            typed += f" {_metavar(parameter)}"
        text = parameter.help or ""
        if parameter.show_default and parameter.default is not None and not parameter.is_flag:
            text += f" [default: {parameter.default}]"
        return f"| `{_cell(typed)}` | {_escaped(_cell(text.strip()))} |"
    kind = parameter.type
    return f"| `{_metavar(parameter)}` | one of {', '.join(kind.choices)} |" if isinstance(kind, click.Choice) else None


def _metavar(parameter: click.Parameter) -> str:
    """What stands for the value: KEY=VALUE, [a|b], FILE, INTEGER."""
    if parameter.metavar:
        return parameter.metavar
    if isinstance(parameter, click.Argument):
        return (parameter.name or "").upper()
    if isinstance(parameter.type, click.Choice):
        return f"[{'|'.join(map(str, parameter.type.choices))}]"
    if isinstance(parameter.type, click.Path):
        return "FILE" if not parameter.type.dir_okay else "DIR" if not parameter.type.file_okay else "PATH"
    return parameter.type.name.split()[0].upper()


def _usage(path: str, command: click.Command) -> str:
    """The line to type: arguments that may be left out in brackets, those that may be repeated with dots."""
    words = [path, "[OPTIONS]"] if any(isinstance(p, click.Option) for p in command.params) else [path]
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            word = _metavar(parameter) + ("..." if parameter.nargs == -1 else "")
            words.append(word if parameter.required else f"[{word}]")
    return " ".join([*words, "COMMAND"] if isinstance(command, click.Group) else words)


def _cell(text: str) -> str:
    """Text for a cell of a table: on one line, its bars escaped."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Characters that Markdown would read as markup, outside code."""
    return re.sub(r"(?<!\\)([<>*_\[\]])", r"\\\1", text) if "`" not in text else text


def defenses(registry: Registry) -> str:
    """Of each defense the paper, the parameters with their defaults, and the deviations. Imports torch."""
    return "\n".join(_defense(registry, name) for name in registry.entries("defense"))


def _defense(registry: Registry, name: str) -> str:
    from mibench.contracts import DefenseParams

    entry, cls = registry.entry("defense", name), registry.plugin("defense", name)
    paper = entry.paper
    source = f" [{_escaped(paper.title)}]({paper.url}), {paper.venue} {paper.year}." if paper else ""
    parts = [f"### {name}", f"{_escaped(entry.title)}.{source}"]
    own = [(field, info) for field, info in cls.Params.model_fields.items() if field not in DefenseParams.model_fields]
    rows = []
    for field, info in own:
        default, text = info.get_default(call_default_factory=True), _escaped(_cell(info.description or ""))
        rows.append(f"- `{field}` {'–' if default is None else f'`{_plain(default)}`'}" + (f": {text}" if text else ""))
    parts += ["\n".join(rows)] if rows else []
    differs = "\n".join(f"- {_escaped(text)}" for text in cls.deviations)
    return "\n\n".join([*parts, *(["Deviations:", differs] if differs else [])]) + "\n"


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def with_defenses(page: str, text: str) -> str:
    """``page`` with ``text`` between its marks."""
    begin, end = "<!-- defenses:begin -->\n", "<!-- defenses:end -->"
    before, _, rest = page.partition(begin)
    return f"{before}{begin}{text}{end}{rest.partition(end)[2]}"


def main() -> None:
    """Write docs/commands.md and the list in docs/defenses.md of this checkout."""
    from mibench.cli import cli
    from mibench.errors import UserError

    folder = Path(__file__).parents[2] / "docs"
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: type this in a checkout, not in an installed package.")
    commands, listed = folder / "commands.md", folder / "defenses.md"
    commands.write_text(reference(cli), encoding="utf-8")
    page = with_defenses(listed.read_text(encoding="utf-8"), defenses(Registry()))
    listed.write_text(page, encoding="utf-8")
    print(commands.name, listed.name)


if __name__ == "__main__":
    main()
