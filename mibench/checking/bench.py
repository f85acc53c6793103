"""Stages of single methods on the smallest track, computed in this process."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mibench.checking.track import reduced, smallest
from mibench.errors import UserError
from mibench.planning.plan import Cell, Plan, Stage, make_plan
from mibench.protocol.methods import Facts, Selection
from mibench.protocol.tracks import Track
from mibench.records import Seeds
from mibench.registry import Registry
from mibench.running.order import Order
from mibench.running.request import BASELINE
from mibench.running.worker import compute
from mibench.stages.events import Emit
from mibench.stages.job import Job
from mibench.store.artifacts import Manifest, Store

CPU = torch.device("cpu")
RESIDUAL = "small_resnet"  # for defenses that change shortcuts
ASK_NOBODY = Facts("attack", "nobody", "nobody", 1, {}, {}, "", access="labels")  # what a target needs no attack for


@dataclass
class Bench:
    """``home`` holds what was computed; a second one computes the same again."""

    registry: Registry
    home: Path

    @property
    def store(self) -> Store:
        return Store(self.home)

    def plan(self, defense: str = BASELINE, attack: str | None = None, prior: str | None = None) -> Plan:
        """The stages of one run, of ``prior`` with no attack. Raises UserError if the method cannot run on this
        track."""
        track = smallest()
        chosen = self._facts("defense", defense, track)
        if chosen.skip:  # perhaps because of the network
            track = smallest(RESIDUAL)
            chosen = self._facts("defense", defense, track)
        against = self._facts("attack", attack, track) if attack else ASK_NOBODY
        if prior:
            against = replace(against, prior={"id": prior, "params": {}}, access="white_box")
        self.registry.add(track)
        plan = make_plan([Cell(track, chosen, against, Seeds.of(0))], self._prior)
        if plan.skipped:
            raise UserError(f"It does not run on the smallest track: {plan.skipped[0][1]}.")
        return plan

    def _facts(self, kind: Any, name: str, track: Track) -> Facts:
        values = reduced(self.registry, kind, name)
        return replace(self.registry.facts(Selection(kind, name, (), values), track), label=name)

    def _prior(self, name: str, params: dict[str, Any], track: Track) -> Facts:
        values = reduced(self.registry, "prior", name) | params
        return self.registry.facts(Selection("prior", name, (), values), track)

    def compute(self, plan: Plan, last: str, emit: Emit = lambda event: None) -> Stage:
        """Compute the stage of kind ``last`` and what it needs."""
        [stage] = [stage for stage in plan.stages.values() if stage.kind == last]
        for kind, _ in stage.inputs.values():
            self.compute(plan, kind, emit)
        if self.store.manifest(stage.kind, stage.key) is None:
            order = Order(home=self.home, device="cpu", stage=stage, track=self.registry.track(stage.track))
            threads = torch.get_num_threads()
            try:
                compute(order, emit)
            finally:
                torch.set_num_threads(threads)
        return stage

    def result(self, stage: Stage) -> tuple[Path, Manifest]:
        manifest = self.store.manifest(stage.kind, stage.key, verify=True)
        assert manifest is not None
        return self.store.path(stage.kind, stage.key), manifest

    def job(self, stage: Stage, workdir: Path) -> Job:
        return Job(stage, self.store, self.registry, workdir, CPU, lambda event: None)

    def again(self) -> Bench:
        """An empty store that shares only the images."""
        other = Bench(self.registry, self.home.with_name(f"{self.home.name}-again"))
        other.home.mkdir(exist_ok=True)
        if (self.home / "data").exists() and not (other.home / "data").exists():
            (other.home / "data").symlink_to(self.home / "data")
        return other

    def lend(self, other: Bench, plan: Plan, kinds: tuple[str, ...]) -> None:
        """Let ``other`` have finished stages, so that it computes the rest with the same parents."""
        for stage in plan.stages.values():
            path = other.store.path(stage.kind, stage.key)
            if stage.kind in kinds and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(self.store.path(stage.kind, stage.key), path)
