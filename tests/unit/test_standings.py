"""Standings and badges, paired differences, downloads, published results and reported figures."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import statistics
import sys
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from factories import make_catalogue, make_run

from mibench.cli.site_data import catalogue
from mibench.errors import UserError
from mibench.keys import digest
from mibench.protocol.stage_kinds import STAGE_KINDS
from mibench.publish import Catalogue, SiteOptions, build_site
from mibench.publish.aggregate import boards, current_runs
from mibench.publish.compare import compare_view, paired_difference, t_quantiles
from mibench.publish.downloads import as_bibtex, as_csv, as_latex, as_parquet, bibtex, latex, own_bibtex
from mibench.publish.figures_file import load_reported
from mibench.publish.judges import flags
from mibench.publish.methods import method_view, protocol_view
from mibench.publish.reported import reported_view
from mibench.publish.results import load_results, merged
from mibench.publish.standings import standings
from mibench.records import MetricValue, RunRecord, Seeds, StageInfo
from mibench.registry import Registry

ROOT = Path(__file__).resolve().parents[2]


def only(runs: list[RunRecord], catalogue: Catalogue | None = None) -> Any:
    (board,) = boards(runs)
    return standings(board, catalogue or make_catalogue())


def words(standing: Any) -> set[str]:
    return {badge.word for badge in standing.badges}


def test_controls_are_shown_and_do_not_compete() -> None:
    cells = [("none", "gmi", 0.6), ("none", "floor", 0.9), ("re", "gmi", 0.4), ("re", "floor", 0.1)]
    cells += [("deranged", "gmi", 0.0)]
    runs = [
        make_run(defense=d, attack=a, att1=v + shift * (d == "re"), nat1=0.9, seed=seed)
        for d, a, v in cells
        for seed, shift in enumerate((0.0, 0.02, 0.01))
    ]
    (board,) = boards(runs, controls={"floor", "deranged"}, baselines={"none"})
    ranked = [(s.label, s.case.rank, s.worst.attack if s.worst else None) for s in standings(board, make_catalogue())]
    assert ranked == [("re", 1, "gmi"), ("none", 2, "gmi"), ("deranged", None, "gmi")]
    assert board.required == ("gmi",) and "deranged" not in board.front
    assert {row.attack_label for row in board.rows if row.defense_label == "re"} == {"gmi", "floor"}


def test_the_registry_says_which_methods_are_controls() -> None:
    assert catalogue(Registry()).controls == {"floor", "ceiling", "photos", "deranged", "matched"}


# --- standings -----------------------------------------------------------------------------------------------------


def test_a_standing_holds_a_cell_for_each_attack_and_the_worst() -> None:
    runs = [
        make_run(defense="re", attack=a, seed=s, att1=v, nat1=0.9)
        for a, v in (("gmi", 0.2), ("ppa", 0.6))
        for s in (0, 1)
    ]
    (standing,) = only(runs)
    assert set(standing.cells) == {"gmi", "ppa"} and standing.worst.attack == "ppa"
    assert (standing.natural.mean, standing.natural.seeds, standing.seeds) == (0.9, 2, 2)


def test_each_target_counts_once_for_natural_accuracy() -> None:
    """Two attacks on the target of seed 0, one on that of seed 1: the mean is over two targets."""
    runs = [make_run(attack="gmi", seed=0, nat1=0.8), make_run(attack="ppa", seed=0, nat1=0.8)]
    (standing,) = only([*runs, make_run(attack="gmi", seed=1, nat1=0.9)])
    assert standing.natural.mean == pytest.approx(0.85) and standing.natural.seeds == 2


@pytest.mark.parametrize(
    ("origins", "word"),
    [
        (("measured", "measured"), "measured"),
        (("measured", "reproduced"), "reproduced"),
        (("measured", "submitted"), "submitted"),
        (("submitted", "differs"), "differs"),
    ],
)
def test_the_weakest_origin_is_the_badge(origins: tuple[str, str], word: str) -> None:
    runs = [replace(make_run(seed=i), origin=origin) for i, origin in enumerate(origins)]
    (standing,) = only(runs)
    assert words(standing) & {"measured", "reproduced", "submitted", "differs"} == {word}


def test_only_an_attack_made_for_it_takes_the_not_adaptive_badge_away() -> None:
    runs = [make_run(defense="none"), make_run(defense="re")]
    none, re_ = sorted(only(runs), key=lambda s: s.label)
    assert "not adaptive" not in words(none) and "not adaptive" in words(re_)
    known = make_catalogue()
    known = replace(known, attacks={"gmi": dict(known.attacks["gmi"]) | {"adaptive": True}})
    assert not [s for s in only(runs, known) if "not adaptive" in words(s)]
    averaging = replace(make_run(defense="re", attack="ppa"), attack_params={"align": "taa"})
    assert not [s for s in only([*runs, averaging]) if "not adaptive" in words(s)]
    plain = replace(averaging, attack_params={"align": None})
    assert [s.label for s in only([*runs, plain]) if "not adaptive" in words(s)] == ["re"]


@pytest.mark.parametrize(("second", "apart"), [(0.34, False), (0.36, True)])
def test_evaluators_more_than_15_points_apart_disagree(second: float, apart: bool) -> None:
    run = make_run(att1=0.2)
    run = replace(run, metrics=run.metrics | {"att1_e2": MetricValue(second, n=40)})
    (standing,) = only([run])
    assert ("evaluators disagree" in words(standing)) == apart
    assert ("evaluators disagree" in flags([run])) == apart


@pytest.mark.parametrize(("top1", "bound", "over"), [(0.8, 0.8, False), (0.8, 0.79, True), (None, 0.1, False)])
def test_a_judge_that_recognises_more_reconstructions_than_photos_is_saturated(
    top1: float | None, bound: float, over: bool
) -> None:
    run = make_run(att1=0.85)
    knows = {"e1": {"top1": {"value": 0.9, "ci_high": 0.95}}, "e2": {"top1": {"value": 0.05, "ci_high": bound}}}
    second = MetricValue(top1, reason=None if top1 else "not here")
    run = replace(run, judges=knows | {"e3": {"reason": "x"}}, metrics=run.metrics | {"att1_e2": second})
    assert flags([run]) == ({"saturated": "E2 80.0 %, photos at most 79.0 %"} if over else {})
    (standing,) = only([run])
    assert ("saturated" in words(standing)) == over
    assert not over or "gmi (E2 80.0 %" in next(b.meaning for b in standing.badges if b.word == "saturated")


def test_flags_are_about_the_mean_over_seeds() -> None:
    knows = {name: {"top1": {"value": 0.5, "ci_high": 0.6}} for name in ("e1", "e2", "e3")}
    runs = [replace(make_run(att1=value, seed=s), judges=knows) for s, value in enumerate((0.7, 0.4))]
    assert "saturated" in flags(runs[:1]) and flags(runs) == {} and flags([make_run(att1=1.0)]) == {}


@pytest.mark.parametrize(("now", "old"), [(1, False), (2, True)])
def test_runs_of_an_older_version_are_stale(now: int, old: bool) -> None:
    known = make_catalogue()
    known = replace(known, attacks={"gmi": dict(known.attacks["gmi"]) | {"code_version": now}})
    (standing,) = only([make_run()], known)
    assert ("stale code" in words(standing)) == old


def test_runs_of_an_older_engine_are_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    run, invert = make_run(), STAGE_KINDS["invert"]
    assert "stale code" not in words(only([run])[0])
    monkeypatch.setitem(STAGE_KINDS, "invert", replace(invert, version=invert.version + 1))
    (badge,) = [badge for badge in only([run])[0].badges if badge.word == "stale code"]
    assert "invert" in badge.meaning and "target" not in badge.meaning
    monkeypatch.setitem(STAGE_KINDS, "invert", replace(invert, version=0))
    assert {"stale code", "newer code"} & words(only([run])[0]) == {"newer code"}


def test_the_registrys_own_runs_are_not_stale() -> None:
    """With the versions that plans really give to stages."""
    found = catalogue(Registry())
    assert found.attacks["gmi"]["code_version"] == 1 and found.defenses["re"]["code_version"] == 1
    for board in boards(load_results(ROOT / "results")):
        for standing in standings(board, found):
            assert "stale code" not in words(standing), standing.label
    gmi, orl32 = dict(found.attacks["gmi"]) | {"code_version": 2}, dict(found.tracks["orl32"]) | {"version": 1}
    newer = replace(found, attacks=dict(found.attacks) | {"gmi": gmi}, tracks=dict(found.tracks) | {"orl32": orl32})
    rows = [s for b in boards(load_results(ROOT / "results")) for s in standings(b, newer) if "gmi" in s.case.attacks]
    assert len(rows) >= 3 and all("stale code" in words(row) for row in rows)


# --- paired differences --------------------------------------------------------------------------------------------


def per_identity(values: dict[int, float], **cell: Any) -> RunRecord:
    run = make_run(**cell)
    mean = statistics.mean(values.values())
    metric = MetricValue(mean, len(values), per_identity={str(label): value for label, value in values.items()})
    return replace(run, metrics=run.metrics | {"att1": metric})


def test_with_several_seeds_the_interval_is_over_seeds() -> None:
    one = [per_identity({0: 0.5, 1: 0.5 + s / 10}, defense="re", seed=s) for s in range(3)]
    other = [per_identity({0: 0.75, 1: 1.0}, seed=s) for s in range(1, 4)]
    found = paired_difference(one, other, "att1")
    assert found is not None
    means = [((0.5 - 0.75) + (0.5 + s / 10 - 1.0)) / 2 for s in (1, 2)]  # the seeds that both have
    interval = stats.ttest_1samp(means, 0).confidence_interval()
    assert (found.seeds, found.identities, found.over) == (2, 2, "seeds")
    assert found.mean == pytest.approx(statistics.mean(means))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_with_one_seed_it_is_over_the_identities_that_both_attacked() -> None:
    one = [per_identity({0: 0.5, 1: 0.25, 2: 1.0, 7: 1.0}, defense="re")]
    other = [per_identity({0: 1.0, 1: 0.5, 2: 1.0, 8: 0.0})]
    found = paired_difference(one, other, "att1")
    assert found is not None
    interval = stats.ttest_rel([0.5, 0.25, 1.0], [1.0, 0.5, 1.0]).confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert (found.seeds, found.identities, found.over) == (1, 3, "identities")


def test_nothing_in_common_is_no_difference() -> None:
    assert paired_difference([make_run(seed=0)], [make_run(defense="re", seed=1)], "att1") is None
    assert paired_difference([make_run(status="failed", metrics={})], [make_run(defense="re")], "att1") is None


def test_quantiles_are_students() -> None:
    assert t_quantiles()[:3] == pytest.approx([stats.t.ppf(0.975, df) for df in (1, 2, 3)], abs=1e-6)


def test_what_one_training_shows_is_told_as_one_training() -> None:
    low, high = {i: 0.1 for i in range(10)}, {i: 0.9 - i / 100 for i in range(10)}
    runs = [per_identity(high), per_identity(low, defense="re"), per_identity(high, defense="bido")]
    view = compare_view(boards(runs)[0], make_catalogue(), {})
    assert {row["verdict"] for row in view["rows"]} == {"one training"}
    assert {row["defense"]: row["difference"] for row in view["rows"]} == {"re": "−75.5", "bido": "0.0"}


def test_the_readings_of_a_table_hold_for_all_its_lines_at_once() -> None:
    """Against statsmodels: what a single comparison tells apart, several together may not."""
    multipletests = pytest.importorskip("statsmodels.stats.multitest").multipletests
    none = [0.60, 0.66, 0.61, 0.63]
    shares = {"re": [0.20, 0.21, 0.26, 0.22], "bido": [0.50, 0.64, 0.55, 0.50], "ls": [0.55, 0.62, 0.60, 0.59]}
    runs = [
        of_seeds(v, Seeds.of(s), defense=d) for d, own in (shares | {"none": none}).items() for s, v in enumerate(own)
    ]
    view = compare_view(boards(runs)[0], make_catalogue(), {})
    p = [stats.ttest_rel(shares[row["defense"]], none).pvalue for row in view["rows"]]
    told = multipletests(p, 0.05, "holm")[0]
    assert [row["verdict"] == "leaks less" for row in view["rows"]] == list(told)
    assert sum(each < 0.05 for each in p) > sum(told) > 0
    assert {row["verdict"] for row in view["rows"]} == {"leaks less", "not told apart"}


def test_both_columns_and_the_difference_are_over_the_same_runs() -> None:
    """By hand: of seeds 0 and 1, (0.2 + 0.4) / 2 and (0.5 + 0.3) / 2; seed 2 of the undefended model is in neither."""
    shares = {"re": (0.2, 0.4), "none": (0.5, 0.3, 1.0)}
    runs = [per_identity({0: v, 1: v}, defense=d, seed=s) for d, own in shares.items() for s, v in enumerate(own)]
    (row,) = compare_view(boards(runs)[0], make_catalogue(), {})["rows"]
    assert (row["own"], row["reference"], row["difference"], row["seeds"]) == ("30.0", "40.0", "−10.0", 2)
    apart = [per_identity({0: 0.5}, defense="re", seed=1), per_identity({0: 0.5}, seed=0)]
    (row,) = compare_view(boards(apart)[0], make_catalogue(), {})["rows"]
    assert (row["own"], row["reference"], row["difference"]) == ("–", "–", None)


# --- downloads -----------------------------------------------------------------------------------------------------


def test_parquet_holds_what_csv_holds() -> None:
    runs = [make_run(), make_run(attack="ppa", att1=None), make_run(defense="re", status="failed", metrics={})]
    table = pq.read_table(io.BytesIO(as_parquet(runs))).to_pylist()
    lines = list(csv.DictReader(io.StringIO(as_csv(runs))))
    assert len(table) == len(lines) == 3
    for typed, line in zip(table, lines, strict=True):
        assert {name: "" if value is None else str(value) for name, value in typed.items()} == line
    assert isinstance(table[0]["att1"], float) and isinstance(table[0]["seed"], int) and table[1]["att1"] is None
    assert json.loads(lines[0]["attack_params"]) == {"lr": 0.02, "restarts": 4, "steps": 1500}
    versions = {kind: f"{STAGE_KINDS[kind].version}.1" for kind in ("target", "invert")}
    assert json.loads(lines[0]["versions"]) == versions


def test_with_a_panel_latex_and_the_comparison_hold_the_majority() -> None:
    def judged(share: float, **cell: Any) -> RunRecord:
        run = per_identity({0: 0.9, 1: 0.9}, nat1=0.95, **cell)
        return replace(
            run, metrics=run.metrics | {"att_maj": MetricValue(share, 2, per_identity={"0": share, "1": share})}
        )

    (board,) = boards([judged(0.5), judged(0.25, defense="re")])
    assert "% orl32, version 1; majority attack accuracy" in as_latex(board, make_catalogue())
    assert r"re & 95.0 {\scriptsize 87.0--100.0} & 25.0 & 25.0 \\" in as_latex(board, make_catalogue())
    baselined = replace(make_catalogue(), defenses={"none": {"kind": "baseline"}})
    assert r"re & -- & $-$25.0 {\scriptsize $-$25.0 to $-$25.0} \\" in as_latex(board, baselined, "differences")
    view = compare_view(board, make_catalogue(), {})
    (row,) = view["rows"]
    assert (row["own"], row["reference"], row["difference"]) == ("25.0", "50.0", "−25.0")
    assert view["heading"] == "Majority of judges"
    assert sorted(run["leaked"][:2] for run in view["island"]["runs"]) == [[0.25, 0.25], [0.5, 0.5]]


def test_latex_has_a_line_per_defense_and_no_loose_characters() -> None:
    hostile = r"a&b_c%d#e$f{g}h~i^j\k"
    runs = [make_run(defense=hostile, att1=0.5, nat1=0.9), make_run(att1=0.25, nat1=0.95)]
    text = as_latex(boards(runs)[0], make_catalogue())
    line = r"none & 95.0 {\scriptsize 87.0--100.0} & 25.0 {\scriptsize 17.0--34.0} & 25.0 {\scriptsize 17.0--34.0} \\"
    assert line in text and text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count(r"\caption{") == 1
    turned = as_latex(boards(runs)[0], make_catalogue(), "transposed").splitlines()
    assert sum(row.endswith(r"\\") for row in turned) == 4 and r"Attack & none &" in "\n".join(turned)
    assert latex(hostile) == r"a\&b\_c\%d\#e\$f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k"
    assert latex(hostile) + r" & 90.0 {\scriptsize 82.0--99.0} & 50.0 {\scriptsize 42.0--59.0} & 50.0 " in text
    assert text.count(r"\\") == 3


def test_bibtex_of_what_the_registry_names() -> None:
    paper = {
        "title": "Plug & Play",
        "venue": "ICML",
        "year": 2022,
        "url": "https://arxiv.org/abs/2201.12179",
        "authors": ("A B", "C D"),
    }
    entry = bibtex("ppa", {"reference": paper})
    assert entry is not None and entry.startswith("@inproceedings{ppa2022,")
    fields = dict(re.findall(r"  (\w+) = \{(.*)\},", entry))
    assert fields == {
        "author": "A B and C D",
        "title": r"{Plug \& Play}",
        "booktitle": "ICML",
        "year": "2022",
        "url": "https://arxiv.org/abs/2201.12179",
    }
    assert bibtex("none", {}) is None
    assert as_bibtex(boards([make_run()])[0], Catalogue()) == "% no paper is named\n"
    catalogue = Catalogue(
        attacks={"gmi": {"reference": paper}}, defenses={"none": {"reference": paper | {"year": 2021}}}
    )
    assert as_bibtex(boards([make_run()])[0], catalogue).count("@inproceedings") == 2
    own = own_bibtex("2026-11-26", "abc123")
    fields = dict(re.findall(r"  (\w+) = \{(.*)\},", own))
    assert own.startswith("@misc{mibench2026,") and fields["author"] == "{The mibench maintainers}"
    assert re.fullmatch(r"Version [\d.]+, results of 2026-11-26, commit abc123", fields["note"])
    assert as_bibtex(boards([make_run()])[0], catalogue, own).startswith(own)


def test_every_paper_has_its_authors_and_its_form() -> None:
    found = catalogue(Registry())
    entries = [bibtex(name, facts) for known in (found.defenses, found.attacks) for name, facts in known.items()]
    made = [entry for entry in entries if entry]
    assert len(made) >= 39
    places = {"inproceedings": "booktitle", "article": "journal", "misc": "howpublished"}
    for entry in made:
        form = re.match(r"@(\w+)\{\w+,", entry)[1]  # type: ignore[index]
        fields = dict(re.findall(r"  (\w+) = \{(.*)\},", entry))
        assert fields.keys() == {"author", "title", places[form], "year", "url"}, entry
        assert form == {"TMLR": "article", "TDSC": "article", "arXiv": "misc"}.get(
            fields[places[form]], "inproceedings"
        )
        assert " and " in fields["author"] and "," not in fields["author"]


# --- what runs say of their methods --------------------------------------------------------------------------------


def test_a_page_keeps_what_its_runs_say_of_a_method_that_nobody_has_here() -> None:
    """Of a plugin's file, which a later command is not told of; the attack's deviations are the attack's."""
    about = {"title": "Mine of mine", "presets": {"bold": {"p": 0.5}}, "deviations": ["Mine alone."]}
    paper = {"title": "On mine", "venue": "ICML", "year": 2026, "url": "https://example.org", "authors": ["A B"]}
    told = {"defense": about | {"reference": paper}, "attack": {"title": "GMI", "deviations": ["The attack's."]}}
    run = replace(make_run(defense="mine"), methods=told, deviations=["Mine alone.", "The attack's."])
    run = RunRecord.from_json(json.loads(json.dumps(run.to_json())))
    known = catalogue(Registry(), [replace(run, created="2020-01-01T00:00:00+00:00", methods=None), run])
    page = method_view("defense", "mine", boards([run]), known)
    assert page["facts"]["title"] == "Mine of mine" and page["facts"]["paper"] == "On mine (ICML 2026)"
    assert page["presets"][0][0] == "bold" and "0.5" in str(page["presets"]) and page["deviations"] == ["Mine alone."]
    assert "author = {A B}" in (bibtex("mine", page["facts"]) or "")
    assert known.attacks["gmi"]["title"] == Registry().entry("attack", "gmi").title, "what is here is asked first"
    older = replace(make_run(defense="mine"), deviations=["Adam in place of SGD with momentum.", "Mine alone."])
    assert method_view("defense", "mine", boards([older]), make_catalogue())["deviations"] == ["Mine alone."]


