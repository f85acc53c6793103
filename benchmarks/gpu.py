"""Everything that a GPU is needed for, in one command of under ten minutes, most important first.

    python -m benchmarks.gpu [--device cuda] [--out benchmarks/results/gpu.json] [--quick]

The file is written after each part: every attack and every defense there and on the CPU; the first command there; each
attack's first steps and each target's first batches at the size of the papers, on made-up data; the comparison with the
published loops. ``--quick`` goes through the same motions in small.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny import make_root

from benchmarks.cases import Bench, Setting, Size, cases
from benchmarks.measure import machine_peaks, measured
from mibench.contracts import ImageSet, Oracle, Recipe
from mibench.contracts import TrackInfo as Info
from mibench.images.pixels import Pixels
from mibench.nets import build_classifier
from mibench.nets.frozen import frozen
from mibench.primitives.training import fit_classifier
from mibench.protocol.methods import Kind
from mibench.registry import Registry
from mibench.running.environment import describe

TRACK = "tiny"  # on which every method takes a second
TOLERANCE = 0.02  # of a share, between the CPU and a GPU: other kernels round otherwise
STEPS = ("iterations", "episodes", "max_rounds", "generations", "steps")
SHORT = {"pool": 500, "max_hunt": 2, "surrogate_steps": 100, "student_steps": 100, "epochs": 1, "pretrained": False}


def mibench(home: Path, device: str, *arguments: str, root: Path | None = None) -> dict[str, Any]:
    """What one command printed, and how long it took."""
    jobs = ["--per-gpu", "6"] if device.startswith("cuda") else ["--jobs", str(os.cpu_count() or 1)]
    command = [sys.executable, "-m", "mibench", "run", "--device", device, *jobs, "--quiet", "--json", *arguments]
    env = os.environ | {"MIBENCH_HOME": str(home)} | ({"MIBENCH_ROOT": str(root)} if root else {})
    start = time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    told = json.loads(done.stdout) if done.stdout.strip() else {"runs": []}
    return {
        "seconds": time.perf_counter() - start,
        "runs": told["runs"],
        "rc": done.returncode,
        "said": done.stderr[-2000:],
    }


def methods(registry: Registry, kind: Kind) -> list[str]:
    """The ids that can be asked for by name."""
    return [name for name in registry.entries(kind) if name not in registry.control_ids]


def figures(told: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    names = ("nat1", "att1", "conf")
    return {
        f"{run['defense']}+{run['attack']}": {name: run["metrics"].get(name, {}).get("value") for name in names}
        for run in told["runs"]
    }


def everything(work: Path, device: str, quick: bool) -> dict[str, Any]:
    """Every attack on the undefended target, every defense under one attack; there and on the CPU."""
    registry = Registry()
    attacks = ["gmi", "ppa"] if quick else methods(registry, "attack")
    defenses = ["re"] if quick else methods(registry, "defense")
    crossed = [*(part for name in attacks for part in ("--attack", name))]
    defended = ["--attack", "gmi", *(part for name in defenses for part in ("--defense", name))]
    found: dict[str, Any] = {}
    root = make_root(work / "root")
    for name, arguments in (("attacks", crossed), ("defenses", defended)):
        there, here = (
            mibench(work / where, where, "--track", TRACK, *arguments, root=root) for where in (device, "cpu")
        )
        one, other = figures(there), figures(here)
        apart = {
            run: max(
                (abs(one[run][m] - v) for m, v in row.items() if v is not None and one[run].get(m) is not None),
                default=None,
            )
            for run, row in other.items()
            if run in one
        }
        found[name] = {
            "runs": len(one),
            "missing": sorted(set(other) - set(one)),
            "further_apart": {run: gap for run, gap in apart.items() if gap is not None and gap > TOLERANCE},
            "seconds": {"there": there["seconds"], "cpu": here["seconds"]},
            "rc": {"there": there["rc"], "cpu": here["rc"]},
            "said": there["said"] if there["rc"] else "",
        }
    return found


def first_command(work: Path, device: str, quick: bool) -> dict[str, Any]:
    told = mibench(
        work / "first", device, "--defense", "re", "--attack", "kedmi", *(["--track", "synthfaces"] if quick else [])
    )
    return {
        "seconds": told["seconds"],
        "rc": told["rc"],
        "figures": figures(told),
        "said": told["said"] if told["rc"] else "",
    }


def at_paper_scale(device: torch.device, quick: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The first 100 steps of each attack on 60 identities, and the first batches of each target architecture."""
    size, registry = Size(device, quick), Registry()
    steps, people = size.of(2, 5, 100), size.of(3, 10, 60)
    at = Setting(size, *(("convnet", 32, 10, 8) if quick else ()))
    for name in ["gmi"] if quick else methods(registry, "attack"):
        cls = registry.plugin("attack", name)
        known = cls.Params.model_fields
        chosen = {field: steps for field in STEPS if field in known and known[field].annotation is int}
        chosen |= {field: value for field, value in SHORT.items() if field in known}
        yield f"attack {name}", _timed(partial(_attack, cls, chosen, at, people), device)
    recipe = Recipe(arch="", epochs=1, batch=size.of(4, 16, 64), optimiser="sgd", lr=0.01, momentum=0.9)
    for arch, side in (
        [("convnet", 64)]
        if quick
        else [("vgg16", 64), ("ir152", 64), ("facenet64", 64), ("resnet152", 224), ("densenet169", 224)]
    ):
        yield f"target {arch}", _timed(partial(_target, arch, side, recipe, steps, device), device)


