"""From what the user asked for to records: plan, look up, compute what is missing, collect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mibench.errors import EXIT_FAILED, UserError, unknown
from mibench.planning.estimates import estimate, filled, past_seconds
from mibench.planning.plan import Plan, Stage
from mibench.planning.schedule import Schedule
from mibench.protocol.stage_kinds import STAGE_KINDS
from mibench.records import RunRecord
from mibench.running import grids
from mibench.running.coordinator import Listener, Outcome, State, coordinate
from mibench.running.placement import Place
from mibench.running.recording import Recorder, record_keys
from mibench.stages.events import Failed
from mibench.store import attempts
from mibench.store.artifacts import Damaged, Manifest, Store
from mibench.store.db import Database


@dataclass
class Result:
    """What a call of ``execute`` came to."""

    plan: Plan
    records: list[RunRecord] = field(default_factory=list)  # in the order asked for
    manifests: list[Manifest] = field(default_factory=list)  # of every stage of the plan that is done
    cached: dict[str, bool] = field(default_factory=dict)  # by run
    todo: set[str] = field(default_factory=set)  # keys that were missing at the start
    outcome: Outcome = field(default_factory=Outcome)
    notes: list[str] = field(default_factory=list)
    outdated: list[str] = field(default_factory=list)  # methods whose files changed since, and their versions did not


def lookup(store: Store, plan: Plan, notes: list[str]) -> dict[str, Manifest]:
    """The manifests of the plan's stages that are done. A damaged artefact is named in ``notes`` and set aside.

    Results, and whatever a missing stage will read, are verified by their hashes; of the rest only sizes are looked
    at. Raises UserError when a stored artefact was computed with other resolved parameters under the same key, that
    is, a default changed without a new version.
    """
    done: dict[str, Manifest] = {}
    for stage in plan.stages.values():
        manifest = _whole(store, stage, notes, verify=STAGE_KINDS[stage.kind].shown)
        if manifest is not None:
            _same_params(stage, manifest)
            done[stage.key] = manifest
    verified: set[str] = set()
    while parents := {key for s in needed(plan, done) for _, key in s.inputs.values()} & done.keys() - verified:
        verified |= parents
        for key in parents:
            if _whole(store, plan.stages[key], notes, verify=True) is None:
                del done[key]
    if changed := outdated(plan, done):
        notes.append(_outdated_sentence(changed))
    return done


def outdated(plan: Plan, done: Mapping[str, Manifest]) -> dict[str, list[str]]:
    """Methods that have stages which were computed with another text of their files, of the same version: the kinds of
    these stages by method."""
    changed: dict[str, list[str]] = {}
    for key, manifest in done.items():
        was, now = manifest.source_sha256, plan.stages[key].source_sha256
        if was and now and was != now and manifest.kind not in changed.setdefault(manifest.plugin, []):
            changed[manifest.plugin].append(manifest.kind)
    return {name: kinds for name, kinds in changed.items() if kinds}


def _outdated_sentence(changed: Mapping[str, list[str]]) -> str:
    kinds = dict.fromkeys(kind for each in changed.values() for kind in each)
    return (
        f"The files of {', '.join(changed)} have changed since these results were computed, their versions have not, "
        f"so nothing was computed again. Whoever changed what a method computes raises `version` in its file, or adds "
        f"{' '.join(f'--force {kind}' for kind in kinds)}."
    )


def _whole(store: Store, stage: Stage, notes: list[str], verify: bool) -> Manifest | None:
    try:
        return store.manifest(stage.kind, stage.key, verify)
    except Damaged as error:
        notes.append(f"Damaged: {error}. It is computed again.")
        return None


def _same_params(stage: Stage, manifest: Manifest) -> None:
    was, now = manifest.params, stage.params
    changed = [name for name in sorted(was) if was[name] != now.get(name)]  # a parameter that is new has its default
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


def execute(
    store: Store,
    plan: Plan,
    place: Place,
    listener: Listener,
    database: Database,
    retry_failed: bool = False,
    origin: grids.Origin | None = None,
) -> Result:
    """Compute what is missing and return the records of the runs that are complete; all of it is in the database.

    ``place`` is asked for an executor only if there is something to compute. A stage that failed before, by an error of
    the same method, is not tried again unless ``retry_failed``; one that was killed, stopped or lacked something is.
    """
    result = Result(plan)
    recorder = Recorder(store, plan, lookup(store, plan, result.notes), database.ingest)
    todo = needed(plan, recorder.manifests)
    result.todo = {stage.key for stage in todo}
    result.outdated = list(outdated(plan, recorder.manifests))
    if todo:
        seconds = estimate(todo, past_seconds(database.durations()))
        with grids.open_grid(store.home, plan, seconds, origin):
            result.outcome = _compute(store, plan, todo, recorder, place, listener, seconds, retry_failed)
    store.sweep(recorder.manifests)
    records = recorder.finish()
    result.manifests = [*recorder.manifests.values(), *records]
    database.ingest(database.lacking([*result.manifests, *recorder.failures()]))
    if len(recorder.manifests) == len(plan.stages):
        grids.drop(store.home, grids.grid_id(plan))
    for planned in plan.runs:
        if planned.run in recorder.runs:
            result.records.append(RunRecord.from_json(recorder.runs[planned.run].result["record"]))
            result.cached[planned.run] = result.todo.isdisjoint(stage.key for stage in planned.stages.values())
    return result


def _compute(
    store: Store,
    plan: Plan,
    todo: list[Stage],
    recorder: Recorder,
    place: Place,
    listener: Listener,
    seconds: dict[str, float],
    retry_failed: bool,
) -> Outcome:
    schedule = Schedule(todo, recorder.manifests, filled(todo, seconds))
    before = Outcome()
    if not retry_failed:
        for key, attempt in attempts.failed_before(store.home, [(s.key, s.source_sha256) for s in todo]).items():
            if key in schedule.unfinished:
                message = f"It failed before, at {attempt.ended}: {attempt.message} Try again with --retry-failed."
                before.fail(key, message, EXIT_FAILED)
                before.blocked |= schedule.fail(key)
                listener(schedule.stages[key], Failed(message=message))
    executor = place(store.home, {run.cell.track.id: run.cell.track for run in plan.runs})

    def look(stage: Stage) -> State:
        if store.path(stage.kind, stage.key).exists() and _whole(store, stage, [], verify=False) is not None:
            return "done"
        return "busy" if executor.alone and store.held(stage.key) else "free"

    try:
        outcome = coordinate(schedule, executor, listener, look, recorder.done)
    finally:
        executor.close()
    outcome.failed |= before.failed
    outcome.blocked |= before.blocked
    outcome.exit_code = outcome.exit_code or before.exit_code
    return outcome


def collect(store: Store, database: Database) -> dict[str, tuple[int, int]]:
    """Record the runs of grids that were begun, as far as they are complete, whoever computed them. Returns, by grid,
    how many of its runs are recorded and how many it has; a grid that is whole is forgotten."""
    recorded = {}
    for name in grids.names(store.home):
        grid = grids.load(store.home, name)
        if grid is None:
            continue
        recorder = Recorder(store, grid.plan, lookup(store, grid.plan, []), database.ingest)
        records = recorder.finish()
        database.ingest(database.lacking([*recorder.manifests.values(), *records, *recorder.failures()]))
        recorded[name] = (len(records), len(grid.plan.runs))
        if len(recorder.manifests) == len(grid.plan.stages) and not grid.alive:
            grids.drop(store.home, name)
    return recorded


def force(store: Store, plan: Plan, names: Iterable[str]) -> list[Stage]:
    """Move aside what is stored of the stages called ``names`` (a kind, or a key's beginning), of everything in the
    plan that was computed from them, and the records of their runs. Returns the stages that will be computed again.

    Raises UserError for a name that fits no stage of the plan.
    """
    chosen: set[str] = set()
    for name in names:
        own = {s.key for s in plan.stages.values() if s.kind == name or (len(name) >= 4 and s.key.startswith(name))}
        if not own:
            raise unknown("stage of this plan", name, {stage.kind for stage in plan.stages.values()})
        chosen |= own
    for stage in plan.stages.values():  # parents first
        if not chosen.isdisjoint(key for _, key in stage.inputs.values()):
            chosen.add(stage.key)
    for planned in plan.runs:
        if not chosen.isdisjoint(stage.key for stage in planned.stages.values()):
            for key in record_keys(planned):
                store.discard("run", key)
    again = [stage for stage in plan.stages.values() if stage.key in chosen]
    return [stage for stage in again if store.discard(stage.kind, stage.key)]
