"""The site as files: what is on the pages, that nothing hostile gets through, and that replacing it is
safe."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import vendor
from factories import make_catalogue, make_run

import mibench
from mibench.cli import tables
from mibench.errors import UserError
from mibench.publish import Catalogue, SiteOptions, build_site, text
from mibench.publish.aggregate import boards, current_runs
from mibench.publish.downloads import table
from mibench.publish.rows import Board
from mibench.publish.runs import run_view
from mibench.records import MetricValue, RunRecord, StageInfo
from mibench.stats.intervals import seed_interval
from mibench.stats.tradeoff import pareto_front
from mibench.store import atomic

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}"


class Page(HTMLParser):
    """The elements, text and table cells of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.islands: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        (self.islands if self.lasttag == "script" and data.strip() else self.texts).append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def grid() -> list[RunRecord]:
    return [make_run(defense=d, attack=a, seed=s) for d in ("none", "re") for a in ("gmi", "kedmi") for s in (0, 1)]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG not really")
    return path


# --- aggregation -----------------------------------------------------------------------------------------

fractions = st.sampled_from([0.0, 0.1, 0.25, 0.25000001, 0.5, 0.9, 1.0])


@given(st.lists(st.tuples(fractions, fractions), max_size=12))
def test_pareto_front_is_what_brute_force_finds(points: list[tuple[float, float]]) -> None:
    def beaten(i: int) -> bool:
        x, y = points[i]
        return any(u >= x and v <= y and (u, v) != (x, y) for u, v in points)

    front = pareto_front(points)
    assert sorted(front) == [i for i in range(len(points)) if not beaten(i)]
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


def test_pareto_front_keeps_ties_in_order() -> None:
    assert pareto_front([]) == []
    assert pareto_front([(0.9, 0.5), (0.9, 0.5), (0.8, 0.5), (0.7, 0.1)]) == [3, 0, 1]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=10))
def test_seed_interval_is_the_t_interval(values: list[float]) -> None:
    low, high = seed_interval(values) or (math.nan, math.nan)
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    assert low == pytest.approx(statistics.mean(values) - half, abs=1e-12)
    assert high == pytest.approx(statistics.mean(values) + half, abs=1e-12)


def test_no_interval_from_fewer_than_two_seeds() -> None:
    assert seed_interval([]) is None
    assert seed_interval([0.3]) is None


def test_one_seed_keeps_its_bootstrap_interval_and_two_get_the_t_interval() -> None:
    (board,) = boards([make_run(att1=0.4)])
    value = board.rows[0].values["att1"]
    assert (value.mean, value.source, value.low) == (0.4, "bootstrap", pytest.approx(0.32))
    (board,) = boards([make_run(att1=0.4), make_run(att1=0.6, seed=1)])
    value = board.rows[0].values["att1"]
    assert (value.mean, value.source) == (pytest.approx(0.5), "seeds")
    assert (value.low, value.high) == (0.0, 1.0)  # cut to what a share can be
    (board,) = boards([make_run(att1=0.4), make_run(att1=0.41, seed=1), make_run(att1=0.42, seed=2)])
    value = board.rows[0].values["att1"]
    assert (value.low, value.high) == pytest.approx(seed_interval([0.4, 0.41, 0.42]))


def over_seeds(make: Callable[..., RunRecord], *arguments: Any, seeds: int = 3, **cell: Any) -> list[RunRecord]:
    """The same cell on several seeds, ``att1`` a little other on each."""
    share = cell.pop("att1", 0.5)
    return [make(*arguments, seed=seed, att1=share + 0.01 * seed, **cell) for seed in range(seeds)]


def test_defenses_are_ranked_by_their_worst_attack_and_incomplete_ones_stand_last() -> None:
    runs = [
        *over_seeds(make_run, defense="good", attack="gmi", att1=0.3, nat1=0.8),
        *over_seeds(make_run, defense="good", attack="kedmi", att1=0.2, nat1=0.8),
        *over_seeds(make_run, defense="lopsided", attack="gmi", att1=0.0, nat1=0.7),
        *over_seeds(make_run, defense="lopsided", attack="kedmi", att1=0.6, nat1=0.7),
        *over_seeds(make_run, defense="untested", attack="gmi", att1=0.01, nat1=0.99),
        *over_seeds(make_run, defense="untested", attack="kedmi", attack_label="kedmi[steps=1]", att1=0.0, nat1=0.99),
        make_run(defense="lucky", attack="gmi", att1=0.0, nat1=0.9),
        make_run(defense="lucky", attack="kedmi", att1=0.0, nat1=0.9),
    ]
    (board,) = boards(runs)
    assert [(row.defense, row.attack, row.worst) for row in board.rows[:4]] == [
        ("good", "gmi", True),
        ("good", "kedmi", False),
        ("lopsided", "kedmi", True),
        ("lopsided", "gmi", False),
    ]
    found = [(case.label, case.rank, case.missing) for case in board.cases.values()]
    assert found[:2] == [("good", 1, ()), ("lopsided", 1, ())]  # differences that agree to the digit are no evidence
    few = "(trainings 0 to 2; 1 done without a gap)"
    assert found[2:] == [("lucky", None, (f"gmi {few}", f"kedmi {few}")), ("untested", None, ("kedmi",))]
    assert board.front == ["good"]


