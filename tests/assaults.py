"""One attack against one target of the bench, ready to be called directly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from plugins import Bench
from torch import Tensor, nn

from mibench.contracts import AttackContext, Classifier, Oracle, PriorModel, Reconstruction, Stream
from mibench.nets.gan import MinibatchDiscrimination
from mibench.planning.plan import Stage
from mibench.running.request import BASELINE
from mibench.stages import invert, prior
from mibench.stages.job import Job
from mibench.store.artifacts import STATE
from mibench.store.manifest import file_sha256


@dataclass
class Assault:
    """One attack against one target, ready to be called directly."""

    attack: Any
    oracle_of: Callable[[], Oracle]
    target: Classifier
    model: PriorModel | None
    ctx: AttackContext
    job: Job

    def prepare(self, job: Job) -> dict[str, Tensor]:
        """What the attack computes once per target, with this generator, in a folder of its own."""
        folder = self.job.workdir / f"prepare{job.stage.seed}"
        (folder / STATE).mkdir(parents=True)
        job = replace(job, workdir=folder)
        job.seed_weights()
        oracle = Oracle(self.target, self.attack.access, job.track.private.identities, job.stage.seed)
        artifact: dict[str, Tensor] = self.attack.prepare(oracle, self.model, invert._Context(job, {}))
        return artifact

    def invert(self, labels: list[int]) -> tuple[dict[int, Reconstruction], dict[str, Any]]:
        """The reconstructions by label and the queries."""
        oracle = self.oracle_of()
        results = []
        for item in self.attack.invert(oracle, self.model, labels, self.ctx):
            invert._check(self.job, item)
            results.append(item)
        assert [item.label for item in results] == sorted(item.label for item in results)
        return {item.label: item for item in results}, oracle.counts()


def liven(model: PriorModel) -> None:
    """Give a hardly trained prior images that differ: He weights, and batch norms that know the activations.
    Where a critic couples rows, the coupling is made strong enough to be seen."""
    generator = torch.Generator().manual_seed(1)
    norms = []
    for module in model.generator.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            fan = (
                module.weight[0].numel() if not isinstance(module, nn.ConvTranspose2d) else module.weight[:, 0].numel()
            )
            module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * (2 / fan) ** 0.5)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            norms.append(module)
            module.reset_running_stats()
            if module.affine:
                module.weight.fill_(1.0)
            module.momentum = None
            module.train()
    labels = [torch.arange(64) % 5] if model.generator.conditional else []
    with torch.no_grad():
        model.generator(torch.randn(64, model.latent_dim, generator=generator), *labels)
    for module in norms:
        module.eval()
    for module in (model.critic or nn.Identity()).modules():
        if isinstance(module, MinibatchDiscrimination):
            module.projection.mul_(0.01)


def balance(target: Classifier, model: PriorModel) -> None:
    """Let the hardly trained target tell generated images apart: no class is preferred over all of them."""
    latents = torch.randn(64, model.latent_dim, generator=torch.Generator().manual_seed(2))
    labels = [torch.arange(64) % 5] if model.generator.conditional else []
    with torch.no_grad():
        logits = target(model.generator(latents, *labels), Stream(0)).logits
    last = [module for module in target.head.modules() if isinstance(module, nn.Linear)][-1]
    last.bias.data -= logits.mean(0)
    assert len((logits - logits.mean(0)).argmax(1).unique()) > 1


def assault(bench: Bench, name: str, workdir: Path, defense: str = BASELINE) -> Assault:
    plan = bench.plan(defense, name)
    stage = {stage.kind: stage for stage in plan.stages.values()}["invert"]
    for _, key in stage.inputs.values():
        bench.compute(plan, plan.stages[key].kind)
    job = bench.job(stage, workdir)
    attack = bench.registry.build("attack", name, stage.params, bench.track)
    target = job.target()

    def oracle() -> Oracle:
        return Oracle(target, attack.access, bench.track.private.identities, stage.seed)

    model = prior.load_prior(job)
    if model is not None:
        liven(model)
        balance(target, model)
    case = Assault(attack, oracle, target, model, invert._Context(job, {}), job)
    if "prepare" in stage.inputs:  # not the stored one, which belongs to the generator as it was
        if (name, defense) not in bench.prepared:
            bench.prepared[name, defense] = case.prepare(job)
        case.ctx = invert._Context(job, {key: value.clone() for key, value in bench.prepared[name, defense].items()})
    return case


def whole_and_resumed(
    bench: Bench, again: Bench, stage: Stage, folder: Path, patch: pytest.MonkeyPatch
) -> tuple[dict[str, str], dict[str, str]]:
    """The hashes of the images of an inversion in blocks of two identities, at once and broken off in the second."""
    patch.setattr(invert, "LARGEST_BLOCK", 2)

    def run(place: Bench, workdir: Path) -> dict[str, str]:
        (workdir / STATE).mkdir(parents=True, exist_ok=True)
        invert.run(place.job(stage, workdir))
        return {path.name: file_sha256(path) for path in sorted((workdir / "images").iterdir())}

    whole = run(bench, folder / "whole")
    usual, written = invert.write_png, []

    def write_and_break(image: Tensor, path: Path, stored: str) -> None:
        usual(image, path, stored)
        written.append(path)
        if len({p.name[:6] for p in written}) == 3:
            raise InterruptedError("a kill")

    patch.setattr(invert, "write_png", write_and_break)
    with pytest.raises(InterruptedError):
        run(again, folder / "broken")
    patch.setattr(invert, "write_png", usual)
    return whole, run(again, folder / "broken")
