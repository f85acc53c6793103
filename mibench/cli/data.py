"""``mibench data``."""

from __future__ import annotations

import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from mibench.cli.common import Workspace, complete, note, workspace
from mibench.errors import EXIT_ENVIRONMENT, MissingError, UserError
from mibench.metrics.weights import WEIGHTS, path

_ROOT = click.option(
    "--root", type=click.Path(path_type=Path), metavar="DIR", help="The folder that holds the data set's files."
)


@click.group()
def data() -> None:
    """Data sets, the images of the tracks, and published weights that some metrics need."""


def _chosen(ws: Workspace, names: tuple[str, ...], root: Path | None) -> list[tuple[str, Any]]:
    """(name, data set or track) of what was asked for; by default the tracks whose images come with packages."""
    from mibench.data.sets import FOLDER, SETS, data_set
    from mibench.data.tracked import is_tracked

    if root is not None and len(names) != 1:
        raise UserError(f"--root is for one data set, found {len(names)}. Type: mibench data prepare NAME --root DIR")
    if not names or "all" in names:
        return [(name, track) for name, track in ws.registry.tracks.items() if not is_tracked(track)]
    chosen: list[tuple[str, Any]] = []
    for name in names:
        if name == FOLDER:
            raise UserError(
                "Images of your own are described by a track file (docs/data.md): a file my.yaml with a line "
                "`root: DIR`. Type: mibench data prepare my.yaml"
            )
        if name in SETS:
            chosen.append((name, data_set(name)))
            continue
        if not name.endswith((".yaml", ".yml")) and name not in ws.registry.tracks:
            from mibench.errors import unknown

            raise unknown("data set or track", name, [*SETS, *ws.registry.tracks])
        track = ws.registry.track(name)
        if root is not None and track.source not in SETS:
            raise UserError(f"--root is for data sets; the images of track {name!r} are found without it.")
        chosen.append((name, data_set(track.source) if root is not None else track))
    return chosen


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from mibench.data.sets import SETS

    return [name for name in SETS if name.startswith(incomplete)] + complete("track")(ctx, param, incomplete)


@data.command()
@click.argument("names", nargs=-1, shell_complete=_names)
@_ROOT
@click.option("--jobs", type=click.IntRange(1), help="Decoding processes [one per core].")
@click.option("--allow-duplicates", is_flag=True, help="Accept files with the same bytes as another.")
@click.option("--skip-damaged", is_flag=True, help="Leave images out that cannot be read; the set's index lists them.")
@click.option("--quiet", is_flag=True, help="No progress.")
@workspace
def prepare(
    ws: Workspace,
    names: tuple[str, ...],
    root: Path | None,
    jobs: int | None,
    allow_duplicates: bool,
    skip_damaged: bool,
    quiet: bool,
) -> None:
    """Decode the images of data sets or tracks (NAMES) into the cache, checking every file.

    A data set needs --root, the folder its owners' files are in; `mibench data show NAME` says what must be there. A
    killed call is continued by the same command. Without NAMES: the tracks whose images come with installed
    packages, which `mibench run` prepares by itself.

    \b
    Examples:
      mibench data prepare celeba64-gmi --root ~/celeba
      mibench data prepare orl32
    """
    from mibench.data.sets.base import DataSet
    from mibench.resources import cores

    failed = False
    for name, item in _chosen(ws, names, root):
        try:
            if isinstance(item, DataSet):
                line = _prepare_set(ws, item, root, jobs or cores(), allow_duplicates, skip_damaged, quiet)
            else:
                line = _prepare_track(ws, item, jobs or cores(), allow_duplicates, skip_damaged, quiet)
        except MissingError as error:
            click.echo(f"{name}: {error}", err=True)
            failed = True
            continue
        click.echo(f"{name}: {line}")
    if failed:
        raise SystemExit(EXIT_ENVIRONMENT)


def _prepare_set(
    ws: Workspace, wanted: Any, root: Path | None, jobs: int, allow_duplicates: bool, skip_damaged: bool, quiet: bool
) -> str:
    from mibench.cli.progress import decoding
    from mibench.data.sets.build import build
    from mibench.data.sets.prepared import facts, not_prepared

    if root is None:
        known = facts(wanted.name, ws.home)
        if known is None:
            raise MissingError(not_prepared(wanted))
        return _line(known) + ", prepared before"
    with decoding(wanted.name, quiet) as tell:
        _, new = build(
            wanted,
            root,
            ws.home,
            jobs=jobs,
            progress=tell,
            allow_duplicates=allow_duplicates,
            skip_damaged=skip_damaged,
            command=f"mibench data prepare {wanted.name} --root {shlex.quote(str(root))}",
        )
    known = facts(wanted.name, ws.home)
    assert known is not None
    for sentence in known["notes"]:
        note(sentence)
    if known["duplicates"]:
        click.echo(f"Note: {known['duplicates']:,} files have the same bytes as another.", err=True)
    return _line(known) + ("" if new else ", prepared before")


