"""From what the user asked for to records: plan, look up, compute what is missing, collect."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mibench.errors import UserError, unknown
from mibench.executors.local import Listener, LocalExecutor, Outcome
from mibench.identity import digest
from mibench.metrics import METRICS
from mibench.metrics.weights import at_hand
from mibench.plan import Cell, Plan, PlannedRun, Stage, make_plan
from mibench.records import MetricValue, RunRecord, StageInfo
from mibench.registry import Kind, Registry, Selection
from mibench.store.artifacts import Damaged, Manifest, Store
from mibench.tracks import Track

BASELINE = "none"  # the undefended model, shown beside every run
RESULTS = ("evaluate", "features")  # stages whose files are shown, and that no other stage reads
EXTRA = ("features",)  # a run without it (it failed) still has its result


@dataclass
class Result:
    """What a call of ``execute`` came to."""

    plan: Plan
    records: list[RunRecord] = field(default_factory=list)  # in the order asked for
    manifests: list[Manifest] = field(default_factory=list)  # of every stage of the plan that is done
    cached: dict[str, bool] = field(default_factory=dict)  # by run
    outcome: Outcome = field(default_factory=Outcome)
    notes: list[str] = field(default_factory=list)


def select_all(registry: Registry, kind: Kind, texts: Iterable[str]) -> list[Selection]:
    """Read the ``--defense`` or ``--attack`` options; ``all`` means everything registered."""
    selections: list[Selection] = []
    for text in texts:
        names = registry.entries(kind) if text == "all" else [text]
        for name in names:
            selection = registry.select(kind, name)
            if selection not in selections:
                selections.append(selection)
    return selections


def apply_settings(
    registry: Registry, selections: list[Selection], kind: str, settings: dict[str, Any], track: Track
) -> list[Selection]:
    """Add ``--set defense.area=...`` to every selected method that has such a parameter.

    Raises UserError if none has it.
    """
    for key in settings:
        single = [part for s in selections for part in s.parts or (s,)]
        models = {s.id: registry.plugin(s.kind, s.id).Params for s in single}
        taking = [name for name, model in models.items() if key in model.model_fields]
        if not taking:
            fields = sorted({name for model in models.values() for name in model.model_fields})
            raise unknown(f"parameter of {', '.join(models)}", key, fields)
        selections = [s.with_params({key: settings[key]}, taking) for s in selections]
    return selections


def build_plan(
    registry: Registry, track: Track, defenses: list[Selection], attacks: list[Selection], seeds: int
) -> Plan:
    """The plan for defenses x attacks x seeds on a track, the undefended model first."""
    baseline = Selection("defense", BASELINE)
    if all(s.id != BASELINE for s in defenses):
        defenses = [baseline, *defenses]
    defense_facts = [registry.facts(s, track) for s in defenses]
    attack_facts = [registry.facts(s, track) for s in attacks]
    evaluation = {
        "versions": {name: METRICS[name].version for name in track.metrics if METRICS[name].version > 1},
        "weights": at_hand(track.metrics),
    }
    evaluation = {name: value for name, value in evaluation.items() if value}
    cells = [
        Cell(track, defense, attack, seed, evaluation)
        for attack in attack_facts
        for defense in defense_facts
        for seed in range(seeds)
    ]

    def prior_facts(name: str, params: dict[str, Any], on: Track) -> Any:
        return registry.facts(registry.select("prior", name).with_params(params), on)

    return make_plan(cells, prior_facts)


def lookup(store: Store, plan: Plan, notes: list[str]) -> dict[str, Manifest]:
    """The manifests of the plan's stages that are done. A damaged artefact is named in ``notes`` and set aside.

    Results, and whatever a missing stage will read, are verified by their hashes; of the rest only sizes are looked
    at. Raises UserError when a stored artefact was computed with other resolved parameters under the same key, that
    is, a default changed without a new version.
    """
    found: dict[str, Manifest] = {}
    for stage in plan.stages.values():
        manifest = _whole(store, stage, notes, verify=stage.kind in RESULTS)
        if manifest is not None:
            _same_params(stage, manifest)
            found[stage.key] = manifest
    verified: set[str] = set()
    while parents := {key for s in needed(plan, found) for _, key in s.inputs.values()} & found.keys() - verified:
        verified |= parents
        for key in parents:
            if _whole(store, plan.stages[key], notes, verify=True) is None:
                del found[key]
    return found


def _whole(store: Store, stage: Stage, notes: list[str], verify: bool) -> Manifest | None:
    try:
        return store.manifest(stage.kind, stage.key, verify)
    except Damaged as error:
        notes.append(f"Damaged: {error}. It is computed again.")
        return None


def _same_params(stage: Stage, manifest: Manifest) -> None:
    was, now = manifest.params, stage.params
    changed = [name for name in sorted(was.keys() | now.keys()) if was.get(name) != now.get(name)]
    if changed:
        what = "; ".join(f"{name} was {was.get(name)!r} and is now {now.get(name)!r}" for name in changed)
        raise UserError(
            f"A default of {stage.plugin!r} changed without a new version: {what}. Raise `version` in its file."
        )


def needed(plan: Plan, done: Iterable[str]) -> list[Stage]:
    """The stages to compute, parents first. A run is whole with all its stages: a damaged parent of a finished child
    is computed again too."""
    done = set(done)
    return [stage for stage in plan.stages.values() if stage.key not in done]


def execute(registry: Registry, store: Store, plan: Plan, slots: Callable[[], list[str]], listener: Listener) -> Result:
    """Compute what is missing and return the records of the runs that are complete. ``slots`` is asked for the
    devices only when there is something to compute."""
    result = Result(plan)
    found = lookup(store, plan, result.notes)
    todo = needed(plan, found)
    if todo:
        result.outcome = LocalExecutor(store.home, slots(), listener, _tracks(plan)).run(todo, set(found))
        found = lookup(store, plan, result.notes)
    computed = {stage.key for stage in todo}
    result.manifests = list(found.values())
    for planned in plan.runs:
        if all(stage.key in found for role, stage in planned.stages.items() if role not in EXTRA):
            manifest = _record(store, planned, found)
            record = RunRecord.from_json(manifest.result["record"])
            result.manifests.append(manifest)
            result.records.append(record)
            result.cached[record.run] = not any(s.key in computed for s in planned.stages.values())
    return result


def _tracks(plan: Plan) -> dict[str, dict[str, Any]]:
    """The tracks of the plan as they were planned, for the workers."""
    return {run.cell.track.id: run.cell.track.model_dump(mode="json") for run in plan.runs}


def _record(store: Store, planned: PlannedRun, found: dict[str, Manifest]) -> Manifest:
    """The manifest that holds the run's record, written when the run was first complete."""
    stages = {role: stage.key for role, stage in planned.stages.items() if stage.key in found}
    key = digest({"run": planned.run, "stages": stages})
    with store.claim("run", key) as claim:
        if claim.manifest is not None:
            return claim.manifest
        record = _assemble(store, planned, found)
        manifest = Manifest(
            kind="run",
            key=key,
            plugin="engine",
            version=1,
            params={},
            non_default={},
            seed=planned.cell.seed,
            track=planned.cell.track.id,
            track_version=planned.cell.track.version,
            inputs=stages,
            started=record.created,
            environment=record.environment,
            result={"record": record.to_json()},
        )
        store.publish("run", key, claim.workdir, manifest)
        return manifest