def paired_boards(values: dict[str, list[float]], baselines: set[str]) -> Board:
    runs = [
        make_run(defense=name, attack="gmi", seed=seed, att1=value, nat1=0.9)
        for name, own in values.items()
        for seed, value in enumerate(own)
    ]
    (board,) = boards(runs, baselines=baselines)
    return board


def test_what_paired_tests_do_not_tell_apart_shares_a_rank() -> None:
    values = {
        "none": [0.60, 0.65, 0.62],
        "strong": [0.10, 0.16, 0.11],
        "weak": [0.40, 0.46, 0.41],
        "noisy": [0.10, 0.90, 0.50],
        "harmful": [0.80, 0.86, 0.81],
    }
    board = paired_boards(values, {"none"})
    found = {case.label: (case.rank, case.verdict.word if case.verdict else None) for case in board.cases.values()}
    assert found == {
        "strong": (1, "leaks less"),
        "weak": (2, "leaks less"),
        "noisy": (3, "not told apart"),
        "none": (3, None),
        "harmful": (5, "leaks more"),
    }
    p = [stats.ttest_rel(values[name], values["none"]).pvalue for name in ("strong", "weak", "noisy", "harmful")]
    adjusted = [board.cases[name].verdict.adjusted for name in ("strong", "weak", "noisy", "harmful")]  # type: ignore[union-attr]
    ordered = sorted(range(4), key=lambda i: p[i])
    running = 0.0
    for place, i in enumerate(ordered):
        running = max(running, min(1.0, (4 - place) * p[i]))
        assert adjusted[i] == pytest.approx(running)


def test_one_training_or_a_gap_is_no_rank() -> None:
    board = paired_boards({"none": [0.6, 0.65, 0.62], "one": [0.0]}, {"none"})
    assert board.cases["one"].rank is None and board.cases["none"].rank == 1
    gap = [make_run(defense="re", attack="gmi", seed=seed, att1=0.1) for seed in (0, 2, 3, 4)]
    whole = [make_run(defense="none", attack="gmi", seed=seed, att1=0.6) for seed in range(3)]
    (board,) = boards([*gap, *whole], baselines={"none"})
    assert board.cases["re"].missing == ("gmi (trainings 0 to 2; 1 done without a gap)",)
    assert "0 to 2" in board.cases["re"].missing[0] and board.cases["re"].rank is None


def test_the_worst_attack_is_told_of_other_seeds_than_it_is_chosen_on() -> None:
    shares = {"gmi": [0.9, 0.1, 0.1], "kedmi": [0.3, 0.4, 0.5]}
    runs = [
        make_run(defense="re", attack=attack, seed=seed, att1=value)
        for attack, own in shares.items()
        for seed, value in enumerate(own)
    ]
    (board,) = boards(runs)
    value = board.cases["re"].value
    assert value.mean == pytest.approx((0.3 + 0.1 + 0.1) / 3) and value.source == "attacks"
    upper = [np.mean(own) + stats.t.ppf(1 - 0.025 / 2, 2) * stats.sem(own) for own in shares.values()]
    assert value.high == pytest.approx(min(1.0, max(upper)))


def test_failed_runs_are_shown_but_not_averaged() -> None:
    failed = make_run(seed=1, status="failed", metrics={}, reason="The loss became nan.")
    (board,) = boards([make_run(att1=0.4), failed])
    value = board.rows[0].values["att1"]
    assert (value.mean, value.seeds, value.of) == (0.4, 1, 2)
    assert board.rows[0].runs == [make_run(att1=0.4), failed]
    (board,) = boards([failed])
    assert board.rows[0].leaked.reason == "seed 1 failed: The loss became nan."


