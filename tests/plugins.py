"""The methods that the registry lists, and a bench that computes their stages on the track ``tiny``."""

from __future__ import annotations

import copy
import shutil
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import KINDS
from torch import Tensor, nn

import mibench
from mibench.contracts import loop as loops
from mibench.keys import stream_seed
from mibench.nets import build_classifier
from mibench.nets.base import StochasticHead
from mibench.planning.plan import Cell, Plan, Stage, make_plan
from mibench.protocol.methods import Selection
from mibench.protocol.tracks import Track
from mibench.records import Seeds
from mibench.registry import Registry
from mibench.running import worker
from mibench.running.order import Order
from mibench.running.request import BASELINE
from mibench.stages.events import Said
from mibench.stages.job import Job
from mibench.store.artifacts import Manifest, Store

LISTED = Registry()
OWN = {name for name, entry in LISTED.entries("attack").items() if entry.access == "private"}  # see test_controls
DEFENSES, ATTACKS, PRIORS = (sorted(LISTED.entries(kind).keys() - OWN) for kind in KINDS)
PLUGINS = [(kind, name) for kind in KINDS for name in LISTED.entries(kind) if name not in OWN]
PROBE = next(a for a in ATTACKS if (e := LISTED.entry("attack", a)).access == "white_box" and e.prior and not e.control)
OTHER_PROBES = {LISTED.entry("attack", a).access: a for a in ATTACKS if not LISTED.entry("attack", a).control}
ENGINE = Path(mibench.__file__).parent
CPU = torch.device("cpu")
RESIDUAL = "tiny_residual"


def with_shortcuts(section: dict[str, Any]) -> dict[str, Any]:
    """The track with a residual target, for defenses that change its shortcuts."""
    return copy.deepcopy(section) | {"target": section["target"] | {"arch": "small_resnet"}}


@cache
def stochastic(name: str) -> bool:
    """Whether a defense's target answers with noise."""
    track = LISTED.track("synthfaces")
    facts = LISTED.facts(Selection("defense", name), track)
    net = build_classifier("convnet", 4, track.channels, track.resolution)
    if facts.skip:
        return False
    return isinstance(LISTED.build("defense", name, facts.params, track).build(net).head, StochasticHead)


def quiet(event: Said) -> None:
    """The events of a stage in this process."""


@dataclass
class Bench:
    """Computes stages in this process, each once."""

    home: Path
    root: Path
    registry: Registry = field(init=False)
    store: Store = field(init=False)
    track: Track = field(init=False)
    prepared: dict[tuple[str, str], dict[str, Tensor]] = field(default_factory=dict)  # by attack and defense

    def __post_init__(self) -> None:
        self.registry, self.store = Registry(self.root), Store(self.home)
        self.track = self.registry.track("tiny")

    def plan(self, defense: str = BASELINE, attack: str = "", seed: int = 0, prior_id: str = "", **params: Any) -> Plan:
        """The stages of one run, of an attack that meets the defense if none is named; ``prior_id`` puts another prior
        in the place of the attack's."""
        against = self.registry.facts(Selection("defense", defense), self.track).against
        attack = attack or (PROBE if against == "white_box" else OTHER_PROBES[against])
        facts = self.registry.facts(Selection("attack", attack, (), params), self.track)
        if prior_id:
            facts = replace(facts, prior={"id": prior_id, "params": {}})
        chosen, track = Selection("defense", defense), self.track
        if self.registry.facts(chosen, track).skip:  # perhaps because of the network
            track = self.registry.track(RESIDUAL)
        cell = Cell(track, self.registry.facts(chosen, track), facts, Seeds.of(seed))

        def prior_facts(name: str, params: dict[str, Any], on: Track) -> Any:
            return self.registry.facts(Selection("prior", name, (), params), on)

        plan = make_plan([cell], prior_facts)
        if plan.skipped:
            pytest.skip(plan.skipped[0][1])
        return plan

    def compute(self, plan: Plan, last: str) -> dict[str, Stage]:
        """Compute ``last`` and what it needs; the plan's stages by kind."""
        stages = {stage.kind: stage for stage in plan.stages.values()}

        def ensure(stage: Stage) -> None:
            for _, key in stage.inputs.values():
                ensure(plan.stages[key])
            if self.store.manifest(stage.kind, stage.key) is None:
                worker.compute(Order(home=self.home, device="cpu", stage=stage), quiet)

        ensure(stages[last])
        return stages

    def job(self, stage: Stage, workdir: Path) -> Job:
        return Job(stage, self.store, self.registry, workdir, CPU, quiet)

    def lend(self, other: Bench, plan: Plan, last: str) -> None:
        """Give another store what the stage ``last`` needs, as it is here."""
        [stage] = [stage for stage in plan.stages.values() if stage.kind == last]
        for kind, key in stage.inputs.values():
            self.compute(plan, kind)
            shutil.copytree(self.store.path(kind, key), other.store.path(kind, key), dirs_exist_ok=True)

    def result(self, stage: Stage) -> tuple[Path, Manifest]:
        manifest = self.store.manifest(stage.kind, stage.key, verify=True)
        assert manifest is not None
        return self.store.path(stage.kind, stage.key), manifest

    def hashes(self, stage: Stage) -> dict[str, Any]:
        return self.result(stage)[1].outputs


def same_weights(one: nn.Module, other: dict[str, Tensor]) -> bool:
    state = one.state_dict()
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


def interrupted(bench: Bench, again: Bench, plan: Plan, kind: str, patch: pytest.MonkeyPatch) -> Stage:
    """Compute a stage, break off at the middle of each of its loops, go on each time from what was saved."""
    stages = {stage.kind: stage for stage in plan.stages.values()}
    bench.lend(again, plan, kind)
    patch.setattr(loops, "CHECKPOINT_SECONDS", -1.0)
    resumed, broken = [], set()
    usual = loops.Loop._resume

    def resume(loop: loops.Loop) -> int:
        step = usual(loop)
        if step:
            resumed.append(loop.name)
        return step

    def loop_of(tools: Any, name: str, steps: int, state: dict[str, Any]) -> loops.Loop:
        seed = stream_seed(tools.track, tools.role, tools.seed)  # dropout and later weights depend on it
        loop = loops.Loop(name, steps, state, tools.scratch, None, seed)
        save = loop._save

        def save_and_break(step: int) -> None:
            save(step)
            if name not in broken and step >= steps // 2:
                broken.add(name)
                raise InterruptedError(name)

        loop._save = save_and_break  # type: ignore[method-assign]
        return loop

    patch.setattr(loops.Loop, "_resume", resume)
    patch.setattr("mibench.stages.job.Tools.loop", loop_of)
    for _ in range(20):
        try:
            again.compute(plan, kind)
            break
        except InterruptedError:
            continue
    assert broken == set(resumed) and (broken or kind != "target")
    return stages[kind]
