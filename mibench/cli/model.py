"""``mibench model audit``: how much does a classifier give away that somebody trained elsewhere?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mibench.cli.common import Workspace, planner, workspace
from mibench.errors import EXIT_INTERRUPTED, UserError


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
@click.option("--epochs", default=60, show_default=True, type=click.IntRange(1), help="Of what is trained here.")
@click.option("--identities", type=click.IntRange(1), help="Attack only the first so many classes.")
@click.option("--images", default=4, show_default=True, type=click.IntRange(1), help="Reconstructions of each class.")
@click.option("--out", default="audit", show_default=True, type=click.Path(path_type=Path), help="Where to write.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--jobs", type=click.IntRange(1), help="Stages at a time.")
@click.option("--json", "as_json", is_flag=True, help="Print audit.json and nothing else on standard output.")
@click.option("--quiet", is_flag=True, help="No progress.")
@workspace
def audit(
    ws: Workspace,
    checkpoint: str,
    arch: str | None,
    data: Path,
    public: Path | None,
    attacks: tuple[str, ...],
    defense: str | None,
    resolution: int,
    channels: int,
    network_resolution: int | None,
    normalise: str,
    epochs: int,
    identities: int | None,
    images: int,
    out: Path,
    device: str,
    jobs: int | None,
    as_json: bool,
    quiet: bool,
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
    from mibench.audit import prepare, report
    from mibench.cli.progress import listening
    from mibench.cli.site_data import private_image
    from mibench.running.placement import Placement
    from mibench.running.recording import image_file
    from mibench.running.request import BASELINE, build_plan, select_all
    from mibench.running.runner import execute
    from mibench.store.atomic import write_text

    placement = Placement(device, jobs)
    usual = ws.registry.audit
    if usual is None and not (attacks and defense):
        raise UserError("registry.yaml has no `audit:` section: name --attack and --defense.")
    chosen = attacks or (usual.attacks if usual else ())
    against = defense or (usual.defense if usual else "")
    found = prepare.subject(
        checkpoint,
        arch,
        data,
        public,
        resolution,
        channels,
        normalise,
        network_resolution,
        epochs,
        identities,
        images,
        out,
        ws.home,
    )
    track = planner(ws, decode=True, quiet=quiet or as_json).track(str(found.track))
    own = ws.registry.select("defense", found.plugin.stem)
    defenses = [own, *select_all(ws.registry, "defense", [BASELINE, against])]
    attacking = select_all(ws.registry, "attack", chosen)
    skipped = {}
    if public is None:
        lacking = [each for each in attacking if ws.registry.facts(each, track).prior is not None]
        skipped = {each.label: "it needs public images (--public DIR)" for each in lacking}
        attacking = [each for each in attacking if each.label not in skipped]
    if not attacking:
        raise UserError("Every attack that was asked for needs public images. Add --public DIR.")
    plan = build_plan(ws.registry, track, defenses, attacking, 1)
    skipped |= {cell.attack.label: reason for cell, reason in plan.skipped}

    with listening(len(plan.stages), quiet) as listener:
        result = execute(ws.store, plan, placement, listener, ws.database)
    notes = _notes(found, public, channels, resolution)
    notes += [f"A stage failed: {message}" for message in result.outcome.failed.values()]
    answer = report.findings(
        found.name,
        found.classes,
        result.records,
        own.id,
        BASELINE,
        defenses[-1].id,
        skipped,
        notes,
        ws.registry.entry("defense", defenses[-1].parts[0].id if defenses[-1].parts else defenses[-1].id).title,
    )
    shown = report.gallery(
        answer,
        result.records,
        own.id,
        lambda run, entry: image_file(ws.store, run, entry),
        lambda name, label, index: private_image(ws.registry, ws.home, name, label, index),
    )
    write_text(out / "audit.json", json.dumps(answer, indent=1, allow_nan=False) + "\n")
    write_text(out / "audit.html", report.page(answer, shown, ws.registry.root / "site" / "audit"))
    if as_json:
        click.echo(json.dumps(answer, allow_nan=False))
    else:
        _print(answer, out)
    if result.outcome.interrupted:
        raise SystemExit(EXIT_INTERRUPTED)
    if result.outcome.exit_code:
        raise SystemExit(result.outcome.exit_code)


def _notes(found: Any, public: Path | None, channels: int, side: int) -> list[str]:
    """What the figures mean and do not."""
    notes = [
        "Recognised means: a second classifier, trained here on all images of --data and never shown to an attack, "
        "names the attacked class first. It is a stand-in for a person who knows the class.",
        "The attacker knows the architecture and the weights, and can differentiate through the model. One seed was "
        "run; the intervals cover the classes, not other trainings.",
        "Attacks are a lower bound: a stronger one, or one with better public images, may recover more.",
        "The natural accuracy of the audited model counts images on which it may have been trained. The two models "
        "trained here never saw them.",
        f"Attacks search images of {side}x{side} in {channels} channel(s).",
        f"The models trained here for comparison are of the architecture {found.compared}.",
    ]
    if public is None:
        notes.append(
            "No public images were given, so attacks that need some did not run. --public DIR, a folder of similar "
            "images of others, makes the audit much stronger."
        )
    return notes


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
