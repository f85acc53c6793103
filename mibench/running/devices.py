"""Which devices a run may use."""

from __future__ import annotations

import re

from mibench.errors import MissingError, UserError
from mibench.resources import cores


def check_device(device: str, gpus: str | None = None) -> None:
    """Raises UserError for another word than auto, cpu, cuda or cuda:N, or a list of GPUs that is none; MissingError
    without the GPUs asked for."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UserError(f"Unknown device {device!r}. Expected auto, cpu, cuda or cuda:N.")
    if gpus is not None and device == "cpu":
        raise UserError("--gpus and --device cpu contradict each other. Leave one of them out.")
    if gpus is not None or device.startswith("cuda"):
        slots(device, gpus=gpus)


def slots(device: str, jobs: int | None = None, gpus: str | None = None, per_gpu: int = 1) -> list[str]:
    """One entry per stage that may run at a time.

    ``auto`` takes the GPU if torch sees one, else the CPU; ``cpu`` gives one slot per core (each stage uses one
    thread); ``cuda`` and ``cuda:N`` give one. ``gpus`` names several, ``"0,1"`` or ``all``, each with ``per_gpu``
    slots, which take turns. ``jobs``: this many slots instead, or of ``gpus`` at most so many. Raises UserError for
    ``gpus`` that are no list of numbers, MissingError without the GPU that was asked for.
    """
    if gpus is not None:
        chosen = _gpus(gpus)
        return [f"cuda:{index}" for _ in range(per_gpu) for index in chosen][:jobs]
    if device != "cpu":
        gpus_here = _count()
        wanted = int(device.partition(":")[2] or 0)
        if gpus_here > wanted:
            return [f"cuda:{wanted}"] * (jobs or per_gpu)
        if device != "auto":
            raise _too_few(f"Device {device!r}", gpus_here)
    return ["cpu"] * (jobs or cores())


def _gpus(text: str) -> list[int]:
    gpus_here = _count()
    if text == "all":
        if not gpus_here:
            raise _too_few("--gpus all", gpus_here)
        return list(range(gpus_here))
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UserError(f"Cannot read --gpus {text!r}. Expected numbers such as 0,1, or all.")
    wanted = list(dict.fromkeys(int(part) for part in text.split(",")))
    if max(wanted) >= gpus_here:
        raise _too_few(f"GPU {max(wanted)}", gpus_here)
    return wanted


def _count() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _too_few(what: str, count: int) -> MissingError:
    return MissingError(
        f"{what} was asked for, but torch sees {count} CUDA GPU{'s' * (count != 1)} here. "
        "Use --device cpu, or install a GPU driver (see mibench doctor)."
    )
