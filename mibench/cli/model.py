"""``mibench model audit``: how much does a classifier give away that somebody trained elsewhere?"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from mibench.cli.common import Workspace, workspace
from mibench.errors import EXIT_INTERRUPTED


@click.group()
def model() -> None:
    """A classifier of your own."""


@model.command()
@click.argument("checkpoint")
@click.option("--arch", help="The network of the weights file, by torchvision's or timm's name: resnet18.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Its images: DIR/<class>/*.jpg.")
@click.option("--public", type=click.Path(path_type=Path), help="Images of others, which an attacker could have.")
@click.option("--attack", "attacks", multiple=True, help="Repeatable. [miface, gmi, ppa]")
@click.option("--defense", help="What to compare with. [re]")
@click.option("--resolution", default=64, show_default=True, type=click.IntRange(16, 512), help="Side of the images.")
@click.option("--channels", default=3, show_default=True, type=click.IntRange(1, 3), help="3, or 1 for grey.")
@click.option("--network-resolution", type=click.IntRange(16, 1024), help="Images are resized to this side for it.")
@click.option("--normalise", default="imagenet", show_default=True, help="imagenet, half, none, or MEAN:STD.")
@click.option(
    "--transform-input/--no-transform-input", default=None, help="Of inception_v3 and googlenet, which may or may not."
)
@click.option("--epochs", default=60, show_default=True, type=click.IntRange(1), help="Of what is trained here.")
@click.option("--identities", type=click.IntRange(1), help="Attack only the first so many classes.")
@click.option("--images", default=4, show_default=True, type=click.IntRange(1), help="Reconstructions of each class.")
@click.option("--out", default="audit", show_default=True, type=click.Path(path_type=Path), help="Where to write.")
@click.option("--skip-damaged", is_flag=True, help="Leave images out that cannot be read.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--jobs", type=click.IntRange(1), help="Stages at a time.")
@click.option("--json", "as_json", is_flag=True, help="Print audit.json and nothing else on standard output.")
@click.option("--quiet", is_flag=True, help="No progress.")
@workspace
def audit(
    ws: Workspace, skip_damaged: bool, device: str, jobs: int | None, as_json: bool, quiet: bool, **asked: Any
) -> None:
    """Attack a trained classifier, and beside it one trained here on the same images without and one with a defense.

    CHECKPOINT is a file of weights (.pth, .pt, .safetensors; nothing in it is run) for --arch, or module:function, a
    Python function that returns the network. Classes are the folders of --data in alphabetical order. An audit that
    was broken off goes on where it was.

    Writes OUT/audit.html and OUT/audit.json, and OUT/own_model.py and OUT/track.yaml, with which `mibench run` attacks
    it in other ways.

    \b
    Examples:
      mibench model audit model.pth --arch resnet18 --data photos --public strangers
      mibench model audit mynets:load --data photos --normalise half --attack miface
    """
    from mibench.audit.flow import run_audit
    from mibench.audit.request import AuditRequest
    from mibench.cli.progress import decoding, listening
    from mibench.running.placement import Placement

    request = AuditRequest(**asked)
    done = run_audit(
        request,
        registry=ws.registry,
        store=ws.store,
        database=ws.database,
        place=Placement(device, jobs),
        listening=partial(listening, quiet=quiet),
        decoding=partial(decoding, quiet=quiet or as_json),
        skip_damaged=skip_damaged,
    )
    if as_json:
        click.echo(json.dumps(done.answer, allow_nan=False))
    else:
        _print(done.answer, request.out)
    if done.outcome.interrupted:
        raise SystemExit(EXIT_INTERRUPTED)
    if done.outcome.exit_code:
        raise SystemExit(done.outcome.exit_code)


def _print(answer: dict[str, Any], out: Path) -> None:
    def number(cell: dict[str, Any] | None) -> str:
        return "-" if cell is None or cell["value"] is None else f"{100 * cell['value']:.1f} %"

    click.echo(f"{'':<22}{'this model':>12}{'undefended':>12}{answer['defense']:>12}")
    for row in answer["attacks"]:
        click.echo(f"{row['attack']:<22}" + "".join(f"{number(row[r]):>12}" for r in ("own", "undefended", "defended")))
    natural = answer["natural_accuracy"]
    click.echo(f"{'natural accuracy':<22}" + "".join(f"{number(natural[r]):>12}" for r in natural))
    if answer["exposed"]:
        first = ", ".join(f"{item['class']} ({100 * item['rate']:.0f} %)" for item in answer["exposed"][:5])
        click.echo(f"most exposed: {first}")
    for item in answer["skipped"]:
        click.echo(f"{item['attack']} did not run: {item['reason']}")
    click.echo(f"Report: {out / 'audit.html'}, {out / 'audit.json'}")
