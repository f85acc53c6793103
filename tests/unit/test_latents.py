"""Latent optimisers: GMI's step against torch's SGD, and rows that do not influence each other (conformance 1, 2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mibench.contracts import Rows
from mibench.errors import StageFailed
from mibench.primitives.latents import descend_adam, descend_nesterov, fit_gaussians
from mibench.primitives.recovery import recover_gaussians
from mibench.random import RowStreams, Stream

DIM = 6
MATRIX = Stream(1).normal(DIM, DIM)
CENTRES = 2 * Stream(2).normal(5, DIM)
SCALES = torch.tensor([1.0, 20.0, 300.0, 0.1, 5.0])
START = 0.5 * Stream(3).normal(5, DIM)


def objective(rows: list[int]) -> Callable[[Tensor], Tensor]:
    """A bowl per row, each with its own centre and steepness."""

    def loss(z: Tensor) -> Tensor:
        return SCALES[rows] * ((z - CENTRES[rows]) @ MATRIX).square().sum(1)

    return loss


EVERYONE = [0, 1, 2, 3, 4]


def _sgd(steps: int, lr: float, momentum: float, bound: float, batch: int) -> tuple[Tensor, list[Tensor]]:
    """The same with torch's optimiser; also its velocity after each step."""
    z = torch.nn.Parameter(START.clone())
    optimiser = torch.optim.SGD([z], lr=lr, momentum=momentum, nesterov=True)
    velocities = []
    for _ in range(steps):
        optimiser.zero_grad()
        (objective(EVERYONE)(z).sum() / batch).backward()
        optimiser.step()
        velocities.append(optimiser.state[z]["momentum_buffer"].clone())
        with torch.no_grad():
            z.clamp_(-bound, bound)
    return z.detach(), velocities


@pytest.mark.parametrize("steps", [1, 2, 7, 60])
@pytest.mark.parametrize("bound", [1.0, 1e9], ids=["clamped", "free"])
def test_gmi_step_is_nesterov_sgd_then_a_clamp(steps: int, bound: float) -> None:
    """The optimiser's buffer never sees the clamp, so agreement over many steps shows that ours does not either."""
    ours = descend_nesterov(START, objective(EVERYONE), range(steps), 1e-4, 0.9, bound, reference_batch=3)
    expected, _ = _sgd(steps, 1e-4, 0.9, bound, batch=3)
    assert torch.allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_the_clamp_is_reached_and_never_passed() -> None:
    seen: list[Tensor] = []

    def watched(z: Tensor) -> Tensor:
        seen.append(z.detach().clone())
        return objective(EVERYONE)(z)

    z = descend_nesterov(START, watched, range(50), 1e-3, 0.9, 1.0, reference_batch=1)
    later = torch.stack([*seen[1:], z])
    assert float(later.abs().max()) == 1.0
    free = descend_nesterov(START, objective(EVERYONE), range(50), 1e-4, 0.9, 1e9, reference_batch=1)
    assert float(free.abs().max()) > 1.0, "the bowls' centres lie inside: this test would show nothing"


def test_the_start_may_lie_outside_the_bound_and_is_left_alone() -> None:
    start = torch.full((1, DIM), 3.0)
    assert torch.equal(descend_nesterov(start, lambda z: z.sum(1), [], 0.1, 0.9, 1.0, 1), start)
    descend_nesterov(start, lambda z: z.sum(1), range(3), 0.1, 0.9, 1.0, 1)
    assert torch.equal(start, torch.full((1, DIM), 3.0))


def test_the_velocity_survives_the_clamp() -> None:
    """Pushed against the wall for three steps, then pulled back: the velocity gathered at the wall still counts.
    By hand, lr 1 and momentum 0.5: v = 1, 1.5, 1.75 while z = 1; then v = -0.125 and z = 1 - 0.875 - 0.1875."""
    pull = iter([-1.0, -1.0, -1.0, 1.0])
    z = descend_nesterov(torch.zeros(1, 1), lambda z: next(pull) * z[:, 0], range(4), 1.0, 0.5, 1.0, 1)
    assert float(z) == pytest.approx(-0.0625)


