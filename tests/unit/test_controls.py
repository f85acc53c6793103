"""Controls: what runs by itself beside attacks, what it sees, and that nobody else sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny import Cli, edit_registry, make_root

from mibench.contracts import ControlContext, ImageSet
from mibench.data import load
from mibench.random import Stream
from mibench.records import numbered
from mibench.registry import Registry
from mibench.registry.loading import track_info
from mibench.running.request import build_plan
from mibench.weights.carried import load_carried

CROSS = {"arch": "oriented_gradients", "epochs": 1, "batch": 4, "lr": 0.003, "weight_decay": 0.0}
METRICS = ["nat1", "att1", "att1_step0", "att1_e2", "knn_eval"]
THIEF = '''"""A thief (nobody, 2026)."""

from mibench.contracts import Access, Attack, Reconstruction


class Thief(Attack):
    """x."""

    access = Access.PRIVATE

    def invert(self, oracle, prior, labels, ctx):
        for label in labels:
            yield Reconstruction(label, ctx.photos(label), ctx.photos(label))
'''


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("controls") / "root"
    presets = {"ceiling": {"pool": 8, "iterations": 40, "lr": 0.2}}
    return make_root(folder, {"panel": {"cross": CROSS}, "metrics": METRICS}, presets)


@pytest.fixture(scope="module")
def ran(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    cli = Cli(tmp_path_factory.mktemp("ran") / "home", root)
    cli.first = cli("run", "--track", "tiny", "--attack", "gmi", "--json")
    return cli


def planned(
    root: Path, track: str, attacks: list[str], seeds: int = 1, controlled: str | None = None
) -> list[tuple[str, str, int]]:
    registry = Registry(root)
    defenses = [registry.select("defense", name) for name in ("none", "re")]
    chosen = [registry.select("attack", name) for name in attacks]
    plan = build_plan(registry, registry.track(track), defenses, chosen, numbered(seeds), controlled)
    return [(run.cell.defense.label, run.cell.attack.label, run.cell.seeds.target) for run in plan.runs]


@pytest.mark.parametrize(("seeds", "matched"), [(2, []), (3, ["matched[like=re]"])])
def test_floors_run_on_every_target_and_the_rest_for_every_seed(root: Path, seeds: int, matched: list[str]) -> None:
    """What is trained only to compare with, beside as many trainings as a comparison needs."""
    runs = planned(root, "tiny", ["gmi", "brepmi", "ppa", "miface"], seeds)
    assert len(runs) == len(set(runs))
    targets = {(defense, seed) for defense in ("none", "re", *matched) for seed in range(seeds)}
    undefended = {("none", seed) for seed in range(seeds)}
    by_attack = {attack: {(d, s) for d, a, s in runs if a == attack} for _, attack, _ in runs}
    assert by_attack.pop("photos") == undefended
    for prior in ("wgan_gp", "dcgan"):
        assert by_attack.pop(f"floor[prior={prior}]") == targets
        assert by_attack.pop(f"ceiling[prior={prior}]") == undefended
    assert by_attack == dict.fromkeys(("gmi", "brepmi", "ppa", "miface"), targets)


def test_a_track_without_a_panel_has_none(root: Path) -> None:
    assert {attack for _, attack, _ in planned(root, "synthfaces", ["gmi"])} == {"gmi"}


def test_an_audit_has_the_floor_of_its_model_alone(root: Path) -> None:
    runs = planned(root, "synthfaces", ["gmi"], controlled="re")
    controls = {attack: defense for defense, attack, _ in runs if attack != "gmi"}
    assert controls.pop("photos") == "none" and len(runs) == 5
    assert {name.partition("[")[0]: defense for name, defense in controls.items()} == {"floor": "re", "ceiling": "none"}


def test_all_means_no_control() -> None:
    registry = Registry()
    controls = {name for kind in ("defense", "attack") for name, e in registry.entries(kind).items() if e.control}
    assert controls == {"floor", "ceiling", "photos", "deranged", "matched"}


def images(cli: Cli, attack: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, images and what they started from, of the one run of an attack, as numbers."""
    manifests = cli.home.glob("store/invert/*/*/manifest.json")
    (folder,) = [path.parent for path in manifests if json.loads(path.read_text())["plugin"] == attack]
    entries = json.loads((folder / "images.json").read_text())

    def read(where: str) -> np.ndarray:
        files = [folder / entry["file"].replace("images", where) for entry in entries]
        return np.stack([np.asarray(Image.open(file), float) for file in files])

    return np.array([entry["label"] for entry in entries]), read("images"), read("initial")


def photos(cli: Cli) -> tuple[np.ndarray, np.ndarray]:
    private, labels = load(Registry(cli.root).track("tiny"), cli.home).private_train()
    return np.asarray(private[:, 0], float), np.asarray(labels)


def test_photos_are_the_first_training_photos(ran: Cli) -> None:
    private, people = photos(ran)
    labels, made, _ = images(ran, "photos")
    for person in range(5):
        assert np.array_equal(made[labels == person], private[people == person][:2])


