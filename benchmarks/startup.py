"""What starting stages costs: workers forked by a process that has imported torch, against workers that are started.

    python benchmarks/startup.py [--first]

Stages: targets of a defense that trains nothing, on the smallest track, one at a time; everything else (claim, data,
publication, record) is real. The floor is the same number of forks of a process that do nothing. ``--first`` also times
the default first command, the evaluator included, both ways (five minutes), and the second one, which only reads.
Writes ``benchmarks/results/startup.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from mibench.checking.bench import Bench
from mibench.planning.plan import Plan, make_plan
from mibench.protocol.method_files import use_file
from mibench.records import Seeds
from mibench.registry import Registry
from mibench.running.devices import slots
from mibench.running.environment import code_version, describe
from mibench.running.executors.local import WORKER, LocalExecutor
from mibench.running.request import Asked, Planner
from mibench.running.runner import execute
from mibench.store.artifacts import Store
from mibench.store.db import Database

RESULTS = Path(__file__).parent / "results" / "startup.json"
FORKED, STARTED = 200, 20
IDLE = '''"""Trains nothing."""

from mibench.contracts import Classifier, Defense, TrainContext


class Idle(Defense):
    """The network as it was made."""

    def train(self, ctx: TrainContext) -> Classifier:
        return ctx.net
'''
WAYS: dict[str, tuple[str, ...] | None] = {"forked": None, "started": WORKER}


def targets(registry: Registry, home: Path, seeds: range) -> Plan:
    """One target for each seed, and nothing else."""
    bench = Bench(registry, home)
    [planned] = bench.plan("idle").runs
    stages = {}
    for seed in seeds:
        [run] = make_plan([replace(planned.cell, seeds=Seeds.of(seed))], bench._prior).runs
        stages[run.stages["target"].key] = run.stages["target"]
    return Plan(stages)


def compute(home: Path, plan: Plan, tracks: dict[str, Any], way: str, devices: list[str]) -> float:
    """Seconds."""
    worker, store, code = WAYS[way], Store(home), code_version()
    clock = time.perf_counter()
    result = execute(
        store,
        plan,
        lambda stages, planned: LocalExecutor(home, devices, planned | tracks, code=code, worker=worker),
        lambda stage, event: None,
        Database.open(home=home),
    )
    seconds = time.perf_counter() - clock
    assert not result.outcome.failed, result.outcome.failed
    return seconds


def empty_stages(folder: Path) -> dict[str, float]:
    """Milliseconds per stage both ways, and of a bare fork."""
    file = folder / "idle.py"
    file.write_text(IDLE)
    use_file(file)
    registry, home = Registry(), folder / "home"
    home.mkdir()
    plans = {"started": targets(registry, home, range(1, STARTED + 1)), "warm": targets(registry, home, range(1))}
    plans["forked"] = targets(registry, home, range(STARTED + 1, STARTED + FORKED + 1))
    tracks = {track.id: track for track in registry.tracks.values()}
    compute(home, plans["warm"], tracks, "started", ["cpu"])  # decodes the images
    started = 1000 * compute(home, plans["started"], tracks, "started", ["cpu"]) / STARTED
    forked = 1000 * compute(home, plans["forked"], tracks, "forked", ["cpu"]) / FORKED
    clock = time.perf_counter()
    for _ in range(FORKED):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    floor = 1000 * (time.perf_counter() - clock) / FORKED
    return {
        "started_ms_per_stage": round(started, 1),
        "forked_ms_per_stage": round(forked, 1),
        "ratio": round(started / forked, 1),
        "bare_fork_ms": round(floor, 2),
    }


def first_command(folder: Path) -> dict[str, float]:
    """Seconds of what ``mibench run --defense re --attack kedmi`` computes from nothing, both ways, and of the command
    itself when everything is there, beside importing what it cannot do without."""
    found = {}
    for way in WAYS:
        home = folder / way
        registry = Registry(home=home)
        plan = Planner(registry, home).plan(Asked(defenses=("re",), attacks=("kedmi",)))
        found[f"first_{way}_seconds"] = round(compute(home, plan, {}, way, slots("cpu")), 1)
    command = [sys.executable, "-m", "mibench", "run", "--defense", "re", "--attack", "kedmi", "--quiet"]
    environment = os.environ | {"MIBENCH_HOME": str(folder / "forked")}
    seconds = []
    for _ in range(4):
        clock = time.perf_counter()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - clock)
    clock = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import click, sqlalchemy.orm, pydantic, yaml, jinja2, pyarrow"], check=True)
    return found | {
        "first_ratio": round(found["first_started_seconds"] / found["first_forked_seconds"], 2),
        "cached_seconds": round(min(seconds[1:]), 2),
        "imports_alone_seconds": round(time.perf_counter() - clock, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--first", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found: dict[str, Any] = {"empty_stages": empty_stages(folder)}
        if asked.first:
            found["first_command"] = first_command(folder)
        found["environment"] = describe() | {"cores": os.cpu_count(), "code": code_version()}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