@pytest.mark.parametrize(
    ("seeds", "failed", "said"),
    [
        ((0, 1, 2), (), None),
        ((0, 1, 2, 3), (4,), "gmi (seed 4 failed: nan)"),
        ((0, 1, 2, 4), (), "gmi (training 3, of which there are later ones)"),
        ((1, 2, 3), (), "gmi (trainings 0 to 2; 0 done without a gap)"),
        ((0, 1), (2,), "gmi (seed 2 failed: nan)"),
    ],
)
def test_only_seeds_from_0_on_without_a_gap_or_a_failure_are_ranked(
    seeds: tuple[int, ...], failed: tuple[int, ...], said: str | None
) -> None:
    cells = [("none", (0, 1, 2), ()), ("re", seeds, failed)]
    runs = [make_run(defense=d, seed=s, att1=0.5 + s / 100) for d, own, _ in cells for s in own]
    runs += [make_run(defense=d, seed=s, status="failed", metrics={}, reason="nan") for d, _, own in cells for s in own]
    (board,) = boards(runs, baselines={"none"})
    case = board.cases["re"]
    assert case.missing == (() if said is None else (said,))
    assert (case.rank is None) == (said is not None) and case.value.mean is not None, "shown all the same"


def test_runs_of_another_method_do_not_enter_the_mean() -> None:
    old = [make_run(seed=s, run=f"{s:012x}", created="2025-01-01T00:00:00Z", attack_params={"lr": 1}) for s in (0, 1)]
    new = make_run(seed=0, att1=0.5)
    crashed = make_run(seed=2, run="f" * 12, created="2027-01-01T00:00:00Z", status="failed")
    before = replace(old[1], status="failed", run="e" * 12)
    (board,) = boards(current_runs([*old, new, crashed, before]))
    assert sorted([run.run for run in row.runs] for row in board.rows) == sorted(
        [[old[0].run, old[1].run], [new.run, crashed.run]]
    )
    assert 0.5 in [row.leaked.mean for row in board.rows]


def test_a_stage_that_no_metric_comes_from_does_not_split_the_seeds() -> None:
    old, new = make_run(seed=0), make_run(seed=1, created="2027-01-01T00:00:00Z")
    extra = StageInfo("features", "f0" * 8, "none", 1001, {}, 1, 1.0)
    new = replace(new, stages=[*new.stages, extra])
    assert current_runs([old, new]) == [old, new]
    (board,) = boards(current_runs([old, new]))
    assert board.rows[0].values["att1"].seeds == 2


def judged(majority: float | None, **cell: Any) -> RunRecord:
    """A run that three judges saw: of each identity E2 accepts all images but the first, E3 all but the first two."""
    run = make_run(**cell)
    per_identity = {str(label): 0.25 for label in run.identities}
    top = {"value": 0.95, "ci_low": 0.9, "ci_high": 0.975}
    knows = {"n": 77, "top1": top, "top5": top, "look_alikes": 0.4, "calibration_error": None}
    more = {
        "att_maj": MetricValue(
            majority, 40, None, None, None if majority is not None else "no third judge", per_identity
        ),
        "att1_e2": MetricValue(0.125, 40),
        "att1_e3": MetricValue(0.375, 40),
    }
    images = [
        image | {name: image["label"] if image["index"] > first else 9 - image["label"]}
        for image in run.images
        for name, first in (("e2", 0), ("e3", 1))
    ]
    images = [one | two for one, two in zip(images[::2], images[1::2], strict=True)]
    judges = {"e1": knows, "e2": knows, "e3": {"reason": "it knows faces only"}}
    return replace(run, metrics=run.metrics | more, images=images, judges=judges)


def searching(attack: str, majority: float, seed: int = 0, defense: str = "none", prior: str = "dcgan") -> RunRecord:
    """A run that three judges saw and that searches a prior."""
    run = judged(majority, attack=attack, seed=seed, defense=defense)
    return replace(run, stages=[*run.stages, StageInfo("prior", "9c" * 8, prior, 1001, {"steps": 5}, 0, 3.0)])


def test_the_way_from_floor_to_ceiling() -> None:
    """Floors of the same target and prior, the ceiling of the same prior; by hand: (0.5 - 0.2) / (0.8 - 0.2) = 0.5 and
    (0.4 - 0.1) / (0.8 - 0.1) = 3 / 7."""
    runs = [
        *(searching("ppa", 0.5), searching("ppa", 0.4, seed=1), searching("ppa", 0.5, defense="re")),
        *(searching("floor", 0.2), searching("floor", 0.1, seed=1), searching("floor", 0.6, prior="wgan_gp")),
        *(searching("ceiling", 0.8), judged(0.3, attack="miface"), searching("gmi", 0.3, prior="wgan_gp")),
    ]
    (board,) = boards(runs, controls={"floor", "ceiling"}, bounds=("floor", "ceiling"))
    way = {(row.defense, row.attack): row.way for row in board.rows}
    assert way[("none", "ppa")].mean == pytest.approx((0.5 + 3 / 7) / 2) and way[("none", "ppa")].source == "seeds"
    assert way[("none", "ceiling")].mean == pytest.approx(1) and way[("none", "ppa")].seeds == 2
    assert way[("none", "miface")].reason == "it searches no generative prior"
    for cell in (("re", "ppa"), ("none", "gmi")):
        assert way[cell].mean is None and way[cell].reason == "floor or ceiling of its prior was not run"
    (without,) = boards(runs)
    assert all(row.way.mean is None for row in without.rows)


