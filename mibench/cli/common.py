"""What several commands share: the workspace, options, completion and how numbers are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from mibench.errors import UserError

if TYPE_CHECKING:
    from mibench.records import RunRecord
    from mibench.registry import Registry
    from mibench.store.artifacts import Store
    from mibench.store.db import Database
    from mibench.tracks import Track

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
        from mibench.publish import SiteOptions, build_site
        from mibench.publish.reported import load_reported
        from mibench.publish.results import load_results, merged
        from mibench.recording import feature_file, image_file
        from mibench.site_data import catalogue, private_image
        from mibench.study import load_studies

        results = self.registry.root / "results"
        options = SiteOptions(
            images=images,
            private_images=not public,
            image_source=lambda record, entry: image_file(self.store, record, entry),
            private_source=lambda track, label, index: private_image(self.registry, self.home, track, label, index),
            feature_source=lambda record: feature_file(self.store, record),
            studies=load_studies(self.home),
            reported=tuple(load_reported(results / "reported.csv")),
            docs=docs,
        )
        runs = merged(self.database.runs(), load_results(results))
        return build_site(
            runs, catalogue(self.registry, (run.defense for run in runs)), out or self.home / "site", options
        )

    def find_run(self, text: str) -> RunRecord:
        """The one run whose id starts with ``text``, or whose name it is. Raises UserError."""
        runs = self.database.runs()
        found = [run for run in runs if run.run.startswith(text)] or [run for run in runs if run.name == text]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{text!r} fits {len(found)} runs: {', '.join(run.run for run in found)}.")
        from mibench.errors import unknown

        names = {run.run for run in runs} | {run.name for run in runs}
        if not names:
            raise UserError("There are no runs yet. Type: mibench run --defense re --attack kedmi")
        raise unknown("run", text, names)


workspace = click.make_pass_decorator(Workspace, ensure=True)


def complete(kind: str) -> Callable[..., list[str]]:
    """Shell completion over the registry's names."""

    def names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        from mibench.registry import Registry

        registry = Registry()
        known = registry.tracks if kind == "track" else registry.entries(kind)  # type: ignore[arg-type]
        return [name for name in [*known, "all"] if name.startswith(incomplete)]

    return names


def plugin_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--plugin FILE``: a method in a file of the user's own, for this command and the workers it starts."""

    def use(ctx: click.Context, param: click.Parameter, files: tuple[Path, ...]) -> None:
        from mibench.sources import use_file

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
    """--defense, --attack, --track, --seeds and --set, as ``run`` and ``plan`` take them."""
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
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="A parameter, such as defense.area=0.1,0.8 or attack.iterations=100. Repeatable.",
        ),
        click.option("--grid", metavar="FILE", help="What a grid file asks for, instead."),
        click.option("--suite", help="The setups of a suite, such as midre, instead."),
        click.option("--cell", "cells", multiple=True, metavar="ID", help="Only this setup of the suite. Repeatable."),
    ]
    for option in reversed([*options, plugin_option]):
        function = option(function)
    return function


def open_track(ws: Workspace, name: str, decode: bool = False, quiet: bool = False) -> Track:
    """A track by name or file, with the split of its data as it is prepared here; without data, without split."""
    from mibench.data import tracked

    track = ws.registry.track(name)
    if not tracked.is_tracked(track):
        return track
    if decode:
        from mibench.cli.progress import decoding
        from mibench.devices import cores

        with decoding(track.id, quiet) as tell:
            tracked.prepare(track, ws.home, cores(), tell)
    track = tracked.resolve(track, ws.home)
    ws.registry.add(track)
    return track


def missing_data(ws: Workspace, plan: Any, skipped: bool = False) -> list[str]:
    """Sentences about data sets and weights to start from that the plan needs and that are not here; those of runs
    that are skipped for another reason only if asked."""
    from mibench.data.tracked import missing
    from mibench.starting_weights import missing as no_weights
    from mibench.store.weights import weights_folder

    cells = [run.cell for run in plan.runs] + [cell for cell, _ in plan.skipped if skipped]
    tracks = {cell.track.id: cell.track for cell in cells}
    starts = {(cell.track.target.arch, initial) for cell in cells for initial in cell.initials}
    starts |= {(track.evaluator.arch, track.evaluator.initial) for track in tracks.values()}
    needs: dict[str, str] = {}  # the first track's sentence speaks for all that need the same
    for track in tracks.values():
        for what, sentence in missing(track, ws.home).items():
            needs.setdefault(what, sentence)
    found = list(needs.values())
    found += [s for arch, kind in sorted(starts) if (s := no_weights(arch, kind, weights_folder(ws.home)))]
    return list(dict.fromkeys(found))


