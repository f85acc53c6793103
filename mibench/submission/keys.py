"""Is a submission's every stage key what its question gives, on the tracks of this machine, and do the stages of a run
hang together? Nothing is imported; what a key says follows from manifests and tracks alone."""

from __future__ import annotations

from mibench.data.tracked import is_tracked, resolve
from mibench.errors import UserError
from mibench.keys import digest, split_version, stage_key
from mibench.metrics import METRICS
from mibench.protocol.methods import Kind
from mibench.protocol.stage_kinds import STAGE_KINDS, is_shared
from mibench.protocol.tracks import Track
from mibench.records import ATTACKS_APART, RunRecord
from mibench.registry import Registry
from mibench.store.artifacts import home
from mibench.store.manifest import Manifest
from mibench.submission import model
from mibench.submission.contents import Submission
from mibench.submission.layout import Refused, shown

NEEDED = {name for name, kind in STAGE_KINDS.items() if kind.always and not kind.extra}


def tracks(sent: Submission, registry: Registry) -> dict[str, Track]:
    """The submission's tracks as this machine knows them. A track on a data set that is not prepared here takes the
    splits that the submission names."""
    known = {}
    for name, pin in sent.index.tracks.items():
        if name not in {**registry.suite_tracks, **registry.tracks}:
            raise Refused(f"Track {shown(name)} is not known here: a submission is for a track in registry.yaml.")
        track = registry.track(name)
        if is_tracked(track):
            track = resolve(track, registry.home or home())
        if track.version != pin.version:
            raise Refused(f"Track {name} has version {track.version} here, {pin.version} in the submission.")
        if is_tracked(track):
            public = track.public.model_copy(update={"split": track.public.split or pin.public_split})
            track = track.model_copy(update={"split": track.split or pin.split, "public": public})
        if (track.split, track.public.split) != (pin.split, pin.public_split):
            raise Refused(f"The data of track {name} is another split here: the runs are not of this protocol.")
        known[name] = track
    return known


def check_keys(sent: Submission, known: dict[str, Track]) -> str:
    """Every manifest's key, made again."""
    for stage in sent.stages.values():
        name = f"stages/{stage.kind}-{stage.key[:12]}"
        if stage.track not in known:
            raise Refused(f"{name} is of track {shown(stage.track)}, which the submission does not declare.")
        engine, _ = split_version(stage.version)
        if engine > STAGE_KINDS[stage.kind].version:
            raise Refused(f"{name} was computed by a newer mibench (engine {engine}). Update this one.")
        track = known[stage.track]
        part = track.part(*STAGE_KINDS[stage.kind].track, shared=is_shared(stage.kind, stage.inputs))
        key = stage_key(
            stage.kind, stage.plugin, stage.version, stage.non_default, stage.seed, part, dict(stage.inputs)
        )
        if key != stage.key:
            raise Refused(
                f"{name} has the key {stage.key[:12]}, but what it says of itself gives {key[:12]}: its parameters, "
                "seed, track or parents are not those that were computed."
            )
        wrong = [key for key, value in stage.non_default.items() if not _holds(stage.params.get(key), value)]
        if wrong or stage.track_version != track.version:
            raise Refused(f"{name} contradicts itself in {shown((wrong or ['track_version'])[0])}.")
    return f"{len(sent.stages)} stage keys made again"


def _holds(params: object, part: object) -> bool:
    """Whether ``part`` is in ``params``; of a combination, whose parameters are by defense, at every level."""
    if isinstance(params, dict) and isinstance(part, dict):
        return all(_holds(params.get(key), value) for key, value in part.items())
    return params == part


def check_runs(sent: Submission, known: dict[str, Track], registry: Registry) -> str:
    """Run ids, and which stages a run consists of: each of one run, with its parents and seeds."""
    used: set[str] = set()
    for record in sent.records:
        roles = _roles(sent, record, known[record.track])
        used |= {stage.key for stage in roles.values()}
        for kind, stage in roles.items():
            needs, may = set(STAGE_KINDS[kind].needs), set(STAGE_KINDS[kind].may_read)
            if not needs <= stage.inputs.keys() <= needs | may:
                raise Refused(f"Run {record.run}: its {kind} has the parents {shown(', '.join(stage.inputs))}.")
            if any(role not in roles or roles[role].key != key for role, key in stage.inputs.items()):
                raise Refused(f"Run {record.run}: its {kind} was computed from stages of another run.")
            if not _seeded(record, kind, stage) or stage.track != record.track:
                raise Refused(f"Run {record.run}: its {kind} is of another seed or track.")
        if "serve" in roles and not _trained_as_served(roles["target"], roles["serve"]):
            raise Refused(f"Run {record.run}: its target is not of the defense that serves it.")
        run = digest({"evaluate": roles["evaluate"].key, "target": roles["target"].key})[:12]
        if run != record.run:
            raise Refused(f"Run {record.run} should be called {run} after its stages.")
        _check_labels(record, known[record.track], sent, registry)
    if extra := sent.stages.keys() - used:
        raise Refused(f"The stage {min(extra)[:12]} belongs to no run. Remove it, or pack again.")
    return f"{len(sent.records)} runs are whole and have the ids that follow from their stages"


