"""What the harness itself costs: the coordinator per stage, planning, and looking at a full database.

    python benchmarks/overhead.py

Writes ``benchmarks/results/overhead.json``. The floor of the first is starting as many processes, one after the other,
that do the same and nothing else; planning, ``status`` and ``list`` are measured beside importing what they cannot do
without.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from mibench.keys import digest
from mibench.planning.plan import Cell, Plan, Stage, make_plan
from mibench.protocol.methods import Facts
from mibench.records import MetricValue, RunRecord, Seeds, StageInfo
from mibench.registry import Registry
from mibench.running.environment import code_version, describe
from mibench.running.executors.local import LocalExecutor
from mibench.running.runner import execute
from mibench.store.artifacts import Manifest, Store
from mibench.store.db import Database

RESULTS = Path(__file__).parent / "results" / "overhead.json"
STAGES = 200
ENVIRONMENT = {"python": "3", "device": "cpu"}
NOTHING = """
import json, sys
from pathlib import Path
from mibench.store.artifacts import Manifest, Store
asked = json.loads(Path(sys.argv[1]).read_text())
stage, store = asked["stage"], Store(Path(asked["home"]))
with store.claim(stage["kind"], stage["key"]) as claim:
    names = ("kind", "key", "plugin", "version", "params", "non_default", "seed", "track")
    inputs = {role: key for role, (_, key) in stage["inputs"].items()}
    manifest = Manifest(**{name: stage[name] for name in names}, track_version=1, inputs=inputs)
    store.publish(stage["kind"], stage["key"], claim.workdir, manifest)
