"""Losses that attacks share, against closed forms and framework functions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from mibench.primitives.losses import (
    critic_prior,
    cross_entropy,
    k_plus_one_prior,
    log_partition,
    poincare,
    reduce_rows,
)
from mibench.random import Stream


def _logits(rows: int = 9, classes: int = 7, scale: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    stream = Stream(seed)
    return scale * stream.normal(rows, classes), stream.integers(classes, rows)


def test_cross_entropy_keeps_the_rows_apart() -> None:
    logits, labels = _logits()
    losses = cross_entropy(logits, labels)
    assert losses.shape == (9,)
    odds = logits.double().exp()
    expected = [-math.log(float(row[y] / row.sum())) for row, y in zip(odds, labels, strict=True)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)


def test_reduce_rows_divides_by_the_published_batch() -> None:
    losses = torch.tensor([1.0, 2.0, 3.0])
    assert float(reduce_rows(losses, 60)) == pytest.approx(0.1)
    assert float(reduce_rows(losses, 3)) == pytest.approx(float(losses.mean()))


# --- Poincare ----------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(0, 1000))
def test_poincare_ignores_positive_scaling(scale: float, seed: int) -> None:
    logits, labels = _logits(seed=seed)
    assert torch.allclose(poincare(scale * logits, labels), poincare(logits, labels), rtol=1e-3, atol=1e-4)


def test_poincare_notices_shifts_and_sign() -> None:
    logits, labels = _logits()
    assert not torch.allclose(poincare(logits + 1, labels), poincare(logits, labels), rtol=1e-2)
    assert not torch.allclose(poincare(-logits, labels), poincare(logits, labels), rtol=1e-2)


def test_poincare_is_the_distance_in_the_ball() -> None:
    """d(u, v) = 2 artanh |(-u) (+) v| with Moebius addition: another formula for the same number."""
    logits, labels = _logits()
    logits = logits.double()
    u = logits / logits.abs().sum(1, keepdim=True)
    v = (functional.one_hot(labels, 7).double() - 1e-4).clamp(min=0)
    dot, uu, vv = -(u * v).sum(1, keepdim=True), u.square().sum(1, keepdim=True), v.square().sum(1, keepdim=True)
    moebius = ((1 + 2 * dot + vv) * -u + (1 - uu) * v) / (1 + 2 * dot + uu * vv)
    assert torch.allclose(poincare(logits, labels), 2 * torch.atanh(moebius.norm(dim=1)), rtol=1e-6)


def _share(share: float, classes: int = 10) -> Tensor:
    """Logits whose label 0 holds ``share`` of the L1 norm, the rest spread evenly."""
    rest = (1 - share) / (classes - 1)
    return torch.tensor([[share] + [rest] * (classes - 1)], dtype=torch.float64)


def test_poincare_falls_until_nearly_one_hot_then_rises() -> None:
    label = torch.tensor([0])
    values = [float(poincare(_share(s), label)) for s in (0.1, 0.3, 0.6, 0.9, 0.99, 0.999, 0.9999)]
    assert values == sorted(values, reverse=True)
    assert float(poincare(_share(0.999999), label)) > values[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_poincare_and_its_gradient_are_finite_at_one_hot_logits(dtype: torch.dtype) -> None:
    """u lies on the unit sphere there; the guarded denominator keeps the loss a large number."""
    for y in (0, 1):
        logits = torch.tensor([[5.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
        loss = poincare(logits, torch.tensor([y]))
        loss.sum().backward()
        assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()
    assert float(loss.detach()) > 10  # the wrong class, on the boundary of the ball


# --- critics and discriminators ----------------------------------------------------------------------------


def test_critic_prior_likes_high_scores() -> None:
    assert critic_prior(torch.tensor([2.0, -3.0])).tolist() == [-2.0, 3.0]


def test_log_partition_is_the_probability_of_being_real() -> None:
    """With the implicit logit 0 for "fake", P(real) = sigmoid(Z)."""
    logits, _ = _logits()
    with_fake = torch.cat([logits, torch.zeros(9, 1)], 1).softmax(1)
    assert torch.allclose(log_partition(logits).sigmoid(), 1 - with_fake[:, -1], atol=1e-6)


def test_k_plus_one_prior_is_minus_the_log_probability_of_being_real() -> None:
    logits, _ = _logits()
    real = torch.cat([logits, torch.zeros(9, 1)], 1).double().softmax(1)[:, :-1].sum(1)
    prior = k_plus_one_prior(logits)
    assert torch.allclose(prior.double(), -real.log(), rtol=1e-4)
    assert torch.allclose(prior, functional.softplus(-torch.logsumexp(logits, 1)), rtol=1e-5)
    assert (prior > 0).all()
    assert torch.isfinite(k_plus_one_prior(torch.full((1, 7), -500.0))).all()
