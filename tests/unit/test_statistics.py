"""The specification's toy values, simulations with a known truth, brute force, and statsmodels."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from mibench.stats.audit import design_effect, double_sampled, rogan_gladen
from mibench.stats.comparisons import holm, paired, paired_means, shared_ranks
from mibench.stats.exposure import any_of, exposure
from mibench.stats.intervals import benchmark_interval, population_interval, two_peaks, two_way_error
from mibench.stats.tradeoff import delta, hypervolume, leak_at, pareto_front
from mibench.stats.worst import worst_attack

SHARES = st.floats(0, 1, allow_subnormal=False)


# --- intervals -------------------------------------------------------------------------------------------------------


def _tables(seeds: int, people: int, spreads: tuple[float, float, float], count: int) -> Any:
    """Tables of mean 0.5 with crossed effects of trainings, people and both together."""
    rng = np.random.default_rng(seeds * 1000 + people)
    for _ in range(count):
        of_seeds = rng.normal(0, spreads[0], (seeds, 1))
        of_people = rng.normal(0, spreads[1], (1, people))
        yield 0.5 + of_seeds + of_people + rng.normal(0, spreads[2], (seeds, people))


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("spreads", [(0.05, 0.2, 0.2), (0.02, 0.3, 0.15), (0.1, 0.1, 0.2)])
def test_the_population_interval_holds_the_truth_as_often_as_it_says(
    seeds: int, spreads: tuple[float, float, float]
) -> None:
    count = 2000
    inside = 0
    for table in _tables(seeds, 30, spreads, count):
        low, high = population_interval(table, replicates=400)
        assert low is not None and high is not None
        inside += low <= 0.5 <= high
    assert inside / count == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_benchmark_interval_holds_what_these_people_give_on_average(seeds: int) -> None:
    """The truth is the mean over all trainings for the people at hand."""
    rng = np.random.default_rng(seeds)
    count, inside = 2000, 0
    for _ in range(count):
        people = rng.normal(0.5, 0.1, 30)
        table = people + rng.normal(0, 0.03, (seeds, 1)) + rng.normal(0, 0.1, (seeds, 30))
        low, high = benchmark_interval(table)
        assert low is not None and high is not None
        inside += low <= people.mean() <= high
    assert inside / count == pytest.approx(0.95, abs=0.02)


def test_the_standard_error_is_that_of_statsmodels_analysis_of_variance() -> None:
    formula = pytest.importorskip("statsmodels.formula.api")
    anova = pytest.importorskip("statsmodels.stats.anova")
    pandas = pytest.importorskip("pandas")
    [table] = _tables(4, 6, (0.1, 0.2, 0.1), 1)
    lines = [{"y": table[s, i], "s": s, "i": i} for s, i in product(range(4), range(6))]
    squares = anova.anova_lm(formula.ols("y ~ C(s) + C(i)", pandas.DataFrame(lines)).fit())["mean_sq"]
    error, df = two_way_error(table)
    total = squares["C(s)"] + squares["C(i)"] - squares["Residual"]
    assert error == pytest.approx(math.sqrt(total / 24))
    parts = squares["C(s)"] ** 2 / 3 + squares["C(i)"] ** 2 / 5 + squares["Residual"] ** 2 / 15
    assert df == pytest.approx(total**2 / parts)


@given(st.integers(1, 5), st.integers(2, 8), st.data())
def test_intervals_stay_in_bounds_and_hold_the_mean(seeds: int, people: int, data: Any) -> None:
    values = data.draw(
        st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=seeds * people, max_size=seeds * people)
    )
    table = np.array(values).reshape(seeds, people)
    for interval in (benchmark_interval(table), population_interval(table, replicates=200)):
        low, high = interval
        assert low is not None and high is not None
        assert 0 <= low <= table.mean() + 1e-9 and table.mean() - 1e-9 <= high <= 1


def test_nobody_recognised_is_not_certainty() -> None:
    """30 people, none recognised in any of three trainings: up to 11.6 % may be (Clopper and Pearson)."""
    for table in (np.zeros((1, 30)), np.zeros((3, 30))):
        reference = scipy.stats.binomtest(0, 30).proportion_ci(0.95, "exact")
        assert population_interval(table) == pytest.approx((0.0, reference.high))
        assert benchmark_interval(table) == pytest.approx((0.0, reference.high))
    assert population_interval(np.ones((2, 30)))[1] == 1.0
    alike = np.tile(np.linspace(0, 1, 30), (3, 1))  # trainings that agree, people who do not
    assert benchmark_interval(alike) == population_interval(alike)
    assert population_interval(np.full((2, 5), 7.0), bounds=(0, math.inf)) == (None, None)


def test_an_interval_of_fewer_trainings_is_not_narrower() -> None:
    widths = []
    for seeds in (3, 5, 10):
        tables = list(_tables(seeds, 30, (0.05, 0.2, 0.1), 200))
        widths.append(np.mean([np.diff(population_interval(table, replicates=300))[0] for table in tables]))  # type: ignore[arg-type]
    assert widths == sorted(widths, reverse=True)


def test_a_bimodal_defense_is_called_so_and_keeps_its_runs() -> None:
    """The specification's section 8.4: four trainings near 95 % and one at 7.7."""
    values = [0.953, 0.953, 0.950, 0.956, 0.077]
    assert np.mean(values) == pytest.approx(0.778, abs=5e-4) and np.std(values, ddof=1) == pytest.approx(
        0.392, abs=5e-4
    )
    assert two_peaks(values)
    assert two_peaks([0.10, 0.11, 0.12, 0.35])
    assert not two_peaks([0.40, 0.43, 0.46, 0.49, 0.52]) and not two_peaks([0.1, 0.9])