print(json.dumps({"event": "done"}))
"""


def empty_stages(count: int) -> Plan:
    """Stages that do nothing, in chains of five."""
    stages: dict[str, Stage] = {}
    before: Stage | None = None
    for number in range(count):
        parents = {} if number % 5 == 0 or before is None else {"target": ("target", before.key)}
        key = digest(["empty", number])
        before = stages[key] = Stage(
            kind="target",
            key=key,
            plugin="none",
            version=1,
            params={},
            non_default={},
            seed=number,
            track="orl32",
            inputs=parents,
            title=f"stage {number}",
        )
    return Plan(stages, [])


def per_stage(folder: Path) -> dict[str, float]:
    """Seconds per stage of the coordinator's own process (its processor time) and of everything (the clock), beside the
    same processes started by a bare loop."""
    script = folder / "nothing.py"
    script.write_text(NOTHING)
    plan, store = empty_stages(STAGES), Store(folder / "home")
    database = Database.open(home=store.home)
    worker = (sys.executable, str(script))
    busy, clock = time.process_time(), time.perf_counter()
    result = execute(
        store,
        plan,
        lambda home, tracks: LocalExecutor(home, ["cpu"], tracks, code=code_version(), worker=worker),
        lambda stage, event: None,
        database,
    )
    whole, own = time.perf_counter() - clock, time.process_time() - busy
    assert len(result.outcome.done) == STAGES, result.outcome
    bare = Store(folder / "bare")
    requests = []
    for stage in plan.stages.values():
        request = folder / f"{stage.key}.json"
        request.write_text(json.dumps({"home": str(bare.home), "stage": stage.__dict__}))
        requests.append(request)
    clock = time.perf_counter()
    for request in requests:
        subprocess.run([*worker, str(request)], check=True, stdout=subprocess.DEVNULL)
    floor = time.perf_counter() - clock
    return {
        "stages": STAGES,
        "coordinator_ms_per_stage": round(1000 * own / STAGES, 2),
        "clock_ms_per_stage": round(1000 * whole / STAGES, 2),
        "bare_processes_ms_per_stage": round(1000 * floor / STAGES, 2),
        "beyond_process_start_ms_per_stage": round(1000 * (whole - floor) / STAGES, 2),
    }


def planning(count: int = 10_000) -> dict[str, float]:
    """Seconds to plan ``count`` cells whose methods are known: 20 defenses x 10 attacks x 50 seeds."""
    track = Registry().track("orl32")
    defenses = [_facts("defense", f"d{n}", source="a" * 64) for n in range(20)]
    attacks = [
        _facts("attack", f"a{n}", access="white_box", prior={"id": f"p{n % 3}", "params": {}}, prepares=n % 2 == 0)
        for n in range(10)
    ]
    cells = [Cell(track, d, a, Seeds.of(seed)) for a in attacks for d in defenses for seed in range(count // 200)]

    def prior(name: str, params: dict[str, Any], on: Any) -> Facts:
        return _facts("prior", name, scope="public" if name == "p0" else "target", access="scores")

    seconds = []
    for _ in range(3):
        clock = time.perf_counter()
        plan = make_plan(cells, prior)
        seconds.append(time.perf_counter() - clock)
    assert len(plan.runs) == count
    return {"cells": count, "stages": len(plan.stages), "seconds": round(statistics.median(seconds), 3)}


def _facts(kind: Any, name: str, source: str = "", **more: Any) -> Facts:
    params = {"steps": 100, "rate": 0.1, "name": name}
    return Facts(kind, name, name, 1, params, params, source, **more)


def _manifest(kind: str, key: str, seed: int) -> Manifest:
    return Manifest(
        kind=kind,
        key=key,
        plugin="none",
        version=1,
        params={},
        non_default={},
        seed=seed,
        track="orl32",
        track_version=1,
        environment=ENVIRONMENT,
    )


def looking(folder: Path, count: int = 10_000) -> dict[str, float]:
    """Seconds of ``mibench status`` as typed, with ``count`` runs in the database and their artefacts in the store."""
    home = folder / "full"
    store = Store(home)
    database = Database.open(home=home)
    manifests = []
    for number in range(count):
        keys = {kind: digest([kind, number]) for kind in ("target", "invert", "utility", "evaluate", "features")}
        for kind, key in keys.items():
            manifests.append(_manifest(kind, key, number))
            (store.path(kind, key)).mkdir(parents=True)
            (store.path(kind, key) / "manifest.json").write_text("{}")
        infos = [StageInfo(kind, key, "none", 1, {}, number, 1.0) for kind, key in keys.items()]
        record = RunRecord(
            *(digest(number)[:12], "orl32", 1, "none", "gmi", number, "none", "gmi", {}, {}, "done", "2026-01-01"),
            metrics={name: MetricValue(0.5, 30, 0.4, 0.6) for name in ("nat1", "att1", "att5")},
            stages=infos,
            environment=ENVIRONMENT,
            queries={},
            images=[],
            chance=0.03,
            command="",
        )
        run = _manifest("run", digest(["run", number]), number)
        manifests.append(replace(run, result={"record": record.to_json()}))
    database.ingest(manifests)
    seconds, said = typed("-m", "mibench", "status", "--json", MIBENCH_HOME=str(home))
    assert json.loads(said)["stages"]["run"] == count
    imports, _ = typed("-c", "import click, sqlalchemy.orm, pydantic, yaml")
    return {"runs": count, "stages": 5 * count, "seconds": seconds, "imports_alone_seconds": imports}


def listing() -> dict[str, float]:
    """Seconds of ``mibench list`` as typed."""
    imports, _ = typed("-c", "import click, pydantic, yaml")
    return {"seconds": typed("-m", "mibench", "list")[0], "imports_alone_seconds": imports}


def typed(*words: str, **environment: str) -> tuple[float, str]:
    """The least seconds of three runs of Python with these words, and what the last one printed."""
    seconds = []
    for _ in range(3):
        clock = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *words], env=os.environ | environment, check=True, capture_output=True, text=True
        )
        seconds.append(time.perf_counter() - clock)
    return round(min(seconds), 3), done.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {
            "coordinator": per_stage(folder),
            "planning": planning(),
            "status": looking(folder),
            "list": listing(),
            "environment": describe() | {"cores": os.cpu_count(), "code": code_version()},
        }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
