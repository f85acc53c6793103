"""What a result was computed with. No host name, no user name, no path."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import mibench

PACKAGES = ("torch", "torchvision", "numpy", "facenet-pytorch", "lpips", "safetensors", "pillow", "scipy")


def describe(device: str | None = None) -> dict[str, Any]:
    """Python, packages, processor and, if torch is loaded for it, the GPU."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    facts: dict[str, Any] = {
        "mibench": mibench.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "packages": packages,
    }
    if device is not None:
        import torch

        facts["device"] = device
        facts["peak_memory_mib"] = _peak_memory(device)
        if device.startswith("cuda"):
            facts["gpu"] = torch.cuda.get_device_name(device)
            facts["cuda"] = torch.version.cuda
        else:
            facts["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
            facts["threads"] = torch.get_num_threads()
    return facts


def _peak_memory(device: str) -> int:
    """Mebibytes that this process has held at most: on the device, or, on a CPU, in memory."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device) / 2**20)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    return peak // (2**20 if platform.system() == "Darwin" else 2**10)
