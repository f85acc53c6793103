"""Intervals, compared with scipy and with what must hold for any numbers."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from mibench.stats import bootstrap_interval

RATES = st.lists(st.floats(0, 1), min_size=2, max_size=40)


def _bounds(values: list[float], **options: float) -> tuple[float, float]:
    low, high = bootstrap_interval(values, **options)  # type: ignore[arg-type]
    assert low is not None and high is not None
    return low, high


@pytest.mark.parametrize("n", [3, 8, 40, 300])
@pytest.mark.parametrize("kind", ["rates", "binary", "skewed"])
def test_bootstrap_agrees_with_scipy(n: int, kind: str) -> None:
    rng = np.random.default_rng(n)
    values = {
        "rates": rng.integers(0, 6, n) / 5,
        "binary": np.concatenate([[0.0, 1.0], rng.random(n - 2) < 0.8]),
        "skewed": rng.exponential(size=n) ** 2,
    }[kind].astype(float)
    reference = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    low, high = _bounds(list(values), replicates=20_000)
    scatter = 0.1 * (reference.high - reference.low) + 1e-12
    if n == 3 or kind == "binary":  # quantiles of a few discrete values jump
        scatter = 1.01 * np.ptp(values) / n
    assert low == pytest.approx(reference.low, abs=scatter)
    assert high == pytest.approx(reference.high, abs=scatter)


def test_bootstrap_of_all_resamples() -> None:
    """Against the exact distribution of the mean of every one of the 5^5 resamples."""
    values = [0.0, 0.1, 0.35, 0.6, 1.0]
    exact = np.array([np.mean(draw) for draw in itertools.product(values, repeat=5)])
    mean = np.mean(values)
    below = (np.mean(exact < mean - 1e-9) + np.mean(exact < mean + 1e-9)) / 2
    bias = scipy.stats.norm.ppf(below)
    centred = np.array(values) - mean
    skew = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
    z = bias + scipy.stats.norm.ppf([0.025, 0.975])
    expected = np.quantile(exact, scipy.stats.norm.cdf(bias + z / (1 - skew * z)))
    assert _bounds(values, replicates=200_000) == pytest.approx(tuple(expected), abs=0.011)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for seed in range(300):
        low, high = _bounds(list(rng.beta(2, 5, 40)), seed=seed, replicates=1000)
        covered.append(low <= 2 / 7 <= high)
    assert 0.90 <= np.mean(covered) <= 0.98


@settings(max_examples=60, deadline=None)
@given(RATES)
def test_bootstrap_stays_between_the_extremes(values: list[float]) -> None:
    low, high = _bounds(values, replicates=500)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12


@settings(max_examples=40, deadline=None)
@given(RATES, st.randoms(use_true_random=False))
def test_bootstrap_ignores_order_and_repeats_itself(values: list[float], rng: object) -> None:
    shuffled = list(values)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert bootstrap_interval(values, replicates=300) == bootstrap_interval(shuffled, replicates=300)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=3, max_size=20), st.sampled_from([2.0, 0.25, 8.0]))
def test_bootstrap_scales_with_the_values(values: list[int], factor: float) -> None:
    plain = _bounds([float(value) for value in values], replicates=300)
    scaled = _bounds([value * factor for value in values], replicates=300)
    assert scaled == pytest.approx((plain[0] * factor, plain[1] * factor))


@given(st.floats(-1e300, 1e300), st.integers(2, 20))
def test_equal_values_have_no_width(value: float, n: int) -> None:
    assert bootstrap_interval([value] * n) == (value, value)


def test_higher_level_is_wider() -> None:
    values = list(np.random.default_rng(0).random(30))
    narrow, wide = _bounds(values, level=0.8), _bounds(values, level=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize("values", [[], [0.5]])
def test_too_few_values_have_no_interval(values: list[float]) -> None:
    assert bootstrap_interval(values) == (None, None)


def test_bad_input_is_refused() -> None:
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite"):
            bootstrap_interval([0.5, bad])
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval([0.5, 0.6], level=95)


def test_import_needs_neither_torch_nor_scipy() -> None:
    code = "import sys, mibench.stats; assert not {'torch', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