# --- published results ---------------------------------------------------------------------------------------------


def test_what_export_writes_is_read_again(tmp_path: Path) -> None:
    runs = [make_run(seed=s) for s in (0, 1)]
    (tmp_path / "a.json").write_text(json.dumps({"schema": 1, "runs": [run.published() for run in runs]}))
    (tmp_path / "notes.md").write_text("not results")
    read = load_results(tmp_path)
    assert read == [replace(run, images=[]) for run in runs]
    assert [run.identities for run in read] == [run.identities for run in runs]
    assert load_results(tmp_path / "nowhere") == []
    assert {bool(run.images) for run in merged(runs[:1], read)} == {True, False}
    assert sorted(run.run for run in merged(runs[:1], read)) == sorted(run.run for run in runs)


def of_seeds(att1: float, seeds: Seeds, **names: Any) -> RunRecord:
    """A run whose stages have these seeds."""
    run = make_run(att1=att1, seed=seeds.target, run=digest([str(names), *astuple(seeds)])[:12], **names)
    own = {"target": seeds.target, "invert": seeds.attack, "evaluator": seeds.evaluator, "prior": seeds.prior}
    stages = [StageInfo(kind, "0" * 64, "x", 1001, {}, seed, 1.0) for kind, seed in own.items()]
    people = {str(label): att1 for label in range(10)}
    metrics = run.metrics | {"att1": replace(run.metrics["att1"], per_identity=people)}
    return replace(run, stages=stages, metrics=metrics)


