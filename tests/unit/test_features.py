"""Hulls and overlaps against closed forms, brute force and other libraries; the plane; the page's view of them."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from scipy.optimize import linprog
from scipy.spatial import ConvexHull, HalfspaceIntersection
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA

from mibench.publish.features import HEIGHT, SHOWN, WIDTH, Space, feature_view
from mibench.records import RunRecord
from mibench.resources import resource_root
from mibench.stages.features import AREA, DRAWS, KEPT, SETS, VALUES, identity, nearest, plane, summary
from mibench.stages.hulls import area, hull, intersection
from mibench.stats import bootstrap_interval
from tests.factories import make_run

SQUARE = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])


def _random(seed: int, n: int = 9, centre: float = 0.0, size: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(centre, size, (n, 2))


def _polygon(points: np.ndarray) -> np.ndarray:
    return points[hull(points)]


# --- hulls ---------------------------------------------------------------------------------------------------------


def test_a_hull_goes_counter_clockwise_round_its_points() -> None:
    for seed in range(30):
        points = _random(seed, 12)
        corners = hull(points)
        truth = ConvexHull(points)
        assert set(corners) == set(truth.vertices.tolist())
        assert area(points[corners]) == pytest.approx(truth.volume)
        for a, b in itertools.pairwise([*corners, corners[0]]):
            (x, y), (dx, dy) = points[a], points[b] - points[a]
            assert (dx * (points[:, 1] - y) - dy * (points[:, 0] - x) > -1e-12).all(), "every point lies to the left"


@pytest.mark.parametrize(
    ("points", "corners"),
    [
        ([], set()),
        ([[3, 4]], {0}),
        ([[3, 4], [3, 4], [3, 4]], {0}),
        ([[0, 0], [2, 1]], {0, 1}),
        ([[1, 1], [3, 3], [0, 0], [2, 2]], {1, 2}),
        ([[0.1 * i, 0.3 * i] for i in range(7)], {0, 6}),  # not exactly on a line in floating point
        ([[5, 5 + 1e-12], [6, 6], [7, 7]], {0, 2}),
    ],
)
def test_points_without_area(points: Any, corners: set[int]) -> None:
    array = np.array(points, dtype=float).reshape(-1, 2)
    found = hull(array)
    assert set(found) == corners and len(found) == len(corners)
    assert area(array[found]) == 0


def test_what_is_thin_is_judged_by_the_scale_it_is_drawn_in() -> None:
    points = SQUARE * 1e-5
    assert len(hull(points)) == 4
    assert len(hull(points, scale=100.0)) == 1
    assert len(hull(SQUARE * 1e12)) == len(hull(SQUARE * 1e-12)) == 4


def test_areas_in_closed_form() -> None:
    assert area(SQUARE) == 1
    assert area(SQUARE + 1e8) == pytest.approx(1, abs=1e-6)
    assert area(SQUARE[:3]) == 0.5
    for n in (3, 5, 100):
        angle = 2 * math.pi * np.arange(n) / n
        polygon = 2 * np.stack([np.cos(angle), np.sin(angle)], 1)
        assert area(polygon) == pytest.approx(2 * n * math.sin(2 * math.pi / n))
    assert area(SQUARE[:2]) == area(SQUARE[:1]) == 0


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        (SQUARE, 1.0),
        (SQUARE + np.array([0.25, 0.5]), 0.75 * 0.5),
        (SQUARE * 3 - 1, 1.0),
        (SQUARE * 0.5 + 0.1, 0.25),
        (SQUARE + np.array([1, 0]), 0.0),  # a common edge
        (SQUARE + np.array([1, 1]), 0.0),  # a common corner
        (SQUARE + np.array([5, 0]), 0.0),
        (np.array([[0.0, 0], [1, 0], [1, 1]]), 0.5),
        (np.array([[0.5, -0.5], [1.5, 0.5], [0.5, 1.5], [-0.5, 0.5]]), 1.0),  # a diamond through the corners
        (np.array([[0.5, 0], [1, 0.5], [0.5, 1], [0, 0.5]]), 0.5),  # a diamond that touches every side
        (SQUARE[:2], 0.0),
        (SQUARE[:1], 0.0),
    ],
)
def test_intersections_in_closed_form(other: np.ndarray, shared: float) -> None:
    assert area(intersection(SQUARE, other)) == pytest.approx(shared)
    assert area(intersection(other, SQUARE)) == pytest.approx(shared)


def _half_space_area(a: np.ndarray, b: np.ndarray) -> float:
    """The area that two hulls share, by half-spaces (Qhull) around the centre of their largest circle (linprog)."""
    rows = np.concatenate([ConvexHull(a).equations, ConvexHull(b).equations])
    norms = np.linalg.norm(rows[:, :2], axis=1)
    found = linprog(
        [0, 0, -1], np.column_stack([rows[:, :2], norms]), -rows[:, 2], bounds=[(None, None)] * 2 + [(0, None)]
    )
    if found.status != 0 or found.x[2] < 1e-9:
        return 0.0
    return float(ConvexHull(HalfspaceIntersection(rows, found.x[:2]).intersections).volume)


def test_intersections_are_those_of_half_spaces() -> None:
    shared = []
    for seed in range(120):
        a = _random(seed, 3 + seed % 9)
        b = _random(seed + 1000, 3 + seed % 7, centre=0.7 * (seed % 4), size=0.5 + seed % 3)
        ours = area(intersection(_polygon(a), _polygon(b)))
        shared.append(_half_space_area(a, b))
        assert ours == pytest.approx(shared[-1], rel=1e-6, abs=1e-9)
    assert sum(value > 0 for value in shared) > 50 and 0.0 in shared


# --- the plane -----------------------------------------------------------------------------------------------------


def test_the_plane_is_that_of_principal_components() -> None:
    rng = np.random.default_rng(0)
    sets = [rng.normal(i, 1 + i, (n, 17)) @ np.diag(np.linspace(3, 0.1, 17)) for i, n in enumerate((5, 31, 8))]
    points, share = plane(sets)
    truth = PCA(2).fit(np.concatenate(sets))
    for ours, part in zip(points, sets, strict=True):
        np.testing.assert_allclose(np.abs(ours), np.abs(truth.transform(part)), atol=1e-9)
    assert share == pytest.approx(truth.explained_variance_ratio_.sum())
    np.testing.assert_allclose(np.concatenate(points).mean(0), 0, atol=1e-9)
    again, _ = plane([-part for part in sets])
    np.testing.assert_allclose(np.concatenate(again), -np.concatenate(points), atol=1e-9)


def test_a_plane_in_the_features_is_kept_as_it_is() -> None:
    """Distances, areas and overlaps survive a turn into many dimensions."""
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(40, 40)))[0][:2]
    flat = [SQUARE, SQUARE * 2 - 0.5, SQUARE + np.array([0.5, 0.25])]
    points, share = plane([part @ basis + 7 for part in flat])
    assert share == pytest.approx(1)
    for ours, part in zip(points, flat, strict=True):
        np.testing.assert_allclose(pdist(ours), pdist(part), atol=1e-9)
    found = identity(*(part @ basis + 7 for part in flat))
    assert found["values"]["overlap_private"] == pytest.approx(0.5 * 0.75)
    assert found["values"]["overlap_erased"] == pytest.approx(1)
    assert found["values"]["distance_within"] == pytest.approx(1)
    assert found["values"]["distance_private"] == pytest.approx(math.hypot(0.5, 0.25))
    assert found["reasons"] == {}


@pytest.mark.parametrize("dimensions", [1, 2])
def test_few_dimensions(dimensions: int) -> None:
    points, _ = plane([np.arange(4.0)[:, None].repeat(dimensions, 1), np.ones((2, dimensions))])
    assert [part.shape for part in points] == [(4, 2), (2, 2)]


def test_nearest_by_brute_force() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(7, 5)), rng.normal(size=(11, 5))
    brute = sum(min(math.dist(x, y) for y in b) for x in a) / len(a)
    assert nearest(a, b) == pytest.approx(brute)


def _sets(seed: int = 3, private: int = 4, found: int = 4, wide: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(private, wide))
    return own, np.repeat(own, DRAWS, 0) + rng.normal(size=(private * DRAWS, wide)), rng.normal(size=(found, wide))


@pytest.mark.parametrize("count", [1, 2])
def test_a_hull_without_area_gives_a_reason(count: int) -> None:
    own, erased, found = _sets()
    few = identity(own, erased, found[:count])
    assert few["values"]["overlap_private"] is few["values"]["overlap_erased"] is None
    assert few["reasons"]["overlap_erased"] == "the reconstructions' hull has no area"
    few = identity(own[:count], erased, found)
    assert few["values"]["overlap_private"] is None and few["values"]["overlap_erased"] is not None
    assert few["reasons"]["overlap_private"] == "the hull of the private images has no area"
    assert (few["values"]["distance_within"] is None) == (count == 1) == ("distance_within" in few["reasons"])
    assert all((value is None) == (name in few["reasons"]) for name, value in few["values"].items())


def test_a_network_that_sees_no_difference() -> None:
    same = identity(np.ones((4, 3)), np.ones((40, 3)), np.ones((4, 3)))
    assert same["variance"] is None and same["hulls"] == {name: [0] for name in SETS}
    assert same["values"]["overlap_private"] is None and same["values"]["distance_private"] == 0
    json.dumps(same, allow_nan=False)


def test_what_is_written_is_bounded_and_keeps_the_hull() -> None:
    own, erased, found = _sets(private=200)
    row = identity(own, erased, found)
    assert row["counts"] == {"private": 200, "erased": 2000, "reconstructed": 4}
    points, _ = plane([own, erased, found])
    for part, name in zip(points, SETS, strict=True):
        kept = np.array(row["points"][name])
        assert len(kept) == min(len(part), KEPT + len(row["hulls"][name]))
        assert area(kept[row["hulls"][name]]) == pytest.approx(ConvexHull(part).volume, rel=1e-3)


def test_means_over_the_identities_that_have_a_value() -> None:
    rows = [{"values": dict.fromkeys(VALUES, value), "reasons": {}} for value in (0.25, 0.5, 1.0)]
    rows.append({"values": dict.fromkeys(VALUES), "reasons": dict.fromkeys(VALUES, "no area")})
    found = summary(rows)
    assert found["identities"] == 4
    value = found["values"]["overlap_erased"]
    assert value["value"] == pytest.approx(1.75 / 3) and value["n"] == 3 and value["reason"] is None
    assert (value["ci_low"], value["ci_high"]) == bootstrap_interval([0.25, 0.5, 1.0])
    empty = summary(rows[3:])["values"]["overlap_erased"]
    assert empty["value"] is None and empty["reason"] == "no area" and empty["n"] == 0


# --- records -------------------------------------------------------------------------------------------------------


def test_records_from_before_load_and_are_replaced_by_fuller_ones() -> None:
    old = make_run()
    data = old.to_json()
    del data["features"]
    assert RunRecord.from_json(data) == old and old.features is None
    new = make_run(features={"x": 1}, stages=[*old.stages, old.stages[0]], created=old.created)
    assert RunRecord.from_json(json.loads(json.dumps(new.to_json()))) == new
    assert new.replaces(old) and new.replaces(None) and not old.replaces(new)
    later = make_run(created="2030-01-01T00:00:00Z")
    assert later.replaces(old) and not old.replaces(later) and not later.replaces(new)


# --- the page ------------------------------------------------------------------------------------------------------


def _data(count: int = 14, **shape: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    rows = [{"label": label} | identity(*_sets(label, **shape)) for label in range(count)]
    facts = {"draws": DRAWS, "area": list(AREA), "fill": [0.4]}
    return facts | summary(rows), {"schema": 1, **facts, "identities": rows}


@pytest.fixture
def page() -> Callable[..., str]:
    environment = Environment(
        loader=FileSystemLoader(resource_root() / "site" / "templates"), autoescape=True, undefined=StrictUndefined
    )
    return lambda *given: environment.get_template("_features.html").render(features=feature_view(Space("re", *given)))


def test_panels_show_every_point_where_it_is() -> None:
    means, data = _data()
    view = feature_view(Space("re", means, data))
    assert len(view["panels"]) == SHOWN and view["more"] == 14 - SHOWN and view["missing"] is None
    for pair, row in zip(view["panels"], data["identities"][:SHOWN], strict=True):
        panel = pair["own"]
        assert pair["other"] is None
        drawn, truth = [], []
        for part in panel["sets"]:
            corner = {"private": (3.5, 0.0), "erased": (1.7, 1.7), "reconstructed": (0.0, 4.4)}[part["name"]]
            found = [(float(x), float(y)) for x, y in re.findall(r"M(-?[\d.]+),(-?[\d.]+)", part["marks"])]
            assert len(found) == len(row["points"][part["name"]])
            drawn += [(x + corner[0], y + corner[1]) for x, y in found]
            truth += row["points"][part["name"]]
            corners = re.findall(r"[ML](-?[\d.]+),(-?[\d.]+)", part["hull"])
            assert len(corners) == len(row["hulls"][part["name"]]) and part["hull"].endswith("Z")
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in drawn)
        fit = np.polyfit([x for x, _ in truth], [x for x, _ in drawn], 1)
        other = np.polyfit([y for _, y in truth], [y for _, y in drawn], 1)
        assert fit[0] > 0 and other[0] == pytest.approx(-fit[0], rel=1e-2), "one scale, second axis upwards"
        np.testing.assert_allclose(np.polyval(fit, [x for x, _ in truth]), [x for x, _ in drawn], atol=0.2)
        np.testing.assert_allclose(panel["origin"], [fit[1], other[1]], atol=0.2)


def test_the_page_says_everything_in_words(page: Callable[..., str]) -> None:
    means, data = _data()
    html = page(means, data)
    assert html.count('role="img"') == html.count("<title ") == html.count("<desc ") == SHOWN
    assert len(re.findall(r'<tr><th scope="row">\d+</th>', html)) == 14
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert all(name in ids for names in re.findall(r'aria-labelledby="([^"]+)"', html) for name in names.split())
    assert "the other 2 are in the table" in html and "<script" not in html and "style=" not in html
    value = means["values"]["overlap_erased"]
    assert f"{100 * value['value']:.1f} <span" in html and "14 of 14" in html and "10–40 % of the area" in html


def test_two_runs_stand_side_by_side_with_a_sentence_on_what_to_see() -> None:
    (means, data), (other_means, other_data) = _data(), _data(10)
    view = feature_view(Space("re", means, data), Space("none", other_means, other_data))
    pairs = view["panels"]
    assert [(p["other"]["label"], p["other"]["whose"], p["own"]["whose"]) for p in pairs] == [
        (label, "none", "re") for label in range(SHOWN // 2)
    ]
    ratios = [
        m["values"]["distance_private"]["value"] / m["values"]["distance_within"]["value"] for m in (means, other_means)
    ]
    assert f"here {ratios[0]:.1f} times" in view["see"] and f"without a defense {ratios[1]:.1f} times" in view["see"]
    shown = next(line for line in view["means"] if line["unit"] != "%")
    assert shown["other"]["value"] == f"{other_means['values']['distance_private']['value']:.4g}"


def test_the_page_of_a_run_without_areas(page: Callable[..., str]) -> None:
    html = page(*_data(3, found=2))
    assert "no overlap with the private hull, because the reconstructions&#39; hull has no area" in html
    assert html.count('class="reason"') == 2 and "None" not in html and "nan" not in html
    alone = page(*_data(2, private=1, found=1))
    assert "the identity has one private image" in alone and "None" not in alone


def test_the_page_of_an_old_run_and_of_one_without_points(page: Callable[..., str]) -> None:
    assert "Not computed for this run" in page(None, None) and "<table" not in page(None, None)
    means, _ = _data(3)
    html = page(means, None)
    assert "does not have the points" in html and "fs-means" in html and "<figure" not in html
