"""What several commands share: the workspace, options, completion and how numbers are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from mibench.errors import UserError, few

if TYPE_CHECKING:
    from mibench.protocol.methods import Kind
    from mibench.records import RunRecord
    from mibench.registry import Registry
    from mibench.running.request import Asked, Planner
    from mibench.store.artifacts import Store
    from mibench.store.db import Database

DEFAULT_TRACK = "orl32"
Images = Literal["none", "sample", "all"]  # whose reconstructions the site carries


@dataclass
class Workspace:
    """Everything a command works with, opened when it is first used."""

    @cached_property
    def home(self) -> Path:
        from mibench.store.artifacts import home

        return home()

    @cached_property
    def registry(self) -> Registry:
        from mibench.registry import Registry

        return Registry(home=self.home)

    @cached_property
    def store(self) -> Store:
        from mibench.store.artifacts import Store

        return Store(self.home)

    @cached_property
    def database(self) -> Database:
        from mibench.store.db import Database

        return Database.open(home=self.home)

    def build_site(
        self, out: Path | None = None, images: Images = "all", public: bool = False, docs: Path | None = None
    ) -> Path:
        """Write the leaderboard of everything in the database and in ``results/``; the path of its index page."""
        from mibench.cli.site_data import catalogue
        from mibench.publish import SiteOptions, build_site
        from mibench.publish.figures_file import load_reported
        from mibench.publish.results import load_results, merged
        from mibench.running.environment import commit
        from mibench.running.recording import feature_file, image_file
        from mibench.study import load_studies

        results = self.registry.root / "results"
        options = SiteOptions(
            images=images,
            private_images=not public,
            image_source=lambda record, entry: image_file(self.store, record, entry),
            private_source=self._private_image,
            feature_source=lambda record: feature_file(self.store, record),
            studies=load_studies(self.home),
            reported=tuple(load_reported(results / "reported.csv")),
            docs=docs,
            commit=commit(),
            licence=self.registry.licence,
        )
        runs = merged(self.database.runs(), load_results(results))
        return build_site(runs, catalogue(self.registry, runs), out or self.home / "site", options)

    def _private_image(self, track: str, label: int, index: int) -> Path | None:
        from mibench.data.pictures import private_image

        known = self.registry.tracks.get(track)
        return private_image(known, self.home, label, index) if known is not None else None

    def find_run(self, text: str) -> RunRecord:
        """The one run whose id starts with ``text``, or whose name it is. Raises UserError."""
        runs = self.database.runs()
        matching = [run for run in runs if run.run.startswith(text)] or [run for run in runs if run.name == text]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise UserError(f"{text!r} fits {len(matching)} runs: {few([run.run for run in matching])}.")
        from mibench.errors import unknown

        names = {run.run for run in runs} | {run.name for run in runs}
        if not names:
            raise UserError("There are no runs yet. Type: mibench run --defense re --attack kedmi")
        raise unknown("run", text, names)


workspace = click.make_pass_decorator(Workspace, ensure=True)


def complete(kind: Kind | Literal["track"]) -> Callable[..., list[str]]:
    """Shell completion over the registry's names."""

    def names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        from mibench.registry import Registry

        registry = Registry()
        known = registry.tracks if kind == "track" else registry.entries(kind)
        return [name for name in [*known, "all"] if name.startswith(incomplete)]

    return names


def plugin_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--plugin FILE``: a method in a file of the user's own, for this command and the workers it starts."""

    def use(ctx: click.Context, param: click.Parameter, files: tuple[Path, ...]) -> None:
        from mibench.protocol.method_files import use_file

        for file in files:
            use_file(file)

    return click.option(
        "--plugin",
        multiple=True,
        type=click.Path(path_type=Path),
        callback=use,
        expose_value=False,
        is_eager=True,
        metavar="FILE",
        help="A method of your own, mine.py, called mine here. Repeatable.",
    )(function)


def track_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--track",
        default=DEFAULT_TRACK,
        show_default=True,
        shell_complete=complete("track"),
        help="Which protocol: a name, or a file such as my.yaml.",
    )(function)


def selection_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--defense, --attack, --track, seeds and --set, as ``run`` and ``plan`` take them."""
    options: list[Callable[..., Any]] = [
        click.option(
            "--defense",
            "defenses",
            multiple=True,
            shell_complete=complete("defense"),
            help="A defense, such as re, 're[strong]' or 're[area=0.1:0.8]', or all. Repeatable.",
        ),
        click.option(
            "--attack",
            "attacks",
            multiple=True,
            shell_complete=complete("attack"),
            help="An attack, such as kedmi or 'gmi[iterations=600]', or all. Repeatable.",
        ),
        track_option,
        click.option(
            "--seeds", default=1, show_default=True, type=click.IntRange(1), help="How many target trainings."
        ),
        click.option(
            "--first-seed",
            default=0,
            show_default=True,
            type=click.IntRange(0),
            help="Where the seeds begin. Those from 100 on are for choosing settings; no page shows them.",
        ),
        click.option(
            "--attack-seeds",
            default=1,
            show_default=True,
            type=click.IntRange(1, 1000),
            help="How many times each training is attacked, with other seeds.",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="A parameter, such as defense.area=0.1,0.8 or attack.iterations=100. Repeatable.",
        ),
        click.option(
            "--budget",
            type=click.IntRange(1),
            metavar="N",
            help="Cap of queries per identity: images that the target is asked about, with or without gradient, for it "
            "alone and, in full, for all (prior, pool, surrogates).",
        ),
        click.option(
            "--adaptive",
            is_flag=True,
            help="With each attack's adaptive variants: averaging over views, other losses, more steps and restarts, "
            "a student of the target; and with attacks that need no gradients.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["tf32", "bf16"]),
            help="Let attacks compute less exactly than in float32, as rows of their own: TF32 (on GPUs) or bfloat16.",
        ),
        click.option("--grid", metavar="FILE", help="What a grid file asks for, instead."),
        click.option("--suite", help="The setups of a suite, such as midre, instead."),
        click.option("--cell", "cells", multiple=True, metavar="ID", help="Only this setup of the suite. Repeatable."),
    ]
    for option in reversed([*options, plugin_option]):
        function = option(function)
    return function


def planner(ws: Workspace, decode: bool = False, quiet: bool = False, skip_damaged: bool = False) -> Planner:
    """What makes plans on this machine. ``decode``: folders of images are decoded first, ``quiet`` or with progress."""
    from mibench.cli.progress import decoding
    from mibench.running.request import Planner

    return Planner(ws.registry, ws.home, partial(decoding, quiet=quiet) if decode else None, note, skip_damaged)


def note(sentence: str) -> None:
    click.echo(f"Note: {sentence}.", err=True)


def read_asked(options: dict[str, Any]) -> Asked:
    """What ``selection_options`` read. Raises UsageError for options that do not go together."""
    from mibench.running.request import Asked

    asked = Asked(**options)
    if asked.suite is not None and (asked.names or asked.grid is not None):
        raise click.UsageError(
            "--suite says what runs: leave --defense, --attack, --track, --set, --budget, --adaptive, --precision and "
            "--grid out."
        )
    if asked.cells and asked.suite is None:
        raise click.UsageError("--cell goes with --suite.")
    if asked.grid is not None and (asked.names or (asked.seeds, asked.first_seed, asked.attack_seeds) != (1, 0, 1)):
        raise click.UsageError(
            "--grid says what runs: leave --defense, --attack, --track, seeds, --set, --budget, --adaptive and "
            "--precision out."
        )
    return asked
