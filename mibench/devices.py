"""Which devices a run may use."""

from __future__ import annotations

import os
import re

from mibench.errors import MissingError, UserError


def check_device(device: str) -> None:
    """Raises UserError for another word than auto, cpu, cuda or cuda:N, MissingError without the GPU asked for."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UserError(f"Unknown device {device!r}. Expected auto, cpu, cuda or cuda:N.")
    if device.startswith("cuda"):
        slots(device)


def slots(device: str, jobs: int | None = None) -> list[str]:
    """One entry per stage that may run at a time.

    ``auto`` takes the GPU if torch sees one, else the CPU; ``cpu`` gives one slot per core (each stage uses one
    thread); ``cuda`` and ``cuda:N`` give one. Raises MissingError without the GPU that was asked for.
    """
    if device != "cpu":
        import torch

        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        wanted = int(device.partition(":")[2] or 0)
        if found > wanted:
            return [f"cuda:{wanted}"] * (jobs or 1)
        if device != "auto":
            raise MissingError(
                f"Device {device!r} was asked for, but torch sees {found} CUDA GPU{'s' * (found != 1)} here. "
                "Use --device cpu, or install a GPU driver (see mibench doctor)."
            )
    return ["cpu"] * (jobs or cores())


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
