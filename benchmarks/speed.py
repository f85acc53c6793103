"""Speed of what the engine does in batches, as ratios to the reference algorithms' own loops, in one run, one thread.

    python benchmarks/speed.py [--device cpu] [--out benchmarks/results/speed-cpu.json]

The floor of each pair is given with it: what no implementation of the method can avoid.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms import RandomErasing

from mibench.contracts import Rows
from mibench.images.augment import erase_rectangles
from mibench.nets.gan import GmiGenerator
from mibench.nets.small import ConvNet
from mibench.primitives.latents import descend_nesterov
from mibench.primitives.losses import cross_entropy
from mibench.random import Stream
from mibench.running.environment import describe


def seconds(function: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """The best of ``repeats`` runs after one to warm up."""
    best = float("inf")
    for turn in range(repeats + 1):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if turn:
            best = min(best, time.perf_counter() - start)
    return best


def erasing(device: torch.device) -> dict[str, object]:
    """Random erasing of 512 colour images of 64x64: the batched version against torchvision's image by image."""
    images = torch.rand(512, 3, 64, 64, device=device)
    one = RandomErasing(p=1, scale=(0.1, 0.8), ratio=(1, 1), value=(0.5, 0.5, 0.5))
    loop = seconds(lambda: torch.stack([one(image) for image in images]), device)
    batched = seconds(lambda: erase_rectangles(images, Stream(0, device), (0.1, 0.8), mean=(0.5,) * 3), device)
    floor = seconds(lambda: images.clone(), device)
    return {"loop_s": loop, "batched_s": batched, "ratio": loop / batched, "floor": "one copy", "floor_s": floor}


def inversion(device: torch.device, steps: int = 10) -> dict[str, object]:
    """GMI's descent for 30 identities x 4 restarts at 32x32: one batch of rows against a loop over restarts."""
    torch.manual_seed(0)
    generator = GmiGenerator(32, 1, 16).to(device).eval().requires_grad_(False)
    target = ConvNet(30).to(device).eval().requires_grad_(False)
    rows = Rows(range(30), 4, 0, device)
    start = rows.streams("latent").normal(len(rows), 100)

    def descend(z: Tensor, label: Tensor) -> Tensor:
        def objective(latent: Tensor) -> Tensor:
            return 100 * cross_entropy(target(generator(latent)).logits, label)

        return descend_nesterov(z, objective, range(steps), 0.02, 0.9, 1.0, 60)

    def single() -> None:
        for index in range(len(rows)):
            descend(start[index : index + 1], rows.label[index : index + 1])

    def floor() -> None:
        for _ in range(steps):
            z = start.clone().requires_grad_(True)
            torch.autograd.grad(cross_entropy(target(generator(z)).logits, rows.label).sum(), z)

    batched = seconds(lambda: descend(start, rows.label), device, 2)
    loop = seconds(single, device, 1)
    least = seconds(floor, device, 2)
    what = "forward and backward of generator and target on the same batch"
    return {"loop_s": loop, "batched_s": batched, "ratio": loop / batched, "floor": what, "floor_s": least}


def row_streams(device: torch.device) -> dict[str, object]:
    """One normal draw of 100 numbers for each of 1,500 rows: per-row streams against a generator object per row."""
    rows = Rows(range(300), 5, 0, device)
    streams = rows.streams("noise")
    generators = [torch.Generator().manual_seed(i) for i in range(len(rows))]
    loop = seconds(lambda: torch.stack([torch.randn(100, generator=g) for g in generators]).to(device), device)
    batched = seconds(lambda: streams.normal(len(rows), 100), device)
    floor = seconds(lambda: torch.randn(len(rows), 100, device=device), device)
    what = "one draw without row independence"
    return {"loop_s": loop, "batched_s": batched, "ratio": loop / batched, "floor": what, "floor_s": floor}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(1)
    found = {
        name: test(device) for name, test in (("erasing", erasing), ("inversion", inversion), ("rows", row_streams))
    }
    text = json.dumps({"environment": describe(arguments.device), "results": found}, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