def test_with_a_panel_the_majority_ranks_and_the_evaluator_does_not() -> None:
    runs = [
        *over_seeds(judged, 0.3, defense="good", attack="gmi", att1=0.9, nat1=0.8),
        *over_seeds(judged, 0.1, defense="good", attack="kedmi", att1=0.95, nat1=0.8),
        *over_seeds(judged, 0.4, defense="bad", attack="gmi", att1=0.1, nat1=0.7),
        *over_seeds(judged, 0.5, defense="bad", attack="kedmi", att1=0.05, nat1=0.7),
        make_run(defense="bad", attack="kedmi", seed=3, status="failed", metrics={}),
    ]
    (board,) = boards(runs)
    assert board.leakage == "att_maj" and board.front == ["good"]
    found = [(row.defense, row.attack, row.worst) for row in board.rows]
    assert found == [("good", "gmi", True), ("good", "kedmi", False), ("bad", "kedmi", True), ("bad", "gmi", False)]
    (plain,) = boards([replace(run, metrics={"att1": run.metrics["att1"]}) for run in runs[:-1]])
    assert plain.leakage == "att1" and plain.rows[0].defense == "bad"


def test_without_a_majority_nothing_ranks_and_the_reason_is_told() -> None:
    (board,) = boards([judged(None, att1=0.9)])
    assert board.cases["none"].rank is None and board.rows[0].leaked.reason == "no third judge"


def test_every_page_says_of_what_it_is_made_and_how_to_cite_it(tmp_path: Path) -> None:
    options = SiteOptions(commit="abc123def456", licence="Apache-2.0")
    runs = [make_run(), make_run(seed=1, created="2026-12-24T00:00:00+00:00")]
    site = build_site(runs, make_catalogue(), tmp_path / "site", options).parent
    pages = list(site.rglob("*.html"))
    assert len(pages) >= 12
    for page in pages:
        foot = page.read_text().partition("<footer>")[2]
        for said in (
            f"mibench {mibench.__version__}",
            "abc123def456",
            "results up to 2026-12-24",
            "licence Apache-2.0",
        ):
            assert said in foot, page
        assert "@misc{mibench2026," in foot
    assert (site / "download" / "orl32.bib").read_text().startswith("@misc{mibench2026,")


def test_versions_of_a_track_are_never_mixed() -> None:
    first, second = boards([make_run(track_version=1), make_run(track_version=2)])
    assert [(b.key, b.version, len(b.rows)) for b in (first, second)] == [("orl32", 2, 1), ("orl32-v1", 1, 1)]


# --- pages -----------------------------------------------------------------------------------------------


def test_same_runs_in_any_order_give_the_same_bytes(tmp_path: Path, picture: Path) -> None:
    options = SiteOptions(images="all", image_source=lambda run, image: picture)
    runs = grid()
    build_site(runs, make_catalogue(), tmp_path / "one", options)
    random.Random(0).shuffle(runs)
    build_site(runs, make_catalogue(), tmp_path / "two", options)
    first = tree(tmp_path / "one")
    assert first == tree(tmp_path / "two")
    build_site(runs, make_catalogue(), tmp_path / "two", options)  # over an existing site
    assert first == tree(tmp_path / "two")
    assert {"index.html", "protocol.html", "leaderboard.csv", "leaderboard.json"} < first.keys()