def test_attacks_on_one_training_are_averaged_before_trainings_count() -> None:
    runs = [of_seeds(v, Seeds.of(s, again)) for s, again, v in ((0, 0, 0.2), (0, 1, 0.4), (1, 0, 0.6), (1, 1, 0.6))]
    (row,) = boards(current_runs(runs))[0].rows
    half = stats.t.ppf(0.975, 1) * statistics.stdev([0.3, 0.6]) / math.sqrt(2)
    assert (row.leaked.mean, row.leaked.seeds, row.leaked.of) == (pytest.approx(0.45), 2, 2)
    assert (row.leaked.low, row.leaked.high) == (max(0.0, 0.45 - half), min(1.0, 0.45 + half))
    assert row.by_seed[0].per_identity["3"] == pytest.approx(0.3)
    assert [run.name.rpartition(".")[2] for run in row.runs] == ["s0", "s0a2", "s1", "s1a2"]
    other = [of_seeds(0.1, Seeds.of(s), defense="re") for s in (0, 1)]
    difference = paired_difference(runs, other, "att1")
    assert difference is not None and (difference.seeds, difference.mean) == (2, pytest.approx(0.35))


def test_old_and_new_seeds_are_never_averaged_nor_compared() -> None:
    """Priors and judges of seed 0 throughout, as in older records, and those of the training's seed."""
    old = [of_seeds(0.5 + s / 50, Seeds(s, s, 0, 0)) for s in range(3)]
    new = [replace(of_seeds(0.3 + s / 50, Seeds.of(s)), created="2027-01-01T00:00:00+00:00") for s in (1, 2)]
    assert current_runs(old) == old
    first, second = boards(current_runs([*old, *new]))
    assert first.rows[0].runs == [old[0], *new], "of seed 0 both are the same run"
    assert second.key == "orl32 (judges=of seed 0)" and second.rows[0].runs == old[1:]
    guarded = [of_seeds(0.1 + s / 50, Seeds(s, s, 0, 0), defense="re") for s in range(3)]
    for against, missing in ((old, 0), ([old[0], *new], 1)):
        board, *_ = boards(current_runs([*against, *guarded]), baselines={"none"})
        assert len(board.cases["re"].missing) == missing and (board.cases["re"].rank is None) == bool(missing)
        assert board.cases["none"].rank is not None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not what"),
        ("[]", "is not what"),
        ('{"schema": 2, "runs": []}', "schema 2 instead of 1"),
        ('{"schema": 1, "runs": [{"run": "x"}]}', "lacks 'record'"),
        ('{"schema": 1, "runs": [{"record": {"metrics": {}, "stages": []}}]}', "is not what"),
    ],
)
def test_other_files_among_the_results_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=rf"x\.json.*{message}"):
        load_results(tmp_path)