# --- rows alone and together -------------------------------------------------------------------------------


def _nesterov(rows: list[int]) -> tuple[Tensor, ...]:
    return (descend_nesterov(START[rows], objective(rows), range(40), 1e-4, 0.9, 1.0, reference_batch=60),)


def _adam(rows: list[int]) -> tuple[Tensor, ...]:
    return (descend_adam(START[rows], objective(rows), range(40), 0.02),)


def _gaussians(rows: list[int]) -> tuple[Tensor, ...]:
    noise = RowStreams([(0, row, 0) for row in rows], "noise")
    n = len(rows)
    return fit_gaussians(n, DIM, objective(rows), lambda: noise.normal(n, DIM), range(40), 0.02, reference_batch=60)


@pytest.mark.parametrize("method", [_nesterov, _adam, _gaussians])
@pytest.mark.parametrize("rows", [[0], [3], [4, 1]], ids=str)
def test_rows_alone_are_rows_together(method: Callable[[list[int]], tuple[Tensor, ...]], rows: list[int]) -> None:
    """Conformance 1: no mean over the rows that happen to be computed together enters a step."""
    for together, apart in zip(method(EVERYONE), method(rows), strict=True):
        assert torch.allclose(apart, together[rows], rtol=1e-4, atol=1e-5)


def test_the_reference_batch_sets_the_step_of_momentum_sgd() -> None:
    """The published batch divides the loss, so a batch k times as large is a learning rate k times as small."""
    a = descend_nesterov(START, objective(EVERYONE), range(5), 6e-4, 0.9, 1.0, reference_batch=60)
    b = descend_nesterov(START, objective(EVERYONE), range(5), 1e-5, 0.9, 1.0, reference_batch=1)
    assert torch.allclose(a, b, atol=1e-6)
    assert not torch.allclose(a, START, atol=1e-4)


# --- Adam and Gaussians ------------------------------------------------------------------------------------


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.1, 0.1)], ids=str)
def test_adam_finds_each_centre(betas: tuple[float, float]) -> None:
    z = descend_adam(START, lambda z: (z - CENTRES).square().sum(1), range(800), 0.02, betas)
    assert torch.allclose(z, CENTRES, atol=0.05)


def test_adam_by_hand() -> None:
    """Two steps on a line of slope 3: bias correction makes each a full learning rate."""
    z = descend_adam(torch.zeros(1, 2), lambda z: 3 * z.sum(1), range(2), 0.1, (0.1, 0.1))
    assert torch.allclose(z, torch.full((1, 2), -0.2), atol=1e-6)


def test_gaussians_start_at_zero_and_one() -> None:
    mu, log_variance = fit_gaussians(2, 3, lambda z: z.sum(1), lambda: torch.zeros(2, 3), [], 0.02, 1)
    assert torch.equal(mu, torch.zeros(2, 3)) and torch.equal(log_variance, torch.ones(2, 3))


def test_gaussians_start_from_the_variance_asked_for() -> None:
    """A whole recovery without a step, with the latents as images: its draws are N(0, 1) for a log-variance of 0 and
    e^(1/2) times as far away for 1; initial images and images are the same draws."""

    def draws(*log_variance: float) -> tuple[Tensor, Tensor]:
        rows = Rows([0, 1], 1, 0, torch.device("cpu"))
        fit: Any = (lambda z: z, 50, lambda z: z.sum(1), range(0), 0.02, 60, 40)
        found = list(recover_gaussians(rows, *fit, *log_variance))
        return torch.stack([item.images for item in found]), torch.stack([item.initial for item in found])

    (narrow, narrow_start), (usual, usual_start) = draws(0.0), draws()
    assert torch.equal(narrow, narrow_start) and torch.allclose(usual, usual_start)
    assert float(narrow.std()) == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(usual, math.exp(0.5) * narrow)


