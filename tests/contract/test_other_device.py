"""Every method, metric and training loop on a device that nobody has: what forgets to move a tensor fails here."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch
from elsewhere import DEVICE, Elsewhere
from plugins import PLUGINS, Bench, quiet
from safetensors.torch import load_file

from mibench.planning.plan import Plan
from mibench.protocol.methods import Kind
from mibench.protocol.stage_kinds import STAGE_KINDS
from mibench.stages.job import Job
from mibench.store.artifacts import STATE

HOOKED = {"dpsgd": "Opacus takes each image's gradients in hooks of the backward pass, which this device does not see"}
OWN = {"defense": ("target", "utility"), "prior": ("prior",), "attack": ("prepare", "invert")}


def elsewhere(bench: Bench, plan: Plan, kind: str, folder: Path) -> Path:
    """Compute one stage on the other device, from parents that were computed here; its folder."""
    [stage] = [stage for stage in plan.stages.values() if stage.kind == kind]
    for parent, _ in stage.inputs.values():
        bench.compute(plan, parent)
    workdir = folder / kind
    (workdir / STATE).mkdir(parents=True)
    module, function = STAGE_KINDS[kind].compute.split(":")
    run = getattr(import_module(module), function)
    with Elsewhere():
        run(Job(stage, bench.store, bench.registry, workdir, DEVICE, quiet))
    return workdir


@pytest.fixture(autouse=True)
def there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "elsewhere")


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_method_computes_on_another_device(bench: Bench, kind: Kind, name: str, tmp_path: Path) -> None:
    if name in HOOKED:
        pytest.skip(HOOKED[name])
    plan = bench.plan(**{"defense": {"defense": name}, "attack": {"attack": name}, "prior": {"prior_id": name}}[kind])
    has = {stage.kind for stage in plan.stages.values()}
    for part in [part for part in OWN[kind] if part in has]:
        folder = elsewhere(bench, plan, part, tmp_path)
        for file in folder.glob("*.safetensors"):
            assert all(bool(t.isfinite().all()) for t in load_file(file).values() if t.is_floating_point()), file.name


@pytest.mark.parametrize("kind", ["evaluator", "evaluate", "features"])
def test_judges_and_metrics_compute_on_another_device(bench: Bench, kind: str, tmp_path: Path) -> None:
    elsewhere(bench, bench.plan(), kind, tmp_path)