def _assemble(store: Store, planned: PlannedRun, found: dict[str, Manifest]) -> RunRecord:
    cell = planned.cell
    manifests = {role: found[stage.key] for role, stage in planned.stages.items() if stage.key in found}
    evaluate = manifests["evaluate"]
    table = store.path("evaluate", evaluate.key) / "images.json"
    queries: dict[str, Any] = {}
    for role in ("prior", "prepare", "invert"):
        for who, phases in (manifests[role].result.get("queries", {}) if role in manifests else {}).items():
            for phase, kinds in phases.items():
                slot = queries.setdefault(who, {}).setdefault(phase, {})
                for kind, count in kinds.items():
                    slot[kind] = slot.get(kind, 0) + count
    return RunRecord(
        run=planned.run,
        track=cell.track.id,
        track_version=cell.track.version,
        defense=cell.defense.id,
        attack=cell.attack.id,
        seed=cell.seed,
        defense_label=cell.defense.label,
        attack_label=cell.attack.label,
        defense_params=cell.defense.params,
        attack_params=cell.attack.params,
        status="done",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        metrics={name: MetricValue(**value) for name, value in evaluate.result["metrics"].items()},
        stages=[
            StageInfo(
                role, m.key, m.plugin, m.version, m.params, m.seed, m.seconds, m.environment.get("peak_memory_mib")
            )
            for role, m in manifests.items()
        ],
        environment=evaluate.environment,
        queries=queries,
        images=json.loads(table.read_text()),
        chance=cell.track.chance,
        command=_command(cell),
        deviations=[*cell.defense.deviations, *cell.attack.deviations],
        features=manifests["features"].result if "features" in manifests else None,
    )


def _command(cell: Cell) -> str:
    words = ["mibench", "run", "--track", cell.track.file or cell.track.id]
    words += ["--defense", cell.defense.label, "--attack", cell.attack.label, "--seeds", str(cell.seed + 1)]
    return shlex.join(words)


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