def test_gaussians_draw_z_with_the_standard_deviation() -> None:
    """z = mu + exp(s / 2) eps: at the start exp(1/2) eps."""
    drawn: list[Tensor] = []

    def watched(z: Tensor) -> Tensor:
        drawn.append(z.detach().clone())
        return z.sum(1)

    fit_gaussians(2, 3, watched, lambda: torch.full((2, 3), 2.0), range(1), 0.02, 1)
    assert torch.allclose(drawn[0], torch.full((2, 3), 2 * 1.6487213))


def test_gaussians_find_mean_and_spread() -> None:
    """E of -log N(z; c, 0.3^2) plus the entropy is least at the Gaussian itself; here the entropy is left out, so
    the spread shrinks towards the point c."""
    noise = RowStreams([(0, row, 0) for row in range(5)], "noise")
    mu, log_variance = fit_gaussians(
        5,
        DIM,
        lambda z: ((z - CENTRES) / 0.3).square().sum(1) / 2,
        lambda: noise.normal(5, DIM),
        range(1500),
        0.02,
        1,
    )
    assert torch.allclose(mu, CENTRES, atol=0.1)
    assert float(log_variance.max()) < -2.5


# --- numbers that are not finite, projections, schedules -------------------------------------------------------------


METHODS: dict[str, Callable[[Tensor, Callable[[Tensor], Tensor]], object]] = {
    "nesterov": lambda z, f: descend_nesterov(z, f, range(5), 0.1, 0.9, 1.0, 1),
    "adam": lambda z, f: descend_adam(z, f, range(5), 0.1),
    "gaussians": lambda z, f: fit_gaussians(len(z), DIM, f, lambda: z, range(5), 0.1, 1),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_loss_that_is_not_finite_names_its_row_and_step(method: Callable[..., object]) -> None:
    calls = []

    def loss(z: Tensor) -> Tensor:
        calls.append(1)
        bad = torch.tensor([0.0, 0.0, float("inf") if len(calls) == 3 else 0.0, 0.0, 0.0])
        return z.square().sum(1) + bad

    with pytest.raises(StageFailed, match="row 2 became inf at step 2"):
        method(START, loss)


@pytest.mark.parametrize("method", [METHODS["nesterov"], METHODS["adam"]], ids=["nesterov", "adam"])
def test_latents_that_are_not_finite_are_refused(method: Callable[..., object]) -> None:
    with pytest.raises(StageFailed, match="latents contain"):
        method(START.clone().index_fill_(0, torch.tensor([1]), float("nan")), lambda z: z.sum(1))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_reduced_loss_is_refused(method: Callable[..., object]) -> None:
    with pytest.raises(StageFailed, match="one loss per row"):
        method(START, lambda z: z.square().sum())


def test_adam_projects_after_each_step_and_shows_losses_and_latents() -> None:
    """Against torch's Adam with the projection written out; the rate of each step is its own."""
    rates = [0.5, 0.0, 0.25]
    seen: list[tuple[Tensor, Tensor]] = []
    ours = descend_adam(
        START,
        objective(EVERYONE),
        range(3),
        rates.__getitem__,
        project=lambda z: z.clamp(-0.5, 0.5),
        watch=lambda losses, z: seen.append((losses, z.clone())),
    )
    z = torch.nn.Parameter(START.clone())
    optimiser = torch.optim.Adam([z])
    for step, rate in enumerate(rates):
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        losses = objective(EVERYONE)(z)
        losses.sum().backward()
        optimiser.step()
        with torch.no_grad():
            z.clamp_(-0.5, 0.5)
        assert torch.allclose(seen[step][0], losses.detach(), rtol=1e-5)
        assert torch.allclose(seen[step][1], z, atol=1e-6)
    assert torch.allclose(ours, z, atol=1e-6) and float(ours.abs().max()) == 0.5
