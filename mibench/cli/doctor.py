"""``mibench doctor`` and ``mibench completion``."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys

import click

from mibench.cli.common import Workspace, workspace
from mibench.cli.db import AGREE, health
from mibench.errors import EXIT_ENVIRONMENT, UserError


@click.command()
@workspace
def doctor(ws: Workspace) -> None:
    """Look at this machine: packages, devices, data, weights, store; exit 3 if a run could not work.

    \b
    Example:
      mibench doctor
    """
    from mibench.running.environment import describe

    facts = describe()
    click.echo(f"mibench {facts['mibench']}, Python {facts['python']}, {facts['system']} {facts['machine']}")
    click.echo(", ".join(f"{name} {version}" for name, version in facts["packages"].items()))
    wrong = not _devices()
    click.echo(f"home: {ws.home}")
    existing = next(path for path in (ws.home, *ws.home.parents) if path.exists())
    click.echo(f"free space: {shutil.disk_usage(existing).free / 2**30:.1f} GiB")
    if not os.access(existing, os.W_OK):
        click.echo(f"WRONG  {existing} cannot be written; set MIBENCH_HOME to a folder that can")
        wrong = True
    for sentence in ws.registry.unlisted():
        click.echo(f"WRONG  {sentence}")
        wrong = True
    from mibench.data import check

    for name, track in ws.registry.tracks.items():
        problems = check(track, ws.home)
        click.echo(f"track {name}: " + (" ".join(problems) or "data as pinned"))
        wrong = wrong or (bool(problems) and name == "orl32")
    _weights()
    for problem in health(ws) or [AGREE]:
        click.echo(problem)
    if wrong:
        raise SystemExit(EXIT_ENVIRONMENT)


def _devices() -> bool:
    try:
        import torch
    except ImportError as error:
        click.echo(f"WRONG  torch cannot be imported ({error}). Type: pip install torch torchvision")
        return False
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    click.echo(
        f"devices: cpu with {os.cpu_count()} cores" + "".join(f", cuda:{i} {name}" for i, name in enumerate(gpus))
    )
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        click.echo(f"WRONG  torchvision cannot be imported ({error}). Install torch and torchvision from one index.")
        return False
    return True


def _weights() -> None:
    from mibench.metrics.weights import WEIGHTS, missing

    for name, item in WEIGHTS.items():
        click.echo(f"metric {item.metric}: {missing(name) or 'weights are here'}")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    Example:
      eval "$(mibench completion bash)"
    """
    program = shutil.which("mibench") or sys.argv[0]
    environment = os.environ | {"_MIBENCH_COMPLETE": f"{shell}_source"}
    script = subprocess.run([program], env=environment, capture_output=True, text=True, check=False)
    if not script.stdout:
        raise UserError(f"The completion script for {shell} could not be made. {script.stderr.strip()}")
    click.echo(script.stdout, nl=False)
