"""``mibench study``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mibench.cli.common import Workspace, workspace


@click.group()
def study() -> None:
    """People as judges: a page of questions about reconstructions, and what the answers say."""


@study.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("study.html"), show_default=True)
@click.option("--raters", default=5, show_default=True, type=click.IntRange(1, 1000), help="People who will be asked.")
@click.option("--each", default=5, show_default=True, type=click.IntRange(1), help="How many raters answer an item.")
@click.option(
    "--identities", default=100, show_default=True, type=click.IntRange(2), help="At most so many of a track."
)
@click.option("--per-identity", default=3, show_default=True, type=click.IntRange(1), help="Reconstructions of each.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="For every choice and order.")
@click.option("--private-images", is_flag=True, help="Showing the private images of a sensitive track is permitted.")
@workspace
def build(
    ws: Workspace,
    runs: tuple[str, ...],
    out: Path,
    raters: int,
    each: int,
    identities: int,
    per_identity: int,
    seed: int,
    private_images: bool,
) -> None:
    """Write one self-contained page with questions about RUNS. Two runs of one track are also compared side by side.

    \b
    Example:
      mibench study build none+ppa.orl32.s0 re+ppa.orl32.s0 --private-images
    """
    from mibench.study.build import build_study

    records = [ws.find_run(run) for run in runs]
    made = build_study(
        registry=ws.registry,
        store=ws.store,
        records=records,
        out=out,
        raters=raters,
        each=each,
        identities=identities,
        per_identity=per_identity,
        seed=seed,
        private_images=private_images,
    )
    size = made.page.stat().st_size / 2**20
    click.echo(
        f"study {made.study}: {made.items} questions on {made.identities} identities ({', '.join(made.tasks)}), "
        f"at most {made.longest} for one rater"
    )
    click.echo(f"page for the raters: {made.page} ({size:.1f} MiB); their codes: rater-1 to rater-{raters}")
    click.echo(f"key, not for the raters: {made.key}")
    click.echo("then: mibench study score FILE... with the files that they save")


@study.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--key", type=click.Path(path_type=Path), help="The study's key [the one that build kept].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@workspace
def score(ws: Workspace, files: tuple[Path, ...], key: Path | None, as_json: bool) -> None:
    """Rates, agreement and intervals from the answers in FILES; they are shown on the pages of the runs.

    \b
    Example:
      mibench study score study-*.json
    """
    from mibench.cli import tables
    from mibench.errors import UserError
    from mibench.study.key import read_key, read_sheets, study_of
    from mibench.study.results import key_path, save
    from mibench.study.score import score as scored

    asked = study_of(files[0])
    path = key or key_path(ws.home, asked)
    if not path.is_file():
        raise UserError(f"The key of study {asked!r} is not at {path}. Name it with --key.")
    known = read_key(path)
    result = scored(known, read_sheets(files, known))
    kept = save(ws.home, result)
    if as_json:
        click.echo(json.dumps(result, indent=1))
        return
    out = tables.console()
    for rater in result["raters"]:
        note = "" if rater["included"] else f", left out: {rater['reason']}"
        click.echo(
            f"{rater['rater']}: {rater['answered']} of {rater['items']} answered, "
            f"{rater['right']} of {rater['controls']} controls right{note}"
        )
    if result["missing_raters"]:
        click.echo(f"no file from {', '.join(result['missing_raters'])}")
    for run in result["runs"].values():
        out.show(tables.study(run))
    click.echo(f"stored: {kept}; `mibench site build` shows it on the runs' pages")
