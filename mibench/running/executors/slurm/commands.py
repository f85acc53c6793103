"""SLURM's own commands: submit, look, cancel, queue again."""

from __future__ import annotations

import re
import shutil
import subprocess

from mibench.errors import MissingError

PATIENCE = 60  # seconds for an answer


def check_slurm() -> None:
    """Raises MissingError without SLURM's commands."""
    lacking = [name for name in ("sbatch", "squeue", "scancel", "scontrol") if shutil.which(name) is None]
    if lacking:
        raise MissingError(
            f"--executor slurm needs SLURM's commands; {', '.join(lacking)} is not on the PATH. Run this on a login "
            "node of the cluster."
        )


def submit(script: str) -> str:
    """The number of the job. Raises MissingError with what sbatch said."""
    try:
        done = subprocess.run(["sbatch", "--parsable"], input=script, capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        said = (line.removeprefix("sbatch: ").removeprefix("error: ") for line in error.stderr.splitlines())
        raise MissingError("; ".join(said)) from error
    return done.stdout.strip().partition(";")[0]  # a cluster's name may follow


def queue() -> dict[str, tuple[str, str]] | None:
    """Our jobs that wait or run: number -> (state, reason); None if SLURM does not answer."""
    said = _ask("squeue", "--me", "--noheader", "--format=%i|%T|%r")
    if said is None:
        return None
    rows = (line.strip().split("|", 2) for line in said.splitlines() if line.count("|") >= 2)
    return {job: (state, reason) for job, state, reason in rows}


def state_of(job: str) -> tuple[str, str]:
    """SLURM's words for how a job is or ended, and for the reason; empty if it does not remember."""
    answer = re.search(r"JobState=(\w+) Reason=(\w*)", _ask("scontrol", "show", "job", job) or "")
    return (answer[1], answer[2]) if answer else ("", "")


def requeue(job: str) -> bool:
    """Put a job that runs back into the queue, which ends it; whether SLURM does so."""
    return _ask("scontrol", "requeue", job) is not None


def cancel(*words: str) -> None:
    """``words``: of scancel."""
    _ask("scancel", *words)


def _ask(*words: str) -> str | None:
    """What a command says; None if it fails."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