def test_the_published_results_can_be_read() -> None:
    runs = load_results(ROOT / "results")
    assert len({run.run for run in runs}) >= 45 and all(run.status == "done" for run in runs)


# --- reported figures ----------------------------------------------------------------------------------------------


def test_reported_figures_are_within_bounds() -> None:
    """Conformance 11 of the evaluation's specification, on the published table."""
    lines = load_reported(ROOT / "results" / "reported.csv")
    assert len(lines) > 200
    for line in lines:
        for value in (line.natural_acc, line.attack_acc_top1, line.attack_acc_top5):
            assert value is None or 0 <= value <= 100, line
        if line.attack_acc_top1 is not None and line.attack_acc_top5 is not None:
            assert line.attack_acc_top5 >= line.attack_acc_top1, line
        assert line.knn_dist is None or line.knn_dist >= 0, line


def test_reported_lines_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "reported.csv"
    assert load_reported(path) == []
    whole = (ROOT / "results" / "reported.csv").read_text(encoding="utf-8").splitlines()
    path.write_text("a,b\n")
    with pytest.raises(UserError, match="expected the columns source"):
        load_reported(path)
    path.write_text(f"{whole[0]}\n{whole[1]}\nRE,1,2\n")
    with pytest.raises(UserError, match="line 3: another number of columns"):
        load_reported(path)
    path.write_text(f"{whole[0]}\n{whole[1].replace('94.69', 'inf')}\n")
    with pytest.raises(UserError, match="line 2: a number that is not finite"):
        load_reported(path)


