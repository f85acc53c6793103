"""Utility and privacy together: intervals against brute force and simulation, Leak@b, domination and the papers' ratio
on made-up boards, and what pages and files show of them."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from factories import make_catalogue, make_run

from mibench.publish import SiteOptions, build_site
from mibench.publish.aggregate import boards
from mibench.publish.downloads import standings_csv
from mibench.publish.rows import Board
from mibench.publish.tradeoff import LOSSES, ratios, tradeoff, tradeoff_view
from mibench.records import RunRecord
from mibench.stats.intervals import population_interval
from mibench.stats.tradeoff import fieller, hypervolume, hypervolumes, resampled

NONE = frozenset({"none"})
PEOPLE = 10


def runs(leaks: dict[str, list[float]], nat: dict[str, list[float]], attack: str = "gmi") -> list[RunRecord]:
    """``label: one value per training``; people scatter around it, as far from it as leaks allow."""
    made = []
    for label, values in leaks.items():
        for seed, value in enumerate(values):
            run = make_run(
                defense=label.partition("[")[0],
                defense_label=label,
                defense_params={"strength": label},
                attack=attack,
                seed=seed,
                att1=value,
                nat1=nat[label][seed],
            )
            spread = np.linspace(-1, 1, PEOPLE) * min(value, 1 - value)
            people = {str(i): float(value + s) for i, s in enumerate(spread)}
            att1 = replace(run.metrics["att1"], per_identity=people)
            made.append(replace(run, metrics=run.metrics | {"att1": att1}))
    return made


def board(made: list[RunRecord]) -> Board:
    return boards(made, baselines=NONE)[0]


LEAKS = {
    "none": [0.60, 0.66, 0.62, 0.61],
    "re": [0.45, 0.51, 0.44, 0.47],
    "re[strong]": [0.25, 0.22, 0.27, 0.24],
    "bido": [0.55, 0.58, 0.54, 0.57],
}
NAT = {
    "none": [0.95, 0.96, 0.95, 0.96],
    "re": [0.94, 0.951, 0.94, 0.952],
    "re[strong]": [0.91, 0.92, 0.912, 0.921],
    "bido": [0.90, 0.91, 0.90, 0.912],
}
MADE = board(runs(LEAKS, NAT))

# --- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_fieller_holds_the_ratios_that_a_t_test_does_not_exclude(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hidden, lost = rng.normal(0.2, 0.03, 5), rng.normal(0.05, 0.008, 5)
    low, high = fieller(list(hidden), list(lost))
    grid = np.linspace(0, 20, 4001)
    rest = hidden - grid[:, None] * lost
    t = rest.mean(1) / (rest.std(1, ddof=1) / np.sqrt(5))
    kept = grid[np.abs(t) <= scipy.stats.t.ppf(0.975, 4)]
    assert (low, high) == pytest.approx((kept.min(), kept.max()), abs=0.01)
    assert fieller(list(hidden), [0.05, -0.05, 0.04, -0.04, 0.01]) == (None, None), "any ratio could be"
    assert fieller([0.2], [0.1]) == (None, None)


def test_resampling_a_mean_is_the_population_interval() -> None:
    table = np.random.default_rng(0).random((4, 12))
    found = resampled([table], lambda rows: rows[:, 0], (0.0, 1.0), replicates=10_000)
    assert found == pytest.approx(population_interval(table), abs=1e-6)
    assert resampled([table[:1]], lambda rows: rows[:, 0], (0.0, 1.0)) == (None, None)


def test_areas_of_rows_are_those_of_single_points() -> None:
    rng = np.random.default_rng(1)
    rows = rng.random((50, 8))
    found = hypervolumes(rows, 0.1, 0.2)
    for row, area in zip(rows, found, strict=True):
        pairs = [(float(u), float(a)) for u, a in row.reshape(-1, 2)]
        room = pairs[0][1] - 0.1
        assert area == pytest.approx(hypervolume(pairs[1:], pairs[0], 0.1, 0.2) if room > 0 else 0)


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_of_an_area_covers_it_about_as_often_as_it_says(seeds: int) -> None:
    rng, truth = np.random.default_rng(seeds), [0.95, 0.6, 0.93, 0.4]
    area = hypervolume([(0.93, 0.4)], (0.95, 0.6), 1 / 30, 0.1)
    held = 0
    for trial in range(300):
        tables = [
            level
            + rng.normal(0, scale, (seeds, 1))
            + rng.normal(0, 3 * scale, (1, 30))
            + rng.normal(0, scale, (seeds, 30))
            for level, scale in zip(truth, (0.002, 0.05, 0.002, 0.05), strict=True)
        ]
        low, high = resampled(tables, lambda rows: hypervolumes(rows, 1 / 30, 0.1), (0.0, 1.2), trial, 200)
        assert low is not None and high is not None
        held += low <= area <= high
    assert 0.92 <= held / 300 <= 0.99


# --- Leak@b, area, domination ----------------------------------------------------------------------------------------


def test_leak_at_takes_the_least_of_what_is_surely_accurate_enough() -> None:
    """Brute force over the settings, whose lower ends are scipy's."""
    found = {exchange.defense: exchange for exchange in tradeoff(MADE, NONE).exchanges}
    assert set(found) == {"bido", "re"} and set(found["re"].settings) == {"re", "re[strong]"}
    base = np.mean(LEAKS["none"])
    for defense, settings in (("re", ["re", "re[strong]"]), ("bido", ["bido"])):
        for loss in LOSSES:
            lows = {s: scipy.stats.ttest_rel(NAT[s], NAT["none"]).confidence_interval().low for s in settings}
            expected = min([base, *(np.mean(LEAKS[s]) for s in settings if lows[s] >= -loss)])
            estimate = found[defense].leak[loss]
            assert estimate.value == pytest.approx(expected)
            assert estimate.low is not None and estimate.high is not None
            assert estimate.low <= estimate.value <= estimate.high
    assert [found["re"].leak[loss].of for loss in LOSSES] == [None, None, "re", "re[strong]"]
    volume = found["re"].volume[0.1]
    points = [(float(np.mean(NAT[s])), float(np.mean(LEAKS[s]))) for s in ("re", "re[strong]")]
    assert volume and volume.value == pytest.approx(
        hypervolume(points, (float(np.mean(NAT["none"])), float(base)), MADE.chance, 0.1)
    )


