"""Cells to a graph of stages. Pure: no files, no torch.

evaluator   target -----> utility ----------.
    |         |  \\                           |
    |         |   prior (scope "target")     |
    |         |   /      \\                   |
    |       invert <- prepare                |
    |         |  \\                           |
    |         |   features (and target)      |
    '---------+--------> evaluate <----------'
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any

from mibench.errors import UserError
from mibench.keys import ENGINE_VERSIONS, canonical, digest, joint_version, stage_key
from mibench.protocol.methods import ACCESS_RANK, Facts
from mibench.protocol.tracks import Track

# Which sections of a track can change a stage's result.
TRACK_PARTS = {
    "evaluator": ("private", "evaluator"),
    "target": ("private", "public", "target"),
    "prior": ("public",),
    "prepare": ("public", "attack"),
    "invert": ("public", "attack"),
    "utility": ("private",),
    "evaluate": ("private", "attack", "metrics"),
    "features": ("private", "attack"),
}


def is_shared(kind: str, inputs: Container[str]) -> bool:
    """Whether tracks of one family have the stage in common: evaluators, and priors that do not ask a target."""
    return kind == "evaluator" or (kind == "prior" and "target" not in inputs)


@dataclass(frozen=True)
class Stage:
    """One cached step. ``inputs`` maps a role to (kind, key) of the stage whose artefact it reads."""

    kind: str
    key: str
    plugin: str  # id, or "engine"
    version: int
    params: dict[str, Any]
    non_default: dict[str, Any]
    seed: int
    track: str
    inputs: dict[str, tuple[str, str]] = field(default_factory=dict)
    source_sha256: str = ""
    access: str | None = None
    title: str = ""


@dataclass(frozen=True)
class Cell:
    """One run to be: a defense and an attack on a track with a seed. ``evaluation`` holds what else can change the
    numbers: ``versions``, the metrics' versions above 1, and ``weights``, the published weights on this machine."""

    track: Track
    defense: Facts
    attack: Facts
    seed: int
    evaluation: dict[str, Any] = field(default_factory=dict)

    @property
    def initials(self) -> set[str]:
        """The weights that the target, or parts of a combined defense's, start from."""
        params = self.defense.params
        own = [params, *(part for part in params.values() if isinstance(part, dict))]
        asked = {recipe["initial"] for each in own if "initial" in (recipe := each.get("recipe") or {})}
        return asked or {self.track.target.initial}


@dataclass(frozen=True)
class PlannedRun:
    """A cell and the keys of its stages by role."""

    run: str
    cell: Cell
    stages: dict[str, Stage]


@dataclass
class Plan:
    """Every stage once, parents before children, and the runs that need them. ``cells`` and ``priors`` (facts by
    ``prior_name``) are the question that the plan answers: enough to make it again."""

    stages: dict[str, Stage] = field(default_factory=dict)
    runs: list[PlannedRun] = field(default_factory=list)
    skipped: list[tuple[Cell, str]] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    priors: dict[str, Facts] = field(default_factory=dict)

    def add(self, other: Plan) -> None:
        """Take over another plan; what both have is there once."""
        for key, stage in other.stages.items():
            self.stages.setdefault(key, stage)
        known = {planned.run for planned in self.runs}
        self.runs += [planned for planned in other.runs if planned.run not in known]
        self.skipped += [entry for entry in other.skipped if entry not in self.skipped]
        self.cells += other.cells
        self.priors |= other.priors

    @property
    def requests(self) -> dict[str, int]:
        """For each kind of stage, how many the runs would need if they shared nothing."""
        counts: dict[str, int] = {}
        for planned in self.runs:
            for kind in planned.stages:
                counts[kind] = counts.get(kind, 0) + 1
        return counts


PriorFacts = Callable[[str, dict[str, Any], Track], Facts]


def prior_name(ref: dict[str, Any], track: Track) -> str:
    """A prior with its parameters on a track, as text."""
    return canonical([ref["id"], ref["params"], track.id])


