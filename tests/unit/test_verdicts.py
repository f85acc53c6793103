"""What is said of defenses in words, what is not above the floor, and the pictures of each attack; figures by hand."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from factories import make_catalogue, make_run

from mibench.publish import text
from mibench.publish.aggregate import boards
from mibench.publish.beside import beside
from mibench.publish.controls import controls_view
from mibench.publish.floor import floor_of, floors_of
from mibench.publish.forest import forest
from mibench.publish.model import Catalogue
from mibench.publish.standings import standings
from mibench.publish.verdicts import verdicts_view
from mibench.records import MetricValue, RunRecord, StageInfo

BOUNDS = ("floor", "ceiling")
NONE, RE = (0.9, 0.92, 0.88), (0.3, 0.36, 0.27)  # what the worst attack recovers, by seed


def catalogue() -> Catalogue:
    known = make_catalogue()
    control = {"title": "Floor (control)", "family": "control", "summary": "What a prior gives."}
    return Catalogue(known.tracks, known.defenses, known.attacks | {"floor": control}, known.metrics, BOUNDS)


def leaking(value: float, prior: str | None = None, **cell: Any) -> RunRecord:
    """A run that recovers the same of every person."""
    run = make_run(att1=value, **cell)
    people = {str(label): value for label in run.identities}
    stages = [StageInfo("prior", "9c" * 8, prior, 1001, {}, run.seed, 1.0)] if prior else []
    metric = MetricValue(value, 40, value - 0.05, value + 0.05, None, people)
    return replace(run, metrics=run.metrics | {"att1": metric}, stages=[*run.stages, *stages])


def grid() -> list[RunRecord]:
    cells = [
        ("none", "gmi", NONE),
        ("re", "gmi", RE),
        ("none", "kedmi", (0.5, 0.4, 0.6)),
        ("re", "kedmi", (0.5, 0.6, 0.4)),
    ]
    return [
        leaking(
            value, defense=d, attack=a, seed=s, nat1=(0.95 if d == "none" else 0.93) + s * (0.01 if d == "re" else 0)
        )
        for d, a, values in cells
        for s, value in enumerate(values)
    ]


def test_a_verdict_tells_the_primary_test_the_cost_and_what_is_clear() -> None:
    (board,) = boards(grid(), baselines={"none"})
    view = verdicts_view(board, standings(board, catalogue()), catalogue())
    (item,) = view["items"]
    assert (view["base"]["worst"], view["base"]["attack"], item["name"]) == ("90.0", "GMI", "Random Erasing")
    # kedmi is the worst attack on re: of each seed the worst on the others
    worst = [0.5, 0.6, 0.4]
    paired = stats.ttest_rel(worst, NONE)
    low, high = paired.confidence_interval()
    assert item["leaked"] == {
        "without": "90.0",
        "own": "50.0",
        "difference": "−40.0",
        "interval": f"{text.points(low)} to {text.points(high)}",
    }
    assert item["word"] == ("leaks less" if paired.pvalue < 0.05 else "not told apart")
    assert item["accuracy"]["difference"] == "−1.0" and item["accuracy"]["word"] == "not told apart"
    assert item["clearly"] == {"less": 1, "of": 2}  # gmi; kedmi's differences are 0, 0.2 and -0.2
    assert view["best"] == ([item] if item["rank"] == 1 and item["word"] == "leaks less" else [])


def test_what_one_training_shows_is_not_clear() -> None:
    (board,) = boards([run for run in grid() if run.seed == 0], baselines={"none"})
    (item,) = verdicts_view(board, standings(board, catalogue()), catalogue())["items"]
    assert item["clearly"]["of"] == 0 and item["accuracy"]["word"] == "one training"


@pytest.mark.parametrize(("attack", "above"), [((0.3, 0.4, 0.35), True), ((0.1, 0.4, 0.2), False)])
def test_above_the_floor_is_a_paired_difference_above_zero(attack: tuple[float, ...], above: bool) -> None:
    floor = (0.1, 0.15, 0.12)
    runs = [leaking(v, "dcgan", attack="gmi", seed=s) for s, v in enumerate(attack)]
    runs += [
        leaking(v, "dcgan", attack="floor", attack_label="floor[prior=dcgan]", seed=s) for s, v in enumerate(floor)
    ]
    runs += [leaking(0.9, "wgan_gp", attack="floor", attack_label="floor[prior=wgan_gp]", seed=s) for s in range(3)]
    (board,) = boards(runs, controls=catalogue().controls, bounds=BOUNDS)
    (row,) = [row for row in board.rows if row.attack == "gmi"]
    found = floor_of(row, floors_of(board.rows, BOUNDS), board.chance)
    assert found is not None and found.value == pytest.approx(sum(floor) / 3)
    assert found.above is above is bool(stats.ttest_rel(attack, floor).confidence_interval().low > 0)


def test_without_a_prior_the_floor_is_guessing_and_without_its_run_unknown() -> None:
    (board,) = boards([leaking(0.12), leaking(0.5, "dcgan", attack="kedmi")], bounds=BOUNDS)
    guessing, unknown = (
        floor_of(row, floors_of(board.rows, BOUNDS), 0.1) for row in sorted(board.rows, key=lambda r: r.attack)
    )
    assert guessing is not None and guessing.guessing and not guessing.above  # its interval begins at 0.07
    assert unknown is None


def test_a_line_of_the_picture_is_over_what_both_have() -> None:
    rows = {(row.defense, row.attack): row for row in boards(grid()[:5])[0].rows}  # re has two seeds
    (line,) = forest([("GMI", "", "gmi", rows["re", "gmi"], rows["none", "gmi"])])
    assert (line["without"], line["own"], line["at"], line["from"]) == ("91.0", "33.0", 33.0, 91.0)
    low, high = stats.ttest_rel(RE[:2], NONE[:2]).confidence_interval()
    assert line["bar"] == (
        pytest.approx(max(0.0, 91 + 100 * low), abs=0.01),
        pytest.approx(min(100.0, 91 + 100 * high), abs=0.01),
    )
    (alone,) = forest([("GMI", "", "gmi", rows["none", "gmi"], None)])
    assert alone["without"] is None and alone["own"] == "90.0"


def test_a_run_stands_beside_the_undefended_one_of_its_seed_and_its_floor() -> None:
    runs = [
        leaking(0.5, "dcgan", defense=d, attack=a, seed=s)
        for d in ("none", "re")
        for a in ("gmi", "floor")
        for s in (0, 1)
    ]
    known = {(run.defense, run.attack, run.seed): run for run in runs}
    found = beside(boards(runs, controls=catalogue().controls, bounds=BOUNDS), catalogue())
    own = found[known["re", "gmi", 1].run]
    assert own.undefended == known["none", "gmi", 1] and own.floor == known["re", "floor", 1]
    assert found[known["none", "gmi", 1].run].undefended is None and found[known["re", "floor", 0].run].floor is None


def test_the_controls_page_has_a_table_for_each_and_none_without_any() -> None:
    runs = [leaking(0.2, "dcgan", attack="floor", seed=s) for s in range(3)] + [leaking(0.6, "dcgan")]
    shown = boards(runs, controls=catalogue().controls, bounds=BOUNDS)
    view = controls_view(shown[0], shown, catalogue())
    assert view is not None
    (group,) = [group for group in view["groups"] if group["rows"]]
    assert (group["title"], group["summary"]) == ("Floor (control)", "What a prior gives.")
    assert group["rows"][0]["cells"][0]["text"] == "20.0" and group["rows"][0]["seeds"] == 3
    plain = boards([leaking(0.6)])
    assert controls_view(plain[0], plain, catalogue()) is None


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (("Random erasing (MIDRE)", "re", "re[strong]"), "Random erasing (strong)"),
        (("Random erasing (MIDRE)", "re", "re"), "Random erasing"),
        (("MIRROR (white box)", "mirror_white", "mirror_white", True), "MIRROR (white box)"),
        (("<b>", "<b>", "<b>[x]"), "<b> (x)"),
    ],
)
def test_full_names(given: tuple[Any, ...], name: str) -> None:
    assert text.full_name(*given) == name
