"""Precision, recall, density, coverage and the Frechet distance: reference numbers and closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mibench.metrics.distributions import frechet_distance, prdc

PARITY = Path(__file__).parents[1] / "parity" / "data" / "math.npz"


def _case(name: str) -> dict[str, torch.Tensor]:
    arrays = np.load(PARITY)
    return {key.removeprefix(f"{name}/"): torch.as_tensor(arrays[key]) for key in arrays.files if key.startswith(name)}


def test_prdc_reproduces_the_reference() -> None:
    case = _case("prdc")
    found = prdc(case["in/real"], case["in/fake"], nearest_k=3)
    for name, value in found.items():
        assert value == pytest.approx(float(case[f"out/{name}"]), rel=1e-4)


def test_frechet_distance_reproduces_the_reference() -> None:
    case = _case("frechet_distance")
    found = frechet_distance(case["in/real"], case["in/fake"])
    assert found == pytest.approx(float(case["out/distance"]), rel=1e-4)


@pytest.mark.parametrize(("nearest_k", "expected"), [(1, (0.75, 1.0, 1.0, 0.6)), (2, (0.75, 1.0, 0.625, 0.8))])
def test_prdc_on_a_line(nearest_k: int, expected: tuple[float, ...]) -> None:
    """Conformance check 8.1: the standard definition, not the one that tests the nearest ball only."""
    real = torch.tensor([0.0, 1, 2, 3, 10])[:, None]
    fake = torch.tensor([0.5, 4.5, 9, 20])[:, None]
    found = prdc(real, fake, nearest_k)
    assert tuple(found[name] for name in ("precision", "recall", "density", "coverage")) == pytest.approx(expected)


def _brute_force(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    def radius(sample: np.ndarray, samples: np.ndarray) -> float:
        return sorted(np.linalg.norm(sample - other) for other in samples)[k]

    inside_real = [[np.linalg.norm(r - f) < radius(r, real) for f in fake] for r in real]
    inside_fake = [[np.linalg.norm(r - f) < radius(f, fake) for f in fake] for r in real]
    return {
        "precision": np.mean([any(row[j] for row in inside_real) for j in range(len(fake))]),
        "recall": np.mean([any(row) for row in inside_fake]),
        "density": np.sum(inside_real) / (k * len(fake)),
        "coverage": np.mean([any(row) for row in inside_real]),
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(6, 12), st.integers(6, 12), st.integers(1, 4), st.booleans())
def test_prdc_is_what_it_says(seed: int, n: int, m: int, k: int, grid: bool) -> None:
    rng = np.random.default_rng(seed)
    real, fake = rng.normal(size=(n, 3)), rng.normal(0.5, size=(m, 3))
    if grid:  # ties and duplicates
        real, fake = real.round(), fake.round()
    assert prdc(torch.as_tensor(real), torch.as_tensor(fake), k) == pytest.approx(_brute_force(real, fake, k))


def test_prdc_of_a_set_with_itself_is_perfect() -> None:
    real = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    found = prdc(real, real, 5)
    assert found["precision"] == found["recall"] == found["coverage"] == 1
    assert prdc(real, real + 1e6, 5) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (4, 3)])
def test_prdc_needs_more_samples_than_neighbours(shape: tuple[int, int]) -> None:
    for real, fake in [(torch.zeros(20, 3), torch.zeros(shape)), (torch.zeros(shape), torch.zeros(20, 3))]:
        with pytest.raises(ValueError, match="more than 4 samples"):
            prdc(real, fake, 3)


def test_frechet_distance_of_shifted_and_scaled_sets() -> None:
    """Closed form: a shift by v costs |v|^2, a scaling by c costs (c - 1)^2 times the total variance."""
    real = torch.randn(200, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shift = torch.arange(6.0)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(real, real + shift) == pytest.approx(55)
    centred = real - real.mean(0)
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * float(real.var(0).sum()))


@pytest.mark.parametrize(("n", "m", "features"), [(300, 200, 10), (300, 40, 64), (50, 80, 10), (3, 5, 2)])
def test_frechet_distance_agrees_with_the_matrix_square_root(n: int, m: int, features: int) -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(features, features))
    real, fake = rng.normal(size=(n, features)), rng.normal(0.3, size=(m, features)) @ mixing
    a, b = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    root = scipy.linalg.sqrtm(a)
    eigenvalues = np.linalg.eigvalsh(root @ b @ root)
    expected = ((real.mean(0) - fake.mean(0)) ** 2).sum() + np.trace(a + b)
    expected -= 2 * np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    found = frechet_distance(torch.as_tensor(real), torch.as_tensor(fake))
    assert found == pytest.approx(expected, rel=1e-5)


def test_frechet_distance_with_fewer_samples_than_features() -> None:
    """Two sets of two points in 100 dimensions have covariances of rank one: a closed form."""
    u, v = torch.zeros(100), torch.zeros(100)
    u[0], v[0], v[1] = 3.0, 3.0, 4.0
    found = frechet_distance(torch.stack([u, -u]), torch.stack([v, -v]))
    assert found == pytest.approx(18 + 50 - 2 * 2 * 9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 20), st.integers(2, 20), st.integers(1, 12))
def test_frechet_distance_is_symmetric_and_not_negative(seed: int, n: int, m: int, features: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    a, b = torch.randn(n, features, generator=rng), torch.randn(m, features, generator=rng)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9, abs=1e-9)
    assert frechet_distance(a, b) >= 0


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="two samples"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"\(4,\)"):
        frechet_distance(torch.zeros(4), torch.zeros(5, 3))
