"""What a result was computed with. No host name, no user name, no path."""

from __future__ import annotations

import base64
import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, PackagePath, distribution, version
from pathlib import Path
from typing import Any

import mibench

# In a forked worker, those that lay in memory for the process that forked it (KiB): the worker uses them too, but they
# are not counted as its own, as they would be if it had imported them.
LIBRARIES: list[int] = []
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


def commit() -> str | None:
    """The first characters of the commit of a checkout; None for an installed package."""
    root = Path(mibench.__file__).resolve().parents[1]
    found = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    return found[:12] if found else None


def code_version() -> dict[str, Any]:
    """Which code this is: ``commit`` of a checkout (None for an installed package) and whether it was ``modified``
    since (None where that cannot be told)."""
    root = Path(mibench.__file__).resolve().parents[1]
    if (root / ".git").exists():
        commit, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--untracked-files=no")
        return {"commit": commit, "modified": None if changes is None else bool(changes)}
    try:
        files = distribution("mibench").files or []
    except PackageNotFoundError:
        files = []
    own = [file for file in files if file.parts[0] == "mibench" and file.hash and file.hash.mode == "sha256"]
    if not own:
        return {"commit": None, "modified": None}
    return {"commit": None, "modified": any(not _as_installed(file) for file in own)}


def _git(root: Path, *words: str) -> str | None:
    command = ["git", "-C", str(root), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _as_installed(file: PackagePath) -> bool:
    """Whether a file has the hash that the installer wrote down."""
    try:
        digest = hashlib.sha256(Path(str(file.locate())).read_bytes()).digest()
    except OSError:
        return False
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == (file.hash.value if file.hash else None)


def _peak_memory(device: str) -> int:
    """Mebibytes that this process has held at most: on the device, or, on a CPU, in memory."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device) / 2**20)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    if LIBRARIES:
        peak += max(0, LIBRARIES[0] - resident_libraries())
    return peak // (2**20 if platform.system() == "Darwin" else 2**10)


def resident_libraries() -> int:
    """KiB of files (libraries) that lie in memory for this process; 0 where Linux does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssFile:"))
    except (OSError, StopIteration, ValueError):
        return 0
