"""What runs say of statements whose tests were fixed before: tests against scipy, numpy, statsmodels and brute force,
the verdicts on made-up runs, the suite that declares them, and the README's answer against the published results."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from factories import make_catalogue, make_run

from mibench.cli.claims import BLOCK
from mibench.errors import UserError
from mibench.protocol.suites import Suite, load_suite
from mibench.publish import SiteOptions, build_site
from mibench.publish.aggregate import boards
from mibench.publish.claims import FAILS, HOLDS, OPEN, Comparison, Outcome, outcomes
from mibench.publish.claims_page import answer, how_tested, missing_in_words
from mibench.publish.results import load_results
from mibench.publish.rows import Board
from mibench.records import RunRecord, StageInfo
from mibench.registry import Registry
from mibench.running.request import select_all

ROOT = Path(__file__).resolve().parents[2]
LOWER = {"title": "t", "statement": "S.", "test": "lower", "attacks": "all", "pairs": [["re", "none"]]}
FEATURES = {"title": "f", "statement": "F.", "test": "features", "attacks": "one", "pairs": [["re", "none"]]}
FEATURES |= {"measures": [{"title": "ratio", "value": "a", "over": "b", "sign": "higher", "least": 0.1}]}


def suite(claim: dict[str, Any], seeds: int = 4) -> Suite:
    attacks = {"all": ["gmi", "ppa"], "one": ["gmi"]}
    facts = {"schema": 1, "title": "Q?", "note": "", "groups": {}, "cells": {}, "seeds": seeds, "attacks": attacks}
    return Suite.model_validate(facts | {"claims": {"c": claim}})


def runs(values: dict[tuple[str, str], list[float]], nat: dict[str, list[float]] | None = None) -> list[RunRecord]:
    """Ten people, who are all recognised alike."""
    made = []
    for (defense, attack), own in values.items():
        for seed, value in enumerate(own):
            accuracy = nat[defense][seed] if nat else 0.9
            run = make_run(defense=defense, attack=attack, seed=seed, att1=value, nat1=accuracy)
            people = replace(run.metrics["att1"], per_identity={str(i): value for i in range(10)})
            made.append(replace(run, metrics=run.metrics | {"att1": people}))
    return made


def board(made: list[RunRecord]) -> Board:
    return boards(made, baselines={"none"})[0]


def outcome(claim: dict[str, Any], made: list[RunRecord], seeds: int = 4) -> Outcome:
    (found,) = outcomes(board(made), suite(claim, seeds))
    return found


def first(claim: dict[str, Any], values: dict[tuple[str, str], list[float]], seeds: int = 4) -> Comparison:
    return outcome(claim, runs(values), seeds).comparisons[0]


def both(defense: str, gmi: list[float], ppa: float = 0.0) -> dict[tuple[str, str], list[float]]:
    """gmi is the worst attack throughout."""
    return {(defense, "gmi"): gmi, (defense, "ppa"): [ppa] * len(gmi)}


NONE = both("none", [0.60, 0.65, 0.58, 0.63])

# --- worst attack against worst attack -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "verdict"),
    [
        ([0.30, 0.36, 0.27, 0.32], HOLDS),
        ([0.80, 0.86, 0.79, 0.82], FAILS),  # told apart on the other side
        ([0.60, 0.66, 0.57, 0.63], FAILS),  # no decrease by five points
        ([0.30, 0.90, 0.20, 0.60], OPEN),  # so many trainings do not tell
    ],
)
def test_a_pair_is_a_paired_t_test_of_the_worst_attack(own: list[float], verdict: str) -> None:
    part = first(LOWER, NONE | both("re", own))
    reference = scipy.stats.ttest_rel(own, NONE["none", "gmi"])
    assert part.verdict == verdict and part.seeds == 4
    assert part.adjusted == pytest.approx(reference.pvalue)
    interval = reference.confidence_interval()
    found = part.figure("difference")
    assert found and (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.value == pytest.approx(np.mean(own) - 0.615)
    side = part.figure("first")
    assert side and side.value == pytest.approx(np.mean(own)) and side.title == "worst attack on re (gmi)"
    assert (verdict != OPEN) == (not part.why or "excluded" in part.why)


def test_the_worst_attack_of_a_training_is_chosen_on_the_others() -> None:
    values = {("re", "gmi"): [0.1, 0.5, 0.1], ("re", "ppa"): [0.3, 0.2, 0.3]}
    part = first(LOWER, values | both("none", [0.6, 0.7, 0.8]), seeds=3)
    side = part.figure("first")
    # without 0: gmi .30, ppa .25; without 1: gmi .1, ppa .3; without 2: gmi .3, ppa .25
    assert side and side.value == pytest.approx(statistics.fmean([0.1, 0.2, 0.1]))
    assert "gmi, ppa, gmi" in side.title


def test_a_missing_attack_or_too_few_trainings_leave_it_open_and_are_named() -> None:
    without = {("none", "gmi"): NONE["none", "gmi"], ("re", "gmi"): [0.3, 0.36, 0.27, 0.32]}
    found = outcome(LOWER, runs(without))
    part = found.comparisons[0]
    assert part.verdict == OPEN and part.attacks == ("gmi",) and "gmi" in part.why
    assert part.adjusted is not None and part.figure("difference") is not None, "what is known is shown"
    assert missing_in_words(found.missing, 4) == ["re: ppa", "none: ppa"] and found.wanted == 16
    short = {cell: own[:2] for cell, own in (NONE | both("re", [0.3, 0.36, 0.27, 0.32])).items()}
    found = outcome(LOWER, runs(short))
    assert found.verdict == OPEN and missing_in_words(found.missing, 4)[0] == "re: gmi, ppa (trainings 2, 3)"
    gap = [run for run in runs(NONE | both("re", [0.3, 0.36, 0.27, 0.32])) if (run.defense, run.seed) != ("re", 1)]
    found = outcome(LOWER, gap)
    assert found.comparisons[0].seeds == 1 and found.comparisons[0].why == "one training is no evidence about a method"
    assert {item.seeds for item in found.missing} == {(1,)}


def test_three_of_four_trainings_are_told_and_more_than_declared_left_aside() -> None:
    values = NONE | both("re", [0.30, 0.36, 0.27, 0.32])
    three = outcome(LOWER, runs({cell: own[:3] for cell, own in values.items()}))
    assert three.verdict == HOLDS and three.comparisons[0].seeds == 3 and three.missing
    five = outcome(LOWER, runs({cell: [*own, 0.99] for cell, own in values.items()}))
    assert five.comparisons[0].seeds == 4 and not five.missing


def test_nothing_at_all_and_trainings_that_agree_to_the_digit_tell_nothing() -> None:
    found = outcome(LOWER, runs(NONE))
    assert found.verdict == OPEN and not found.comparisons[0].figures
    part = first(LOWER, both("none", [0.5] * 4) | both("re", [0.25] * 4))
    assert part.verdict == OPEN and part.why == "its trainings agree to the digit"


def test_sides_whose_judges_have_different_seeds_are_not_compared() -> None:
    made = runs(NONE | both("re", [0.30, 0.36, 0.27, 0.32]))
    judged = {seed: StageInfo("evaluator", "e" * 64, "engine", 1, {}, seed, 1.0) for seed in range(4)}
    one = [replace(r, stages=[*r.stages, judged[r.seed]]) if r.defense == "re" else r for r in made]
    found = outcome(LOWER, one)  # a board of each; seed 0 is on both, and one training is no evidence
    assert found.verdict == OPEN and found.comparisons[0].why == "one training is no evidence about a method"
    assert outcome(LOWER, [replace(r, stages=[*r.stages, judged[r.seed]]) for r in made]).verdict == HOLDS


def test_holm_is_over_all_comparisons_of_a_statement_whether_or_not_they_were_run() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    three = {**LOWER, "pairs": [["re", "none"], ["bido", "none"], ["ls", "none"]]}
    values = NONE | both("re", [0.50, 0.57, 0.50, 0.50]) | both("bido", [0.30, 0.36, 0.27, 0.32])
    found = outcome(three, runs(values))
    p = [scipy.stats.ttest_rel(values[d, "gmi"], NONE["none", "gmi"]).pvalue for d in ("re", "bido")]
    adjusted = list(multitest.multipletests([*p, 1.0], method="holm")[1])
    assert [part.adjusted for part in found.comparisons] == [*map(pytest.approx, adjusted[:2]), None]
    assert [part.verdict for part in found.comparisons] == [HOLDS, HOLDS, OPEN] and found.verdict == OPEN
    assert outcome({**LOWER, "pairs": three["pairs"][:2]}, runs(values)).verdict == HOLDS
    worse = both("ls", [0.80, 0.86, 0.79, 0.82])
    assert outcome(three, runs(values | worse)).verdict == FAILS


def test_accuracies_that_differ_too_much_are_not_equal() -> None:
    values = NONE | both("re", [0.30, 0.36, 0.27, 0.32])
    nat = {"none": [0.9, 0.92, 0.9, 0.91], "re": [0.87, 0.9, 0.88, 0.86]}
    for equal, verdict in ((0.04, HOLDS), (0.02, OPEN)):
        part = outcome({**LOWER, "equal_accuracy": equal}, runs(values, nat)).comparisons[0]
        accuracy = part.figure("accuracy")
        assert part.verdict == verdict and accuracy and accuracy.value == pytest.approx(-0.03)
        assert ("−3.0 points" in part.why) == (verdict == OPEN)


def test_a_defense_can_face_attacks_that_the_other_cannot() -> None:
    """Of ``none`` only what it can face; the attack made for ``re`` counts on it alone."""
    claim = {**LOWER, "attacks_on": {"none": "one"}}
    values = {("none", "gmi"): NONE["none", "gmi"]} | both("re", [0.30, 0.36, 0.27, 0.32], ppa=0.9)
    part = first(claim, values)
    side = part.figure("first")
    assert part.complete and part.verdict == FAILS and side and side.title == "worst attack on re (ppa)"


# --- the other tests -------------------------------------------------------------------------------------------------


def test_a_trend_is_the_least_squares_slope_of_each_training() -> None:
    doses = {"a": 0.1, "b": 0.2, "c": 0.5}
    claim = {**LOWER, "test": "trend", "attacks": "one", "doses": doses, "dose": "area"}
    del claim["pairs"]
    values = {("a", "gmi"): [0.6, 0.62, 0.61], ("b", "gmi"): [0.5, 0.55, 0.57], ("c", "gmi"): [0.2, 0.3, 0.26]}
    part = first(claim, values, seeds=3)
    y = np.array([values[name, "gmi"] for name in doses])
    slopes = 0.4 * np.polyfit(list(doses.values()), y, 1)[0]
    reference = scipy.stats.ttest_1samp(slopes, 0)
    found = part.figure("difference")
    assert found and found.value == pytest.approx(slopes.mean()) and part.adjusted == pytest.approx(reference.pvalue)
    assert part.verdict == HOLDS
    del values["c", "gmi"]
    part = first(claim, values, seeds=3)
    assert part.verdict == OPEN and part.figure("difference") is not None and "missing" in part.why


def test_leak_at_takes_the_best_setting_of_the_other_trainings_that_is_accurate_enough() -> None:
    settings = {"re": ["weak", "strong", "wild"], "bido": ["bido"]}
    claim = {"title": "t", "statement": "S.", "test": "leak_at", "attacks": "one", "undefended": "none"}
    claim |= {"defense": "re", "loss": 0.05, "settings": settings}
    leaks = {"none": [0.6, 0.66, 0.62, 0.61], "weak": [0.5, 0.51, 0.5, 0.3], "strong": [0.45, 0.4, 0.45, 0.52]}
    leaks |= {"wild": [0.1, 0.1, 0.1, 0.12], "bido": [0.55, 0.6, 0.58, 0.6]}
    lost = {"none": 0.0, "weak": 0.01, "strong": 0.03, "wild": 0.2, "bido": 0.02}
    nat = {name: [0.9 - loss + jitter * loss for jitter in (0, 0.1, 0.05, 0)] for name, loss in lost.items()}
    part = outcome(claim, runs({(n, "gmi"): own for n, own in leaks.items()}, nat)).comparisons[0]

    def chosen(names: list[str]) -> list[float]:
        """Brute force; ``wild`` costs twenty points."""
        rest = [{n: np.mean(np.delete(leaks[n], s)) for n in names if n != "wild"} for s in range(4)]
        return [leaks[min(means, key=lambda n: means[n])][s] for s, means in enumerate(rest)]

    ours, theirs = chosen(["none", *settings["re"]]), chosen(["none", "bido"])
    assert len(set(map(leaks["weak"].__contains__, ours))) == 2, "both settings are chosen somewhere"
    reference = scipy.stats.ttest_rel(ours, theirs)
    found = part.figure("difference")
    assert found and found.value == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert part.adjusted == pytest.approx(reference.pvalue) and part.figures[0].value == pytest.approx(np.mean(ours))
    careless = {name: [0.9, 0.7, 0.9, 0.7] if name != "none" else own for name, own in nat.items()}
    part = outcome(claim, runs({(n, "gmi"): own for n, own in leaks.items()}, careless)).comparisons[0]
    assert part.verdict == OPEN and part.why == "no setting of either is surely that accurate"


def with_features(defense: str, values: list[tuple[float, float]]) -> list[RunRecord]:
    made = runs({(defense, "gmi"): [0.5 + s / 100 for s in range(len(values))]})
    points = [{"values": {"a": {"value": a}, "b": {"value": b}}} for a, b in values]
    return [replace(run, features=facts) for run, facts in zip(made, points, strict=True)]


def test_features_are_compared_on_their_side() -> None:
    none = with_features("none", [(10, 10), (11, 10), (10, 10.5), (10, 10)])
    further = with_features("re", [(20, 10), (22, 10), (19, 10), (21, 10)])
    part = outcome(FEATURES, none + further).comparisons[0]
    reference = scipy.stats.ttest_rel([2, 2.2, 1.9, 2.1], [1, 1.1, 10 / 10.5, 1])
    assert part.verdict == HOLDS and part.adjusted == pytest.approx(reference.pvalue)
    found = part.figure("difference")
    assert found and found.value == pytest.approx(
        reference.confidence_interval().low / 2 + reference.confidence_interval().high / 2
    )
    nearer = with_features("re", [(5, 10), (5.5, 10), (5, 10), (5.2, 10)])
    assert outcome(FEATURES, none + nearer).verdict == FAILS
    none_known = [replace(run, features=None) for run in further]
    part = outcome(FEATURES, none + none_known).comparisons[0]
    assert part.verdict == OPEN and part.why == "some runs have no feature space"


# --- what is declared ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def declared() -> Suite:
    return load_suite(ROOT, "claims")


def test_the_suite_holds_every_run_that_its_claims_need(declared: Suite) -> None:
    cells = {(d, cell.attack) for cell in declared.cells.values() for d in declared.groups[cell.defenses]}
    for name, claim in declared.claims.items():
        groups = getattr(claim, "attacks_on", {})
        for label in claim.defenses:
            needed = {(label, attack) for attack in declared.attacks[groups.get(label, claim.attacks)]}
            assert needed <= cells or label.startswith("matched["), (name, label, needed - cells)
    assert {cell.track for cell in declared.cells.values()} == {"orl32"} and declared.seeds >= 5


def test_the_suite_names_what_exists_and_what_the_network_has_a_place_for(declared: Suite) -> None:
    registry = Registry(ROOT)
    track = registry.track("orl32")
    for kind, names in (("defense", declared.groups["every"]), ("attack", [c.attack for c in declared.cells.values()])):
        facts = [registry.facts(selection, track) for selection in select_all(registry, kind, names)]
        assert [f.label for f in facts] == list(names) and not [f.skip for f in facts if f.skip]
    assert all(set(group) <= set(declared.groups["every"]) for group in declared.groups.values())


def test_doses_and_budgets_are_those_of_the_presets(declared: Suite) -> None:
    registry = Registry(ROOT)
    track = registry.track("orl32")

    def values(label: str) -> dict[str, Any]:
        return registry.facts(registry.select("defense", label), track).params

    doses = declared.claims["stronger-erasing"].doses  # type: ignore[union-attr]
    hidden = {label: pytest.approx(statistics.fmean(values(label)["area"])) for label in doses}
    assert doses == hidden and list(doses.values()) == sorted(doses.values())
    for one, other in declared.claims["partial-erasure"].pairs:  # type: ignore[union-attr]
        assert values(other)["share"] == pytest.approx(statistics.fmean(values(one)["area"]))
    for one, other in declared.claims["random-location"].pairs:  # type: ignore[union-attr]
        assert values(other)["area"] == values(one)["area"]


def test_a_claim_about_attacks_that_nobody_named_is_refused(tmp_path: Path) -> None:
    (tmp_path / "suites").mkdir()
    facts = {"schema": 1, "title": "", "note": "", "groups": {}, "cells": {}, "attacks": {"all": []}}
    facts["claims"] = {"c": {**LOWER, "attacks": "al"}}
    (tmp_path / "suites" / "x.yaml").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="claim c: Unknown group of attacks 'al'"):
        load_suite(tmp_path, "x")


# --- pages and words -------------------------------------------------------------------------------------------------


def test_the_page_shows_every_statement_and_leads_to_the_runs(tmp_path: Path) -> None:
    made = runs(NONE | both("re", [0.30, 0.36, 0.27, 0.32]))
    for claims, words in (
        (suite(LOWER), ("holds here", "16 of 16 runs", "worst attack on re (gmi)")),
        (None, ("Claims",)),
    ):
        catalogue = replace(make_catalogue(), claims=claims)
        build_site(made, catalogue, tmp_path / "site", SiteOptions())
        page = (tmp_path / "site" / "claims.html").read_text(encoding="utf-8")
        assert all(word in page for word in words)
        assert claims is None or all(f"run/{run.run}.html" in page for run in made)
    build_site([], make_catalogue(), tmp_path / "site", SiteOptions())
    assert "no runs yet" in (tmp_path / "site" / "claims.html").read_text(encoding="utf-8")


def test_the_answer_is_two_sentences_with_numbers() -> None:
    claims = {"a": LOWER, "b": FEATURES | {"title": "apart"}, "c": LOWER | {"title": "again"}}
    whole = Suite.model_validate(suite(LOWER).model_dump(by_alias=True) | {"claims": claims})
    only = board(runs(NONE | both("re", [0.30, 0.36, 0.27, 0.32])))
    said = answer(only, outcomes(only, whole))
    assert said == (
        "On `orl32`, “S” **holds here**: 61.5 % from `none`, 31.2 % from `re` (−30.2 points, 95 % interval −31.8 to "
        "−28.7; accuracy 0.0 points, 4 of 4 trainings, the worst of 2 of 2 attacks). Of the other 2, 1 holds here "
        "(again: re against none −30.2 points, 95 % interval −31.8 to −28.7) and 1 cannot be told (apart)."
    )
    assert "Holm" not in how_tested(outcomes(only, whole)[0]) and "one comparison" in how_tested(
        outcomes(only, whole)[0]
    )


# --- the published results -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(declared: Suite) -> tuple[Board, list[Outcome]]:
    registry = Registry(ROOT)
    results = [run for run in load_results(ROOT / "results") if run.track == "orl32"]
    only = boards(results, (), registry.control_ids, registry.bounds, {"none"})[0]
    return only, outcomes(only, declared)


def test_the_readme_answers_with_what_the_results_say(published: tuple[Board, list[Outcome]]) -> None:
    """Made by `mibench claims --from results --write README.md`."""
    found = BLOCK.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found and " ".join(found[0].split("\n")[1:-1]) == answer(*published)


def test_the_answers_numbers_are_those_of_the_files(published: tuple[Board, list[Outcome]], declared: Suite) -> None:
    """The first statement from the bare JSON: leave one out by hand, scipy for the rest."""
    data = [run["record"] for run in json.loads((ROOT / "results" / "orl32.json").read_text())["runs"]]
    cells: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for record in data:
        if record["status"] == "done":
            cells[record["defense_label"], record["attack_label"]][record["seed"]] = record["metrics"]["att_maj"][
                "value"
            ]
    claim = declared.claims["leaks-less"]
    attacks = [
        a for a in declared.attacks[claim.attacks] if all({0, 1, 2} <= cells[d, a].keys() for d in claim.defenses)
    ]
    seeds = min(len(cells[d, a]) for d, a in product(claim.defenses, attacks))
    seeds = min(seeds, declared.seeds)

    def worst(defense: str) -> list[float]:
        def rest(attack: str, seed: int) -> float:
            return statistics.fmean(cells[defense, attack][s] for s in range(seeds) if s != seed)

        return [cells[defense, max(attacks, key=lambda a: rest(a, s))][s] for s in range(seeds)]

    one, other = (worst(defense) for defense in claim.defenses)
    part = published[1][0].comparisons[0]
    reference = scipy.stats.ttest_rel(one, other).confidence_interval()
    found = part.figure("difference")
    assert found and (found.value, found.low, found.high) == pytest.approx(
        (statistics.fmean(one) - statistics.fmean(other), reference.low, reference.high)
    )
    assert part.figures[0].value == pytest.approx(statistics.fmean(one))


def test_claims_are_recomputed_and_traced_without_torch(published: tuple[Board, list[Outcome]], tmp_path: Path) -> None:
    code = (
        "import sys; from mibench.cli import cli; "
        f"cli.main(['claims', '--from', {str(ROOT / 'results')!r}, '--trace', 'leaks-less'], standalone_mode=False); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"MIBENCH_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for figure in published[1][0].comparisons[0].figures:
        assert f"{figure.id}: {figure.title} {figure.written}" in done.stdout
        assert figure.runs and all(f"  {run.run}  {run.name}" in done.stdout for run in figure.runs)