def describe_time(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 20 min``, ``4 days 2 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} days {minutes % 1440 // 60} h"


def suite_plan(
    ws: Workspace, suite: str, cells: tuple[str, ...], seeds: int, decode: bool = False, quiet: bool = False
) -> Any:
    """The plan for some cells of a suite, all without names."""
    from mibench.plan import Plan
    from mibench.runner import build_plan, select_all
    from mibench.suites import load_suite

    found = load_suite(ws.registry.root, suite)
    whole = Plan()
    for cell in found.chosen(cells).values():
        track = open_track(ws, cell.track, decode, quiet)
        defenses = select_all(ws.registry, "defense", found.groups[cell.defenses])
        attacks = select_all(ws.registry, "attack", [cell.attack])
        whole.add(build_plan(ws.registry, track, defenses, attacks, seeds))
    return whole


@dataclass(frozen=True)
class Asked:
    """What ``selection_options`` read."""

    defenses: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    track: str = DEFAULT_TRACK
    seeds: int = 1
    settings: tuple[str, ...] = ()
    grid: str | None = None
    suite: str | None = None
    cells: tuple[str, ...] = ()

    @property
    def names(self) -> bool:
        """Whether methods or a track were named."""
        return bool(self.defenses or self.attacks or self.settings or self.track != DEFAULT_TRACK)


def make_plan(ws: Workspace, asked: Asked, decode: bool = False, quiet: bool = False) -> Any:
    """The plan for what ``run`` and ``plan`` were asked. ``decode``: folders of images are decoded first."""
    if asked.suite is not None:
        if asked.names or asked.grid is not None:
            raise click.UsageError("--suite says what runs: leave --defense, --attack, --track, --set and --grid out.")
        return suite_plan(ws, asked.suite, asked.cells, asked.seeds, decode, quiet)
    if asked.cells:
        raise click.UsageError("--cell goes with --suite.")
    if asked.grid is not None:
        if asked.names or asked.seeds != 1:
            raise click.UsageError("--grid says what runs: leave --defense, --attack, --track, --seeds and --set out.")
        return grid_plan(ws, Path(asked.grid), decode, quiet)
    settings: dict[str, Any] = {}
    for item in asked.settings:
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"Cannot read --set {item!r}. Expected defense.NAME=VALUE or attack.NAME=VALUE.")
        settings[key.strip()] = value
    return crossed(
        ws,
        open_track(ws, asked.track, decode, quiet),
        asked.defenses or ("none",),
        asked.attacks or ("all",),
        asked.seeds,
        settings,
    )


def grid_plan(ws: Workspace, path: Path, decode: bool = False, quiet: bool = False) -> Any:
    """The plan for a grid file."""
    from mibench.grid_files import read_grid
    from mibench.plan import Plan

    whole = Plan()
    for block in read_grid(path).grid:
        for name in block.tracks:
            track = open_track(ws, name, decode, quiet)
            settings = {key: _text(value) for key, value in block.settings.items()}
            whole.add(crossed(ws, track, block.defenses, block.attacks, block.seeds, settings))
    return whole


def _text(value: Any) -> str:
    """A value of a YAML file as it is written on the command line."""
    if isinstance(value, list):
        return ":".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value)


def crossed(
    ws: Workspace, track: Track, defenses: Sequence[str], attacks: Sequence[str], seeds: int, settings: dict[str, str]
) -> Any:
    """The plan for defenses x attacks x seeds on a track; ``settings``: ``defense.NAME``, ``attack.NAME`` -> value."""
    from mibench.errors import unknown
    from mibench.params import parse_value
    from mibench.runner import apply_settings, build_plan, select_all

    chosen = {
        "defense": select_all(ws.registry, "defense", defenses),
        "attack": select_all(ws.registry, "attack", attacks),
    }
    by_kind: dict[str, dict[str, Any]] = {"defense": {}, "attack": {}}
    for item, value in settings.items():
        kind, dot, name = item.partition(".")
        if not (dot and name):
            raise UserError(f"Cannot read --set {item!r}. Expected defense.NAME=VALUE or attack.NAME=VALUE.")
        if kind not in by_kind:
            raise unknown("kind in --set", kind, by_kind)
        by_kind[kind][name] = parse_value(value)
    for kind, values in by_kind.items():
        if values:
            chosen[kind] = apply_settings(ws.registry, chosen[kind], kind, values, track)
    return build_plan(ws.registry, track, chosen["defense"], chosen["attack"], seeds)
