"""``mibench model audit``: how much does a classifier give away that somebody trained elsewhere?"""

from __future__ import annotations

import json
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mibench.cli.common import Workspace, note, workspace
from mibench.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from mibench.audit.flow import Begun
    from mibench.running.placement import Placement


@click.group()
def model() -> None:
    """A classifier of your own."""


@model.command()
@click.argument("checkpoint")
@click.option("--arch", help="The network of the weights file, by torchvision's or timm's name: resnet18.")
@click.option("--entry", help="Which weights of a file that holds several, such as ema or state_dict_ema.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Its images: DIR/<class>/*.jpg.")
@click.option("--val", type=click.Path(path_type=Path), help="Images of the same classes that it was not trained on.")
@click.option("--public", type=click.Path(path_type=Path), help="Images of others, which an attacker could have.")
@click.option("--attack", "attacks", multiple=True, help="Repeatable. [miface, ppa]")
@click.option("--defense", help="What to compare with. [re]")
@click.option("--resolution", default=64, show_default=True, type=click.IntRange(16, 512), help="Side of the images.")
@click.option("--channels", default=3, show_default=True, type=click.IntRange(1, 3), help="3, or 1 for grey.")
@click.option("--network-resolution", type=click.IntRange(16, 1024), help="Images are resized to this side for it.")
@click.option("--normalise", default="imagenet", show_default=True, help="imagenet, half, none, bytes, or MEAN:STD.")
@click.option("--bgr/--no-bgr", default=False, help="It takes blue, green, red, as OpenCV reads them.")
@click.option(
    "--transform-input/--no-transform-input", default=None, help="Of inception_v3 and googlenet, which may or may not."
)
@click.option(
    "--class-order", default="lexicographic", show_default=True, help="Or natural (2 before 10), or a FILE of names."
)
@click.option(
    "--decode",
    default="photo",
    show_default=True,
    type=click.Choice(("photo", "imagefolder", "opencv")),
    help="How files were read: photos turned upright, or as these programs do.",
)
@click.option("--expect-accuracy", type=float, metavar="SHARE", help="What it reaches, such as 0.95; stops far below.")
@click.option("--allow-copies", is_flag=True, help="Private images may be among the public ones.")
@click.option("--epochs", default=60, show_default=True, type=click.IntRange(1), help="Of what is trained here.")
@click.option("--identities", type=click.IntRange(1), help="Attack only the first so many classes.")
@click.option("--images", default=4, show_default=True, type=click.IntRange(1), help="Reconstructions of each class.")
@click.option("--out", default="audit", show_default=True, type=click.Path(path_type=Path), help="Where to write.")
@click.option("--skip-damaged", is_flag=True, help="Leave images out that cannot be read.")
@click.option("--plan", "only_plan", is_flag=True, help="Try the network, say what would run and how long, and stop.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--jobs", type=click.IntRange(1), help="Stages at a time.")
@click.option("--json", "as_json", is_flag=True, help="Print audit.json and nothing else on standard output.")
@click.option("--quiet", is_flag=True, help="No progress.")
@workspace
def audit(
    ws: Workspace,
    skip_damaged: bool,
    only_plan: bool,
    device: str,
    jobs: int | None,
    as_json: bool,
    quiet: bool,
    **asked: Any,
) -> None:
    """Attack a trained classifier, and beside it one trained here on the same images without and one with a defense.

    CHECKPOINT is a file of weights (.pth, .pt, .safetensors; nothing in it is run) for --arch, or module:function, a
    Python function that returns the network. Classes are the folders of --data. Before anything is attacked the network
    is asked about its own images: an audit of another function than its owner's stops, and says why. One that was
    broken off goes on where it was.

    Writes OUT/audit.html and OUT/audit.json, and OUT/own_model.py and OUT/track.yaml, with which `mibench run` attacks
    it in other ways.

    \b
    Examples:
      mibench model audit model.pth --arch resnet18 --data photos --public strangers
      mibench model audit mynets:load --data photos --normalise half --attack miface
    """
    from mibench.audit.flow import begin_audit, finish_audit
    from mibench.audit.request import AuditRequest
    from mibench.cli.progress import decoding, listening
    from mibench.running.placement import Placement

    request, place = AuditRequest(**asked), Placement(device, jobs)
    hear = partial(decoding, quiet=quiet or as_json)
    begun = begin_audit(
        request, registry=ws.registry, store=ws.store, decoding=hear, say=note, skip_damaged=skip_damaged
    )
    if only_plan or not quiet:
        _forecast(ws, begun, place, out=only_plan)
    if only_plan:
        return
    done = finish_audit(
        begun,
        registry=ws.registry,
        store=ws.store,
        database=ws.database,
        place=place,
        listening=partial(listening, quiet=quiet),
        again=shlex.join(["mibench", *sys.argv[1:]]),
    )
    if as_json:
        click.echo(json.dumps(done.answer, allow_nan=False))
    else:
        _print(done.answer, request.out)
    if done.outcome.interrupted:
        raise SystemExit(EXIT_INTERRUPTED)
    if done.outcome.exit_code:
        raise SystemExit(done.outcome.exit_code)


def _forecast(ws: Workspace, begun: Begun, place: Placement, out: bool) -> None:
    """What is known of the network, what will run and how long it takes: on standard output, or beside the progress."""
    from mibench.audit.forecast import forecast

    known, request = begun.known, begun.request
    click.echo(
        f"{request.name} names the class of {known.value:.0%} of {known.n} images (chance {known.chance:.0%}).",
        err=not out,
    )
    for line in forecast(begun, ws.store, ws.database, place):
        click.echo(line, err=not out)


def _print(answer: dict[str, Any], out: Path) -> None:
    def number(cell: dict[str, Any] | None) -> str:
        return "-" if cell is None or cell["value"] is None else f"{100 * cell['value']:.1f} %"

    verdict, judge = answer["verdict"], answer["judge"]
    click.echo(f"{verdict['title']}. {verdict['sentence']}")
    click.echo(f"{'':<22}{'this model':>12}{'undefended':>12}{answer['defense']:>12}")
    for row in answer["attacks"]:
        click.echo(f"{row['attack']:<22}" + "".join(f"{number(row[r]):>12}" for r in ("own", "undefended", "defended")))
    natural = answer["natural_accuracy"]
    click.echo(f"{'natural accuracy':<22}" + "".join(f"{number(natural[r]):>12}" for r in natural))
    for name in ("floor", "ceiling", "photos"):
        if answer[name] is not None:
            click.echo(f"{name:<22}{number(answer[name]):>12}")
    if judge is not None:
        click.echo(f"{'judge, unseen photos':<22}{100 * judge['accuracy']:>10.1f} %  ({judge['n']} photos)")
    if answer["exposed"]:
        first = ", ".join(f"{item['class']} ({100 * item['rate']:.0f} %)" for item in answer["exposed"][:5])
        click.echo(f"most exposed: {first}")
    for item in answer["skipped"]:
        click.echo(f"{item['attack']} did not run: {item['reason']}")
    click.echo(f"Report: {out / 'audit.html'}, {out / 'audit.json'}")
    if answer["unfinished"]:
        click.echo(answer["unfinished"])
    elif answer["next"]:
        click.echo(f"Next: {answer['next'][0]}")