def _line(known: dict[str, Any]) -> str:
    counts = ", ".join(f"{count:,} {split}" for split, count in known["counts"].items())
    return f"{counts} images, split {known['split'][:16]}"


def _prepare_track(
    ws: Workspace, track: Any, jobs: int, allow_duplicates: bool, skip_damaged: bool, quiet: bool
) -> str:
    from mibench.cli.progress import decoding
    from mibench.data import prepare as prepare_track
    from mibench.data import tracked

    if tracked.is_tracked(track):
        with decoding(track.id, quiet) as tell:
            said = tracked.prepare(track, ws.home, jobs, tell, allow_duplicates, skip_damaged)
        for sentence in said:
            note(sentence)
    images = prepare_track(track, ws.home)
    parts = ("private_train", "private_test", *(("public",) if images.has_public else ()))
    counts = ", ".join(f"{len(getattr(images, part)()[1])} {part}" for part in parts)
    return f"{counts} images, split {images.split[:16]}"


@data.command()
@click.argument("names", nargs=-1, shell_complete=_names)
@_ROOT
@click.option("--quiet", is_flag=True, help="No progress.")
@workspace
def check(ws: Workspace, names: tuple[str, ...], root: Path | None, quiet: bool) -> None:
    """Compare data sets or tracks (NAMES) with what was prepared or pinned, every byte; exit 3 if they differ.

    With --root the owners' files are compared too. Without NAMES: the tracks whose images come with packages.

    \b
    Examples:
      mibench data check celeba64-gmi --root ~/celeba
      mibench data check orl32
    """
    from mibench.cli.progress import decoding
    from mibench.data import check as check_track
    from mibench.data.sets.base import DataSet
    from mibench.data.sets.prepared import check as check_set
    from mibench.data.tracked import is_tracked

    wrong = False
    for name, item in _chosen(ws, names, root):
        if isinstance(item, DataSet):
            with decoding(name, quiet) as tell:
                problems = check_set(item, ws.home, root, tell)
        else:
            problems = check_track(item, ws.home)
        wrong = wrong or bool(problems)
        for problem in problems:
            click.echo(f"{name}: {problem}")
        if not problems:
            prepared = isinstance(item, DataSet) or is_tracked(item)
            click.echo(f"{name}: {'as prepared' if prepared else 'as pinned'}")
    if wrong:
        raise SystemExit(EXIT_ENVIRONMENT)


@data.command()
@click.argument("name", required=False, shell_complete=_names)
@workspace
def show(ws: Workspace, name: str | None) -> None:
    """What data sets there are and which are prepared; of one (NAME): where to get it, its files and its split.

    \b
    Example:
      mibench data show celeba64-gmi
    """
    from mibench.data.sets import SETS, data_set
    from mibench.data.sets.prepared import facts

    if name is None:
        for each in SETS:
            state = "prepared" if facts(each, ws.home) else "-"
            click.echo(f"{each:<17} {state:<9} {data_set(each).title}")
        return
    wanted, known = data_set(name), facts(name, ws.home)
    low, high = wanted.inputs
    published = ", ".join(f"{count:,} {split}" for split, count in wanted.counts.items()) or "not prescribed"
    views = ", ".join(f"{view} {v.side}x{v.side}" for view, v in wanted.views.items())
    for line in (
        wanted.title,
        f"get:     {wanted.get}",
        f"licence: {wanted.licence}",
        f"files below --root:\n{wanted.tree}",
        f"split:   {wanted.rule}",
        f"counts:  {published}",
        f"views:   {views}; the protocol's networks see [{low:g}, {high:g}]",
        f"sensitive: {'yes' if wanted.sensitive else 'no'}; private images on public pages: "
        + ("allowed" if wanted.publish_private else "no"),
        f"here:    {_line(known) if known else 'not prepared'}",
    ):
        click.echo(line)


@data.command()
@click.argument("name", type=click.Choice([name for name, item in WEIGHTS.items() if item.name]))
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
