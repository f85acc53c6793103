"""The engine against plain implementations of the published loops, on the same work, in one run.

    python -m benchmarks [--quick] [--device cpu] [--pairs 5] [--only GMI] [--out benchmarks/results/published-cpu.json]

``--quick`` checks that both give the same and measures nothing worth reading.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch

from benchmarks.cases import Size, cases
from benchmarks.growth import growth
from benchmarks.measure import machine_peaks, measured
from benchmarks.scaling import durations, grid
from benchmarks.scaling import measured as published_seconds
from mibench.running.environment import describe
from mibench.running.forecast import bound


def default_grid() -> dict[str, float]:
    """Six defenses, five attacks and three seeds: seconds of all stages, each computed once, against those of every run
    on its own; from what the stages of published runs took."""
    past = published_seconds()
    plan = grid(6, 5, 3, sorted(past["invert"]))
    seconds, _ = durations(plan, past, random.Random("default grid"))
    return {
        "runs": len(plan.runs),
        "stages_alone": sum(len(run.stages) for run in plan.runs),
        "stages_shared": len(plan.stages),
        "alone_s": sum(seconds[stage.key] for run in plan.runs for stage in run.stages.values()),
        "shared_s": sum(seconds.values()),
        "chain_s": bound(list(plan.stages.values()), seconds, len(plan.stages)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    device, size = torch.device(asked.device), Size(torch.device(asked.device), asked.quick)
    peaks = machine_peaks(device, 256 if asked.quick else 2048)
    facts = {
        "environment": describe(asked.device),
        "threads": torch.get_num_threads(),
        "peak_flops": peaks[0],
        "peak_bytes": peaks[1],
    }
    facts |= {"grid": default_grid(), "growth": growth(size)}
    found = {}
    for make in cases(size):
        case = make()
        if asked.only.lower() not in case.name.lower():
            continue
        row = found[case.name] = measured(case, device, 1 if asked.quick else asked.pairs, peaks)
        print(
            f"{case.name}: {row['ratio']:.2f}x ({row['ratio_low']:.2f} to {row['ratio_high']:.2f}), {row['same']}",
            flush=True,
        )
        if asked.out:
            asked.out.write_text(json.dumps(facts | {"cases": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