def _seeded(record: RunRecord, kind: str, stage: Manifest) -> bool:
    """Whether a stage has the seed that the design gives it; judges and public priors may also be those of seed 0."""
    own = STAGE_KINDS[kind].seed
    if own is None:
        return stage.seed == 0
    if own == "attack":
        return stage.seed == record.seeds.attack and stage.seed % ATTACKS_APART == record.seed
    if own == "evaluator":
        return stage.seed == record.seeds.evaluator and stage.seed in (record.seed, 0)
    return stage.seed == record.seed or (stage.seed == 0 and is_shared(kind, stage.inputs))


def _trained_as_served(target: Manifest, serve: Manifest) -> bool:
    """Whether both are of one method and the served parameters are those of the training, and more."""
    same = (target.plugin, split_version(target.version)[1]) == (serve.plugin, split_version(serve.version)[1])
    return same and _holds(serve.params, target.params)


def _roles(sent: Submission, record: RunRecord, track: Track) -> dict[str, Manifest]:
    kinds = [line.kind for line in record.stages]
    needed = NEEDED | {kind.name for kind in STAGE_KINDS.values() if kind.where and getattr(track, kind.where)}
    if len(set(kinds)) != len(kinds) or needed - set(kinds):
        raise Refused(f"Run {record.run} lacks stages: it needs {', '.join(sorted(needed))}, each once.")
    for line in record.stages:
        if line.key not in sent.stages or sent.stages[line.key].kind != line.kind:
            raise Refused(f"Run {record.run}: there is no manifest of its {shown(line.kind)} {line.key[:12]}.")
    return sent.roles(record)


def _check_labels(record: RunRecord, track: Track, sent: Submission, registry: Registry) -> None:
    """The label under which a run is ranked asks for the method and the parameters that were computed."""
    asked: tuple[tuple[Kind, str, str, dict[str, object]], ...] = (
        ("defense", record.defense, record.defense_label, record.defense_params),
        ("attack", record.attack, record.attack_label, record.attack_params),
    )
    for kind, name, label, params in asked:
        try:
            selection = registry.select(kind, label)
            parts = selection.parts or (selection,)
            values = {part.id: registry.values(part, track) for part in parts}
        except UserError as error:
            if any(part not in registry.entries(kind) for part in name.split("+")):
                continue  # a new method, whose presets are not known here
            raise Refused(f"Run {record.run}: the label {shown(label)} cannot be read: {str(error)[:300]}") from None
        if selection.id != name:
            raise Refused(f"Run {record.run} is labelled {shown(label)} but is of {shown(name)}.")
        for part, wanted in values.items():
            own = params[part] if selection.parts else params
            wrong = [k for k, v in wanted.items() if not isinstance(own, dict) or k not in own or not _same(own[k], v)]
            if wrong:
                raise Refused(
                    f"Run {record.run} is labelled {shown(label)}, which asks for another {shown(wrong[0])} than was "
                    "computed."
                )


def _same(computed: object, asked: object) -> bool:
    if isinstance(computed, (list, tuple)) and isinstance(asked, (list, tuple)):
        return len(computed) == len(asked) and all(_same(a, b) for a, b in zip(computed, asked, strict=True))
    return computed == asked or str(computed) == str(asked)


def check_versions(sent: Submission) -> str:
    """The metrics are computed as they are here."""
    for stage in sent.stages.values():
        if stage.kind != "evaluate":
            continue
        result = model.read(model.Evaluation, stage.result, f"evaluate {stage.key[:12]}")
        for name, version in result.versions.items():
            if name not in METRICS or METRICS[name].version != version:
                raise Refused(f"Metric {shown(name)} has another version here. Evaluate again with this mibench.")
        if result.versions.keys() != result.metrics.keys():
            raise Refused(f"evaluate {stage.key[:12]} has metrics without versions.")
    return "metrics have the versions they have here"