# --- comparisons -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_paired_is_scipys_paired_t_test(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    one, other = rng.random((seeds, 7)), rng.random((seeds, 7))
    reference = scipy.stats.ttest_rel(one.mean(1), other.mean(1))
    found = paired(one, other)
    assert found.p == pytest.approx(reference.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval()))


def test_the_detectable_difference_is_found_four_times_in_five() -> None:
    """Simulated: differences of just that size, whose spread is the one that was used."""
    rng = np.random.default_rng(0)
    n, spread = 5, 0.1
    exact = np.array([-1.5, -0.5, 0.0, 0.5, 1.5])
    exact *= spread / exact.std(ddof=1)
    size = paired_means(list(exact)).detectable
    assert size is not None
    draws = rng.normal(size, spread, (20_000, n))
    found = scipy.stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.04)  # the usual approximation; the noncentral t gives 0.79


@pytest.mark.parametrize("differences", [[0.2], [0.0, 0.0, 0.0], [0.1, 0.1]])
def test_what_has_no_spread_has_no_p_value(differences: list[float]) -> None:
    found = paired_means(differences)
    assert (found.low, found.high, found.p, found.detectable) == (None,) * 4
    assert found.mean == pytest.approx(differences[0]) and found.seeds == len(differences)


@settings(max_examples=15)  # of theirs, each takes a twentieth of a second
@given(st.lists(SHARES, min_size=1, max_size=12))
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    assert holm(p_values) == pytest.approx(list(multitest.multipletests(p_values, method="holm")[1]))


def test_what_is_not_told_apart_shares_a_rank() -> None:
    values = [0.1, 0.12, 0.3, 0.31, 0.9]
    assert shared_ranks(5, lambda a, b: values[b] - values[a] > 0.1) == [1, 1, 3, 3, 5]
    assert shared_ranks(0, lambda a, b: True) == [] and shared_ranks(3, lambda a, b: False) == [1, 1, 1]


# --- the worst attack ------------------------------------------------------------------------------------------------


def test_the_worst_attack_is_chosen_on_other_trainings() -> None:
    means = {"a": [0.9, 0.1, 0.1], "b": [0.3, 0.4, 0.5]}
    worst = worst_attack(means)
    # without the first, b (0.45) beats a (0.1); without the second, a (0.5) beats b (0.4); without the third, a.
    assert worst.chosen == ["b", "a", "a"] and worst.values == [0.3, 0.1, 0.1]
    assert worst.attack == "a" and worst.mean == pytest.approx(0.5 / 3)
    assert worst_attack({"a": [0.9]}).bound is None


def test_choosing_on_other_trainings_is_not_biased_upward() -> None:
    """Ten attacks that are equally good: the maximum is too high, the worst attack's mean is not; the bound holds."""
    rng = np.random.default_rng(3)
    means, largest, held = [], [], 0
    for _ in range(2000):
        draws = {f"a{i}": list(rng.normal(0.5, 0.05, 5)) for i in range(10)}
        worst = worst_attack(draws)
        assert worst.bound is not None
        means.append(worst.mean)
        largest.append(max(np.mean(values) for values in draws.values()))
        held += worst.bound >= 0.5
    assert np.mean(means) == pytest.approx(0.5, abs=0.003)
    assert np.mean(largest) > 0.52
    assert held / 2000 >= 0.975