def test_hostile_names_are_text_everywhere(tmp_path: Path) -> None:
    run = make_run(
        defense=HOSTILE,
        attack="=cmd()",
        attack_params={HOSTILE: HOSTILE},
        deviations=[HOSTILE],
        environment={HOSTILE: [HOSTILE]},
        command=HOSTILE,
        metrics={HOSTILE: MetricValue(None, reason=HOSTILE), "att1": MetricValue(None, reason=HOSTILE)},
        queries={HOSTILE: {HOSTILE: {"forward": 1}}},
    )
    facts = {"title": HOSTILE, "paper": HOSTILE, "url": "javascript:alert(3)", "deviations": [HOSTILE]}
    metrics = {HOSTILE: {"help": HOSTILE}}
    catalogue = Catalogue({"orl32": {"title": HOSTILE}}, {HOSTILE: facts}, {"=cmd()": facts}, metrics)
    index = build_site([run], catalogue, tmp_path / "site", SiteOptions())
    paths = sorted(index.parent.rglob("*.html"))
    assert len(paths) >= 10
    for path in paths:
        page = Page(path)
        scripts = [attrs for tag, attrs in page.tags if tag == "script"]
        assert all(attrs.get("src") or attrs.get("type") == "application/json" for attrs in scripts), path
        assert not [tag for tag, attrs in page.tags if tag == "img" or any(name[:2] == "on" for name in attrs)]
        assert not [attrs for _, attrs in page.tags if "javascript:" in (attrs.get("href") or "")]
        others = {"about.html", "submit.html", "reported.html", "claims.html"}
        assert HOSTILE in page.text or path.name in others
    (island,) = Page(index).islands
    assert json.loads(island)["rows"][0]["label"] == HOSTILE
    with (index.parent / "leaderboard.csv").open(newline="") as stream:
        (line,) = csv.DictReader(stream)
    assert (line["defense"], line["attack"]) == (HOSTILE, "'=cmd()")


def test_a_missing_value_is_a_dash_with_its_reason_and_never_a_number(tmp_path: Path) -> None:
    run = make_run(att1=None)
    index = build_site([run], make_catalogue(), tmp_path / "site", SiteOptions())
    html = index.read_text()
    cell = re.search(r'<td class="num attack heat s0 empty" data-order="([^"]*)"[^>]*>(.*?)</td>', html, re.S)
    assert cell and cell[1] == ""
    assert not re.search(r"\d", re.sub(r"<[^>]*>", "", cell[2]))
    worst = re.search(r'<td class="num pin worst lead-cell" data-order="([^"]*)"[^>]*>(.*?)</td>', html, re.S)
    assert worst and worst[1] == "" and "no value: no attack finished" in worst[2]
    assert "no value: the evaluator is not available" in cell[2]
    assert 'title="the evaluator is not available"' in cell[2]
    (island,) = Page(index).islands
    assert json.loads(island)["rows"][0]["y"] == [None]
    page = (index.parent / "run" / f"{run.run}.html").read_text()
    assert "Inception weights are not on this machine" in page
    with (index.parent / "leaderboard.csv").open(newline="") as stream:
        (line,) = csv.DictReader(stream)
    assert (line["att1"], line["att1_reason"]) == ("", "the evaluator is not available")


def test_pages_of_a_panel_say_what_is_shown(tmp_path: Path, picture: Path) -> None:
    run = judged(0.25, att1=0.5)
    options = SiteOptions(images="all", image_source=lambda *_: picture)
    index = build_site([run], make_catalogue(), tmp_path / "site", options)
    board, page, method = (
        Page(index.parent / name) for name in ("index.html", f"run/{run.run}.html", "attack/gmi.html")
    )
    (island,) = board.islands
    assert json.loads(island)["rows"][0]["y"][0][0] == 0.25 and json.loads(island)["leakage"] == "majority"
    assert "at least two of three independent judges" in board.text and "E1 50.0" in board.text
    assert [t for t, a in board.tags if t == "span" and "E2 12.5 %, E3 37.5 %" in (a.get("title") or "")]
    heads = re.findall(r'<span class="head">([^<]*)&nbsp;', (index.parent / "attack" / "gmi.html").read_text())
    assert heads[:6] == [
        "Natural accuracy",
        "Majority of judges",
        "Attack top‑1 (E1)",
        "Top‑1 (E2)",
        "Rank\xa01 (E3)",
        "Face rate",
    ]
    assert "25.0" in method.text
    assert (page.text.count("E2: match"), page.text.count("E3: match")) == (30, 20)
    assert {f"E2: {9 - label}" for label in run.identities} <= set(page.texts)
    decided = [image["correct"] for image in run.images if image["index"] == 1]  # by E1
    assert len(set(decided)) == 2
    assert re.findall(r"majority: (\d) of 4", page.text) == [str(2 + correct) for correct in decided]
    assert "evaluators disagree" in page.text and "Majority attack accuracy per identity" in page.text
    assert "no value: it knows faces only" in page.text and "On 77 photos" in page.text and "90.0–97.5" in page.text


