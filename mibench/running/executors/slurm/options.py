"""What sbatch is asked for: ``--slurm`` read, and the script of a job."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from mibench.errors import UserError

DEFAULT_MINUTES = 24 * 60
DEFAULT_WARNING = 90  # seconds before the end of a job's time


def parse_options(text: str | None) -> dict[str, str | bool]:
    """``partition=gpu,time=240,gres=gpu:1,exclusive`` -> sbatch options. Raises UserError."""
    options: dict[str, str | bool] = {}
    for item in filter(None, (text or "").split(",")):
        name, equals, value = item.partition("=")
        name = name.strip().lstrip("-").replace("_", "-")
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name) or (equals and not value.strip()):
            raise UserError(
                f"Cannot read {item!r} in --slurm. Expected sbatch options: partition=gpu,time=240,gres=gpu:1."
            )
        options[name] = value.strip() if equals else True
    if not re.fullmatch(r"\d+", str(delay := options.get("signal-delay", DEFAULT_WARNING))):
        raise UserError(f"Cannot read the signal-delay {delay!r} in --slurm. Expected seconds: signal-delay=90.")
    return options


def minutes(text: str) -> int:
    """SLURM's ways of writing a time limit: ``M``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M`` and ``D-H:M:S``, rounded up.
    Raises UserError."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        raise UserError(f"Cannot read the time {text!r} in --slurm. Expected minutes or days-hours:minutes:seconds.")
    days, *parts = (int(part or 0) for part in match.groups())
    if match[1] is None:
        hours, minute, second = {1: (0, parts[0], 0), 2: (0, *parts[:2]), 3: tuple(parts)}[1 + text.count(":")]
    else:
        hours, minute, second = parts
    return max(1, -(-((days * 24 + hours) * 3600 + minute * 60 + second) // 60))


def batch_script(name: str, log: Path, options: Mapping[str, str | bool], words: Sequence[str]) -> str:
    """A job that runs ``words`` and is queued again when it is preempted or loses its node. ``options`` of sbatch come
    before our own; ``signal-delay`` is for how many seconds SIGUSR2 comes before the time is up."""
    own = {"time": DEFAULT_MINUTES, "signal-delay": DEFAULT_WARNING} | dict(options)
    flags = {
        "job-name": name,
        "nodes": 1,
        "output": str(log).replace("%", "%%"),
        "open-mode": "append",
        "requeue": True,
        "time": minutes(str(own.pop("time"))),
        "signal": f"USR2@{int(own.pop('signal-delay'))}",
    }
    lines = ["#!/bin/sh"]
    for flag, value in (flags | own).items():
        lines.append(f"#SBATCH --{flag}" + ("" if value is True else f"={shlex.quote(str(value))}"))
    # as a step: before SLURM ends a job it sends its signals to steps and not to the script
    return "\n".join([*lines, f"srun {shlex.join(words)}", ""])
