"""Cells to a graph of stages. Pure: no files, no torch.

evaluator   target -----> utility ----------.      (through serve, where only serving has parameters)
    |         |  \\                           |
    |         |   prior (scope "target")     |
    |         |   /      \\                   |
    |       invert <- prepare                |
    |         |  \\                           |
    |         |   features (and target)      |
    '---------+--------> evaluate <----------'
                            |
                          panel (where the track has one)

gradients hangs on the target as utility does, and so does the student of an attack that transfers, which reads it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from mibench.errors import UserError
from mibench.keys import canonical, digest, joint_version, stage_key
from mibench.planning.steps import steps_of
from mibench.protocol.methods import ACCESS_RANK, Facts
from mibench.protocol.stage_kinds import STAGE_KINDS, StageKind, is_shared
from mibench.protocol.tracks import Track
from mibench.records import Seeds


@dataclass(frozen=True)
class Stage:
    """One cached step. ``inputs`` maps a role to (kind, key) of the stage whose artefact it reads; ``steps``: how much
    there is to do, for estimates."""

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
    steps: float = 0.0


@dataclass(frozen=True)
class Cell:
    """One run to be: a defense and an attack on a track. ``evaluation`` holds what else can change the
    numbers: ``versions``, the metrics' versions above 1, and ``weights``, the published weights on this machine."""

    track: Track
    defense: Facts
    attack: Facts
    seeds: Seeds
    evaluation: dict[str, Any] = field(default_factory=dict)

    @property
    def unadapted(self) -> str | None:
        """Why the attack cannot average over what the defense does, or None."""
        if self.attack.adapts and not self.defense.adapts:
            return (
                f"{self.attack.label} averages over the defense's own `adapt`, and {self.defense.label} declares none"
            )
        return None

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


AS_ACCURATE = ("target", "serve", "utility")  # what tells how accurate a defense is

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
        skips = (cell.defense.skip, cell.attack.skip, prior.skip if prior else None, _past(cell), cell.unadapted)
        reason = next(filter(None, skips), None)
        if reason:
            plan.skipped.append((cell, reason))
            continue
        if cell.defense.like:
            other = builder.stages(replace(cell, defense=cell.defense.like), prior)
            for kind in AS_ACCURATE:
                if kind in other:
                    plan.stages.setdefault(other[kind].key, other[kind])
        stages = builder.stages(cell, prior)
        for stage in stages.values():
            plan.stages.setdefault(stage.key, stage)
        run = digest({"evaluate": stages["evaluate"].key, "target": stages["target"].key})[:12]
        if run not in known:
            known.add(run)
            plan.runs.append(PlannedRun(run, cell, stages))
    return plan


def _past(cell: Cell) -> str | None:
    """Why the attack does not meet the defense at all: it sees more than what the defense changes."""
    against, access = cell.defense.against, "scores" if cell.attack.transfers else str(cell.attack.access)
    if not ACCESS_RANK[against] < ACCESS_RANK[access] <= ACCESS_RANK["white_box"]:
        return None
    return (
        f"{cell.defense.id} protects against access {against!r}; an attack with access {access!r} goes past it and "
        "meets the target as it is without"
    )


class _Builder:
    """Makes the stages of cells; what several cells share is made once."""

    def __init__(self) -> None:
        self._made: dict[Any, Stage] = {}
        self._parts: dict[Any, dict[str, Any]] = {}
        self._held: list[Any] = []  # what is known by its identity must stay alive

    def stages(self, cell: Cell, prior: Facts | None) -> dict[str, Stage]:
        """The stages of one cell by kind, parents first."""
        self._held.append((cell, prior))
        made: dict[str, Stage] = {}
        for kind in STAGE_KINDS.values():
            facts = {"defense": cell.defense, "attack": cell.attack, "prior": prior, None: None}[kind.method]
            if (kind.method and facts is None) or (kind.name == "prepare" and not cell.attack.prepares):
                continue
            if kind.name == "serve" and not cell.defense.served:
                continue
            if kind.name == "student" and not cell.attack.transfers:
                continue
            if kind.name == "gradients" and cell.defense.against != "white_box":
                continue  # whoever has gradients goes past it
            if kind.where and not getattr(cell.track, kind.where):
                continue
            roles = [role for role in kind.reads if role in made]
            title = kind.title
            if facts is not None and facts is prior:
                roles = roles if self._asks(prior, cell.attack) else []
                title += " for {defense} seed {seed}" if roles else " seed {seed}" if facts.seeded else ""
            parents = [made[role] for role in roles]
            if kind.name == "target" and cell.defense.like:
                parents.append(self.stages(replace(cell, defense=cell.defense.like), prior)["utility"])
            drawn = facts is None or facts.seeded or bool(roles)
            seed = getattr(cell.seeds, kind.seed) if kind.seed and drawn else 0
            own = cell.evaluation if kind.name == "evaluate" else {}
            if kind.weights in cell.evaluation.get("weights", ()):
                own = {"weights": [kind.weights]}
            name = (kind.name, id(cell.track), id(facts), seed, tuple(s.key for s in parents), canonical(own))
            if name not in self._made:
                labels = {"track": cell.track.id, "seed": seed, "seeds": cell.seeds, "prior": prior.id if prior else ""}
                labels |= {"defense": cell.defense.label, "attack": cell.attack.label}
                title = title.format_map(labels)
                self._made[name] = self._stage(kind, cell.track, facts, seed, parents, title, own)
            made[kind.name] = self._made[name]
        return made

    @staticmethod
    def _asks(prior: Facts, attack: Facts) -> bool:
        """Whether the prior is trained on the target's answers. Raises UserError where it asks for more than its attack
        may."""
        if prior.scope != "target":
            return False
        if ACCESS_RANK[str(prior.access)] > ACCESS_RANK[str(attack.access)]:
            raise UserError(
                f"Attack {attack.id!r} declares access {attack.access!r}, but its prior {prior.id!r} asks the "
                f"target for {prior.access!r}. Declare what both need."
            )
        return True

    def _stage(
        self,
        kind: StageKind,
        track: Track,
        facts: Facts | None,
        seed: int,
        parents: list[Stage],
        title: str,
        own: dict[str, Any],
    ) -> Stage:
        inputs = {parent.kind: (parent.kind, parent.key) for parent in parents}
        version = joint_version(kind.version, facts.version if facts else 0)
        plugin = facts.id if facts else "engine"
        if facts and kind.name == "target":
            facts = facts.trained
        params, non_default = (facts.params, facts.non_default) if facts else (own, own)
        part = (id(track), kind.name, is_shared(kind.name, inputs))
        if part not in self._parts:
            self._parts[part] = track.part(*kind.track, shared=part[2])
        keys = {role: parent for role, (_, parent) in inputs.items()}
        return Stage(
            kind=kind.name,
            key=stage_key(kind.name, plugin, version, non_default, seed, self._parts[part], keys),
            plugin=plugin,
            version=version,
            params=params,
            non_default=non_default,
            seed=seed,
            track=track.id,
            inputs=inputs,
            source_sha256=facts.source_sha256 if facts else "",
            access=facts.access if facts else None,
            title=title,
            steps=steps_of(kind.name, params, track),
        )