def test_the_ceiling_draws_nearer_to_the_photos_than_any_random_image(ran: Cli) -> None:
    private, people = photos(ran)
    labels, made, start = images(ran, "ceiling")
    wanted = np.concatenate([private[people == person][:2] for person in range(5)])
    assert labels.tolist() == [person for person in range(5) for _ in range(2)]
    error, before = (((x - wanted) ** 2).mean((1, 2)) for x in (made, start))
    assert (error < before).all()  # by little: nothing is like a photo in the range of this track's prior


class _Context(ControlContext):
    """Its private photos are images that the prior can draw."""

    def __init__(self, private: torch.Tensor) -> None:
        self.device, self.track, self.seed = private.device, track_info(Registry().track("orl32")), 0
        self.private = ImageSet(private, torch.arange(len(private)), len(private))
        self.images_per_identity = 1

    def stream(self, name: str) -> Stream:
        return Stream(7)

    def steps(self, name: str, count: int) -> Any:
        return range(count)


def test_a_photo_in_the_range_of_the_prior_is_found() -> None:
    registry, track = Registry(), Registry().track("orl32")
    model = registry.build("prior", "dcgan", {"steps": 0, "start": "faces32-dcgan", "width": 48}, track).build()
    model.load_state_dict(load_carried("faces32-dcgan"))
    model.eval().requires_grad_(False)
    private = model(Stream(1).normal(3, 100)).clamp(0, 1)
    control = registry.build("attack", "ceiling", {"pool": 200, "iterations": 150}, track)
    found = list(control.invert(None, model, [0, 1, 2], _Context(private)))
    for item in found:
        error, before = ((part - private[item.label]).square().mean() for part in (item.images, item.initial))
        assert error < 0.1 * before


def test_the_floor_is_not_optimised_and_the_target_likes_it(ran: Cli) -> None:
    _, made, start = images(ran, "floor")
    assert np.array_equal(made, start)


def test_every_control_is_a_run_of_its_own(ran: Cli) -> None:
    runs: list[dict[str, Any]] = json.loads(ran.first.stdout)["runs"]
    assert {run["attack"] for run in runs} == {"gmi", "floor", "ceiling", "photos"}
    assert all(run["status"] == "done" for run in runs)
    by_attack = {run["attack"]: run["metrics"] for run in runs}
    assert by_attack["photos"]["knn_eval"]["value"] == pytest.approx(0, abs=1e-4)
    assert by_attack["floor"]["att1"] == by_attack["floor"]["att1_step0"]


def test_nobody_else_gets_private_images(root: Path, tmp_path: Path) -> None:
    thieves = make_root(tmp_path / "root", {"metrics": METRICS})
    entry = {"title": "A thief", "family": "control", "access": "private"}
    (thieves / "attacks" / "thief.py").write_text(THIEF)
    edit_registry(thieves, lambda data: data["attacks"].update(thief=entry))
    cli = Cli(tmp_path / "home", thieves)
    assert "thief" in cli("run", "--track", "tiny", "--attack", "thief", code=None).stderr  # no such file in the engine
    (tmp_path / "thief.py").write_text(THIEF)
    edit_registry(thieves, lambda data: data["attacks"].pop("thief"))
    (thieves / "attacks" / "thief.py").unlink()
    (tmp_path / "thief.yaml").write_text(yaml.safe_dump(entry))
    done = cli("run", "--track", "tiny", "--attack", "thief", "--plugin", str(tmp_path / "thief.py"), code=1)
    assert "asks for private images, which no attack gets" in done.stdout + done.stderr
    assert not list(cli.home.glob("store/invert/*/*/manifest.json"))


def test_no_private_image_leaves_the_machine(ran: Cli, tmp_path: Path) -> None:
    """What ``photos`` and ``ceiling`` made is neither on a public page nor in a submission."""
    runs = {run["attack"]: run["run"] for run in json.loads(ran.first.stdout)["runs"]}
    edit_registry(ran.root, lambda data: data["tracks"]["tiny"].update(sensitive=True))
    ran("site", "build", "--public", "--images", "all", "--out", str(tmp_path / "public"))
    ran("site", "build", "--images", "all", "--out", str(tmp_path / "own"))
    shown = {attack: len(list((tmp_path / "public" / "img" / run).glob("*.png"))) for attack, run in runs.items()}
    assert shown["photos"] == shown["ceiling"] == 0 and shown["gmi"] > 0 and shown["floor"] > 0
    assert list((tmp_path / "own" / "img" / runs["photos"]).glob("*.png"))
    every = list(runs.values())
    ran("submit", "pack", *every, "--images", "--yes", "--out", str(tmp_path / "packed"))
    labels = {path.parent.name for path in (tmp_path / "packed" / "images").rglob("*.png")}
    manifests = [json.loads(path.read_text()) for path in ran.home.glob("store/invert/*/*/manifest.json")]
    assert labels == {m["key"] for m in manifests if m["plugin"] in ("gmi", "floor")}
