"""Suites of setups, and tracks that extend others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from once import Once

from mibench.cli import cli
from mibench.errors import UserError
from mibench.nets import build_classifier, classifier_type
from mibench.nets.base import parameter_count
from mibench.planning.plan import make_plan
from mibench.protocol.methods import Kind
from mibench.protocol.suites import load_suite, suite_names
from mibench.protocol.yaml_files import extended
from mibench.publish.figures_file import load_reported
from mibench.records import numbered
from mibench.registry import Registry
from mibench.running.request import build_plan, select_all
from mibench.weights.starting import start_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def registry(once: Once) -> Registry:
    """It remembers what methods say of themselves, as the program does."""
    return Registry(ROOT, home=once("suites", lambda folder: folder.mkdir()))


def run(home: Path, *words: str, code: int = 0) -> Any:
    done = CliRunner().invoke(cli, words, env={"MIBENCH_HOME": str(home), "TORCH_HOME": str(home / "torch")})
    assert done.exit_code == code, (done.output, done.exception)
    return done


def test_the_working_list() -> None:
    suite = load_suite(ROOT, "midre")
    assert {"adaptive", "midre"} <= set(suite_names(ROOT))
    assert list(suite.cells) == [*(f"W{n:02}" for n in range(1, 38)), "S01"]
    assert [entry.id for entry in suite.established] == [f"E{n}" for n in range(1, 14)]
    assert "no public source" in suite.note and suite.cells["W01"].confidence == "H"
    used = {cell.track for cell in suite.cells.values()}
    assert used == set(suite.tracks), "a track that no cell uses, or the other way round"


def test_every_cell_can_be_planned_and_names_what_exists(registry: Registry) -> None:
    suite = load_suite(ROOT, "midre")
    for name, cell in suite.cells.items():
        track = registry.track(cell.track)
        defenses = select_all(registry, "defense", suite.groups[cell.defenses])
        attacks = select_all(registry, "attack", [cell.attack])
        plan = build_plan(registry, track, defenses, attacks, numbered(1))
        assert len(plan.runs) + len(plan.skipped) == len(suite.groups[cell.defenses]), name
        shortcuts = [reason for _, reason in plan.skipped if "shortcuts" in reason or "random weights" in reason]
        assert not shortcuts, "a defense that makes no sense on the network"


def test_tracks_of_a_suite_have_networks_weights_and_published_columns(registry: Registry) -> None:
    columns = load_reported(ROOT / "results" / "reported.csv")[0]
    for track in registry.suite_tracks.values():
        for recipe in (track.target, track.evaluator):
            classifier_type(recipe.arch)
            assert recipe.initial == "scratch" or start_of(recipe.arch, recipe.initial)
        assert all(hasattr(columns, key) for key in track.reported)
    assert not registry.suite_tracks.keys() & registry._file.tracks.keys()


def test_published_recipes(registry: Registry) -> None:
    """Facts of the two training families, against the tracks."""
    low, high = registry.track("celeba64-vgg16"), registry.track("facescrub224-resnet152")
    t = low.target
    assert (t.optimiser, t.lr, t.momentum, t.weight_decay, t.schedule) == ("sgd", 0.01, 0.9, 1e-4, "constant")
    assert (t.epochs, t.batch, t.drop_last, t.initial) == (50, 64, True, "imagenet")
    assert registry.track("celeba64-ir152").target.epochs == 40 and low.normalisation is None
    assert len(low.identities) == 300 and low.attack.images_per_identity == 5
    assert (low.evaluator.arch, low.evaluator.resolution, low.evaluator.resize) == ("facenet112", 112, "pil")
    t = high.target
    assert (t.optimiser, t.lr, t.weight_decay, t.epochs, t.batch) == ("adam", 0.001, 0.0, 100, 128)
    assert (t.milestones, t.gamma, t.crop, t.jitter) == ((75, 90), 0.1, (0.85, 1.0), (0.2, 0.2, 0.1, 0.1))
    assert high.normalisation == (0.5, 0.5) and high.evaluator.milestones == (80,)
    assert registry.track("celeba224-resnet18").evaluator.milestones == (75, 90)
    assert registry.track("facescrub224-densenet121").target.batch == 64
    judges = {track.evaluator.arch: track.evaluator for track in registry.suite_tracks.values()}
    assert set(judges) == {"facenet112", "inception_v3", "scnn"} and judges["scnn"].classes == 10
    for track in registry.suite_tracks.values():
        assert track.evaluator.photos == "train"
        dropped, cut = track.evaluator.transform_input == "dropped", track.attack.stored == "truncated"
        assert dropped == (track.evaluator.arch == "inception_v3") and cut == track.id.startswith("celeba64")


@pytest.mark.parametrize(
    ("track", "defense", "wanted"),
    [
        ("celeba64-vgg16", "bido", {"optimiser": "adam", "lr": 1e-4, "momentum": 0.0, "epochs": 50}),
        ("celeba64-ir152", "bido", {"optimiser": "sgd", "lr": 0.01, "epochs": 150, "batch": 128}),
        ("celeba64-vgg16", "tl", {"lr": 0.08, "epochs": 200, "batch": 64}),
        ("celeba64-facenet64", "tl", {"lr": 0.008, "epochs": 200, "batch": 8, "initial": "scratch"}),
        ("celeba64-ir152", "tl", {"lr": 0.01, "epochs": 100, "batch": 64, "initial": "ms1m"}),
        ("celeba64-vgg16", "ls", {"optimiser": "adam", "lr": 0.001, "epochs": 100, "milestones": (75, 90)}),
        ("celeba64-vgg16", "re", {"optimiser": "sgd", "lr": 0.01, "epochs": 50}),
        ("mnist32-mcnn", "bido", {"optimiser": "adam", "lr": 0.1, "epochs": 20, "gamma": 0.5}),
        ("facescrub224-densenet121", "rolss", {"initial": "scratch", "batch": 64}),
        ("facescrub224-resnet18", "tl", {"initial": "imagenet", "epochs": 100}),
    ],
)
def test_recipes_of_defenses_per_network(registry: Registry, track: str, defense: str, wanted: dict[str, Any]) -> None:
    protocol = registry.track(track)
    facts = registry.facts(registry.select("defense", defense), protocol)
    found = registry.build("defense", defense, facts.params, protocol).recipe(protocol.target)
    assert {name: getattr(found, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("track", "defense", "wanted"),
    [
        ("celeba64-vgg16", "mid", {"beta": 0.003, "per_identity": 4}),
        ("celeba64-facenet64", "mid", {"beta": 0.003, "per_identity": None}),
        ("celeba64-vgg16", "bido", {"per_identity": 4, "data_space": "pixel", "lambda_x": 0.05, "lambda_y": 0.5}),
        ("mnist32-mcnn", "bido", {"per_identity": None, "measure": "coco", "lambda_x": 1.0, "lambda_y": 50.0}),
        ("facescrub224-resnet18", "bido", {"per_identity": 4, "data_space": "model_input"}),
    ],
)
def test_parameters_of_defenses_per_track(registry: Registry, track: str, defense: str, wanted: dict[str, Any]) -> None:
    protocol = registry.track(track)
    facts = registry.facts(registry.select("defense", defense), protocol)
    params = registry.build("defense", defense, facts.params, protocol).params
    assert {name: getattr(params, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("track", "trainable"),
    [("celeba64-vgg16", 13_855_208), ("celeba64-ir152", 17_827_176), ("celeba64-facenet64", 34_393_832)],
)
def test_transfer_learning_trains_what_the_released_code_trains(registry: Registry, track: str, trainable: int) -> None:
    protocol = registry.track(track)
    facts = registry.facts(registry.select("defense", "tl"), protocol)
    plugin = registry.build("defense", "tl", facts.params, protocol)
    with torch.device("meta"):
        net = build_classifier(protocol.target.arch, 1000, 3, 64)
        assert parameter_count(plugin.build(net), trainable=True) == trainable and plugin.skip() is None


def values(registry: Registry, cell: str, kind: Kind = "attack", name: str | None = None) -> dict[str, Any]:
    """The resolved parameters of a cell's attack, or of the prior ``name`` on its track."""
    entry = load_suite(ROOT, "midre").cells[cell]
    protocol = registry.track(entry.track)
    chosen = registry.select(kind, name or entry.attack)
    return dict(registry.facts(chosen, protocol).params)


