"""Human studies: which questions are asked, what the page gives away (nothing), and what the answers say."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from studies import RUNS, TEMPLATES, answers_of, ask, make_key, make_people, make_study, write_sheet

from mibench.errors import UserError
from mibench.study import load_studies
from mibench.study.design import arrange
from mibench.study.gather import nearest_others
from mibench.study.key import read_key, read_sheets
from mibench.study.numbers import against_controls, d_prime, krippendorff_alpha, rate
from mibench.study.page import render
from mibench.study.results import save
from mibench.study.score import score

# --- numbers ---------------------------------------------------------------------------------------------------------


def test_alpha_is_the_published_one() -> None:
    """The example of Krippendorff's "Computing Krippendorff's alpha-reliability": four observers, twelve units, nominal
    alpha 0.743."""
    observers = [
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    ]
    units = zip(*(line.split() for line in observers), strict=True)
    found = krippendorff_alpha((n, [value for value in unit if value != "."]) for n, unit in enumerate(units))
    assert found.value == pytest.approx(0.743, abs=5e-4)
    assert found.ci_low is not None and found.ci_high is not None and found.ci_low < 0.743 < found.ci_high


def test_alpha_of_random_answers_is_near_zero_and_of_equal_ones_null() -> None:
    rng = random.Random(1)
    value = krippendorff_alpha((n, [rng.choice("ab") for _ in range(3)]) for n in range(3000)).value
    assert value is not None and abs(value) < 0.03
    same = krippendorff_alpha([(0, ["yes", "yes"]), (1, ["yes", "yes"])])
    assert same.value is None and same.reason
    assert krippendorff_alpha([(0, ["yes"])]).reason == "needs items that two raters answered"


def test_d_prime_against_the_normal_distribution() -> None:
    z = NormalDist().inv_cdf
    found = d_prime(*(np.array([float(n)]) for n in (80, 100, 10, 50)))
    assert float(found[0]) == pytest.approx(z(80.5 / 101) - z(10.5 / 51))
    assert math.isfinite(float(d_prime(*(np.array([n]) for n in (50.0, 50.0, 0.0, 50.0)))[0]))
    assert math.isnan(float(d_prime(*(np.array([n]) for n in (0.0, 0.0, 1.0, 5.0)))[0]))


def test_the_difference_weighs_identities_equally_and_its_interval_covers() -> None:
    accepted = {1: [1.0], 2: [1.0, 0.0, 0.0, 0.0]}
    alarms = {1: [0.0, 1.0], 2: [0.0]}
    difference, _ = against_controls(accepted, alarms)
    assert difference.value == pytest.approx((1 + 0.25) / 2 - (0.5 + 0) / 2)
    assert rate([(1, 1.0), (2, 1.0), (2, 0.0)], "why").value == pytest.approx(0.75)
    assert rate([], "why").reason == "why"

    rng = random.Random(0)
    inside = 0
    for _ in range(40):
        outcomes = {who: [float(rng.random() < 0.6) for _ in range(3)] for who in range(40)}
        noise = {who: [float(rng.random() < 0.1) for _ in range(2)] for who in range(40)}
        found, _ = against_controls(outcomes, noise)
        assert found.ci_low is not None and found.ci_high is not None
        inside += found.ci_low <= 0.5 <= found.ci_high
    assert inside >= 33  # 95 % nominal; 33 of 40 is three and a half standard deviations below


# --- questions -------------------------------------------------------------------------------------------------------


def test_shares_and_contents_of_the_questions() -> None:
    asked = ask()
    same = Counter(item.kind for item in asked if item.task == "same")
    assert same == {"reconstruction": 2 * 5 * 3, "matched": 10, "mismatched": 10}  # 60, 20 and 20 %
    people = make_people()
    for item in asked:
        if item.task == "lineup":
            meanings = [int(meaning) for _, meaning in item.options]
            assert sorted(meanings) == sorted([item.identity, *people[item.identity].lookalikes])
            assert all(source in people[int(meaning)].photos for source, meaning in item.options)
        elif item.kind == "matched":
            assert item.query in people[item.identity].photos and item.query not in item.photos
        elif item.kind == "mismatched":
            assert item.query not in people[item.identity].photos and set(item.photos) <= set(
                people[item.identity].photos
            )
        if item.task == "same":
            assert len(item.photos) == 4
    pairs = [item for item in asked if item.task == "pair"]
    assert len(pairs) == 5 and all({meaning for _, meaning in item.options} == set(RUNS) for item in pairs)
    assert not any(item.task == "pair" for item in ask(RUNS[:1]))


def test_the_same_places_are_judged_in_every_run() -> None:
    places = {run: [i.query.name for i in ask() if i.task == "lineup" and i.run == run and i.query] for run in RUNS}
    assert places[RUNS[0]] == places[RUNS[1]]
    alone = [i.query.name for i in ask(RUNS[:1]) if i.task == "lineup" and i.query]
    assert alone == places[RUNS[0]]


def test_each_item_goes_to_as_many_raters_and_each_rater_gets_every_kind() -> None:
    study = make_study(raters=5, each=2)
    times = Counter(name for asked in study.order.values() for name, _ in asked)
    assert set(times) == set(study.items) and set(times.values()) == {2}
    kinds = [
        Counter((study.answers[n]["kind"], study.answers[n]["run"]) for n, _ in asked) for asked in study.order.values()
    ]
    for kind in kinds[0]:
        counts = [found[kind] for found in kinds]
        assert max(counts) - min(counts) <= 3  # one for each task


def test_order_and_names_say_nothing() -> None:
    ranks: dict[str, list[float]] = {"reconstruction": [], "matched": [], "mismatched": []}
    for seed in range(20):
        found = arrange(ask(), ["rater-0"], 1, {"orl32": "person"}, seed).answers
        for place, name in enumerate(sorted(found)):
            if found[name]["task"] == "same":
                ranks[found[name]["kind"]].append(place / len(found))
    assert all(abs(np.mean(r) - 0.5) < 4 * np.std(r) / math.sqrt(len(r)) for r in ranks.values())
    study = make_study()
    orders = [tuple(name for name, _ in asked) for asked in study.order.values()]
    assert len(set(orders)) == len(orders)
    first = [sides[0] for asked in study.order.values() for name, sides in asked if study.items[name]["task"] == "pair"]
    assert 0 < sum(first) < len(first)
    assert study == make_study()


def test_lookalikes_are_the_nearest_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    means, labels = rng.normal(size=(9, 3)), [3, 5, 7, 11, 13, 17, 19, 23, 29]
    found = nearest_others(means, labels, 5)
    for i, label in enumerate(labels):
        others = sorted((math.dist(means[i], means[j]), labels[j]) for j in range(9) if j != i)
        assert set(found[label]) == {who for _, who in others[:5]}


def test_the_page_holds_no_answer_and_no_markup_from_data() -> None:
    study = make_study()
    html = render(TEMPLATES, "0" * 12, study, lambda source: b"png</script>" + source.name.encode())
    data = json.loads(re.findall(r'id="study">(.*?)</script>', html, re.S)[0])
    assert set(data) == {"schema", "study", "items", "order", "answers", "images"}
    assert {key for item in data["items"].values() for key in item} == {"task", "noun", "query", "photos", "options"}
    for secret in (*RUNS, "orl32", "matched", "correct", "d+a"):
        assert secret not in html
    assert "<" not in html.split('id="study">')[1].split("</script>")[0]
    policy = re.findall(r'Content-Security-Policy" content="([^"]+)"', html)[0]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert not re.search(r"https?://", html)


# --- answers ---------------------------------------------------------------------------------------------------------


def test_scores_of_known_answers(tmp_path: Path) -> None:
    key = make_key(make_study())
    sheets = [write_sheet(tmp_path, rater, answers_of(key, rater)) for rater in ("rater-0", "rater-1")]
    careless = answers_of(key, "rater-2", matched="no", mismatched="yes", reconstruction="no", pair=RUNS[1])
    sheets.append(write_sheet(tmp_path, "rater-2", careless))
    result = score(key, read_sheets(sheets, key))
    assert [rater["included"] for rater in result["raters"]] == [True, True, False]
    assert result["raters"][2]["reason"] == "under 80 % on the controls"
    assert result["missing_raters"] == ["rater-3"]
    first, second = (result["runs"][run] for run in RUNS)
    assert first["same"]["acceptance"]["value"] == 1 and first["same"]["acceptance"]["n"] == 2 * 15
    assert first["same"]["false_alarms"]["value"] == 0 and first["same"]["difference"]["value"] == 1
    assert first["lineup"]["accuracy"]["value"] == 1 and first["lineup"]["chance"] == pytest.approx(1 / 6)
    assert (first["pair"]["preferred"]["value"], second["pair"]["preferred"]["value"]) == (1, 0)
    assert second["pair"]["against"] == RUNS[0]


def test_cannot_tell_is_not_yes_and_half_is_half(tmp_path: Path) -> None:
    key = make_key(make_study())
    files = [
        write_sheet(tmp_path, "rater-0", answers_of(key, "rater-0", reconstruction="unsure")),
        write_sheet(tmp_path, "rater-1", answers_of(key, "rater-1")),
    ]
    same = score(key, read_sheets(files, key))["runs"][RUNS[0]]["same"]
    assert same["acceptance"]["value"] == 0.5 and same["cannot_tell"]["value"] == 0.5
    assert same["alpha"]["value"] < 0  # two raters who never agree


def test_nobody_who_passes_gives_null_with_a_reason(tmp_path: Path) -> None:
    key = make_key(make_study())
    answers = answers_of(key, "rater-0", matched="unsure", mismatched="unsure")
    run = score(key, read_sheets([write_sheet(tmp_path, "rater-0", answers)], key))["runs"][RUNS[0]]
    values = [value for task in ("same", "lineup", "pair") for value in run[task].values() if isinstance(value, dict)]
    assert all(value["value"] is None and value["reason"] for value in values)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"study": "1" * 12}, "answers to the study"),
        ({"rater": "nobody"}, "from rater 'nobody'"),
        ({"schema": 2}, "not a file of answers"),
        ({"answers": [{"item": "q999", "answer": "yes"}]}, "does not ask"),
        ({"extra": 1}, "not a file of answers"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    key = make_key(make_study())
    with pytest.raises(UserError, match=sentence):
        read_sheets([write_sheet(tmp_path, "rater-0", answers_of(key, "rater-0"), change)], key)


def test_wrong_or_double_answers_are_refused(tmp_path: Path) -> None:
    key = make_key(make_study())
    item = next(name for name in key.raters["rater-0"] if key.items[name].task == "same")
    with pytest.raises(UserError, match="Expected one of"):
        read_sheets([write_sheet(tmp_path, "rater-0", {item: "perhaps"})], key)
    twice = [{"item": item, "answer": "yes"}, {"item": item, "answer": "no"}]
    with pytest.raises(UserError, match="twice"):
        read_sheets([write_sheet(tmp_path, "rater-0", {}, {"answers": twice})], key)
    path = write_sheet(tmp_path, "rater-0", {item: "yes"})
    with pytest.raises(UserError, match="one file per rater"):
        read_sheets([path, path], key)
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="not a file of answers"):
        read_sheets([path], key)


def test_results_are_found_by_run_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    key = make_key(make_study())
    path = save(tmp_path, score(key, read_sheets([write_sheet(tmp_path, "rater-0", answers_of(key, "rater-0"))], key)))
    found = load_studies(tmp_path)
    assert set(found) == set(RUNS) and found[RUNS[0]][0]["study"] == "0" * 12
    path.write_text("{}")
    with pytest.raises(UserError, match="not the result of a study"):
        load_studies(tmp_path)
    with pytest.raises(UserError, match="not a key"):
        read_key(path)