def test_one_evaluator_says_its_verdict_alone(tmp_path: Path, picture: Path) -> None:
    run = make_run()
    index = build_site([run], make_catalogue(), tmp_path / "site", SiteOptions("all", image_source=lambda *_: picture))
    page = Page(index.parent / "run" / f"{run.run}.html")
    assert page.text.count("E1: match") == sum(image["correct"] for image in run.images)
    assert "E2" not in page.text and "majority" not in page.text.lower() and "know of real photos" not in page.text


def test_the_terminals_table_says_in_words_what_a_panel_found() -> None:
    runs = [judged(0.25, att1=0.5), judged(0.75, defense="re", seed=0), judged(0.25, defense="re", seed=1)]
    out = io.StringIO()
    for part in tables.results(runs):
        Console(file=out, width=300).print(part)
    shown = out.getvalue()
    heads = shown.splitlines()[2].replace("┃", " ").split()
    assert heads == [
        "defense",
        "attack",
        "natural",
        "majority",
        "E1",
        "E2",
        "E3",
        "face",
        "rate",
        "E1",
        "step",
        "0",
        "way",
    ]
    assert "recognise 5.0 of 10 people" in shown and "(gmi on re, the most here)" in shown
    for line in (
        "Seeds: 0, 1; each training attacked once, evaluators and public priors of seed 0.",
        "Identities: 10, 4 images each.",
        "Evaluators: on real photos that they never saw E1 95.0 %, E2 95.0 %, E3 is missing (it knows faces only).",
        "Intervals: 95 %, t over 2 trainings.",
    ):
        assert line in map(str.strip, shown.splitlines())
    assert "Nothing above the floor" not in shown, "no floor was run"
    *_, words = tables.results([*runs, judged(1.0, attack="photos")], controls={"photos"})
    assert "(gmi on re, the most here)" in str(words), "a control is not what an attack reached"
    bounded = [searching("ppa", 0.75), searching("floor", 0.25), searching("ceiling", 1.0)]
    table, _, words = tables.results(bounded, {"floor", "ceiling"}, ("floor", "ceiling"))
    assert "recognise 7.5 of 10 people" in str(words) and "Without optimisation: 2.5." in str(words)
    assert isinstance(table, Table) and list(table.columns[-1].cells) == ["66.7", "0.0", "100.0"]
    assert "Nothing above the floor: ppa on none." in str(words), "its people are those of the floor"
    above = [
        replace(run, metrics=run.metrics | {"att_maj": MetricValue(0.75, 40, 0.7, 0.8, None, people)})
        for run in bounded[:1]
        for people in [{str(label): 0.7 + label / 100 for label in range(10)}]
    ]
    *_, words = tables.results([*above, *bounded[1:]], {"floor", "ceiling"}, ("floor", "ceiling"))
    assert "Nothing above" not in str(words)
    *_, words = tables.results([judged(None)])
    assert str(words) == "No majority: no third judge."
    assert "Evaluators: one, E1." in str(tables.results([make_run()])[-1])


def test_no_spread_is_not_shown_as_certainty() -> None:
    """0 of 10 people: the upper end is 1 - 0.025^(1/10) (Clopper and Pearson), whatever the run's own interval."""
    people = dict.fromkeys(map(str, range(10)), 0.0)
    nobody = MetricValue(0.0, 40, 0.0, 0.0, None, people)
    run = replace(make_run(), metrics=make_run().metrics | {"att1": nobody})
    (board,) = boards([run])
    upper = 1 - 0.025**0.1
    assert (board.rows[0].leaked.low, board.rows[0].leaked.high) == pytest.approx((0.0, upper))
    assert (board.cases["none"].value.low, board.cases["none"].value.high) == pytest.approx((0.0, upper))
    shown = run_view(run, make_catalogue(), lambda _: None)
    assert [m["interval"] for m in shown["metrics"] if m["id"] == "att1"] == ["0.0–30.8"]
    assert run.public()["metrics"]["att1"]["ci_high"] == 0.0, "what is stored stays"


def test_exposure_of_people_is_exported_and_shown() -> None:
    people = {str(label): share for label, share in enumerate([0.0, 0.0, 0.0, 0.0, 0.25, 0.25, 0.25, 0.5, 0.75, 1.0])}
    run = replace(make_run(), metrics=make_run().metrics | {"att1": MetricValue(0.3, 40, 0.1, 0.5, None, people)})
    found = run.public()["exposure"]
    assert found == run.exposure and (found["metric"], found["people"], found["images"]) == ("att1", 10, 4)
    assert (found["ids50"], found["any"], found["never"], found["tail10"]) == (0.3, 0.6, 0.4, 1.0)
    assert (found["p50"], found["p90"]) == (0.25, pytest.approx(0.775))
    gaps = sum(abs(a - b) for a in people.values() for b in people.values())
    assert found["gini"] == pytest.approx(gaps / (2 * 10 * 3.0))
    head, (line,) = table([run])
    assert dict(zip(head, line, strict=True))["exposure_tail10"] == 1.0
    shown = run_view(run, make_catalogue(), lambda _: None)["identities"]
    assert (shown["half"], shown["never"], shown["any"], shown["p50"]) == (3, 4, "60.0", "25.0")


