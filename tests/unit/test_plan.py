"""Planning: what is shared, what a change recomputes, and what never enters a key. No plugin is imported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mibench.errors import UserError
from mibench.planning.plan import Cell, Plan, Stage, make_plan
from mibench.protocol.methods import Facts, combined
from mibench.protocol.stage_kinds import STAGE_KINDS
from mibench.protocol.tracks import Track
from mibench.records import Seeds, numbered


def _track(**sections: Any) -> Track:
    recipe = {"arch": "convnet", "epochs": 2, "batch": 8, "lr": 0.01, "weight_decay": 0.0}
    values: dict[str, Any] = {
        "id": "toy",
        "version": 1,
        "title": "Toy",
        "kind": "faces",
        "sensitive": False,
        "source": "synthfaces",
        "resolution": 32,
        "channels": 1,
        "fill": (0.4,),
        "private": {"identities": 4, "train_per_identity": 2, "test_per_identity": 2},
        "public": {"images": 10},
        "target": recipe,
        "evaluator": recipe | {"arch": "small_resnet"},
        "attack": {"images_per_identity": 2},
        "metrics": ("att1",),
    }
    return Track(**values | sections)


def _facts(kind: Any, name: str, params: dict[str, Any] | None = None, **extra: Any) -> Facts:
    given = params or {}
    return Facts(kind, name, name, 1, {"default": 1} | given, given, "0" * 64, **extra)


def _defense(name: str = "none", **params: Any) -> Facts:
    return _facts("defense", name, params)


def _attack(name: str, prior: str | None, prepares: bool = False, **params: Any) -> Facts:
    reference = {"id": prior, "params": {}} if prior else None
    return _facts("attack", name, params, access="white_box", prior=reference, prepares=prepares)


GMI, GMI_TWIN = _attack("gmi", "public_gan"), _attack("other", "public_gan")
KEDMI, PPA = _attack("kedmi", "target_gan"), _attack("ppa", "public_gan", prepares=True)
BARE = _attack("bare", None)
OF_THE_TARGET = {"target", "utility", "gradients", "invert", "evaluate", "features"}  # and what reads it


def _priors(name: str, params: dict[str, Any], track: Track) -> Facts:
    return _facts("prior", name, params, scope=name.removesuffix("_gan"), access="scores")


def _plan(*cells: tuple[Facts, Facts, int], track: Track | None = None, priors: Any = _priors) -> Plan:
    return make_plan(
        [Cell(track or _track(), defense, attack, Seeds.of(seed)) for defense, attack, seed in cells], priors
    )


def _stages(defense: Facts, attack: Facts, seed: int = 0, **options: Any) -> dict[str, Stage]:
    (run,) = _plan((defense, attack, seed), **options).runs
    return run.stages


def _changed(before: dict[str, Stage], after: dict[str, Stage]) -> set[str]:
    assert set(before) == set(after)
    return {kind for kind in before if before[kind].key != after[kind].key}


# --- the graph ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "edges"),
    [
        (
            GMI,
            {
                "evaluator": set(),
                "target": set(),
                "prior": set(),
                "invert": {"target", "prior"},
                "utility": {"target"},
                "gradients": {"target"},
                "evaluate": {"evaluator", "invert", "utility"},
                "features": {"target", "invert"},
            },
        ),
        (
            KEDMI,
            {
                "evaluator": set(),
                "target": set(),
                "prior": {"target"},
                "invert": {"target", "prior"},
                "utility": {"target"},
                "gradients": {"target"},
                "evaluate": {"evaluator", "invert", "utility"},
                "features": {"target", "invert"},
            },
        ),
        (
            PPA,
            {
                "evaluator": set(),
                "target": set(),
                "prior": set(),
                "prepare": {"target", "prior"},
                "invert": {"target", "prior", "prepare"},
                "utility": {"target"},
                "gradients": {"target"},
                "evaluate": {"evaluator", "invert", "utility"},
                "features": {"target", "invert"},
            },
        ),
        (
            BARE,
            {
                "evaluator": set(),
                "target": set(),
                "invert": {"target"},
                "utility": {"target"},
                "gradients": {"target"},
                "evaluate": {"evaluator", "invert", "utility"},
                "features": {"target", "invert"},
            },
        ),
    ],
    ids=lambda value: getattr(value, "id", ""),
)
def test_stages_and_their_inputs(attack: Facts, edges: dict[str, set[str]]) -> None:
    stages = _stages(_defense(), attack)
    assert {kind: set(stage.inputs) for kind, stage in stages.items()} == edges
    for stage in stages.values():
        for role, (kind, key) in stage.inputs.items():
            assert stages[role].kind == kind and stages[role].key == key


def test_parents_come_first_and_every_stage_once() -> None:
    plan = _plan(*((_defense(d), a, s) for d in ("none", "re") for a in (GMI, KEDMI, PPA) for s in (0, 1)))
    seen: set[str] = set()
    for key, stage in plan.stages.items():
        assert key == stage.key and all(parent in seen for _, parent in stage.inputs.values())
        seen.add(key)
    assert {stage.key for run in plan.runs for stage in run.stages.values()} == seen
    assert len(plan.runs) == len({run.run for run in plan.runs}) == 12


def _count(plan: Plan, kind: str) -> int:
    return sum(stage.kind == kind for stage in plan.stages.values())


def test_shared_stages_are_merged() -> None:
    plan = _plan(*((_defense(d), a, s) for d in ("none", "re") for a in (GMI, GMI_TWIN, KEDMI) for s in (0, 1)))
    assert _count(plan, "evaluator") == 2
    assert _count(plan, "target") == _count(plan, "utility") == 2 * 2
    assert _count(plan, "prior") == 2 + 2 * 2, "one public prior per seed for all; KEDMI's per target"
    assert _count(plan, "invert") == _count(plan, "evaluate") == _count(plan, "features") == 12


def test_public_priors_are_shared_across_defenses_and_where_nothing_is_drawn_across_seeds() -> None:
    def found(**options: Any) -> set[tuple[int, str]]:
        cells = [(_defense(d), a, s) for d in ("none", "re") for a in (GMI, PPA) for s in (0, 5)]
        return {((prior := _stages(*cell, **options)["prior"]).seed, prior.key) for cell in cells}

    assert sorted(seed for seed, _ in found()) == [0, 5]
    carried = found(priors=lambda *asked: replace(_priors(*asked), seeded=False))
    assert carried == {one for one in found() if one[0] == 0}, "taken as it is, it is the one of seed 0"
    own = [_stages(_defense(d), KEDMI, s)["prior"].key for d in ("none", "re") for s in (0, 5)]
    assert len(set(own)) == 4


def test_the_same_cell_twice_is_one_run() -> None:
    cell = (_defense("re", p=0.5), GMI, 3)
    assert len(_plan(cell, cell).runs) == 1


def test_skipped_cells_say_why() -> None:
    plan = _plan((replace(_defense("tl"), skip="no labels"), GMI, 0), (_defense(), GMI, 0))
    assert [(cell.defense.id, reason) for cell, reason in plan.skipped] == [("tl", "no labels")]
    assert len(plan.runs) == 1 and all(stage.plugin != "tl" for stage in plan.stages.values())


def _output(**params: Any) -> Facts:
    """A defense of which ``epsilon`` matters only when the target is served."""
    return replace(_defense("shield", **params), served=(("epsilon",),), against="scores")


def test_an_attack_that_transfers_reads_a_student_of_the_target_that_others_share() -> None:
    through = [_attack(name, "public_gan", prepares=True, transfer=True) for name in ("ppa", "ifgmi")]
    one, other = (_stages(_defense(), attack) for attack in through)
    assert set(one["student"].inputs) == {"target"} and one["student"].key == other["student"].key
    assert all("student" in one[kind].inputs for kind in ("prepare", "invert"))
    assert "student" not in _stages(_defense(), PPA) and "student" not in one["evaluate"].inputs
    assert one["student"].key != _stages(_defense(), through[0], 1)["student"].key, "each target has its own"


def test_a_student_needs_scores_and_so_meets_what_protects_them() -> None:
    shield = replace(_output(), against="scores")
    plan = _plan((shield, PPA, 0), (shield, _attack("ppa", "public_gan", prepares=True, transfer=True), 0))
    assert len(plan.runs) == len(plan.skipped) == 1 and plan.runs[0].cell.attack.transfers
    assert "gradients" not in plan.runs[0].stages, "whoever has gradients goes past it"


SCORES = _facts("attack", "search", access="scores", prior={"id": "target_gan", "params": {}}, prepares=True)


def test_what_only_serving_reads_trains_no_target_anew() -> None:
    one, other = (_stages(_output(weight=3, epsilon=e), SCORES) for e in (1, 2))
    below = {"serve", "prior", "prepare", "invert", "utility", "evaluate", "features"}
    assert _changed(one, other) == below
    assert one["target"].params == one["target"].non_default | {"default": 1} == {"default": 1, "weight": 3}
    assert one["serve"].params == {"default": 1, "weight": 3, "epsilon": 1} and set(one["serve"].inputs) == {"target"}
    asking = ("prior", "prepare", "invert", "utility", "features")
    assert all(one[kind].inputs["serve"] == ("serve", one["serve"].key) for kind in asking)
    assert "serve" not in one["evaluate"].inputs and "serve" not in _stages(_defense(), GMI)
    assert _changed(one, _stages(_output(weight=4, epsilon=1), SCORES)) == below | {"target"}
    plan = _plan(*((_output(epsilon=e), SCORES, 0) for e in (1, 2)))
    assert _count(plan, "target") == 1 and _count(plan, "serve") == len(plan.runs) == 2


def test_of_a_combination_each_part_has_its_own() -> None:
    parts = [_defense("re", epsilon=5), _output(epsilon=1, weight=2)]
    both = combined(parts)
    assert both.trained.params == {"re": {"default": 1, "epsilon": 5}, "shield": {"default": 1, "weight": 2}}
    assert both.trained.non_default == {"re": {"epsilon": 5}, "shield": {"weight": 2}}
    assert both.against == "scores" and combined(parts[:1] * 2).against == "white_box"


@pytest.mark.parametrize(
    ("against", "access", "skipped"),
    [
        ("scores", "white_box", True),
        ("scores", "scores", False),
        ("scores", "labels", False),
        ("scores", "private", False),  # a control of the engine's own, which asks the target nothing
        ("labels", "scores", True),
        ("white_box", "white_box", False),
    ],
)
def test_an_attack_that_sees_past_a_defense_is_skipped_with_a_sentence(
    against: str, access: str, skipped: bool
) -> None:
    plan = _plan((replace(_output(), against=against), replace(BARE, access=access), 0))
    assert [reason for _, reason in plan.skipped] == (
        [
            f"shield protects against access '{against}'; an attack with access '{access}' goes past it and meets the "
            "target as it is without"
        ]
        if skipped
        else []
    )


# --- what a change recomputes ------------------------------------------------------------------------------


def test_a_defense_parameter_changes_exactly_its_descendants() -> None:
    base, other = _defense("re", p=1.0), _defense("re", p=0.5)
    assert _changed(_stages(base, GMI), _stages(other, GMI)) == OF_THE_TARGET
    below = OF_THE_TARGET | {"prior"}
    assert _changed(_stages(base, KEDMI), _stages(other, KEDMI)) == below
    below = OF_THE_TARGET | {"prepare"}
    assert _changed(_stages(base, PPA), _stages(other, PPA)) == below


def test_an_attack_parameter_changes_the_attack_alone() -> None:
    other = _attack("ppa", "public_gan", prepares=True, iterations=3)
    assert _changed(_stages(_defense(), PPA), _stages(_defense(), other)) == {
        "prepare",
        "invert",
        "evaluate",
        "features",
    }


def test_a_prior_parameter_changes_the_prior_and_what_searches_it() -> None:
    def wider(name: str, params: dict[str, Any], track: Track) -> Facts:
        return _priors(name, {"width": 64}, track)

    found = _changed(_stages(_defense(), GMI), _stages(_defense(), GMI, priors=wider))
    assert found == {"prior", "invert", "evaluate", "features"}


def test_each_seed_changes_what_is_drawn_from_it_and_what_comes_after() -> None:
    everything = set(before := _stages(_defense(), GMI))
    assert _changed(before, _stages(_defense(), GMI, 1)) == everything
    of = Seeds(3, 3, 3, 3)
    for changed, below in (
        (replace(of, target=4), OF_THE_TARGET),
        (replace(of, attack=4), {"invert", "evaluate", "features"}),
        (replace(of, prior=4), {"prior", "invert", "evaluate", "features"}),
        (replace(of, evaluator=4), {"evaluator", "evaluate"}),
    ):
        one, other = (make_plan([Cell(_track(), _defense(), GMI, seeds)], _priors).runs[0] for seeds in (of, changed))
        assert _changed(one.stages, other.stages) == below


def test_further_attacks_on_a_training_have_seeds_of_their_own() -> None:
    seeds = numbered(200, attacks=5)
    assert len({each.attack for each in seeds}) == 1000 and all(each.attack < 2**31 for each in seeds)
    assert [each for each in seeds if not each.again] == numbered(200), "the first is the training's own"
    plan = make_plan([Cell(_track(), _defense(), GMI, each) for each in numbered(2, attacks=3)], _priors)
    assert (len(plan.runs), _count(plan, "target"), _count(plan, "invert"), _count(plan, "prior")) == (6, 2, 6, 2)


def test_versions_change_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _stages(_defense(), PPA)
    assert _changed(before, _stages(replace(_defense(), version=2), PPA)) == OF_THE_TARGET | {"prepare"}
    monkeypatch.setitem(STAGE_KINDS, "prior", replace(STAGE_KINDS["prior"], version=2))
    assert _changed(before, _stages(_defense(), PPA)) == {"prior", "prepare", "invert", "evaluate", "features"}


@pytest.mark.parametrize(
    ("section", "changed"),
    [
        ({"metrics": ("att1", "att5")}, {"evaluate"}),
        ({"attack": {"images_per_identity": 3}}, {"prepare", "invert", "evaluate", "features"}),
        (
            {"evaluator": {"arch": "convnet", "epochs": 9, "batch": 8, "lr": 0.01, "weight_decay": 0.0}},
            {"evaluator", "evaluate"},
        ),
        (
            {"target": {"arch": "convnet", "epochs": 9, "batch": 8, "lr": 0.01, "weight_decay": 0.0}},
            OF_THE_TARGET | {"prepare"},
        ),
        (
            {"public": {"images": 11}},
            OF_THE_TARGET | {"prior", "prepare"},
        ),
        ({"title": "Another title"}, set()),
        ({"sensitive": True}, set()),
        ({"preset": "small"}, set()),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_track_section_changes_the_stages_that_read_it(section: dict[str, Any], changed: set[str]) -> None:
    """A preset acts through the parameters it sets; a title changes nothing."""
    assert _changed(_stages(_defense(), PPA), _stages(_defense(), PPA, track=_track(**section))) == changed


@pytest.mark.parametrize("base", [{"version": 2}, {"id": "other"}, {"resolution": 64}, {"split": "f" * 64}], ids=str)
def test_what_fixes_the_data_changes_everything(base: dict[str, Any]) -> None:
    before = _stages(_defense(), PPA)
    assert _changed(before, _stages(_defense(), PPA, track=_track(**base))) == set(before)


def test_where_and_how_it_runs_is_not_in_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Device, paths, threads, the method's source, its label and resolved defaults leave every key alone."""
    before = _plan((_defense("re", p=0.5), PPA, 0))
    monkeypatch.chdir(tmp_path)
    for name in ("MIBENCH_HOME", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    defense = replace(
        _defense("re", p=0.5), source_sha256="f" * 64, label="re[half]", params={"p": 0.5, "new": 1}, deviations=("x",)
    )
    after = _plan((defense, replace(PPA, source_sha256="f" * 64), 0))
    assert list(before.stages) == list(after.stages)
    assert before.runs[0].run == after.runs[0].run
    fields = set(Stage.__dataclass_fields__)
    assert not fields & {"device", "path", "home", "workers", "threads", "batch"}


def test_a_run_is_named_by_its_evaluation_and_its_target() -> None:
    cells = [(_defense(d), a, s) for d in ("none", "re") for a in (GMI, KEDMI) for s in (0, 1)]
    names = [run.run for run in _plan(*cells).runs]
    assert len(set(names)) == 8 and all(len(name) == 12 for name in names)


def test_a_prior_may_not_ask_more_of_the_target_than_its_attack_declares() -> None:
    labels_only = replace(KEDMI, access="labels")
    with pytest.raises(UserError, match=r"'labels'.*'scores'"):
        _stages(_defense(), labels_only)


def test_weights_that_arrive_make_a_new_evaluation_and_nothing_else() -> None:
    (plain,) = _plan((_defense(), GMI, 0)).runs
    (weighted,) = make_plan([replace(plain.cell, evaluation={"weights": ["facenet"]})], _priors).runs
    assert _changed(plain.stages, weighted.stages) == {"evaluate"}


def test_the_feature_space_changes_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run from before the stage keeps its id and its other keys, and so does one whose stage gets a new version."""
    before = _plan((_defense(), PPA, 0))
    monkeypatch.setitem(STAGE_KINDS, "features", replace(STAGE_KINDS["features"], version=2))
    after = _plan((_defense(), PPA, 0))
    assert _changed(before.runs[0].stages, after.runs[0].stages) == {"features"}
    assert before.runs[0].run == after.runs[0].run
    others = [stage for stage in after.stages.values() if stage.kind != "features"]
    assert all("features" not in kind for stage in others for kind, _ in stage.inputs.values())
    stage = after.runs[0].stages["features"]
    assert stage.plugin == "none" and stage.non_default == {}
