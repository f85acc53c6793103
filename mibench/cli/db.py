"""``mibench db``."""

from __future__ import annotations

import click

from mibench.cli.common import Workspace, workspace
from mibench.errors import EXIT_FAILED, UserError


@click.group()
def db() -> None:
    """The database: an index of the store, which can always be made again."""


@db.command()
@workspace
def path(ws: Workspace) -> None:
    """Where the database is.

    \b
    Example:
      sqlite3 "$(mibench db path)" .tables
    """
    from mibench.store.engine import address, sqlite_file

    url = address(None, ws.home)
    click.echo(str(sqlite_file(url) or url.render_as_string(hide_password=True)))


AGREE = "The database and the store agree."


def health(ws: Workspace) -> list[str]:
    """What is wrong with the store and the database, each with what to do about it."""
    try:
        problems = ws.database.check()
    except UserError as error:
        problems = [str(error)]
    again = "Nothing needs doing: a run that needs it sets it aside and computes it again. Or type: mibench db rebuild"
    return [f"{damage}. {again}" for damage in ws.store.damaged(verify=True)] + problems


@db.command()
@workspace
def check(ws: Workspace) -> None:
    """Look for damage, and compare the database with the store; exit 1 if something is wrong.

    \b
    Example:
      mibench db check
    """
    problems = health(ws)
    for problem in problems:
        click.echo(problem)
    if problems:
        raise SystemExit(EXIT_FAILED)
    click.echo(AGREE)


@db.command()
@workspace
def rebuild(ws: Workspace) -> None:
    """Make the database again from the manifests in the store.

    \b
    Example:
      mibench db rebuild
    """
    from mibench.store.db import Database

    database = Database.rebuild(ws.store)
    click.echo(f"{len(database.stages())} stages and {len(database.runs())} runs.")


@db.command()
@workspace
def upgrade(ws: Workspace) -> None:
    """Bring the database to this version's tables. What it holds is copied first; opening it does the same.

    \b
    Example:
      mibench db upgrade
    """
    from mibench.store import engine

    url = engine.address(None, ws.home)
    before = engine.revision_of(engine.connect(url))
    newest = engine.revisions()[-1]
    if before == newest:
        click.echo(f"The database is at revision {newest}, the newest. Nothing to do.")
        return
    _ = ws.database
    if before is None:
        click.echo(f"The database was made, at revision {newest}.")
    else:
        click.echo(f"From revision {before} to {newest}. As it was: {engine.backup_name(url, before)}")
