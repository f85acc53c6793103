"""Which runs are seeds of one row, and what a row is called that differs from another of its label."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from factories import make_catalogue, make_run, make_stage

from mibench.protocol.stage_kinds import STAGE_KINDS
from mibench.publish import Catalogue
from mibench.publish.aggregate import boards, current_runs
from mibench.publish.leaderboard import leaderboard_view
from mibench.publish.legend import Legend
from mibench.publish.results import merged
from mibench.records import RunRecord

STRONG, OTHER = [0.1, 0.8], [0.1, 0.6]


def run(
    defense: dict[str, Any] | None = None,
    attack: dict[str, Any] | None = None,
    chosen: tuple[str, ...] | None = None,
    versions: tuple[int, int] = (1, 1),
    label: str = "re[strong]",
    **more: Any,
) -> RunRecord:
    """Of ``re`` against ``gmi``. With ``chosen`` the record says which parameters are not the default."""
    defense, attack = defense or {"area": STRONG}, attack or {"lr": 0.02}
    made = make_run(defense="re", defense_label=label, defense_params=defense, attack_params=attack, **more)
    stages = [
        make_stage("target", "re", defense, made.seed, version=versions[0]),
        make_stage("invert", "gmi", attack, made.seed, version=versions[1]),
    ]
    if chosen is not None:
        stages = [replace(s, non_default={k: v for k, v in s.params.items() if k in chosen}) for s in stages]
    return replace(made, stages=stages)


def knowing(presets: dict[str, Any] | None = None, gmi: int = 1) -> Catalogue:
    """A catalogue of code with these presets of ``re`` and this version of ``gmi``."""
    known = make_catalogue()
    attack, defense = dict(known.attacks["gmi"]), dict(known.defenses["re"])
    return replace(
        known,
        attacks={"gmi": attack | {"code_version": gmi}},
        defenses=dict(known.defenses) | {"re": defense | {"presets": presets or {"strong": {"area": STRONG}}}},
    )


def rows(runs: list[RunRecord], known: Catalogue | None = None) -> dict[tuple[str, str], tuple[list[int], float]]:
    """By labels: the seeds and the mean of what leaks."""
    known = known or knowing()
    random.Random(0).shuffle(runs)
    (board,) = boards(current_runs(runs, known), baselines=known.baselines)
    return {(row.defense_label, row.attack_label): ([r.seed for r in row.runs], row.leaked.mean) for row in board.rows}


def published(**more: Any) -> list[RunRecord]:
    return [run(seed=seed, att1=0.5 + seed / 50, **more) for seed in range(3)]


@pytest.mark.parametrize("seed", [0, 3])
def test_a_newcomers_run_with_parameters_gained_since_is_a_seed_of_the_published_row(seed: int) -> None:
    """Of a published seed, with its id, and of one that nobody published. By hand: the mean of all."""
    fresh = run({"area": STRONG, "recipe": None}, {"lr": 0.02, "align": None}, chosen=("area",), seed=seed, att1=0.6)
    found = rows(merged([fresh], published()))
    values = {0: 0.5, 1: 0.52, 2: 0.54} | {seed: 0.6}
    seeds, mean = found[("re[strong]", "gmi")]
    assert seeds == sorted(values) and mean == pytest.approx(sum(values.values()) / len(values)) and len(found) == 1


def test_a_changed_preset_is_a_row_of_its_own_and_mixes_nothing() -> None:
    """Natural accuracy of both settings would be 85.4 from 80.8 and 90.0."""
    old = published(nat1=0.9)
    new = [run({"area": OTHER}, seed=0, run="f" * 12, created="2027-01-01T00:00:00Z", nat1=0.808, att1=0.2)]
    found = rows([*old, *new])
    apart = {
        ("re[strong]", "gmi"): ([0, 1, 2], pytest.approx(0.52)),
        ("re[strong] (area=0.1:0.6)", "gmi"): ([0], 0.2),
    }
    assert found == apart
    (board,) = boards(current_runs([*old, *new], knowing()))
    assert {label: case.natural.mean for label, case in board.cases.items()} == {
        "re[strong]": pytest.approx(0.9),
        "re[strong] (area=0.1:0.6)": pytest.approx(0.808),
    }
    renamed = rows([*old, *new], knowing({"strong": {"area": OTHER}}))
    assert set(renamed) == {("re[strong]", "gmi"), ("re[strong] (area=0.1:0.8)", "gmi")}
    assert renamed[("re[strong]", "gmi")] == ([0], 0.2)


@pytest.mark.parametrize(("here", "labels"), [(1, {"gmi", "gmi (version 2)"}), (2, {"gmi", "gmi (version 1)"})])
def test_a_new_version_is_a_row_of_its_own_on_new_code_and_back_on_old(here: int, labels: set[str]) -> None:
    new = [run(versions=(1, 2), seed=s, run=f"{s:012x}", created="2027-01-01T00:00:00Z", att1=0.9) for s in range(3)]
    found = rows([*published(), *new], knowing(gmi=here))
    assert {attack for _, attack in found} == labels
    assert found[("re[strong]", "gmi")][1] == pytest.approx(0.52 if here == 1 else 0.9)


def test_of_versions_that_nobody_here_has_every_one_is_marked() -> None:
    new = [run(versions=(1, 2), seed=s, run=f"{s:012x}") for s in range(2)]
    assert {attack for _, attack in rows([*published(), *new], knowing(gmi=3))} == {
        "gmi (version 1)",
        "gmi (version 2)",
    }


def test_a_parameter_that_was_chosen_is_not_the_default_that_older_records_lack() -> None:
    default = run({"area": STRONG, "recipe": None}, chosen=("area",), seed=1)
    chosen = run({"area": STRONG, "recipe": "mine"}, chosen=("area", "recipe"), seed=2)
    found = rows([run(seed=0), default, chosen])
    assert {label for label, _ in found} == {"re[strong]", "re[strong] (recipe=mine)"}
    assert found[("re[strong]", "gmi")][0] == [0, 1]


def test_what_could_belong_to_two_rows_is_one_of_its_own() -> None:
    """Older records that do not tell: nothing is averaged with anything."""
    found = rows([run(seed=0), *(run({"area": STRONG, "p": p}, seed=1 + i) for i, p in enumerate((0.5, 1.0)))])
    assert sorted(seeds for seeds, _ in found.values()) == [[0], [1], [2]]


def test_two_names_of_one_setting_are_one_row() -> None:
    found = rows([run(chosen=("area",)), run(chosen=("area",), seed=1, label="re[area=0.1:0.8]")])
    assert {label: seeds for label, (seeds, _) in found.items()} == {("re[strong]", "gmi"): [0, 1]}


def test_a_part_of_a_combination_with_a_new_version_is_told_apart() -> None:
    params = {"re": {"area": STRONG}, "bido": {"lx": 0.1}}

    def both(extra: dict[str, Any], **more: Any) -> RunRecord:
        made = make_run(defense="re+bido", defense_params=params | extra, **more)
        return replace(made, stages=[make_stage("target", "re+bido", params | extra, made.seed), made.stages[1]])

    runs = [both({}, seed=0), both({"versions": {"re": 2}}, seed=1), both({}, seed=2)]
    found = {label: seeds for (label, _), (seeds, _) in rows(runs).items()}
    assert found == {"re+bido": [0, 2], "re+bido (re version 2)": [1]}


def test_stages_of_other_code_are_a_board_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older undefended model is no baseline of a newer defense. Of a stage that only some runs have, the rows are
    told apart, where they stand on one board."""
    once = STAGE_KINDS["prepare"]
    old = [replace(r, stages=[*r.stages, make_stage("prepare", "gmi", {})]) for r in published()]
    monkeypatch.setitem(STAGE_KINDS, "prepare", replace(once, version=once.version + 1))
    fresh = run(seed=3)
    fresh = replace(fresh, stages=[*fresh.stages, make_stage("prepare", "gmi", {})])
    found = {attack: seeds for (_, attack), (seeds, _) in rows([*old, fresh]).items()}
    assert found == {"gmi": [3], f"gmi (prepare stage {once.version})": [0, 1, 2]}
    newer = STAGE_KINDS["target"].version + 1
    monkeypatch.setitem(STAGE_KINDS, "target", replace(STAGE_KINDS["target"], version=newer))
    new = [run(seed=0, run="f" * 12, att1=0.9)]
    first, second = boards(current_runs([*old, *new], knowing()))
    assert (first.key, [r.run for r in first.rows[0].runs]) == ("orl32", ["f" * 12])
    assert second.key == f"orl32 (target stage {newer - 1})" and [r.seed for r in second.rows[0].runs] == [0, 1, 2]
    monkeypatch.setitem(STAGE_KINDS, "target", replace(STAGE_KINDS["target"], version=newer - 1))
    first, second = boards(current_runs([*old, *new], knowing()))
    assert (first.key, second.key) == ("orl32", f"orl32 (target stage {newer})") and len(first.rows[0].runs) == 3


def test_of_two_runs_of_a_seed_the_one_that_knows_more_counts() -> None:
    """A machine without a judge's weights measures less, and takes no figure away."""
    poorer = replace(run(seed=0, run="f" * 12, created="2027-01-01T00:00:00Z"), metrics={})
    assert {r.run for r in current_runs([*published(), poorer])} == {r.run for r in published()}


def test_a_cell_of_fewer_seeds_says_so() -> None:
    known = knowing()
    other = replace(run(seed=0), attack="ppa", attack_label="ppa")
    (board,) = boards(current_runs([*published(), other], known))
    (row,) = leaderboard_view(board, [board], known, Legend([board]))["rows"]
    assert {cell["partial"] for cell in row["cells"]} == {None, "1 of 3 seeds"}
