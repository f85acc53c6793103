"""A prior at work: trained twice on the smallest track, then asked for images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mibench.checking.bench import Bench
from mibench.checking.cost import cost_checks
from mibench.checking.lines import Line
from mibench.contracts import PriorModel
from mibench.errors import StageFailed, UserError
from mibench.planning.plan import Stage
from mibench.stages.job import Job, load_weights
from mibench.stages.prior import run as train
from mibench.store.artifacts import STATE


def prior_checks(bench: Bench, name: str) -> Iterator[Line]:
    """The whole stage twice, and what the model makes of latents."""
    try:
        plan = bench.plan(prior=name)
    except UserError as error:  # perhaps for want of published weights
        yield Line("runs", None, str(error))
        return
    try:
        stage = bench.compute(plan, "prior")
    except (UserError, StageFailed) as error:
        yield Line("runs", False, str(error), "Correct what the sentence names.")
        return
    except Exception as error:
        yield Line("runs", False, f"{type(error).__name__}: {error}", "A method of yours raised it.")
        return
    with tempfile.TemporaryDirectory() as folder:
        job = bench.job(stage, Path(folder))
        model = _model(bench, job)
        try:
            yield from _images(model, job)
        except Exception as error:
            yield Line(
                "images", False, f"{type(error).__name__}: {error}", "`model(latents)` gives images, row by row."
            )
            return
    again = bench.again()
    bench.lend(again, plan, tuple(stage.inputs))
    again.compute(plan, "prior")
    same = bench.result(stage)[1].outputs == again.result(stage)[1].outputs
    advice = "Draw from `ctx.stream(...)` only, in a loop from streams named after the step."
    yield Line("determinism", same, f"trained twice: {'the same' if same else 'other'} weights, bit for bit", advice)
    yield _seeds(bench, stage)
    yield _access(bench, stage)
    yield from cost_checks(bench, stage)


def _model(bench: Bench, job: Job) -> PriorModel:
    model: PriorModel = bench.registry.build("prior", job.stage.plugin, job.stage.params, job.track).build()
    load_weights(model, bench.result(job.stage)[0] / "model.safetensors")
    return model.eval().requires_grad_(False)


def _images(model: PriorModel, job: Job) -> Iterator[Line]:
    track, count = job.track, 6
    z = torch.randn(count, model.latent_dim, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    classes = torch.arange(count) % track.private.identities

    def draw(rows: slice) -> Any:
        return model(z[rows], *([classes[rows]] if model.generator.conditional else []))

    x = draw(slice(None))
    wanted = (count, track.channels, track.resolution, track.resolution)
    good = isinstance(x, Tensor) and x.shape == wanted and x.dtype == torch.float32
    found = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else str(type(x))
    yield Line("shape", good, found, f"The generator maps (N, latent_dim) to {wanted[1:]} float32 images.")
    if not good:
        return
    low, high = float(x.detach().min()), float(x.detach().max())
    inside = bool(torch.isfinite(x).all()) and low >= -1 and high <= 2
    yield Line("range", inside, f"{low:.3g} to {high:.3g}", "Images are nominally in [0, 1]: end with a sigmoid.")
    differ = not bool((x == x[:1]).all())
    yield Line("latents", differ, f"{'other' if differ else 'the same'} images of other latents", "Images depend on z.")
    (gradient,) = torch.autograd.grad(x.sum(), z, allow_unused=True)
    reached = gradient is not None and bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any())
    passes = "through G to z" if reached else "none that is finite reaches z"
    yield Line("gradient", reached, passes, "White-box attacks descend on z: keep the generator differentiable.")
    with torch.no_grad():
        gap = float((draw(slice(2, 4)) - x[2:4]).abs().max())
    advice = "In eval mode an image must not depend on the other latents of its batch."
    yield Line("batch invariance", gap <= 1e-4, f"an image alone differs by {gap:.2g}", advice)


def _seeds(bench: Bench, stage: Stage) -> Line:
    """Another seed gives other weights, unless the prior says that it draws nothing."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / STATE).mkdir()
        job = bench.job(replace(stage, seed=stage.seed + 1), Path(folder))
        seeded = bench.registry.build("prior", stage.plugin, stage.params, job.track).seeded()
        train(job)
        one, other = (load_file(path / "model.safetensors") for path in (bench.result(stage)[0], Path(folder)))
    same = all(torch.equal(value, other[name]) for name, value in one.items())
    found = f"another seed, {'the same' if same else 'other'} weights; `seeded` says {seeded}"
    advice = "Let `seeded` return False where training draws nothing, and only there: then all seeds share the prior."
    return Line("seeds", same != seeded, found, advice)


def _access(bench: Bench, stage: Stage) -> Line:
    """A public prior asks nobody, a target's does."""
    queries = bench.result(stage)[1].result["queries"]
    asked = sum(n for phases in queries.values() for kinds in phases.values() for n in kinds.values())
    scope = "target" if "target" in stage.inputs else "public"
    advice = 'What asks nothing declares `scope = "public"`, so that all targets share it.'
    return Line("access", (asked > 0) == (scope == "target"), f"scope {scope}; asked about {asked} images", advice)
