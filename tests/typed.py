"""``mibench`` commands as documents write them, read as the program would read them, without running anything."""

from __future__ import annotations

import importlib
import importlib.util
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import click

from mibench.cli import cli


@contextmanager
def _no_files() -> Iterator[None]:
    """Files and folders that a document names need not exist here."""

    def convert(self: click.Path, value: Any, param: Any, ctx: Any) -> Any:
        return self.coerce_path_result(value)

    with mock.patch.object(click.Path, "convert", convert):
        if importlib.util.find_spec("mibench.protocol.method_files") is None:
            yield
            return
        with mock.patch.object(importlib.import_module("mibench.protocol.method_files"), "use_file", lambda path: None):
            yield


def parse(text: str) -> None:
    """Read a command as the program would. Raises click.UsageError for what it would refuse."""
    words = shlex.split(text, comments=True)[1:]
    command: click.Command = cli
    context = click.Context(cli, info_name="mibench")
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words[0])
        if found is None:
            raise click.UsageError(f"there is no command {words[0]!r}")
        command, context = found, click.Context(found, parent=context, info_name=words.pop(0))
    if words in (["--help"], ["-h"]):
        return
    if words or not isinstance(command, click.Group):
        with _no_files():
            command.make_context(context.info_name, words, parent=context.parent)
