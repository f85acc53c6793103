"""Pseudo-private tuning and averages over views: properties that hold whatever the networks are."""

from __future__ import annotations

import copy
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mibench.contracts import ImageSet, PriorModel, TrackInfo
from mibench.keys import stream_seed
from mibench.primitives.alignment import AlignParams, averaged, perturbed, transformed
from mibench.primitives.latents import ramps
from mibench.primitives.tuning import DISTANCES, TuningParams, noise_scales, tuned
from mibench.primitives.wgan import critic_step
from mibench.random import RowStreams, Stream
from mibench.registry import Registry


@pytest.mark.parametrize("name", ["ct", "mmd"])
def test_distances_of_sets_do_not_depend_on_the_order_of_rows(name: str) -> None:
    source, found = torch.randn(5, 8), torch.randn(6, 8)
    distance = DISTANCES[name](source, found)
    assert torch.allclose(DISTANCES[name](source.flip(0), found.roll(2, 0)), distance, atol=1e-6)
    same = 30 * torch.eye(6)  # well apart
    assert float(DISTANCES[name](same, same)) == pytest.approx(0, abs=1e-6) and distance > 0.01


def test_schedules_of_the_pivots() -> None:
    rate, scales = ramps(0.01, 100), noise_scales(torch.randn(600, 7), 100)
    assert rate(0) == 0 and all(rate(step) == pytest.approx(0.01) for step in range(5, 76)) and rate(99) < 1e-4
    assert scales[0] == pytest.approx(0.05 * 7**0.5, rel=0.1) and all(scale == 0 for scale in scales[75:])


def test_tuning_brings_the_generator_closer_and_leaves_the_prior_alone() -> None:
    net = nn.Sequential(nn.Linear(6, 12), nn.Sigmoid(), nn.Unflatten(1, (1, 3, 4)))
    prior, w = PriorModel(net, 6), 3 * torch.randn(4, 6)
    before = copy.deepcopy(prior.state_dict())

    def after(steps: int) -> Tensor:
        p = TuningParams(distance="pw", pivot_steps=4, tuning_steps=steps, tuning_lr=0.01)
        G = tuned(prior, w, nn.Flatten(), torch.randn(50, 6, generator=torch.manual_seed(1)), Stream(0), p)
        assert not any(value.requires_grad for value in G.parameters())
        # the pivots lie near the mean of the mapped latents, far from w
        return (G(torch.zeros(1, 6)) - prior(w).mean(0)).square().sum()

    assert after(60) < after(0) / 2
    assert all(torch.equal(value, before[name]) for name, value in prior.state_dict().items())


@pytest.mark.parametrize(("share", "brightness"), [(0.0, 0.2), (1.0, 0.8), (None, 0.5)])
def test_training_that_goes_on_draws_real_images_as_its_share_says(
    share: float | None, brightness: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight dark public images, eight bright ones that were found: what the critic is told is real, on average. The
    generator follows the critic, and everybody's prior stays as it was."""
    cls: Any = Registry().plugin("attack", "ppdg_gmi")
    track = TrackInfo("unit", "faces", 4, 1, 3, (0.5,))
    attack = cls(cls.Params(share=share, tuning_steps=40, tuning_batch=32, tuning_lr=0.01), track)
    net = nn.Sequential(nn.Linear(6, 16), nn.Sigmoid(), nn.Unflatten(1, (1, 4, 4)))
    critic = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.Flatten(0))
    prior = PriorModel(net, 6, critic).eval().requires_grad_(False)
    before, real = copy.deepcopy(prior.state_dict()), []
    usual = critic_step

    def watched(model: PriorModel, optimiser: Any, images: Tensor, *rest: Any) -> Tensor:
        real.append(images)
        return usual(model, optimiser, images, *rest)

    monkeypatch.setattr(sys.modules[cls.__module__], "critic_step", watched)
    public = ImageSet(torch.full((8, 1, 4, 4), 0.2), torch.zeros(8).long(), 3)
    ctx: Any = SimpleNamespace(public=public, stream=lambda name: Stream(stream_seed(name)))
    tuned = attack.tuned(prior, torch.full((8, 1, 4, 4), 0.8), 1, ctx)
    assert float(torch.stack(real).mean()) == pytest.approx(brightness, abs=0.03) and len(real) == 40
    z = torch.randn(64, 6)
    assert float((tuned(z) - prior(z)).mean()) * (brightness - float(prior(z).mean())) > 0 or brightness == 0.5
    assert all(torch.equal(value, before[name]) for name, value in prior.state_dict().items())
    assert not tuned.training and not any(value.requires_grad for value in tuned.parameters())


def streams(rows: int) -> RowStreams:
    return RowStreams([(0, row, 0) for row in range(rows)], "align")


def test_noise_is_a_share_of_each_images_own_range() -> None:
    """Of a linear loss the average is exact: its variance over rows falls like 1 / S."""
    images = torch.rand(400, 1, 4, 4) * torch.linspace(0.5, 4, 400)[:, None, None, None]
    spread = (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))[:, None, None, None]
    noise = (perturbed(images, streams(400), 0.1) - images) / spread
    assert float(noise.std()) == pytest.approx(0.1, rel=0.05) and float(noise.mean()) == pytest.approx(0, abs=0.01)

    def deviation(samples: int) -> float:
        mean = averaged(lambda x: x.sum((1, 2, 3)), lambda x, rng: perturbed(x, rng, 0.1), samples, streams(400))
        return float(((mean(images) - images.sum((1, 2, 3))) / spread[:, 0, 0, 0]).var())

    assert deviation(1) / deviation(16) == pytest.approx(16, rel=0.4)


def test_transformations_are_each_images_own_and_pass_gradients() -> None:
    images = torch.rand(3, 1, 8, 8).requires_grad_(True)
    view = transformed(images, streams(3), AlignParams())
    (gradient,) = torch.autograd.grad(view[1].sum(), images)
    assert view.shape == images.shape and gradient[1].abs().sum() > 0 and not gradient[[0, 2]].any()
    alone = transformed(images[1:2], RowStreams([(0, 1, 0)], "align"), AlignParams())
    torch.testing.assert_close(alone[0], view[1])
