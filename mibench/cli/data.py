"""``mibench data``."""

from __future__ import annotations

from importlib import import_module

import click

from mibench.cli.common import Workspace, complete, workspace
from mibench.errors import EXIT_ENVIRONMENT, MissingError
from mibench.metrics.weights import WEIGHTS, path


@click.group()
def data() -> None:
    """The images of the tracks, and published weights that some metrics need."""


def _tracks(ws: Workspace, names: tuple[str, ...]) -> list[str]:
    chosen = list(names) if names and "all" not in names else list(ws.registry.tracks)
    for name in chosen:
        ws.registry.track(name)
    return chosen


@data.command()
@click.argument("tracks", nargs=-1, shell_complete=complete("track"))
@workspace
def prepare(ws: Workspace, tracks: tuple[str, ...]) -> None:
    """Decode the images of TRACKS (default: all) into the cache. `mibench run` does it by itself.

    \b
    Example:
      mibench data prepare orl32
    """
    from mibench.data import prepare as prepare_track

    failed = False
    for name in _tracks(ws, tracks):
        try:
            found = prepare_track(ws.registry.track(name), ws.home)
        except MissingError as error:
            click.echo(f"{name}: {error}", err=True)
            failed = True
            continue
        counts = ", ".join(
            f"{len(getattr(found, part)()[1])} {part}" for part in ("private_train", "private_test", "public")
        )
        click.echo(f"{name}: {counts} images, split {found.split[:16]}")
    if failed:
        raise SystemExit(EXIT_ENVIRONMENT)


@data.command()
@click.argument("tracks", nargs=-1, shell_complete=complete("track"))
@workspace
def check(ws: Workspace, tracks: tuple[str, ...]) -> None:
    """Compare sources, split and cached images of TRACKS (default: all) with what is pinned; exit 3 if they differ.

    \b
    Example:
      mibench data check orl32
    """
    from mibench.data import check as check_track

    wrong = False
    for name in _tracks(ws, tracks):
        problems = check_track(ws.registry.track(name), ws.home)
        wrong = wrong or bool(problems)
        for problem in problems:
            click.echo(f"{name}: {problem}")
        if not problems:
            click.echo(f"{name}: as pinned")
    if wrong:
        raise SystemExit(EXIT_ENVIRONMENT)


@data.command()
@click.argument("name", type=click.Choice(list(WEIGHTS)))
def weights(name: str) -> None:
    """Download the published weights that a metric needs (d_face: facenet, lpips: lpips, fid: inception).

    \b
    Example:
      mibench data weights facenet
    """
    item = WEIGHTS[name]
    arguments = ", ".join(f"{key}={value!r}" for key, value in item.arguments.items())
    by_hand = f'python -c "from {item.module} import {item.name}; {item.name}({arguments})"'
    try:
        library = import_module(item.module)
        getattr(library, item.name)(**item.arguments)
    except ImportError:
        raise MissingError(f"{item.metric} needs a package. Type: pip install {item.package}") from None
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise MissingError(
            f"The weights for {item.metric} could not be downloaded ({what}). "
            f"Where there is network access, type: {by_hand}, then copy the file to {path(name)}."
        ) from None
    click.echo(f"The weights for {item.metric} are here; the next `mibench run` evaluates with them.")