# --- people ----------------------------------------------------------------------------------------------------------


def test_exposure_by_hand() -> None:
    found = exposure([1.0, 0.0, 0.5, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.25])
    assert found.ids50 == 0.2 and found.any == 0.4 and found.never == 0.6 and found.tail10 == 1.0
    assert found.quantiles == pytest.approx((0.0, 0.0, 0.0, 0.25, 0.55))
    p = np.array([1.0, 0.5, 0.25, 0.25] + [0.0] * 6)
    assert found.gini == pytest.approx(np.abs(p[:, None] - p).sum() / (2 * 10 * 10 * p.mean()))
    assert exposure([0.5] * 4).gini == pytest.approx(0) and exposure([0.0]).gini is None


def test_any_of_fewer_images_is_the_mean_over_all_choices() -> None:
    from itertools import combinations

    rows = [[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]]
    exact = np.mean([[any(row[i] for i in chosen) for chosen in combinations(range(4), 2)] for row in rows])
    assert any_of([2, 0, 1], 4, 2) == pytest.approx(exact)
    with pytest.raises(ValueError, match="between 1 and 4"):
        any_of([1], 4, 5)


# --- utility and privacy ---------------------------------------------------------------------------------------------


def test_delta_of_the_specification() -> None:
    assert delta((0.9469, 0.9078), (0.9440, 0.8165)) == pytest.approx(31.48, abs=0.01)
    assert delta((0.9469, 0.9078), (0.9469, 0.80)) == "dominates"
    assert delta((0.9469, 0.9078), (0.95, 0.80)) == "dominates"
    assert delta((0.9469, 0.9078), (0.93, 0.92)) == "harmful"
    assert delta((0.9469, 0.9078), (0.95, 0.92)) == "leaks_more"
    assert delta((0.9469, 0.9078), (0.9440, 0.8165), unsure=0.005) == "undetermined"


@given(st.lists(st.tuples(SHARES, SHARES), max_size=6))
def test_hypervolume_is_the_area_counted_on_a_grid(points: list[tuple[float, float]]) -> None:
    undefended, chance, window = (0.9, 0.8), 0.1, 0.2
    grid = (np.arange(240) + 0.5) / 200  # to 1.2
    x, y = np.meshgrid(grid, grid[grid < 1])
    covered = np.zeros_like(x, dtype=bool)
    for u, a in points:
        right = np.clip((u - (0.9 - window)) / window, 0, 1.2)
        top = np.clip((0.8 - a) / (0.8 - chance), 0, 1)
        covered |= (x < right) & (y < top)
    assert hypervolume(points, undefended, chance, window) == pytest.approx(covered.sum() / 200**2, abs=0.03)


def test_the_undefended_model_covers_nothing_and_a_free_perfect_one_everything() -> None:
    assert hypervolume([(0.9, 0.8)], (0.9, 0.8), 0.1, 0.1) == 0
    assert hypervolume([(0.9, 0.1)], (0.9, 0.8), 0.1, 0.1) == pytest.approx(1)


@given(st.lists(st.tuples(SHARES, SHARES), max_size=6), st.floats(0, 0.5))
def test_leak_at_by_brute_force(points: list[tuple[float, float]], loss: float) -> None:
    allowed = [a for u, a in [*points, (0.9, 0.8)] if u - (0.9 - loss) >= -1e-12]
    assert leak_at(points, (0.9, 0.8), loss) == min(allowed)


# --- audits ----------------------------------------------------------------------------------------------------------


def test_corrections_of_the_specification() -> None:
    assert double_sampled(0.90, 0.45, 0.02) == pytest.approx(0.497)
    share, error = rogan_gladen(0.70, 0.95, 0.20, 1000)
    assert share == pytest.approx(0.667, abs=5e-4) and error == pytest.approx(0.019, abs=5e-4)
    assert rogan_gladen(0.1, 0.95, 0.20, 10)[0] == 0
    assert 530 * 50 / design_effect(50, 0.5) == pytest.approx(1040, abs=5)
    assert 300 * 5 / design_effect(5, 0.3) == pytest.approx(680, abs=5)


def test_the_front_is_no_hull() -> None:
    assert pareto_front([(0.9, 0.5), (0.8, 0.45), (0.7, 0.1)]) == [2, 1, 0]