def test_exports_hold_the_public_objects(tmp_path: Path) -> None:
    runs = grid()
    index = build_site(runs, make_catalogue(), tmp_path / "site", SiteOptions())
    data = json.loads((index.parent / "leaderboard.json").read_text())
    assert data["schema"] == 1
    assert {r["run"]: r for r in data["runs"]} == {r.run: json.loads(json.dumps(r.public())) for r in runs}


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    run = make_run(metrics={"att1": MetricValue(math.nan)})
    with pytest.raises(UserError, match="att1 is not finite"):
        build_site([run], make_catalogue(), tmp_path / "site", SiteOptions())
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("run", ["../../etc/pwn", "", "0123456789AB", "x" * 12])
def test_run_ids_that_could_leave_the_folder_are_refused(tmp_path: Path, run: str) -> None:
    with pytest.raises(UserError, match="12 hexadecimal"):
        build_site([make_run(run=run)], make_catalogue(), tmp_path / "site", SiteOptions())


def test_an_empty_leaderboard_is_a_page_that_says_how_to_begin(tmp_path: Path) -> None:
    index = build_site([], Catalogue(), tmp_path / "site", SiteOptions())
    assert "There are no runs yet" in index.read_text()


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://arxiv.org/abs/1", True),
        ("http://x.org", True),
        ("docs/paper.html", True),
        ("javascript:alert(1)", False),
        ("JaVaScRiPt:alert(1)", False),
        (" javascript:alert(1)", False),
        ("java\nscript:alert(1)", False),
        ("data:text/html,x", False),
        ("//elsewhere.org", False),
        ("", False),
        (None, False),
    ],
)
def test_only_web_addresses_become_links(url: str | None, kept: bool) -> None:
    assert text.safe_url(url) == (url if kept else None)


def test_numbers_as_written() -> None:
    assert [text.number(v, "fraction") for v in (0.4331, 0.0, 1.0, None)] == ["43.3", "0.0", "100.0", "–"]
    assert [text.number(v) for v in (1234.6, 12.345, 0.98765, 40)] == ["1235", "12.35", "0.9877", "40"]
    assert text.interval(-0.1, 1.2, "fraction") == "0.0–100.0"
    assert [text.duration(v) for v in (4.21, 42, 727, 12000)] == ["4.2 s", "42 s", "12.1 min", "3.3 h"]


# --- images ----------------------------------------------------------------------------------------------


def test_images_are_carried_only_when_asked_for(tmp_path: Path, picture: Path) -> None:
    def images(**options: Any) -> set[str]:
        sources: dict[str, Any] = {"image_source": lambda *_: picture, "private_source": lambda *_: picture}
        asked = SiteOptions(**sources, **options)
        index = build_site([make_run()], make_catalogue(), tmp_path / "site", asked)
        pages = "".join(p.read_text() for p in index.parent.rglob("*.html"))
        assert ("contains private images, do not publish" in pages) == asked.shows_private
        return {p.parts[0] for name in tree(index.parent) if (p := Path(name)).suffix == ".png"}

    assert images() == set()
    assert images(private_images=True) == set()
    assert images(images="all") == {"img"}
    assert images(images="all", private_images=True) == {"img", "private"}
    assert images(images="all") == {"img"}  # the private ones are gone again


def test_faces_are_blurred_on_sensitive_and_on_unknown_tracks_only(tmp_path: Path, picture: Path) -> None:
    options = SiteOptions(images="all", image_source=lambda *_: picture)
    runs = [make_run(track=track) for track in ("orl32", "digits", "unknown")]
    index = build_site(runs, make_catalogue(digits={"sensitive": False}), tmp_path / "site", options)
    blurred = {r.track for r in runs if 'id="reveal"' in (index.parent / "run" / f"{r.run}.html").read_text()}
    assert blurred == {"orl32", "unknown"}


def test_an_image_without_a_file_is_named_as_such(tmp_path: Path) -> None:
    options = SiteOptions(images="all", image_source=lambda *_: None)
    run = make_run()
    index = build_site([run], make_catalogue(), tmp_path / "site", options)
    page = Page(index.parent / "run" / f"{run.run}.html")
    assert "no file" in page.text and not [tag for tag, _ in page.tags if tag == "img"]