def test_measured_stands_beside_reported_where_a_track_repeats_the_setting() -> None:
    line = load_reported(ROOT / "results" / "reported.csv")[0]
    keys = ("private_dataset", "public_dataset", "target_arch", "resolution")
    same = {key: getattr(line, key) for key in keys}
    catalogue = Catalogue(
        {"orl32": {"reported": same}, "other": {"reported": same | {"resolution": "1"}}},
        {"none": {"reported": [line.defense]}},
        {"gmi": {"reported": [line.attack]}},
    )
    runs = [make_run(att1=0.5), make_run(track="other"), make_run(attack="ppa"), make_run(defense="re")]
    empty, unknown = replace(line, natural_acc=None, attack_acc_top1=None), replace(line, defense="not stated")
    view = reported_view([line, empty, unknown], boards(runs), catalogue)
    ((item,),) = [group["lines"] for group in view["groups"]]
    (track,) = item["tracks"]
    assert [row["value"] for row in track["measured"]] == ["50.0"] and view["count"] == 1
    (track,) = reported_view([line], [], catalogue)["groups"][0]["lines"][0]["tracks"]
    assert track["measured"] == [] and track["href"] == "track/orl32.html"
    assert reported_view([replace(line, attack="unheard of")], [], catalogue)["groups"][0]["lines"][0]["tracks"] == []


