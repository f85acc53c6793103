"""``mibench new`` and ``mibench check``: from an idea to a method that keeps the contract."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mibench.cli.common import Workspace, plugin_option, workspace
from mibench.errors import EXIT_FAILED, UserError

if TYPE_CHECKING:
    from mibench.checking.scaffold import Template
    from mibench.protocol.methods import Kind

LATER = ("BibTeX", "licence")  # what a draft need not have


@click.command()
@click.argument("kind", type=click.Choice(("defense", "attack", "prior", "track")))
@click.argument("name")
@click.option("--from", "start", metavar="NAME", help="Start from this defense, attack or prior instead of a template.")
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False), default=".", help="Where. [here]")
@click.option("--root", default="photos", show_default=True, help="Of a track: the folder of its images.")
@workspace
def new(ws: Workspace, kind: Template, name: str, start: str | None, folder: Path, root: str) -> None:
    """Write a new method or track that runs, its registry entry and its test.

    In a checkout of mibench the files go where they belong, and the entry into registry.yaml. In any other folder
    NAME.py has its entry beside it in NAME.yaml, and runs with --plugin NAME.py.

    \b
    Examples:
      mibench new defense mine
      mibench new attack mine --from gmi
      mibench new prior mine
      mibench new track clinic --root scans
    """
    from mibench.checking.scaffold import draft
    from mibench.store.atomic import write_text

    if kind == "track" and start is not None:
        raise click.UsageError("--from goes with a defense, an attack or a prior.")
    written = draft(ws.registry, kind, name, start, folder, root)
    for path in written.files:
        if path.exists() and path.name != "registry.yaml":
            raise UserError(f"{path} is there already. Choose another name, or remove it.")
    for path, text in written.files.items():
        known = path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
        click.echo(f"{'changed' if known else 'wrote'}  {os.path.relpath(path)}")
    click.echo("Next:")
    for line in written.next:
        click.echo(f"  {line}")


@click.command()
@click.argument("kind", type=click.Choice(("defense", "attack", "prior")))
@click.argument("name")
@click.option("--draft", is_flag=True, help="Leave the paper and the licence for later.")
@plugin_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@workspace
def check(ws: Workspace, kind: Kind, name: str, draft: bool, as_json: bool) -> None:
    """Whether a method keeps the contract, on the smallest track: a list, with what to do about each failing line.

    It computes on one core, in a folder that is removed again, and takes some seconds. Exit code 1 if a line failed.

    \b
    Examples:
      mibench check defense re
      mibench check attack mine --plugin mine.py --draft
    """
    from mibench.checking.contract import check as checks
    from mibench.checking.lines import Line
    from mibench.store.scratch import scratch

    lines = []
    start = time.monotonic()
    with scratch("check") as folder:
        home = folder / "home"
        home.mkdir()
        for line in checks(ws.registry, kind, name, home):
            if draft and line.name in LATER and line.ok is False:
                line = Line(line.name, None, f"later: {line.found}")
            lines.append(line)
            if not as_json:
                mark = {True: "ok", False: "FAILED", None: "-"}[line.ok]
                click.echo(f"{mark:<7} {line.name:<17} {line.found}")
                if line.ok is False:
                    click.echo(f"{'':<25} -> {line.advice} ({line.where})")
                sys.stdout.flush()
    failed = sum(line.ok is False for line in lines)
    seconds = time.monotonic() - start
    if as_json:
        answer = {"schema": 1, "kind": kind, "name": name, "seconds": round(seconds, 1)}
        click.echo(json.dumps(answer | {"checks": [vars(line) for line in lines]}, indent=1))
    else:
        verdict = f"{failed} of {len(lines)} lines failed" if failed else f"all {len(lines)} lines are fine"
        click.echo(f"{kind} {name}: {verdict} ({seconds:.0f} s)")
    if failed:
        raise SystemExit(EXIT_FAILED)