# --- replacing -------------------------------------------------------------------------------------------


def test_the_old_site_stays_when_building_fails(tmp_path: Path, picture: Path) -> None:
    site = tmp_path / "site"
    build_site([make_run()], make_catalogue(), site, SiteOptions())
    before = tree(site)
    seen = []

    def breaks(run: RunRecord, image: dict[str, object]) -> Path:
        seen.append(tree(site) == before)  # complete while the new one is being written
        if len(seen) == 3:
            raise OSError("disk full")
        return picture

    with pytest.raises(OSError, match="disk full"):
        build_site(grid(), make_catalogue(), site, SiteOptions(images="all", image_source=breaks))
    assert seen == [True, True, True]
    assert tree(site) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [".site.lock", "picture.png", "site"]


def test_what_a_killed_builder_left_is_cleared_and_the_old_site_put_back(tmp_path: Path) -> None:
    site = tmp_path / "site"
    build_site([make_run()], make_catalogue(), site, SiteOptions())
    site.rename(atomic.temporary(site))  # died between the two renames
    atomic.temporary(site).mkdir()
    with pytest.raises(RuntimeError, match="stop"):
        build_site([make_run()], make_catalogue(), site, SiteOptions("all", image_source=_stop))
    assert (site / "index.html").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".site.lock", "site"]


def _stop(run: RunRecord, image: dict[str, object]) -> Path:
    raise RuntimeError("stop")


def test_a_folder_that_is_not_a_site_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("precious")
    with pytest.raises(UserError, match="not a site that mibench wrote"):
        build_site([make_run()], make_catalogue(), tmp_path / "thesis", SiteOptions())
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    assert build_site([make_run()], make_catalogue(), tmp_path / "empty", SiteOptions()).is_file()


def test_a_changed_image_replaces_the_one_of_the_old_site(tmp_path: Path, picture: Path) -> None:
    options = SiteOptions(images="all", image_source=lambda *_: picture)
    run = make_run()
    for content in (b"one", b"two"):
        picture.write_bytes(content)
        index = build_site([run], make_catalogue(), tmp_path / "site", options)
        assert (index.parent / "img" / run.run / "0-0.png").read_bytes() == content


# --- vendored files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", sorted({package.folder for package in vendor.PACKAGES}))
def test_vendored_files_are_those_of_the_lock(folder: str) -> None:
    assert vendor.mismatches(ROOT / folder) == []
    lock = json.loads((ROOT / folder / "VENDOR.lock").read_text())
    expected = {
        (name, package.name, package.version, package.licence)
        for package in vendor.PACKAGES
        if package.folder == folder
        for name in package.files.values()
    }
    assert {(e["file"], e["name"], e["version"], e["licence"]) for e in lock} == expected


def test_a_changed_or_extra_vendored_file_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("a")
    lock = [{"file": "a.js", "sha256": "0"}, {"file": "b.js", "sha256": "0"}]
    (tmp_path / "VENDOR.lock").write_text(json.dumps(lock))
    (tmp_path / "c.js").write_text("c")
    wrong = vendor.mismatches(tmp_path)
    assert ["c.js is not" in wrong[0], "b.js is missing" in wrong[1], "a.js differs" in wrong[2]] == [True] * 3


# --- a defense that protects some people --------------------------------------------------------------------------


def _half_protected(**fields: Any) -> RunRecord:
    persons = {"0": 0.25, "1": 0.75, "2": 1.0, "3": 0.5}
    metrics = {"att1": MetricValue(0.625, 4, per_identity=persons), "nat1": MetricValue(0.9, 4)}
    return replace(make_run(defense="re"), metrics=metrics, **fields)


def test_the_protected_and_the_others_are_meaned_apart() -> None:
    run = _half_protected(protected=[0, 1, 7])
    assert run.apart("att1") == (0.5, 0.75)
    assert run.apart("nat1") is None and run.apart("lpips") is None, "not known person by person"
    assert _half_protected().apart("att1") is None and _half_protected(protected=[0, 1, 2, 3]).apart("att1") is None
    assert RunRecord.from_json(run.to_json()) == run
    old = run.to_json()
    del old["protected"]
    assert RunRecord.from_json(old).protected is None


def test_the_page_of_a_run_shows_the_protected_apart() -> None:
    def shown(run: RunRecord) -> list[tuple[str, str]]:
        return [
            (line["protected"], line["others"]) for line in run_view(run, make_catalogue(), lambda image: None)["apart"]
        ]

    assert shown(_half_protected(protected=[0, 1])) == [("50.0", "75.0")] and shown(_half_protected()) == []
