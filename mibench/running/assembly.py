"""The record of a run, from the manifests of its stages. Pure: no files, no store."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mibench.planning.plan import PlannedRun
from mibench.protocol.stage_kinds import ASKING
from mibench.protocol.tracks import Track
from mibench.records import FIRST_TUNING_SEED, MethodFacts, MetricValue, RunRecord, Seeds, StageInfo
from mibench.store.manifest import Manifest


@dataclass(frozen=True)
class Question:
    """What was asked of a run, which its stages' manifests do not say. ``defense`` and ``attack`` are labels;
    ``plugins``: the files that its methods are in, where they are the user's own."""

    run: str
    track: Track
    seeds: Seeds
    defense: str
    attack: str
    deviations: list[str]
    methods: dict[Literal["defense", "attack"], MethodFacts] | None = None
    plugins: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What to type to ask it."""
        words = ["mibench", "run", "--track", self.track.file or self.track.id, "--defense", self.defense]
        number, again = self.seeds.target, self.seeds.again
        first = ["--first-seed", str(number)] if number >= FIRST_TUNING_SEED else ["--seeds", str(number + 1)]
        attacks = ["--attack-seeds", str(again + 1)] if again else []
        plugins = [word for file in self.plugins for word in ("--plugin", file)]
        return shlex.join([*words, "--attack", self.attack, *first, *attacks, *plugins])


def assemble(
    asked: Question, manifests: Mapping[str, Manifest], images: list[dict[str, Any]], created: str
) -> RunRecord:
    """``manifests`` by role, in the order in which the record names its stages; ``images`` is the judged table."""
    evaluate, served = manifests["evaluate"], manifests.get("serve", manifests["target"])
    return RunRecord(
        run=asked.run,
        track=asked.track.id,
        track_version=asked.track.version,
        defense=manifests["target"].plugin,
        attack=manifests["invert"].plugin,
        seed=asked.seeds.target,
        defense_label=asked.defense,
        attack_label=asked.attack,
        defense_params=served.params,
        attack_params=manifests["invert"].params,
        status="done",
        created=created,
        metrics={name: MetricValue(**value) for name, value in evaluate.result["metrics"].items()},
        stages=[_stage(role, manifest) for role, manifest in manifests.items()],
        environment=evaluate.environment,
        queries=_queries(manifests),
        images=images,
        chance=asked.track.chance,
        command=asked.command,
        deviations=asked.deviations,
        methods=asked.methods,
        features=manifests["features"].result if "features" in manifests else None,
        gradients=manifests["gradients"].result["gradients"] if "gradients" in manifests else None,
        judges=manifests["panel"].result["judges"] if "panel" in manifests else None,
        protected=manifests["target"].result.get("protected"),
    )


def failed(planned: PlannedRun, manifests: Mapping[str, Manifest], reason: str, created: str) -> RunRecord:
    """The record of a run that will not be complete, with the stages that it would have; those without a manifest took
    no time."""
    cell = planned.cell
    lines = [
        _stage(role, manifests[role])
        if role in manifests
        else StageInfo(
            role, stage.key, stage.plugin, stage.version, stage.params, stage.seed, 0.0, non_default=stage.non_default
        )
        for role, stage in planned.stages.items()
    ]
    asked = question(planned)
    return RunRecord(
        run=planned.run,
        track=cell.track.id,
        track_version=cell.track.version,
        defense=cell.defense.id,
        attack=cell.attack.id,
        seed=cell.seeds.target,
        defense_label=asked.defense,
        attack_label=asked.attack,
        defense_params=cell.defense.params,
        attack_params=cell.attack.params,
        status="failed",
        created=created,
        metrics={},
        stages=lines,
        environment={},
        queries=_queries(manifests),
        images=[],
        chance=cell.track.chance,
        command=asked.command,
        deviations=asked.deviations,
        methods=asked.methods,
        reason=" ".join(reason.split())[:300],
    )


def question(planned: PlannedRun, plugins: tuple[str, ...] = ()) -> Question:
    """What a planned run asks, of methods some of which are in files of the user's own."""
    cell = planned.cell
    deviations = [*cell.defense.deviations, *cell.attack.deviations]
    about: Any = {
        kind: facts.about | {"deviations": list(facts.deviations)}
        for kind, facts in (("defense", cell.defense), ("attack", cell.attack))
    }
    labels = (cell.defense.label, cell.attack.label)
    return Question(planned.run, cell.track, cell.seeds, *labels, deviations, about, plugins)


def _stage(role: str, manifest: Manifest) -> StageInfo:
    return StageInfo(
        kind=role,
        key=manifest.key,
        plugin=manifest.plugin,
        version=manifest.version,
        params=manifest.params,
        seed=manifest.seed,
        seconds=manifest.seconds,
        peak_memory_mib=manifest.environment.get("peak_memory_mib"),
        inputs=manifest.inputs,
        attempts=manifest.usage.get("attempts"),
        device_seconds=manifest.usage.get("device_seconds"),
        device=manifest.environment.get("device"),
        non_default=manifest.non_default,
    )


def _queries(manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """Those of the stages that may ask the target, added up."""
    total: dict[str, Any] = {}
    for role in ASKING:
        for who, phases in (manifests[role].result.get("queries", {}) if role in manifests else {}).items():
            for phase, kinds in phases.items():
                slot = total.setdefault(who, {}).setdefault(phase, {})
                for kind, count in kinds.items():
                    slot[kind] = slot.get(kind, 0) + count
    return total
