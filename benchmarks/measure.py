"""How two implementations of the same work are timed: alternating pairs, medians, the floor, where the time goes."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

Work = Callable[[], Any]
CACHED = 2**25  # bytes, of the last cache of a processor


@dataclass(frozen=True)
class Case:
    """The same work twice: as a plain implementation of what was published does it, and as the engine does it.

    unit: what ``count`` of them the work consists of. same: compares the two results and says how far they are apart,
    or why they cannot be compared digit by digit. goal: the ratio that was aimed at on a CPU and on a GPU.
    """

    name: str
    unit: str
    count: float
    published: Work
    engine: Work
    same: Callable[[Any, Any], str]
    goal: tuple[float | None, float | None]


def close(tolerance: float) -> Callable[[Tensor, Tensor], str]:
    """Two tensors, relative to the largest number. Raises AssertionError if they are further apart."""

    def same(one: Tensor, other: Tensor) -> str:
        apart = float((one - other).abs().max() / one.abs().max().clamp(min=1e-12))
        assert apart <= tolerance, f"the results are {apart:.1e} apart, more than {tolerance:.0e}"
        return f"{apart:.0e} apart"

    return same


def measured(case: Case, device: torch.device, pairs: int, peaks: tuple[float, float]) -> dict[str, Any]:
    """Seconds for one unit of each (medians over alternating pairs), their ratio with its spread, the engine's floor
    and peak memory, and where its time goes. Raises AssertionError if the two do not give the same."""
    apart = case.same(case.published(), case.engine())  # also warms up
    seconds: dict[str, list[float]] = {"published": [], "engine": []}
    for _ in range(pairs):
        for name, work in (("published", case.published), ("engine", case.engine)):
            seconds[name].append(_seconds(work, device) / case.count)
    ratios = [a / b for a, b in zip(seconds["published"], seconds["engine"], strict=True)]
    floor, bound = _floor(case.engine, peaks)
    return {
        "unit": case.unit,
        "published_s": statistics.median(seconds["published"]),
        "engine_s": statistics.median(seconds["engine"]),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "pairs": pairs,
        "floor_s": floor / case.count,
        "floor_by": bound,
        "goal": case.goal[device.type == "cuda"],
        "same": apart,
        "spent_on": _spent(case.engine, device),
        "peak_mib": {
            name: _peak(work, device) for name, work in (("published", case.published), ("engine", case.engine))
        },
    }


def machine_peaks(device: torch.device, side: int = 2048) -> tuple[float, float]:
    """FLOP/s of a float32 matrix product or a convolution, whichever is faster, and bytes/s of a copy (read and
    written), the best of several."""
    a = torch.rand(side, side, device=device)
    x, kernel = torch.rand(32, 256, 28, 28, device=device), torch.rand(256, 256, 3, 3, device=device)
    x, kernel = (t.contiguous(memory_format=torch.channels_last) for t in (x, kernel))
    big = torch.rand(32 * 2**20, device=device)
    product = min(_seconds(lambda: a @ a, device) for _ in range(5))
    copy = min(_seconds(big.clone, device) for _ in range(5))
    convolution = min(_seconds(lambda: torch.conv2d(x, kernel, padding=1), device) for _ in range(5))
    flops = max(2 * side**3 / product, 2 * x.numel() * kernel[0].numel() / convolution)
    return flops, 2 * 4 * big.numel() / copy


def _seconds(work: Work, device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


class _Counted(TorchDispatchMode):
    """FLOPs of products and convolutions, and the bytes that operations write; what is written is read once. What is
    small stays in a cache and counts nothing."""

    flops, bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            sizes = [t.numel() * t.element_size() for t in tree_leaves(out) if isinstance(t, Tensor)]
            self.bytes += 2 * sum(size for size in sizes if size >= CACHED)
        if count := flop_registry.get(func.overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        return out


def _floor(work: Work, peaks: tuple[float, float]) -> tuple[float, str]:
    """No implementation with the same operations is faster than its FLOPs, or than its bytes, at the machine's peak."""
    with _Counted() as counted:
        work()
    by_flops, by_bytes = counted.flops / peaks[0], counted.bytes / peaks[1]
    return max(by_flops, by_bytes), "FLOPs" if by_flops > by_bytes else "bytes"


def _spent(work: Work, device: torch.device, most: int = 4) -> dict[str, float]:
    """Shares of the time, by operation."""
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=kinds) as run:
        work()
    own = {
        e.key: e.self_device_time_total if device.type == "cuda" else e.self_cpu_time_total for e in run.key_averages()
    }
    total = sum(own.values()) or 1
    largest = sorted(own, key=lambda name: own[name], reverse=True)[:most]
    return {name.removeprefix("aten::"): round(own[name] / total, 2) for name in largest}


def _peak(work: Work, device: torch.device) -> int:
    """MiB that the work needs on top of what is there before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return int(torch.cuda.max_memory_allocated(device) - before) >> 20
    fork = multiprocessing.get_context("fork")
    answer = fork.SimpleQueue()
    child = fork.Process(target=_grown, args=(work, answer))
    child.start()
    child.join()
    return int(answer.get())


def _grown(work: Work, answer: Any) -> None:
    torch.set_num_threads(1)  # the parent's threads are not here
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    work()
    answer.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) >> 20)
