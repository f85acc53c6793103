"""How a trained target is served, where the defense has parameters that only ``deploy`` reads."""

from __future__ import annotations

from typing import Any

from mibench.stages.job import Job


def run(job: Job) -> dict[str, Any]:
    """Nothing is stored: what asks the target reads the parameters from this stage's manifest. The network is made
    once, so that a defense that cannot serve it fails here."""
    job.target()
    return {}