def test_one_dominates_another_for_sure_only_in_both() -> None:
    assert tradeoff(MADE, NONE).dominated == {"bido": "re[strong]"}, "of several, the one that leaks least"
    unsure = NAT | {"bido": [0.93, 0.90, 0.95, 0.91]}
    assert tradeoff(board(runs(LEAKS, unsure)), NONE).dominated == {}


def test_one_training_and_no_undefended_model_give_nothing() -> None:
    one = {label: values[:1] for label, values in LEAKS.items()}
    assert tradeoff(board(runs(one, NAT)), NONE).exchanges == ()
    alone = {label: values for label, values in LEAKS.items() if label != "none"}
    assert tradeoff(board(runs(alone, NAT)), NONE).exchanges == ()


@pytest.mark.parametrize(
    ("leaks", "nat", "word"),
    [
        ([0.45, 0.51, 0.44, 0.47], [0.97, 0.98, 0.97, 0.982], "dominates"),
        ([0.70, 0.76, 0.72, 0.71], [0.94, 0.951, 0.94, 0.951], "harmful"),
        ([0.70, 0.76, 0.72, 0.71], [0.97, 0.98, 0.97, 0.981], "leaks_more"),
        ([0.45, 0.51, 0.44, 0.47], [0.94, 0.97, 0.94, 0.96], "undetermined"),
        ([0.45, 0.51, 0.44, 0.47], [0.94, 0.951, 0.94, 0.952], None),
    ],
)
def test_the_papers_ratio_says_where_it_means_nothing(leaks: list[float], nat: list[float], word: str | None) -> None:
    made = board(runs({"none": LEAKS["none"], "re": leaks}, {"none": NAT["none"], "re": nat}))
    (ratio,) = ratios(made, "re", "none")
    if word:
        assert ratio.value == word and (ratio.low, ratio.high) == (None, None)
        return
    hidden, lost = np.subtract(LEAKS["none"], leaks), np.subtract(NAT["none"], nat)
    assert ratio.value == pytest.approx(hidden.mean() / lost.mean())
    assert (ratio.low, ratio.high) == fieller(list(hidden), list(lost))
    (single,) = ratios(
        board(
            [
                run
                for run in runs({"none": LEAKS["none"], "re": leaks}, {"none": NAT["none"], "re": nat})
                if run.seed == 0
            ]
        ),
        "re",
        "none",
    )
    assert single.value == "undetermined", "one training tells of no loss"


# --- pages and files -------------------------------------------------------------------------------------------------


def test_pages_and_the_file_by_defense_show_them(tmp_path: Path) -> None:
    catalogue = make_catalogue()
    found = tradeoff(MADE, NONE)
    view = tradeoff_view(MADE, found, catalogue)
    (line,) = [row for row in view["rows"] if row["defense"] == "re"]
    assert [cell["text"] for cell in line["leak"]][-1] == "24.5" and line["leak"][-1]["of"] == "re[strong]"
    test = {case.label: case.verdict for case in MADE.cases.values()}["re"]
    assert test and test.difference.detectable
    (setting,) = [row for row in view["settings"] if row["label"] == "re"]
    assert setting["detectable"] == f"{100 * test.difference.detectable:.1f}"
    build_site(runs(LEAKS, NAT), catalogue, tmp_path / "site", SiteOptions())
    index = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "Leak@5" in index and "surely dominated by" in index and '"dominated": {"bido"' in index
    page = (tmp_path / "site" / "defense" / "re.html").read_text(encoding="utf-8")
    assert "As in the papers" in page and "Leak@5" in page
    assert "As in the papers" not in (tmp_path / "site" / "defense" / "none.html").read_text(encoding="utf-8")
    table = (tmp_path / "site" / "download" / "orl32.defenses.csv").read_text(encoding="utf-8")
    assert table == standings_csv(MADE, found)
    lines: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(table)))
    assert [row["label"] for row in lines] == list(MADE.cases)
    (row,) = [row for row in lines if row["label"] == "re"]
    assert float(row["detectable"]) == test.difference.detectable and row["verdict"] == "leaks less"
    assert float(row["leak_at_5"]) == pytest.approx(np.mean(LEAKS["re[strong]"])) and row["dominated_by"] == ""
