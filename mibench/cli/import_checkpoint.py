"""``mibench import-checkpoint``: published checkpoints into the store, and what to type to use them."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mibench.cli.common import DEFAULT_TRACK, Workspace, workspace
from mibench.errors import EXIT_ENVIRONMENT, MissingError, UserError

if TYPE_CHECKING:
    from mibench.weights.kinds import Fitted, Use


def _kinds(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from mibench.weights.kinds import KINDS

    return [name for name in KINDS if name.startswith(incomplete)]


@click.command("import-checkpoint")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--as", "kind", metavar="KIND", shell_complete=_kinds, help="What FILE holds: see docs/checkpoints.md.")
@click.option("--name", help="A name for your own use; --list shows it.")
@click.option("--list", "listing", is_flag=True, help="Show what was imported, and the kinds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@workspace
def import_checkpoint(
    ws: Workspace, file: Path | None, kind: str | None, name: str | None, listing: bool, as_json: bool
) -> None:
    """Put the tensors of a published checkpoint FILE (.tar, .pth, .pkl, .safetensors) into the store.

    FILE is read without running anything that it carries, and must fit the network of KIND tensor by tensor.

    \b
    Examples:
      mibench import-checkpoint celeba_G.tar --as gmi
      mibench import-checkpoint ffhq.pkl --as stylegan2 --name ffhq
      mibench import-checkpoint --list
    """
    if listing:
        _list(ws, as_json)
        return
    if file is None:
        raise click.UsageError("Expected a FILE, or --list.")
    from mibench.errors import unknown
    from mibench.weights.files import read_file
    from mibench.weights.kinds import KINDS

    if kind is None:
        raise click.UsageError(f"Expected --as KIND, one of: {', '.join(KINDS)}.")
    if kind not in KINDS:
        raise unknown("kind of checkpoint", kind, KINDS)
    data = read_file(file)
    facts, notes, new = _import(ws.home, file.name, data, kind, name)
    use = KINDS[kind].use
    command, missing = _command(ws, facts["id"], facts["settings"], use) if use else (None, [])
    if as_json:
        click.echo(json.dumps(facts | {"new": new, "notes": notes, "command": command}, indent=1))
        return
    settings = ", ".join(f"{key} {value}" for key, value in facts["settings"].items())
    click.echo(f"{file.name}: {KINDS[kind].title}; {settings}; {facts['numbers']:,} numbers")
    for note in notes:
        click.echo(f"Note: {note}")
    click.echo(f"id: {facts['id']}" + ("" if new else " (was there already)"))
    if command is None:
        click.echo(f'No attack takes it by itself. A plugin loads it with ctx.load_weights(net, "{facts["id"]}").')
        return
    click.echo(f"Use it:\n  {command}")
    for sentence in missing:
        click.echo(sentence)


def _import(home: Path, file: str, data: bytes, kind: str, name: str | None) -> tuple[dict[str, Any], list[str], bool]:
    """Facts, notes and whether it is new. Raises UserError if the file does not fit."""
    from mibench.weights.files import read_checkpoint
    from mibench.weights.imported import imported_facts, save_imported
    from mibench.weights.kinds import fit
    from mibench.weights.starting import weights_folder

    sha256, folder = hashlib.sha256(data).hexdigest(), weights_folder(home)
    try:
        fitted: Fitted = fit(kind, read_checkpoint(data))
    except UserError as error:
        raise type(error)(f"{file} cannot be imported as {kind}. {error}") from None
    facts: dict[str, Any] = {"kind": kind, "file": file, "bytes": len(data), "settings": dict(fitted.settings)}
    facts |= {"tensors": len(fitted.tensors), "numbers": sum(value.numel() for value in fitted.tensors.values())}
    facts |= {"notes": fitted.notes} | ({"name": name} if name else {})
    facts = json.loads(json.dumps(facts))
    try:
        there = imported_facts(folder, sha256[:16])
        facts |= {"name": there["name"]} if name is None and "name" in there else {}
        if all(there.get(key) == value for key, value in facts.items()):
            return there, fitted.notes, False
    except MissingError:
        pass  # not there yet, or damaged: it is stored (again) below
    save_imported(folder, sha256, fitted.tensors, facts)
    return imported_facts(folder, sha256[:16]), fitted.notes, True


def _command(ws: Workspace, name: str, settings: dict[str, Any], use: Use) -> tuple[str, list[str]]:
    """A run that uses the weights ``name``, ready for a shell, and what is still missing for it."""
    import yaml

    from mibench.weights.imported import all_imported
    from mibench.weights.kinds import KINDS
    from mibench.weights.starting import weights_folder

    missing = []
    params = use.params(name, settings)
    if use.partner:
        parameter, kind = use.partner
        others = [facts for facts in all_imported(weights_folder(ws.home)) if facts.get("kind") == kind]
        partner = KINDS[kind].use
        if len(others) == 1 and partner:
            params |= partner.params(others[0]["id"], others[0]["settings"])
            settings = settings | others[0]["settings"]
        else:
            params[parameter] = f"ID_OF_{kind.upper()}"
            missing.append(f"{params[parameter]}: both are needed; import the other file with --as {kind}.")
    text = yaml.safe_dump(params, default_flow_style=True, sort_keys=False, width=10**6).strip()
    words = ["mibench", "run", "--attack", use.attack]
    if "resolution" in settings:
        fitting = _tracks(ws, settings)
        words += ["--track", fitting[0] if fitting else "TRACK"]
        if not fitting:
            classes = f" and {settings['num_classes']} identities" if "num_classes" in settings else ""
            missing.append(
                "TRACK: a track of {0}x{0} images in {1} channels{2}. None is registered; docs/add-a-track.md says how "
                "to add one.".format(settings["resolution"], settings["channels"], classes)
            )
    if use.prior:
        words += ["--set", f"attack.prior={use.prior}"]
    return shlex.join([*words, "--set", f"attack.prior_params={text}"]), missing


def _tracks(ws: Workspace, settings: dict[str, Any]) -> list[str]:
    """The tracks whose images and classes these settings fit, the default one first."""
    wanted = (settings["resolution"], settings["channels"])
    fitting = [
        name
        for name, track in ws.registry.tracks.items()
        if (track.resolution, track.channels) == wanted
        and settings.get("num_classes", track.private.identities) == track.private.identities
    ]
    return sorted(fitting, key=lambda name: name != DEFAULT_TRACK)


def _list(ws: Workspace, as_json: bool) -> None:
    from mibench.weights.imported import all_imported
    from mibench.weights.kinds import KINDS
    from mibench.weights.starting import weights_folder

    imported = all_imported(weights_folder(ws.home))
    if as_json:
        kinds = {name: kind.title for name, kind in KINDS.items()}
        click.echo(json.dumps({"imported": imported, "kinds": kinds}, indent=1))
    else:
        for facts in imported:
            if facts.get("damaged"):
                click.echo(f"{facts['id']}  damaged: import the file again")
                continue
            called = f"  {facts['name']}" if "name" in facts else ""
            click.echo(f"{facts['id']}  {facts['kind']}  {facts['file']}  {facts['bytes']:,} bytes{called}")
        if not imported:
            click.echo("Nothing was imported yet.")
        width = max(map(len, KINDS))
        click.echo("kinds:\n" + "\n".join(f"  {name:<{width}}  {kind.title}" for name, kind in KINDS.items()))
    if any(facts.get("damaged") for facts in imported):
        raise SystemExit(EXIT_ENVIRONMENT)
