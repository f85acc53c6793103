"""Every registered defense against ``mibench.contracts``, on the track ``tiny``.

Parametrised from registry.yaml alone: a new file and a registry entry are covered without touching this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from plugins import DEFENSES, Bench, interrupted, same_weights
from safetensors.torch import load_file
from torch import Tensor

from mibench.contracts import Batch, Progress, RowStreams, Stream, Visit
from mibench.protocol.methods import Selection
from mibench.protocol.tracks import Track
from mibench.stages.job import Job

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")


def track_of(bench: Bench, name: str) -> Track:
    """Where the defense runs."""
    return bench.registry.track(bench.plan(name).runs[0].cell.track.id)


def defense_of(bench: Bench, name: str) -> Any:
    track = track_of(bench, name)
    facts = bench.registry.facts(Selection("defense", name), track)
    return bench.registry.build("defense", name, facts.params, track)


@pytest.mark.parametrize("name", DEFENSES)
def test_defense_trains_a_target(bench: Bench, name: str, tmp_path: Path) -> None:
    plan = bench.plan(name)
    stages = bench.compute(plan, "utility")
    folder, manifest = bench.result(stages["target"])
    assert 0 <= manifest.result["train_accuracy"] <= 1
    answers = load_file(bench.result(stages["utility"])[0] / "logits.safetensors")
    private = bench.track.private
    assert answers["logits"].shape == (private.identities * private.test_per_identity, private.identities)
    assert bool(torch.isfinite(answers["logits"]).all())
    assert answers["labels"].bincount().tolist() == [private.test_per_identity] * private.identities
    job = bench.job(stages["utility"], tmp_path)
    untrained = defense_of(bench, name).build(job.network(track_of(bench, name).target.arch))
    assert not same_weights(untrained, load_file(folder / "model.safetensors"))


@pytest.mark.parametrize("name", DEFENSES)
def test_defense_answers_image_by_image(bench: Bench, name: str, tmp_path: Path) -> None:
    """To a tighter bound than ``check`` has."""
    stages = bench.compute(bench.plan(name), "utility")  # with what serves the target
    job = bench.job(bench.plan(name).stages[stages["utility"].key], tmp_path)
    net, images = job.target(), job.private_train().images[:]
    names = [(0, index, 0) for index in range(len(images))]
    with torch.no_grad():
        together = net(images, RowStreams(names, "noise")).logits
        alone = net(images[3:5], RowStreams(names[3:5], "noise")).logits
    torch.testing.assert_close(together[3:5], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hook", ["augment", "adapt"])
@pytest.mark.parametrize("name", DEFENSES)
def test_defense_draws_for_each_image(bench: Bench, name: str, hook: str) -> None:
    function = getattr(defense_of(bench, name), hook)
    images = torch.rand(6, bench.track.channels, 32, 32, generator=torch.Generator().manual_seed(1))

    def changed(given: Tensor, seed: int) -> Any:
        return function(given, Visit(Stream(seed), seed, torch.arange(6)) if hook == "augment" else Stream(seed))

    out = changed(images, 5)
    if out is None or torch.equal(out, images):
        pytest.skip(f"its {hook} changes nothing")
    assert not torch.equal(out, changed(images, 6)), "another stream must give other images"
    own = changed(images[:1].expand(6, -1, -1, -1).contiguous(), 5)
    assert not torch.equal(own, own[:1].expand_as(own)), "every image needs a draw of its own"


@pytest.mark.parametrize("name", DEFENSES)
def test_defense_sampler_draws_from_its_stream(bench: Bench, name: str) -> None:
    labels = torch.arange(bench.track.private.identities).repeat_interleave(bench.track.private.train_per_identity)
    sampler, batch = defense_of(bench, name).sampler, bench.track.target.batch
    if sampler(labels, batch, Stream(3)) is None:
        pytest.skip("it has no sampler")
    batches, repeated, other = (list(sampler(labels, batch, Stream(seed))) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(batches, repeated, strict=True))
    assert len(other) != len(batches) or not all(torch.equal(a, b) for a, b in zip(batches, other, strict=True))


@pytest.mark.parametrize("name", DEFENSES)
def test_defense_loss_trains(bench: Bench, name: str) -> None:
    defense = defense_of(bench, name)
    torch.manual_seed(0)
    net = defense.build(Job.network(bench_job(bench), track_of(bench, name).target.arch)).train()
    images = torch.rand(8, bench.track.channels, 32, 32)
    batch = Batch(images, torch.tensor([0, 0, 1, 1, 2, 2, 3, 4]))
    for step in (0, 9, 19):
        loss = defense.loss(batch, net(images, Stream(1)), Progress(step, 20, step, 20))
        net.zero_grad()
        loss.backward()
        gradients = [p.grad for p in net.parameters() if p.requires_grad and p.grad is not None]
        assert gradients and any(float(g.abs().max()) > 0 for g in gradients)


def bench_job(bench: Bench) -> Job:
    stage = next(iter(bench.plan().stages.values()))
    return bench.job(stage, bench.home)


@pytest.mark.parametrize("name", DEFENSES)
def test_defense_same_seed_same_numbers_even_when_interrupted(
    bench: Bench, again: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = bench.plan(name)
    first = bench.compute(plan, "target")["target"]
    second = interrupted(bench, again, plan, "target", monkeypatch)
    assert bench.hashes(first) == again.hashes(second)
    assert bench.result(first)[1].result == again.result(second)[1].result


@pytest.mark.parametrize("name", DEFENSES)
def test_defense_another_seed_other_numbers(bench: Bench, name: str) -> None:
    one, other = (bench.compute(bench.plan(name, seed=seed), "target")["target"] for seed in (0, 1))
    assert bench.hashes(one) != bench.hashes(other)