def test_a_schedule_of_50_steps_goes_with_50_steps(registry: Registry) -> None:
    """Rates fall at 30 and 40 of 50 steps, in no cell that takes 70 or 100."""
    for name, cell in load_suite(ROOT, "midre").cells.items():
        if cell.attack.startswith("ppa"):
            found = values(registry, name)
            steps = 70 if "celeba224" in cell.track or "metfaces" in cell.track else 100 if name == "W15" else 50
            assert found.get("iterations", 70) == steps, name
            assert list(found.get("milestones") or ()) == ([30, 40] if steps == 50 else []), name
            assert found.get("candidates") == (200 if name == "W15" else 16), name


@pytest.mark.parametrize(
    ("cell", "pool", "steps"),
    [
        ("W18", 2000, [50, *[10] * 7]),
        ("W20", 2000, [50, *[10] * 7]),
        ("W21", 5000, [70, *[25] * 4]),
    ],
)
def test_steps_of_ifgmis_stages(registry: Registry, cell: str, pool: int, steps: list[int]) -> None:
    found = values(registry, cell)
    assert (found.get("pool", 5000), list(found["iterations"])) == (pool, steps)
    assert values(registry, "W09").get("pool", 5000) == 5000, "PPA's pool on MetFaces is the larger one"


@pytest.mark.parametrize(
    ("cell", "images", "epochs"),
    [("W33", 70_000, 120), ("W34", 70_000, 120), ("W22", 30_000, 120), ("S01", 34_265, 100)],
)
def test_gans_take_as_many_steps_as_their_epochs_have(registry: Registry, cell: str, images: int, epochs: int) -> None:
    """Incomplete batches of 64 are left out: 131,160 of FFHQ's 70,000 images, 56,160 of CelebA's 30,000."""
    names = ["k_plus_one"] if cell == "S01" else ["wgan_gp", "k_plus_one"]
    for name in names:
        found = values(registry, cell, "prior", name)
        assert found.get("steps", 56_160) == epochs * (images // 64)
        assert found["batches"] == "epochs" and found.get("labels") == ("always" if name == "k_plus_one" else None)


def test_students_take_as_many_steps_as_their_epochs_have(registry: Registry) -> None:
    assert values(registry, "W33")["student_steps"] == values(registry, "W34")["student_steps"] == 20 * 1094
    assert values(registry, "W24").get("student_steps", 9380) == 20 * 469


def test_kedmi_on_mnist_is_bidos(registry: Registry) -> None:
    found = values(registry, "S01")
    assert (found["iterations"], found["log_variance"]) == (5000, 0)
    assert values(registry, "W23").get("log_variance", 1) == 1


def test_views_and_order_of_conditional_gans_are_the_released_ones(registry: Registry) -> None:
    assert values(registry, "W26")["views"] == "kornia"
    cgan, tacgan = (values(registry, "W26", "prior", name) for name in ("cgan", "tacgan"))
    assert cgan["views"] == "kornia" and cgan["fakes_first"] and tacgan["fakes_first"]
    assert tacgan["evaluation_from"] == 1000


def test_random_erasing_writes_its_fill_after_normalisation(registry: Registry) -> None:
    """Light grey in pixels at 224, the mean of ImageNet itself at 64."""
    for track, wanted in (("facescrub224-resnet18", (0.7425, 0.728, 0.703)), ("celeba64-vgg16", (0.485, 0.456, 0.406))):
        protocol = registry.track(track)
        plugin = registry.build("defense", "re", {}, protocol)
        assert plugin.params.pixels(protocol.fill, plugin.track) == pytest.approx(wanted)


def test_tracks_of_one_family_share_evaluators_and_public_priors(registry: Registry) -> None:
    def keys(track: str, attack: str) -> dict[str, str]:
        asked = select_all(registry, "attack", [attack])
        plan = build_plan(
            registry, registry.track(track), select_all(registry, "defense", ["none"]), asked, numbered(1)
        )
        return {stage.kind: stage.key for stage in plan.stages.values()}

    one, other = keys("celeba64-vgg16", "gmi"), keys("celeba64-ir152", "gmi")
    assert {kind for kind in one if one[kind] == other[kind]} == {"evaluator", "prior"}
    own = keys("celeba64-vgg16", "kedmi")["prior"], keys("celeba64-ir152", "kedmi")["prior"]
    assert own[0] != own[1], "a prior that asks the target belongs to it"
    elsewhere = keys("celeba64-ffhq-vgg16", "gmi")
    assert elsewhere["evaluator"] == one["evaluator"] and elsewhere["prior"] != one["prior"]


def test_extending_joins_mappings_and_replaces_the_rest() -> None:
    sections: dict[str, Any] = {
        "a": {"x": 1, "m": {"p": 1, "q": [1, 2]}},
        "b": {"extends": "a", "m": {"q": [3]}},
        "c": {"extends": "b", "x": 2},
        "loop": {"extends": "pool"},
        "pool": {"extends": "loop"},
        "lost": {"extends": "nowhere"},
    }
    assert extended("c", sections) == {"x": 2, "m": {"p": 1, "q": [3]}}
    assert sections["a"] == {"x": 1, "m": {"p": 1, "q": [1, 2]}}
    with pytest.raises(UserError, match="extends itself"):
        extended("loop", sections)
    with pytest.raises(UserError, match="nowhere"):
        extended("lost", sections)


def test_a_dry_run_needs_no_data_and_tells_what_to_get(tmp_path: Path) -> None:
    shown = run(tmp_path, "plan", "--suite", "midre", "--dry-run").output
    for what in ("celeba64-gmi", "facescrub224-ppa", "celeba224-ppa", "dogs224-ppa", "ffhq64", "StyleGAN2", "vgg16_bn"):
        assert what in shown, what
    assert "backbone_ir50_ms1m_epoch120.pth" in shown and "resnet18-f37072fd.pth" in shown
    assert shown.count("celeba64-gmi, which is not prepared") == 1
    assert not (tmp_path / "store").exists() or not list((tmp_path / "store").iterdir())


def test_the_suite_lists_its_cells_with_what_is_missing(tmp_path: Path) -> None:
    assert "midre" in run(tmp_path, "suite").output
    found = json.loads(run(tmp_path, "suite", "midre", "--json").output)
    cell = found["cells"]["W22"]
    assert (cell["attack"], cell["target"], cell["resolution"], cell["done"]) == ("gmi", "vgg16", 64, 0)
    assert any("celeba64-gmi" in sentence for sentence in cell["missing"])
    published = cell["defenses"]["none"]["reported"]
    assert published and all(line["source"] for line in published) and cell["defenses"]["none"]["measured"] is None
    table = run(tmp_path, "suite", "midre").output
    assert "W37" in table and "working list" in table and "not run" in table


def test_wrong_names_are_sentences(tmp_path: Path) -> None:
    for words in (
        ["suite", "midres"],
        ["plan", "--suite", "midre", "--cell", "W99"],
        ["run", "--suite", "midre", "--cell", "W22"],
    ):
        done = CliRunner().invoke(cli, words, env={"MIBENCH_HOME": str(tmp_path), "TORCH_HOME": str(tmp_path)})
        assert isinstance(done.exception, UserError), words
    for words in (["plan", "--cell", "W01"], ["plan", "--suite", "midre", "--attack", "gmi"]):
        assert run(tmp_path, *words, code=2)


def test_plans_are_joined_without_repetition(registry: Registry) -> None:
    asked = select_all(registry, "defense", ["re"])
    track = registry.track("orl32")
    one, other = (
        build_plan(registry, track, asked, select_all(registry, "attack", [name]), numbered(1))
        for name in ("gmi", "ppa")
    )
    both = build_plan(registry, track, asked, select_all(registry, "attack", ["gmi", "ppa"]), numbered(1))
    one.add(other)
    one.add(other)
    assert set(one.stages) == set(both.stages) and {r.run for r in one.runs} == {r.run for r in both.runs}
    assert make_plan([], lambda *_: None).runs == []  # type: ignore[arg-type, return-value]
