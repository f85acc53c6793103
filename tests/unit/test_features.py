"""Hulls in the plane and the feature space of an identity, against closed forms, scipy, scikit-learn and counting."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull, Delaunay
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from mibench.hulls import area, hull, intersection
from mibench.publish.features import NO_POINTS, NOT_COMPUTED, feature_view
from mibench.stages.features import identity, plane, summary

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def cloud(seed: int, count: int = 12, dims: int = 2) -> Any:
    return np.random.default_rng(seed).normal(size=(count, dims))


def polygon(points: Any) -> Any:
    return points[hull(points)]


# --- hulls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "corners"),
    [
        (np.empty((0, 2)), []),
        (np.array([[3.0, 4.0]]), [0]),
        (np.array([[3.0, 4.0]] * 3), [0]),
        (np.array([[0.0, 0.0], [2.0, 2.0], [1.0, 1.0]]), [0, 1]),
        (np.array([[0.0, 1e6], [1e-3, 1e6]]), [0]),  # apart by rounding only
    ],
    ids=["none", "one", "equal", "line", "tiny"],
)
def test_hulls_without_area(points: Any, corners: list[int]) -> None:
    assert sorted(hull(points)) == corners
    assert area(points[hull(points)]) == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_a_hull_is_scipys_and_goes_counter_clockwise(seed: int) -> None:
    points = cloud(seed) * 10.0**seed
    expected = ConvexHull(points)
    assert sorted(hull(points)) == sorted(expected.vertices.tolist())
    assert area(polygon(points)) == pytest.approx(expected.volume)  # in the plane scipy calls the area volume


@pytest.mark.parametrize(
    ("shift", "shared"),
    [((0.5, 0.0), 0.5), ((0.5, 0.5), 0.25), ((0.0, 0.0), 1.0), ((1.0, 0.0), 0.0), ((3.0, 0.0), 0.0)],
)
def test_squares_share_what_they_share(shift: tuple[float, float], shared: float) -> None:
    assert area(intersection(SQUARE, SQUARE + np.array(shift))) == pytest.approx(shared, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_intersections_are_what_counting_finds(seed: int) -> None:
    """Of many points thrown at one hull, the share that also falls into the other."""
    one, other = cloud(seed), cloud(seed + 1) + 0.7
    first, second = polygon(one), polygon(other)
    shared = area(intersection(first, second))
    assert shared == pytest.approx(area(intersection(second, first)), abs=1e-9)
    rng = np.random.default_rng(seed)
    low, high = first.min(0), first.max(0)
    thrown = rng.uniform(low, high, size=(4000, 2))
    inside = (Delaunay(first).find_simplex(thrown) >= 0) & (Delaunay(second).find_simplex(thrown) >= 0)
    box = float(np.prod(high - low))
    assert abs(shared - inside.mean() * box) <= 5 * box * math.sqrt(0.25 / 4000)


def test_a_polygon_shares_nothing_with_a_segment() -> None:
    assert len(intersection(SQUARE, SQUARE[:2])) == 0 and len(intersection(SQUARE[:2], SQUARE)) == 0


# --- the plane and the scalars -------------------------------------------------------------------------------------


def test_the_plane_is_the_first_two_principal_components() -> None:
    sets = [cloud(0, 8, 5), cloud(1, 20, 5), cloud(2, 4, 5)]
    points, share = plane(sets)
    pca = PCA(2).fit(np.concatenate(sets))
    expected = pca.transform(np.concatenate(sets))
    np.testing.assert_allclose(np.abs(np.concatenate(points)), np.abs(expected), atol=1e-9)
    assert share == pytest.approx(pca.explained_variance_ratio_.sum())
    assert [len(part) for part in points] == [8, 20, 4]


def test_scalars_of_sets_that_are_known() -> None:
    """A private square of side 2, erased images on one of side 4, reconstructions on one of side 2, shifted by 1."""
    private, erased = 2 * SQUARE, 4 * SQUARE - 1
    found = identity(private, erased, private + np.array([1.0, 0.0]))
    values = found["values"]
    assert values["overlap_private"] == pytest.approx(0.5) and values["overlap_erased"] == pytest.approx(1.0)
    assert values["distance_within"] == pytest.approx(2.0) and values["distance_private"] == pytest.approx(1.0)
    assert found["counts"] == {"private": 4, "erased": 4, "reconstructed": 4} and found["variance"] == pytest.approx(1)
    assert found["reasons"] == {}


def test_distances_are_those_of_scikit_learn_in_the_whole_space() -> None:
    private, erased, made = cloud(0, 6, 9), cloud(1, 30, 9), cloud(2, 5, 9)
    values = identity(private, erased, made)["values"]
    for name, others in (("private", private), ("erased", erased)):
        expected = NearestNeighbors(n_neighbors=1).fit(others).kneighbors(made)[0].mean()
        assert values[f"distance_{name}"] == pytest.approx(expected)


def test_without_area_an_overlap_is_null_with_its_reason() -> None:
    found = identity(cloud(0, 5, 3), cloud(1, 9, 3), cloud(2, 1, 3))
    assert found["values"]["overlap_private"] is None and found["values"]["distance_private"] is not None
    assert found["reasons"] == {
        "overlap_private": "the reconstructions' hull has no area",
        "overlap_erased": "the reconstructions' hull has no area",
    }
    found = identity(cloud(0, 1, 3), cloud(1, 9, 3), cloud(2, 5, 3))
    assert found["reasons"]["overlap_private"] == "the hull of the private images has no area"
    assert found["reasons"]["distance_within"] == "the identity has one private image"


def test_means_are_over_the_identities_that_have_a_value() -> None:
    table = [identity(cloud(i, 5, 3), cloud(i + 10, 9, 3), cloud(i + 20, n, 3)) for i, n in enumerate((4, 4, 1))]
    means = summary(table)
    own = [row["values"]["overlap_private"] for row in table[:2]]
    assert means["identities"] == 3 and means["values"]["overlap_private"]["n"] == 2
    assert means["values"]["overlap_private"]["value"] == pytest.approx(np.mean(own))
    assert summary(table[2:])["values"]["overlap_private"]["value"] is None


def test_hulls_are_those_of_the_written_points() -> None:
    found = identity(cloud(0, 8, 4), cloud(1, 200, 4), cloud(2, 8, 4))
    assert len(found["points"]["erased"]) < 200
    for name in ("private", "erased", "reconstructed"):
        points = np.array(found["points"][name])
        assert sorted(found["hulls"][name]) == sorted(ConvexHull(points).vertices.tolist())


# --- the view ------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_said() -> None:
    row = {"label": 0} | identity(cloud(0, 5, 3), cloud(1, 9, 3), cloud(2, 4, 3))
    facts: dict[str, Any] = {"draws": 10, "area": [0.1, 0.4]}
    assert feature_view(None, None)["missing"] == NOT_COMPUTED
    means = facts | summary([row])
    assert feature_view(means, None)["missing"] == NO_POINTS
    view = feature_view(means, facts | {"identities": [row]})
    assert view["missing"] is None and len(view["panels"]) == len(view["rows"]) == 1


def test_panels_keep_both_axes_to_one_scale_and_stay_inside() -> None:
    row = {"label": 0} | identity(2 * SQUARE, 4 * SQUARE - 1, 2 * SQUARE + 0.5)
    (panel,) = feature_view({"draws": 1, "area": [0.1, 0.4]} | summary([row]), {"identities": [row]})["panels"]
    outline = next(s["hull"] for s in panel["sets"] if s["name"] == "erased")
    corners = np.array([[float(x) for x in pair.split(",")] for pair in outline[1:-1].split("L")])
    sides = np.linalg.norm(corners - np.roll(corners, -1, axis=0), axis=1)
    np.testing.assert_allclose(sides, sides[0], atol=0.3)
    assert corners.min() >= 0 and corners[:, 0].max() <= 240 and corners[:, 1].max() <= 180