def make_plan(cells: Iterable[Cell], prior_facts: PriorFacts) -> Plan:
    """Expand ``cells``; stages with the same key are one. ``prior_facts`` resolves an attack's prior on a track."""
    plan, builder = Plan(), _Builder()
    known: set[str] = set()
    for cell in cells:
        plan.cells.append(cell)
        ref, prior = cell.attack.prior, None
        if ref:
            name = prior_name(ref, cell.track)
            if name not in plan.priors:
                plan.priors[name] = prior_facts(ref["id"], ref["params"], cell.track)
            prior = plan.priors[name]
        reason = cell.defense.skip or cell.attack.skip or (prior.skip if prior else None)
        if reason:
            plan.skipped.append((cell, reason))
            continue
        stages = builder.stages(cell, prior)
        for stage in stages.values():
            plan.stages.setdefault(stage.key, stage)
        run = digest({"evaluate": stages["evaluate"].key, "target": stages["target"].key})[:12]
        if run not in known:
            known.add(run)
            plan.runs.append(PlannedRun(run, cell, stages))
    return plan


class _Builder:
    """Makes the stages of cells; what several cells share is made once."""

    def __init__(self) -> None:
        self._made: dict[Any, Stage] = {}
        self._parts: dict[Any, dict[str, Any]] = {}
        self._held: list[Any] = []  # what is known by its identity must stay alive

    def stages(self, cell: Cell, prior: Facts | None) -> dict[str, Stage]:
        """The stages of one cell by kind, parents first."""
        self._held.append((cell, prior))
        defense, attack, seed = cell.defense, cell.attack, cell.seed
        made: dict[str, Stage] = {}

        def add(
            kind: str, facts: Facts | None, stage_seed: int, roles: Iterable[str], title: str, own: Any = None
        ) -> None:
            parents = [made[role] for role in roles if role in made]
            name = (kind, id(cell.track), id(facts), stage_seed, tuple(stage.key for stage in parents), canonical(own))
            if name not in self._made:
                self._made[name] = self._stage(kind, cell.track, facts, stage_seed, parents, title, own or {})
            made[kind] = self._made[name]

        add("evaluator", None, 0, (), f"evaluator of {cell.track.id}")
        add("target", defense, seed, (), f"target {defense.label} seed {seed}")
        if prior is not None:
            own = prior.scope == "target"
            if own and ACCESS_RANK[str(prior.access)] > ACCESS_RANK[str(attack.access)]:
                raise UserError(
                    f"Attack {attack.id!r} declares access {attack.access!r}, but its prior {prior.id!r} asks the "
                    f"target for {prior.access!r}. Declare what both need."
                )
            title = f"prior {prior.id}" + (f" for {defense.label} seed {seed}" if own else "")
            add("prior", prior, seed if own else 0, ("target",) if own else (), title)
        who = f"{attack.label} on {defense.label} seed {seed}"
        if attack.prepares:
            add("prepare", attack, seed, ("target", "prior"), f"prepare {who}")
        add("invert", attack, seed, ("target", "prior", "prepare"), f"invert {who}")
        add("utility", defense, seed, ("target",), f"utility of {defense.label} seed {seed}")
        add("evaluate", None, 0, ("evaluator", "invert", "utility"), f"evaluate {who}", cell.evaluation)
        add("features", defense, seed, ("target", "invert"), f"features {who}")
        return made

    def _stage(
        self, kind: str, track: Track, facts: Facts | None, seed: int, parents: list[Stage], title: str, own: Any
    ) -> Stage:
        inputs = {parent.kind: (parent.kind, parent.key) for parent in parents}
        version = joint_version(ENGINE_VERSIONS[kind], facts.version if facts else 0)
        plugin = facts.id if facts else "engine"
        params, non_default = (facts.params, facts.non_default) if facts else (own, own)
        part = (id(track), kind, is_shared(kind, inputs))
        if part not in self._parts:
            self._parts[part] = track.part(*TRACK_PARTS[kind], shared=part[2])
        keys = {role: parent for role, (_, parent) in inputs.items()}
        return Stage(
            kind,
            stage_key(kind, plugin, version, non_default, seed, self._parts[part], keys),
            plugin,
            version,
            params,
            non_default,
            seed,
            track.id,
            inputs,
            facts.source_sha256 if facts else "",
            facts.access if facts else None,
            title,
        )
