"""Compute a run again from nothing but its question, in a store of its own, and record how far the figures agree."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mibench.errors import MissingError, UserError
from mibench.keys import digest, split_version
from mibench.planning.plan import Plan, PlannedRun
from mibench.protocol.tracks import Track
from mibench.publish.results import REPRODUCED, applied, load_results
from mibench.records import RunRecord
from mibench.registry import Registry
from mibench.running.recording import keep
from mibench.running.request import build_plan
from mibench.store import atomic
from mibench.store.artifacts import Store
from mibench.store.db import Database

SHARED = ("data", "weights")  # of the home: decoded images, published weights


def plan_again(registry: Registry, record: RunRecord, track: Track) -> Plan:
    """The plan for this run alone, made from its labels and seed.

    Raises UserError if the question has another answer today: a method, the engine, the track or the weights that
    metrics use changed.
    """
    defense = registry.select("defense", record.defense_label)
    attack = registry.select("attack", record.attack_label)
    whole = build_plan(registry, track, [defense], [attack], [record.seeds])
    for cell, reason in whole.skipped:
        if cell.defense.label == record.defense_label:
            raise MissingError(f"The run cannot be computed here: {reason}.")
    planned = next(p for p in whole.runs if p.cell.defense.label == record.defense_label)
    _same_question(record, planned)
    stages = {stage.key: stage for stage in planned.stages.values()}
    return Plan(stages, [planned], [], [planned.cell], whole.priors)


def _same_question(record: RunRecord, planned: PlannedRun) -> None:
    if planned.run != record.run:
        stored = {stage.kind: stage for stage in record.stages}
        changed = next(
            (k for k, stage in planned.stages.items() if k not in stored or stored[k].key != stage.key), "evaluate"
        )
        now = planned.stages[changed].version
        was = stored[changed].version if changed in stored else 0
        versions = f" (version {_dotted(was)} then, {_dotted(now)} now)" if was != now else ""
        raise UserError(
            f"Run {record.run} would be another one today, {planned.run}: its {changed} changed{versions}. "
            "Reproduce it with the program, the methods, the data and the metrics' weights of the time."
        )
    for name, params, facts in (
        (record.defense, record.defense_params, planned.cell.defense),
        (record.attack, record.attack_params, planned.cell.attack),
    ):
        if {key: value for key, value in facts.params.items() if key in params} != params:
            raise UserError(f"A default of {name} changed since run {record.run}; reproduce it with the older method.")


def _dotted(version: int) -> str:
    return ".".join(map(str, split_version(version)))


def prepare_store(home: Path, run: str, fresh: bool = False) -> Store:
    """The store of a reproduction, ``reproductions/<run>``, which shares decoded images and published weights."""
    own = home / "reproductions" / run
    if fresh:
        shutil.rmtree(own, ignore_errors=True)
    with atomic.writing(own):
        own.mkdir(parents=True, exist_ok=True)
        for name in SHARED:
            (home / name).mkdir(parents=True, exist_ok=True)
            if not (own / name).is_symlink():
                (own / name).symlink_to(Path("..", "..", name))
    return Store(own)


def find(text: str, database: Database, results: Path) -> tuple[RunRecord, bool, bool]:
    """The run whose id begins with ``text`` as it was stored, and whether it is in ``results`` and in the database.
    Where both have it the published figures count. Raises UserError."""
    published = {run.run: run for run in load_results(results, reproduced=False) if run.run.startswith(text)}
    own = {run.run: run for run in database.runs(run=text)}
    names = published.keys() | own.keys()
    if len(names) != 1:
        many = f"fits {len(names)} runs: {', '.join(sorted(names)[:10])}" if names else "is no run"
        raise UserError(f"{text!r} {many}. `mibench export --format json` and the leaderboard show their ids.")
    run = names.pop()
    return published.get(run) or own[run], run in published, run in own


def record(run: RunRecord, outcome: Mapping[str, Any], store: Store, database: Database, results: Path | None) -> None:
    """Keep the outcome: beside the results files if ``results`` is given, and in the store and database if they have
    the run, from where `mibench db rebuild` takes it again."""
    if results is not None:
        atomic.write_json(results / REPRODUCED / f"{run.run}.json", {"schema": 1, "run": run.run} | dict(outcome))
    for own in database.runs(run=run.run):
        if changes := applied(own, outcome):
            _keep(replace(own, **changes), store, database)


def _keep(run: RunRecord, store: Store, database: Database) -> None:
    key = digest({"run": run.run, "reproduced": run.reproduced})
    database.ingest([keep(store, key, lambda: run)])