def test_what_has_no_runs_is_marked() -> None:
    view = protocol_view(boards([make_run()]), make_catalogue(mnist={"title": "MNIST"}))
    known = {item["id"] for kind in ("tracks", "defenses", "attacks") for item in view[kind]}
    assert known - view["measured"] == {"mnist", "re"}


# --- pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "identities"), [("none", 0), ("sample", 6), ("all", 10)])
def test_a_sample_holds_the_first_identities(tmp_path: Path, images: Any, identities: int) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"\x89PNG not really")
    options = SiteOptions(images=images, image_source=lambda run, image: picture)
    index = build_site([make_run()], make_catalogue(), tmp_path / "site", options)
    names = {path.name.split("-")[0] for path in index.parent.rglob("img/*/*.png")}
    assert names == {str(label) for label in range(identities)}
    page = (index.parent / "run" / f"{make_run().run}.html").read_text()
    assert ("The first 6 of 10 identities" in page) == (images == "sample")


def test_private_images_are_published_only_where_the_licence_allows_it(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"\x89PNG not really")
    options = SiteOptions(images="all", image_source=lambda *_: picture, private_source=lambda *_: picture)
    catalogue = make_catalogue(free={"sensitive": False, "publish_private": True}, kept={"sensitive": False})
    runs = [make_run(track=track) for track in ("orl32", "free", "kept", "unknown")]
    index = build_site(runs, catalogue, tmp_path / "site", options)
    assert {path.parent.name for path in index.parent.rglob("private/*/*.png")} == {"free"}
    assert math.isclose(len(list(index.parent.rglob("private/*/*.png"))), 40)
