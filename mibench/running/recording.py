"""Run records: written when the last stage of a run is done, and where the pictures they speak of are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from mibench.keys import digest
from mibench.planning.plan import Plan, PlannedRun, Stage
from mibench.protocol.method_files import named_files
from mibench.protocol.stage_kinds import EXTRA
from mibench.records import RunRecord
from mibench.running.assembly import assemble, failed, question
from mibench.store import attempts
from mibench.store.artifacts import Manifest, Store


class Recorder:
    """Follows the runs of a plan: ``manifests`` are those of the stages that are done, and every stage and every
    complete run goes to ``ingest`` at once, so that a coordinator that dies loses nothing."""

    def __init__(
        self, store: Store, plan: Plan, manifests: Mapping[str, Manifest], ingest: Callable[[Iterable[Manifest]], None]
    ) -> None:
        self._store, self._plan, self._ingest = store, plan, ingest
        self.manifests = dict(manifests)
        self.runs: dict[str, Manifest] = {}
        self._left: dict[str, set[str]] = {}
        self._waiting: dict[str, list[PlannedRun]] = {}
        for planned in plan.runs:
            missing = {stage.key for stage in planned.stages.values()} - self.manifests.keys()
            self._left[planned.run] = missing
            for key in missing:
                self._waiting.setdefault(key, []).append(planned)

    def done(self, stage: Stage) -> None:
        """Take in a stage that was just finished, and the runs that it completes."""
        manifest = self._store.manifest(stage.kind, stage.key)
        if manifest is None:
            return  # somebody removed it; its children will say so
        self.manifests[stage.key] = manifest
        fresh = [manifest]
        for planned in self._waiting.pop(stage.key, ()):
            self._left[planned.run].discard(stage.key)
            if not self._left[planned.run]:
                fresh.append(self._record(planned))
        self._ingest(fresh)

    def finish(self) -> list[Manifest]:
        """The records of all complete runs, in the order of the plan; those that lack an extra stage too."""
        for planned in self._plan.runs:
            whole = all(stage.key in self.manifests for role, stage in planned.stages.items() if role not in EXTRA)
            if whole and planned.run not in self.runs:
                self._record(planned)
        return [self.runs[planned.run] for planned in self._plan.runs if planned.run in self.runs]

    def failures(self) -> list[Manifest]:
        """The records of the runs that a stage keeps from being complete which would only fail again: they count, and
        say why. What was killed, stopped or lacked something is tried again and has none."""
        failed = attempts.failed_before(
            self._store.home,
            {(s.key, s.source_sha256) for s in self._plan.stages.values() if s.key not in self.manifests},
        )
        records = []
        for planned in self._plan.runs:
            broken = [stage for role, stage in planned.stages.items() if stage.key in failed and role not in EXTRA]
            if broken and not any(self._store.manifest("run", key) for key in record_keys(planned)):
                reason = "; ".join(f"{stage.kind}: {failed[stage.key].message}" for stage in broken)
                done = {role: self.manifests[s.key] for role, s in planned.stages.items() if s.key in self.manifests}
                key = digest({"run": planned.run, "failed": reason})
                records.append(keep(self._store, key, partial(_failed, planned, done, reason)))
        return records

    def _record(self, planned: PlannedRun) -> Manifest:
        self.runs[planned.run] = _record(self._store, planned, self.manifests)
        return self.runs[planned.run]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def record_key(planned: PlannedRun, done: Iterable[str]) -> str:
    """The key of the artefact that holds the record of a run, of which the stages with the keys ``done`` are done."""
    done = set(done)
    stages = {role: stage.key for role, stage in planned.stages.items() if stage.key in done}
    return digest({"run": planned.run, "stages": stages})


def record_keys(planned: PlannedRun) -> list[str]:
    """The keys of the artefacts that can hold the record of a run that was complete, with and without its extras."""
    whole = [stage.key for stage in planned.stages.values()]
    return [
        record_key(planned, whole),
        record_key(planned, [s.key for r, s in planned.stages.items() if r not in EXTRA]),
    ]


def _failed(planned: PlannedRun, done: Mapping[str, Manifest], reason: str) -> RunRecord:
    return failed(planned, done, reason, _now())


def _record(store: Store, planned: PlannedRun, done: Mapping[str, Manifest]) -> Manifest:
    """The manifest that holds the run's record, made when the run was first complete."""
    manifests = {role: done[stage.key] for role, stage in planned.stages.items() if stage.key in done}

    def make() -> RunRecord:
        table = store.path("evaluate", manifests["evaluate"].key) / "images.json"
        return assemble(question(planned, own_files(planned)), manifests, json.loads(table.read_text()), _now())

    return keep(store, record_key(planned, done), make)


def own_files(planned: PlannedRun) -> tuple[str, ...]:
    """The plugin files that the methods of a run are in, from the folder in which the user typed."""
    labels = (planned.cell.defense.label, planned.cell.attack.label)
    own = {part.partition("[")[0] for label in labels for part in label.split("+")}
    return tuple(os.path.relpath(file) for file in named_files() if file.stem in own)


def keep(store: Store, key: str, make: Callable[[], RunRecord]) -> Manifest:
    """The manifest of the artefact ``key``, which holds a run's record. ``make`` is called if there is none yet."""
    with store.claim("run", key) as claim:
        if claim.manifest is not None:
            return claim.manifest
        record = make()
        manifest = Manifest(
            kind="run",
            key=key,
            plugin="engine",
            version=1,
            params={},
            non_default={},
            seed=record.seed,
            track=record.track,
            track_version=record.track_version,
            inputs={stage.kind: stage.key for stage in record.stages},
            started=record.created,
            environment=record.environment,
            result={"record": record.to_json()},
        )
        store.publish("run", key, claim.workdir, manifest)
        return manifest


def image_file(store: Store, record: RunRecord, entry: dict[str, Any]) -> Path | None:
    """The PNG of one reconstruction, or None if the artefact is gone."""
    return _file(store, record, "invert", entry["file"])


def feature_file(store: Store, record: RunRecord) -> Path | None:
    """The points of the run's feature space by identity (JSON; see ``mibench/stages/features.py``), or None if the
    run has no such stage or the artefact is gone."""
    return _file(store, record, "features", "features.json")


def _file(store: Store, record: RunRecord, kind: str, name: str) -> Path | None:
    key = next((stage.key for stage in record.stages if stage.kind == kind), None)
    path = store.path(kind, key) / name if key else None
    return path if path is not None and path.is_file() else None
