"""Every registered prior against ``mibench.contracts``, on the track ``tiny``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from plugins import PRIORS, Bench, interrupted, same_weights
from safetensors.torch import load_file

from mibench.contracts import PriorModel
from mibench.planning.plan import Stage
from mibench.stages import prior
from mibench.stages.job import load_weights
from mibench.store.artifacts import STATE

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")


def trained_prior(bench: Bench, name: str, seed: int = 0) -> tuple[Stage, Any, PriorModel]:
    plan = bench.plan(prior_id=name, seed=seed)
    stage = bench.compute(plan, "prior")["prior"]
    plugin = bench.registry.build("prior", name, stage.params, bench.track)
    model = plugin.build()
    load_weights(model, bench.result(stage)[0] / "model.safetensors")
    return stage, plugin, model.eval()


@pytest.mark.parametrize("name", PRIORS)
def test_prior_makes_images_row_by_row(bench: Bench, name: str) -> None:
    _, _, model = trained_prior(bench, name)
    latents = torch.randn(6, model.latent_dim, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    classes = [torch.tensor([0, 1, 2, 3, 4, 0])] if model.generator.conditional else []
    images = model(latents, *classes)
    track = bench.track
    (gradient,) = torch.autograd.grad(images.sum(), latents)
    images = images.detach()
    assert images.shape == (6, track.channels, track.resolution, track.resolution) and images.dtype == torch.float32
    assert bool(torch.isfinite(images).all()) and float(images.abs().max()) <= 2, "images are nominally in [0, 1]"
    assert not torch.equal(images[0], images[1])
    alone = model(latents[2:4], *(labels[2:4] for labels in classes)).detach()
    torch.testing.assert_close(images[2:4], alone, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=f"N, {model.latent_dim}"):
        model(latents[:, :-1], *classes)
    assert bool(torch.isfinite(gradient).all()) and float(gradient.abs().max()) > 0
    assert all(bool(torch.isfinite(t).all()) for t in model.state_dict().values())


@pytest.mark.parametrize("name", PRIORS)
def test_prior_asks_the_target_only_if_it_may(bench: Bench, name: str) -> None:
    stage, plugin, _ = trained_prior(bench, name)
    queries = bench.result(stage)[1].result["queries"]
    asked = sum(count for phases in queries.values() for kinds in phases.values() for count in kinds.values())
    assert ("target" in stage.inputs) == (plugin.scope == "target")
    assert (asked > 0) == (plugin.scope == "target")


@pytest.mark.parametrize("name", PRIORS)
def test_prior_same_seed_same_numbers_even_when_interrupted(
    bench: Bench, again: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _, _ = trained_prior(bench, name)
    second = interrupted(bench, again, bench.plan(prior_id=name), "prior", monkeypatch)
    assert bench.hashes(first) == again.hashes(second)
    assert bench.result(first)[1].result == again.result(second)[1].result


@pytest.mark.parametrize("name", PRIORS)
def test_prior_trains_from_its_seed(bench: Bench, name: str, tmp_path: Path) -> None:
    stage, plugin, model = trained_prior(bench, name)
    job = bench.job(stage, tmp_path)
    job.seed_weights()
    if same_weights(plugin.build(), model.state_dict()):
        job.seed_weights("other")
        assert same_weights(plugin.build(), model.state_dict()), "the prior was not trained"
        assert not plugin.seeded()
        pytest.skip("its weights are published ones, whatever the seed")
    other = replace(stage, seed=stage.seed + 1)
    folder = tmp_path / "work"
    (folder / STATE).mkdir(parents=True)
    prior.run(bench.job(other, folder))
    trained = load_file(folder / "model.safetensors")
    assert plugin.seeded() and not same_weights(model, trained)
