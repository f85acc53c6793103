"""``mibench claims``."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mibench.cli.common import DEFAULT_TRACK, Workspace, workspace
from mibench.errors import UserError, unknown

if TYPE_CHECKING:
    from mibench.protocol.suites import Suite
    from mibench.publish.claims import Figure, Outcome
    from mibench.publish.rows import Board
    from mibench.records import RunRecord

BLOCK = re.compile(r"(<!-- claims:begin -->\n).*?(<!-- claims:end -->)", re.DOTALL)


@click.command()
@click.option("--track", default=DEFAULT_TRACK, show_default=True, help="Of which track.")
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, path_type=Path),
    help="Published results, a file or a folder, instead of the database and results/.",
)
@click.option("--trace", metavar="ID", help="The runs behind a statement, a comparison or a number.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the runs behind each number.")
@click.option(
    "--write",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Put the two sentences that answer the question into a file, between its marks claims:begin and claims:end.",
)
@workspace
def claims(
    ws: Workspace, track: str, source: Path | None, trace: str | None, as_json: bool, write: Path | None
) -> None:
    """What the results say of the study's statements, whose tests were fixed before: holds here, does not hold here,
    or cannot be told, and then what is missing. `mibench plan --suite claims --seeds 5` says what the missing runs
    take.

    \b
    Examples:
      mibench claims
      mibench claims --trace leaks-less
      mibench claims --from results --write README.md
    """
    from mibench.publish.claims import outcomes
    from mibench.publish.claims_page import answer, as_object

    suite = _suite(ws)
    board = _board(ws, track, source)
    found = outcomes(board, suite)
    if trace is not None:
        _print_trace(found, trace)
    elif as_json:
        click.echo(json.dumps(as_object(board, suite, found), indent=1, ensure_ascii=False, allow_nan=False))
    elif write is not None:
        _write(write, answer(board, found))
    else:
        _print(board, suite.title, found)


def _suite(ws: Workspace) -> Suite:
    from mibench.cli.site_data import claims_suite

    suite = claims_suite(ws.registry.root)
    if suite is None:
        raise UserError(f"{ws.registry.root / 'suites'} holds no claims.yaml: nothing is claimed.")
    return suite


def _board(ws: Workspace, track: str, source: Path | None) -> Board:
    """The newest version of a track in the results."""
    from mibench.cli.site_data import catalogue
    from mibench.publish.aggregate import boards, current_runs
    from mibench.publish.results import load_file, load_results, merged

    registry = ws.registry
    if source is None:
        runs = merged(ws.database.runs(), load_results(registry.root / "results"))
    else:
        runs = load_results(source) if source.is_dir() else load_file(source)
    baselines = {name for name, entry in registry.entries("defense").items() if entry.kind == "baseline"}
    own = [run for run in current_runs(runs, catalogue(registry, runs)) if run.track == track]
    if not own:
        raise unknown("track with results", track, {run.track for run in runs})
    return boards(own, (), registry.control_ids, registry.bounds, baselines)[0]


def _print(board: Board, question: str, found: Sequence[Outcome]) -> None:
    from rich.text import Text

    from mibench.cli import tables
    from mibench.publish.claims_page import missing_in_words

    out = tables.console()
    out.print(Text(f"{question} ({board.track}, version {board.version})", style="bold"))
    for outcome in found:
        out.print(Text(f"\n{outcome.id}: {outcome.claim.statement}"))
        out.print(Text(f"  {outcome.verdict}", style="bold"))
        for part in outcome.comparisons:
            why = f" ({part.why})" if part.why else ""
            p = "" if part.adjusted is None else f", p = {part.adjusted:.2g}"
            out.print(Text(f"  {part.id}  {part.title}: {part.verdict}{why}; {part.seeds} trainings{p}"))
            for figure in part.figures:
                out.print(Text(f"    {_line(figure)}"))
        for line in missing_in_words(outcome.missing, outcome.trainings):
            out.print(Text(f"  missing: {line}"))
    out.print(Text("\nThe runs behind a number: mibench claims --trace ID, such as leaks-less.1.difference"))


def _line(figure: Figure) -> str:
    return f"{figure.title} {figure.written}" + (f" [{figure.interval}]" if figure.interval else "")


def _print_trace(found: Sequence[Outcome], trace: str) -> None:
    """Every figure whose id is ``trace`` or begins with it, and the value of what ranks of each run behind it."""
    figures = [figure for outcome in found for part in outcome.comparisons for figure in part.figures]
    chosen = [figure for figure in figures if figure.id == trace or figure.id.startswith(f"{trace}.")]
    if not chosen:
        known = {outcome.id for outcome in found} | {figure.id for figure in figures}
        raise unknown("statement, comparison or number", trace, known)
    for figure in chosen:
        click.echo(f"{figure.id}: {_line(figure)}")
        for run in sorted(figure.runs, key=lambda run: run.name):
            click.echo(f"  {run.run}  {run.name}  {_values(run)}  {run.command}")


def _values(run: RunRecord) -> str:
    from mibench.publish.rows import UTILITY, leakage_of
    from mibench.publish.text import number

    names = (leakage_of([run.metrics]), UTILITY)
    return ", ".join(f"{name} {number(run.metrics[name].value, 'fraction')} %" for name in names if name in run.metrics)


def _write(path: Path, sentences: str) -> None:
    from mibench.store.atomic import write_text

    before = path.read_text(encoding="utf-8")
    if not BLOCK.search(before):
        raise UserError(
            f"{path} has no lines <!-- claims:begin --> and <!-- claims:end -->. Put them where it belongs."
        )
    lines = textwrap.fill(sentences, 120, break_long_words=False, break_on_hyphens=False)
    write_text(path, BLOCK.sub(lambda match: f"{match[1]}{lines}\n{match[2]}", before))
    click.echo(lines)