def _attack(cls: Any, chosen: dict[str, Any], at: Setting, people: int) -> dict[str, Any]:
    labels = list(range(people))
    method = cls(cls.Params(**chosen), at.track)
    context, asked = at.context(labels), method.prior()
    model = None
    if asked is not None:
        kind = Registry().plugin("prior", asked.id)
        model = frozen(kind(kind.Params(**asked.params), at.track).build().to(at.size.device))
    oracle = Oracle(at.ready, method.access, at.track.num_classes)
    context.artifact = method.prepare(oracle, model, context)
    list(method.invert(oracle, model, labels, context))
    counts = oracle.counts().values()
    return {"queries": sum(n for phases in counts for kinds in phases.values() for n in kinds.values())}


def _target(arch: str, side: int, recipe: Recipe, batches: int, device: torch.device) -> dict[str, Any]:
    count = recipe.batch * batches
    images = torch.randint(0, 255, (count, 3, side, side), dtype=torch.uint8).numpy()
    data = ImageSet(Pixels.of(images, device), torch.arange(count, device=device) % 1000, 1000)
    track = Info("benchmark", "faces", side, 3, 1000, (0.5,) * 3)
    context = Bench(Size(device, True), track, torch.rand(8, 3, side, side), [0])
    fit_classifier(build_classifier(arch, 1000, 3, side).to(device), data, recipe, context.stream, context.loop, arch)
    return {"images": count}


def _timed(work: Callable[[], dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """Seconds and peak memory; what went wrong, if something did."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    try:
        found = work()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        found["peak_mib"] = torch.cuda.max_memory_allocated(device) >> 20
    seconds = time.perf_counter() - start
    rates = {f"{what}_per_second": amount / seconds for what, amount in found.items() if what in ("queries", "images")}
    return found | rates | {"seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    found: dict[str, Any] = {"environment": describe(asked.device)}

    def keep(part: str, value: Any) -> None:
        found[part] = value
        asked.out.write_text(json.dumps(found, indent=1) + "\n")
        print(part, json.dumps(value)[:400], flush=True)

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        keep("everything", everything(work, asked.device, asked.quick))
        keep("first_command", first_command(work, asked.device, asked.quick))
        for name, row in at_paper_scale(device, asked.quick):
            keep(name, row)
        peaks = machine_peaks(device, 256 if asked.quick else 8192)
        keep("peaks", {"flops": peaks[0], "bytes": peaks[1]})
        for make in cases(Size(device, asked.quick)):
            case = make()
            keep(case.name, measured(case, device, 1 if asked.quick else 5, peaks))


if __name__ == "__main__":
    main()
