"""Every registered defense, attack and prior against ``mibench.contracts``, on the track ``tiny``.

Parametrised from registry.yaml alone: a new file and a registry entry are covered without touching this.
"""

from __future__ import annotations

import ast
import copy
import gc
import inspect
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from once import Once
from safetensors.torch import load_file
from tiny import KINDS, edit_registry
from torch import Tensor, nn

import mibench
from mibench.checking.contract import check
from mibench.checking.params import class_checks
from mibench.checking.source import source_checks, wrong_imports
from mibench.contracts import (
    AttackContext,
    Batch,
    Classifier,
    ImageSet,
    Oracle,
    PriorModel,
    Progress,
    Reconstruction,
    RowStreams,
    Stream,
    Visit,
)
from mibench.contracts import loop as loops
from mibench.data import TrackData, load
from mibench.errors import StageFailed, UserError
from mibench.images.augment import erase_rectangles
from mibench.images.pixels import read_png
from mibench.keys import stream_seed
from mibench.nets import build_classifier
from mibench.nets.base import StochasticHead
from mibench.nets.gan import MinibatchDiscrimination
from mibench.planning.plan import Cell, Plan, Stage, make_plan
from mibench.primitives.distillation import EnsembleParams
from mibench.protocol.methods import Kind, Selection, combined
from mibench.protocol.params import resolve
from mibench.protocol.tracks import Track
from mibench.records import Seeds
from mibench.registry import Registry
from mibench.running import worker
from mibench.running.order import Order
from mibench.running.request import BASELINE
from mibench.stages import features, invert, prior
from mibench.stages import job as job_module
from mibench.stages.events import Said
from mibench.stages.job import Job, load_weights
from mibench.store.artifacts import STATE, Manifest, Store
from mibench.store.manifest import file_sha256
from mibench.weights.starting import weights_folder

LISTED = Registry()
OWN = {name for name, entry in LISTED.entries("attack").items() if entry.access == "private"}  # see test_controls
DEFENSES, ATTACKS, PRIORS = (sorted(LISTED.entries(kind).keys() - OWN) for kind in KINDS)
PLUGINS = [(kind, name) for kind in KINDS for name in LISTED.entries(kind) if name not in OWN]
PROBE = next(a for a in ATTACKS if (e := LISTED.entry("attack", a)).access == "white_box" and e.prior and not e.control)
OTHER_PROBES = {LISTED.entry("attack", a).access: a for a in ATTACKS if not LISTED.entry("attack", a).control}
ENGINE = Path(mibench.__file__).parent
CPU = torch.device("cpu")
RESIDUAL = "tiny_residual"


def with_shortcuts(section: dict[str, Any]) -> dict[str, Any]:
    """The track with a residual target, for defenses that change its shortcuts."""
    return copy.deepcopy(section) | {"target": section["target"] | {"arch": "small_resnet"}}


def stochastic(name: str) -> bool:
    """Whether a defense's target answers with noise."""
    track = LISTED.track("synthfaces")
    facts = LISTED.facts(Selection("defense", name), track)
    net = build_classifier("convnet", 4, track.channels, track.resolution)
    if facts.skip:
        return False
    return isinstance(LISTED.build("defense", name, facts.params, track).build(net).head, StochasticHead)


FEW = [[2], [0, 1]]  # of the identities of the track, attacked together; ``check`` takes others
MANY = [[0], [1], [2], [3], [4], [0, 1], [2, 3], [1, 4]]
STOCHASTIC = [name for name in DEFENSES if stochastic(name)]

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")


def quiet(event: Said) -> None:
    """The events of a stage in this process."""


@dataclass
class Bench:
    """Computes stages in this process, each once."""

    home: Path
    root: Path
    registry: Registry = field(init=False)
    store: Store = field(init=False)
    track: Track = field(init=False)
    prepared: dict[tuple[str, str], dict[str, Tensor]] = field(default_factory=dict)  # by attack and defense

    def __post_init__(self) -> None:
        self.registry, self.store = Registry(self.root), Store(self.home)
        self.track = self.registry.track("tiny")

    def plan(self, defense: str = BASELINE, attack: str = "", seed: int = 0, prior_id: str = "", **params: Any) -> Plan:
        """The stages of one run, of an attack that meets the defense if none is named; ``prior_id`` puts another prior
        in the place of the attack's."""
        against = self.registry.facts(Selection("defense", defense), self.track).against
        attack = attack or (PROBE if against == "white_box" else OTHER_PROBES[against])
        facts = self.registry.facts(Selection("attack", attack, (), params), self.track)
        if prior_id:
            facts = replace(facts, prior={"id": prior_id, "params": {}})
        chosen, track = Selection("defense", defense), self.track
        if self.registry.facts(chosen, track).skip:  # perhaps because of the network
            track = self.registry.track(RESIDUAL)
        cell = Cell(track, self.registry.facts(chosen, track), facts, Seeds.of(seed))

        def prior_facts(name: str, params: dict[str, Any], on: Track) -> Any:
            return self.registry.facts(Selection("prior", name, (), params), on)

        plan = make_plan([cell], prior_facts)
        if plan.skipped:
            pytest.skip(plan.skipped[0][1])
        return plan

    def compute(self, plan: Plan, last: str) -> dict[str, Stage]:
        """Compute ``last`` and what it needs; the plan's stages by kind."""
        stages = {stage.kind: stage for stage in plan.stages.values()}

        def ensure(stage: Stage) -> None:
            for _, key in stage.inputs.values():
                ensure(plan.stages[key])
            if self.store.manifest(stage.kind, stage.key) is None:
                worker.compute(Order(home=self.home, device="cpu", stage=stage), quiet)

        ensure(stages[last])
        return stages

    def job(self, stage: Stage, workdir: Path) -> Job:
        return Job(stage, self.store, self.registry, workdir, CPU, quiet)

    def lend(self, other: Bench, plan: Plan, last: str) -> None:
        """Give another store what the stage ``last`` needs, as it is here."""
        [stage] = [stage for stage in plan.stages.values() if stage.kind == last]
        for kind, key in stage.inputs.values():
            self.compute(plan, kind)
            shutil.copytree(self.store.path(kind, key), other.store.path(kind, key), dirs_exist_ok=True)

    def result(self, stage: Stage) -> tuple[Path, Manifest]:
        manifest = self.store.manifest(stage.kind, stage.key, verify=True)
        assert manifest is not None
        return self.store.path(stage.kind, stage.key), manifest

    def hashes(self, stage: Stage) -> dict[str, Any]:
        return self.result(stage)[1].outputs


@pytest.fixture(scope="module")
def bench(once: Once, tiny_root: Path) -> Iterator[Bench]:
    """A store that the tests here fill together, in all workers: a stage that one computes another waits for."""

    def make(folder: Path) -> None:
        shutil.copytree(tiny_root, folder / "root", symlinks=True)
        edit_registry(
            folder / "root", lambda data: data["tracks"].update({RESIDUAL: with_shortcuts(data["tracks"]["tiny"])})
        )
        (folder / "home").mkdir()

    folder = once("contract", make)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIBENCH_ROOT", str(folder / "root"))
        yield Bench(folder / "home", folder / "root")


@pytest.fixture
def again(bench: Bench, tmp_path: Path) -> Bench:
    """An empty store, to compute something a second time; it shares what has nothing to do with plugins."""
    other = Bench(tmp_path / "home", bench.root)
    other.home.mkdir()
    if (bench.home / "data").exists():
        (other.home / "data").symlink_to(bench.home / "data")
    return other


def same_weights(one: nn.Module, other: dict[str, Tensor]) -> bool:
    state = one.state_dict()
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


def interrupted(bench: Bench, again: Bench, plan: Plan, kind: str, patch: pytest.MonkeyPatch) -> Stage:
    """Compute a stage, break off at the middle of each of its loops, go on each time from what was saved."""
    stages = {stage.kind: stage for stage in plan.stages.values()}
    bench.lend(again, plan, kind)
    patch.setattr(loops, "CHECKPOINT_SECONDS", -1.0)
    resumed, broken = [], set()
    usual = loops.Loop._resume

    def resume(loop: loops.Loop) -> int:
        step = usual(loop)
        if step:
            resumed.append(loop.name)
        return step

    def loop_of(tools: Any, name: str, steps: int, state: dict[str, Any]) -> loops.Loop:
        seed = stream_seed(tools.track, tools.role, tools.seed)  # dropout and later weights depend on it
        loop = loops.Loop(name, steps, state, tools.scratch, None, seed)
        save = loop._save

        def save_and_break(step: int) -> None:
            save(step)
            if name not in broken and step >= steps // 2:
                broken.add(name)
                raise InterruptedError(name)

        loop._save = save_and_break  # type: ignore[method-assign]
        return loop

    patch.setattr(loops.Loop, "_resume", resume)
    patch.setattr("mibench.stages.job.Tools.loop", loop_of)
    for _ in range(20):
        try:
            again.compute(plan, kind)
            break
        except InterruptedError:
            continue
    assert broken == set(resumed) and (broken or kind != "target")
    return stages[kind]


# --- every plugin --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), [pair for pair in PLUGINS if pair[0] != "prior"])
def test_check_finds_no_fault(kind: Kind, name: str, checked: Path) -> None:
    """Every line of ``mibench check``, to the last. What it computes twice also reports the same twice."""
    home = checked / kind
    home.mkdir(exist_ok=True)
    lines = list(check(Registry(), kind, name, home))
    assert [line for line in lines if line.ok is False and line.name != "time"] == []  # which is the machine's
    assert lines[-1].name == "memory", "it ended before the last line"
    one, other = (results_of(folder, name) for folder in (home, home.with_name(f"{kind}-again")))
    assert {stage for stage, _ in other} >= {"target" if kind == "defense" else "invert"}
    assert other.items() <= one.items()


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the checks of all defenses, and those of all attacks, find what they have in common."""
    return tmp_path_factory.mktemp("checked")


def results_of(home: Path, plugin: str) -> dict[tuple[str, str], Any]:
    """What the stages of a plugin reported, by kind and key."""
    manifests = [json.loads(path.read_text()) for path in home.glob("store/*/*/*/manifest.json")]
    return {(m["kind"], m["key"]): m["result"] for m in manifests if m["plugin"] == plugin}


@pytest.mark.parametrize("name", PRIORS)
def test_check_finds_no_fault_in_the_file_of_a_prior(name: str) -> None:
    lines = [*source_checks(LISTED.source("prior", name))]
    lines += itertools.islice(class_checks(LISTED, "prior", name), 3)  # it declares no deviations
    assert [line.name for line in lines] == ["file", "docstrings", "stands alone", "import", "parameters", "presets"]
    assert [line for line in lines if line.ok is False] == []


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_unknown_parameters_are_named(kind: Kind, name: str) -> None:
    with pytest.raises(UserError, match="no_such_parameter"):
        resolve(LISTED.plugin(kind, name).Params, {"no_such_parameter": 1}, name)


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_registry_says_what_the_class_says(kind: Kind, name: str) -> None:
    """On every track; ``check`` asks on the smallest."""
    entry = LISTED.entry(kind, name)
    assert entry.costs.keys() <= entry.presets.keys()
    if kind == "attack":
        assert entry.costs.keys() >= {"paper", "small"}, "say what the presets cost"
    for track in LISTED.tracks.values():
        facts = LISTED.facts(Selection(kind, name), track)
        if kind == "attack":
            assert entry.access == facts.access
            assert entry.prior == (facts.prior["id"] if facts.prior else None)
            if facts.prior:
                LISTED.facts(Selection("prior", facts.prior["id"], (), facts.prior["params"]), track)
        if kind == "prior":
            assert entry.scope == facts.scope


@pytest.mark.parametrize(("kind", "name"), [pair for pair in PLUGINS if LISTED.entry(*pair).paper])
def test_docstring_names_the_year_of_the_paper(kind: Kind, name: str) -> None:
    path, paper = LISTED.path(kind, name), LISTED.entry(kind, name).paper
    assert paper and str(paper.year) in (ast.get_docstring(ast.parse(path.read_text())) or "")


def test_half_of_the_methods_are_shorter_than_70_lines() -> None:
    files = [LISTED.path(kind, name) for kind, name in PLUGINS if kind != "prior"]
    assert statistics.median(len(path.read_text().splitlines()) for path in files) < 70


def test_wrong_imports_are_seen() -> None:
    for line in (
        "import os",
        "from mibench.priors.dcgan import Dcgan",
        "from mibench import stages",
        "from . import re",
    ):
        assert wrong_imports(ast.parse(line), "attack"), line
    assert not wrong_imports(ast.parse("import math\nfrom mibench.contracts import Attack"), "attack")


def test_every_file_is_registered() -> None:
    assert list(LISTED.unlisted()) == []
    files = {path.stem for path in (ENGINE / "priors").glob("*.py")} - {"__init__"}
    assert files == set(PRIORS)


# --- the engine ----------------------------------------------------------------------------------------------------


def test_engine_names_no_plugin() -> None:
    """No comparison with, and no branch on, a plugin's id; the baseline is named once, in the runner."""
    ids = {name for _, name in PLUGINS}
    found = []
    for path in sorted(ENGINE.rglob("*.py")):
        if path.parent.name == "priors":
            continue
        text = path.read_text()
        found += [f"{path.relative_to(ENGINE)}:{line}: {name!r}" for line, name in branches(ast.parse(text), ids)]
    allowed = [
        line for line in found if line.split(":")[0] in ("cli/common.py", "publish/build.py") and "'none'" in line
    ]
    assert all("images" in source_line(line) for line in allowed), allowed  # --images none
    assert [line for line in found if line not in allowed] == []
    baseline = [path for path in ENGINE.rglob("*.py") if f'BASELINE = "{BASELINE}"' in path.read_text()]
    assert [path.name for path in baseline] == ["request.py"]


def source_line(place: str) -> str:
    name, number, _ = place.split(":", 2)
    return (ENGINE / name).read_text().splitlines()[int(number) - 1]


def branches(tree: ast.AST, ids: set[str]) -> Iterator[tuple[int, str]]:
    """Where the code compares with one of ``ids``: ==, in, match, startswith, a subscript or ``get`` of one."""
    for node in ast.walk(tree):
        values: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            values = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            values = [node.value]
        elif isinstance(node, ast.Subscript) and not is_annotation(node):
            values = [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            values = list(node.args) if node.func.attr in ("startswith", "endswith", "get", "removeprefix") else []
        for value in values:
            for inner in ast.walk(value):
                if isinstance(inner, ast.Constant) and inner.value in ids:
                    yield node.lineno if hasattr(node, "lineno") else inner.lineno, inner.value


def is_annotation(node: ast.Subscript) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "Literal"


def test_branches_on_plugins_are_seen() -> None:
    for text in ('x == "re"', 'if x in ("re", 1): pass', 'x["re"]', 'x.get("re")', 'match x:\n case "re": pass'):
        assert list(branches(ast.parse(text), {"re"})), text
    assert not list(branches(ast.parse('x == "mean"\nre.match("a", b)'), {"re"}))


def test_evaluation_imports_no_plugin(bench: Bench, tmp_path: Path) -> None:
    plan = bench.plan()
    bench.compute(plan, "utility")
    stages = bench.compute(plan, "invert")
    bench.compute(plan, "evaluator")
    order = Order(home=bench.home, device="cpu", stage=stages["evaluate"]).write(tmp_path / "order.json")
    code = (
        "import json, sys; from pathlib import Path; from mibench.contracts import Oracle\n"
        "from mibench.running import worker; from mibench.running.order import Order\n"
        "Oracle.__init__ = None\n"  # evaluating asks no target
        f"worker.compute(Order.read(Path({str(order)!r})))\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    modules = json.loads(done.stdout.splitlines()[-1])
    assert "mibench.stages.evaluate" in modules
    assert [name for name in modules if name.startswith(("mibench_plugins", "mibench.priors"))] == []
    check_evaluation(bench, stages)


def check_evaluation(bench: Bench, stages: dict[str, Stage]) -> None:
    folder, manifest = bench.result(stages["evaluate"])
    table = json.loads((folder / "images.json").read_text())
    assert set(manifest.result["metrics"]) == set(bench.track.metrics)
    for name, metric in manifest.result["metrics"].items():
        assert (metric["value"] is None) == (metric["reason"] is not None), name
    assert sorted({entry["label"] for entry in table}) == bench.track.identities
    correct = np.mean([entry["correct"] for entry in table])
    assert manifest.result["metrics"]["att1"]["value"] == pytest.approx(correct)


def test_the_feature_space_is_that_of_the_served_target(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Distances again by hand from the parents' files; one seed erases alike whatever the defense; no image is left."""
    drawn: dict[str, list[Tensor]] = {}
    for name in (BASELINE, *[name for name in DEFENSES if name != BASELINE][:1], *STOCHASTIC[:1]):
        stages = bench.compute(bench.plan(name), "features")
        folder, manifest = bench.result(stages["features"])
        assert set(manifest.outputs) == {"features.json"}
        rows = json.loads((folder / "features.json").read_text())["identities"]
        assert [row["label"] for row in rows] == bench.track.identities
        job = bench.job(stages["features"], tmp_path / name)
        job.workdir.mkdir(exist_ok=True)
        net, private = job.target(), job.private_train()
        made = bench.result(stages["invert"])[0]
        entries = json.loads((made / "images.json").read_text())
        with torch.no_grad():
            own = net(private.images[:], Stream(0)).features.double()
            found = net(torch.stack([read_png(made / e["file"], 1) for e in entries]), Stream(0)).features.double()
        for row in rows:
            mine = [found[i] for i, entry in enumerate(entries) if entry["label"] == row["label"]]
            near = [min(float((f - o).norm()) for o in own[private.labels == row["label"]]) for f in mine]
            assert row["values"]["distance_private"] == pytest.approx(np.mean(near), rel=1e-4)
            assert row["counts"] == {"private": 3, "erased": 30, "reconstructed": len(mine)}
        mean = np.mean([row["values"]["distance_private"] for row in rows])
        assert manifest.result["values"]["distance_private"]["value"] == pytest.approx(mean)

        kept = drawn[name] = []

        def spy(images: Tensor, *given: Any, keep: list[Tensor] = kept, **more: Any) -> Tensor:
            keep.append(erase_rectangles(images, *given, **more))
            return keep[-1]

        monkeypatch.setattr(features, "erase_rectangles", spy)
        assert features.run(job) == manifest.result
        monkeypatch.undo()
    first = drawn[BASELINE]
    assert len(first) == features.DRAWS and not torch.equal(first[0], first[1])
    for other in drawn.values():
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    share = torch.stack([(a != private.images[:]).float().mean((1, 2, 3)) for a in first])
    assert float(share.min()) > 0.05 and float(share.max()) < 0.45


# --- defenses ------------------------------------------------------------------------------------------------------


def track_of(bench: Bench, name: str) -> Track:
    """Where the defense runs."""
    return bench.registry.track(bench.plan(name).runs[0].cell.track.id)


def defense_of(bench: Bench, name: str) -> Any:
    track = track_of(bench, name)
    facts = bench.registry.facts(Selection("defense", name), track)
    return bench.registry.build("defense", name, facts.params, track)


@pytest.mark.parametrize("name", DEFENSES)
def test_defense_trains_a_target(bench: Bench, name: str, tmp_path: Path) -> None:
    plan = bench.plan(name)
    stages = bench.compute(plan, "utility")
    folder, manifest = bench.result(stages["target"])
    assert 0 <= manifest.result["train_accuracy"] <= 1
    answers = load_file(bench.result(stages["utility"])[0] / "logits.safetensors")
    private = bench.track.private
    assert answers["logits"].shape == (private.identities * private.test_per_identity, private.identities)
    assert bool(torch.isfinite(answers["logits"]).all())
    assert answers["labels"].bincount().tolist() == [private.test_per_identity] * private.identities
    job = bench.job(stages["utility"], tmp_path)
    untrained = defense_of(bench, name).build(job.network(track_of(bench, name).target.arch))
    assert not same_weights(untrained, load_file(folder / "model.safetensors"))


@pytest.mark.parametrize("name", DEFENSES)
def test_defense_answers_image_by_image(bench: Bench, name: str, tmp_path: Path) -> None:
    """To a tighter bound than ``check`` has."""
    stages = bench.compute(bench.plan(name), "utility")  # with what serves the target
    job = bench.job(bench.plan(name).stages[stages["utility"].key], tmp_path)
    net, images = job.target(), job.private_train().images[:]
    names = [(0, index, 0) for index in range(len(images))]
    with torch.no_grad():
        together = net(images, RowStreams(names, "noise")).logits
        alone = net(images[3:5], RowStreams(names[3:5], "noise")).logits
    torch.testing.assert_close(together[3:5], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hook", ["augment", "adapt"])
@pytest.mark.parametrize("name", DEFENSES)
def test_defense_draws_for_each_image(bench: Bench, name: str, hook: str) -> None:
    function = getattr(defense_of(bench, name), hook)
    images = torch.rand(6, bench.track.channels, 32, 32, generator=torch.Generator().manual_seed(1))

    def changed(given: Tensor, seed: int) -> Any:
        return function(given, Visit(Stream(seed), seed, torch.arange(6)) if hook == "augment" else Stream(seed))

    out = changed(images, 5)
    if out is None or torch.equal(out, images):
        pytest.skip(f"its {hook} changes nothing")
    assert not torch.equal(out, changed(images, 6)), "another stream must give other images"
    own = changed(images[:1].expand(6, -1, -1, -1).contiguous(), 5)
    assert not torch.equal(own, own[:1].expand_as(own)), "every image needs a draw of its own"


@pytest.mark.parametrize("name", DEFENSES)
def test_defense_sampler_draws_from_its_stream(bench: Bench, name: str) -> None:
    labels = torch.arange(bench.track.private.identities).repeat_interleave(bench.track.private.train_per_identity)
    sampler, batch = defense_of(bench, name).sampler, bench.track.target.batch
    if sampler(labels, batch, Stream(3)) is None:
        pytest.skip("it has no sampler")
    batches, repeated, other = (list(sampler(labels, batch, Stream(seed))) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(batches, repeated, strict=True))
    assert len(other) != len(batches) or not all(torch.equal(a, b) for a, b in zip(batches, other, strict=True))


@pytest.mark.parametrize("name", DEFENSES)
def test_defense_loss_trains(bench: Bench, name: str) -> None:
    defense = defense_of(bench, name)
    torch.manual_seed(0)
    net = defense.build(Job.network(bench_job(bench), track_of(bench, name).target.arch)).train()
    images = torch.rand(8, bench.track.channels, 32, 32)
    batch = Batch(images, torch.tensor([0, 0, 1, 1, 2, 2, 3, 4]))
    for step in (0, 9, 19):
        loss = defense.loss(batch, net(images, Stream(1)), Progress(step, 20, step, 20))
        net.zero_grad()
        loss.backward()
        gradients = [p.grad for p in net.parameters() if p.requires_grad and p.grad is not None]
        assert gradients and any(float(g.abs().max()) > 0 for g in gradients)


def bench_job(bench: Bench) -> Job:
    stage = next(iter(bench.plan().stages.values()))
    return bench.job(stage, bench.home)


@pytest.mark.parametrize("name", DEFENSES)
def test_defense_same_seed_same_numbers_even_when_interrupted(
    bench: Bench, again: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = bench.plan(name)
    first = bench.compute(plan, "target")["target"]
    second = interrupted(bench, again, plan, "target", monkeypatch)
    assert bench.hashes(first) == again.hashes(second)
    assert bench.result(first)[1].result == again.result(second)[1].result


@pytest.mark.parametrize("name", DEFENSES)
def test_defense_another_seed_other_numbers(bench: Bench, name: str) -> None:
    one, other = (bench.compute(bench.plan(name, seed=seed), "target")["target"] for seed in (0, 1))
    assert bench.hashes(one) != bench.hashes(other)


@pytest.mark.parametrize("kind", ["target", "evaluator", "prior"])
def test_what_loading_data_does_to_the_global_generator_moves_no_number(
    bench: Bench, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stage on a machine decodes the images itself, the next one finds them decoded."""
    stage = bench.compute(bench.plan(), kind)[kind]

    def careless(*arguments: Any) -> TrackData:
        torch.rand(5)
        return load(*arguments)

    monkeypatch.setattr(job_module, "load", careless)
    (tmp_path / STATE).mkdir()
    import_module(f"mibench.stages.{kind}").run(bench.job(stage, tmp_path))
    assert file_sha256(tmp_path / "model.safetensors") == bench.hashes(stage)["model.safetensors"]["sha256"]


# --- priors --------------------------------------------------------------------------------------------------------


def trained_prior(bench: Bench, name: str, seed: int = 0) -> tuple[Stage, Any, PriorModel]:
    plan = bench.plan(prior_id=name, seed=seed)
    stage = bench.compute(plan, "prior")["prior"]
    plugin = bench.registry.build("prior", name, stage.params, bench.track)
    model = plugin.build()
    load_weights(model, bench.result(stage)[0] / "model.safetensors")
    return stage, plugin, model.eval()


@pytest.mark.parametrize("name", PRIORS)
def test_prior_makes_images_row_by_row(bench: Bench, name: str) -> None:
    _, _, model = trained_prior(bench, name)
    latents = torch.randn(6, model.latent_dim, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    classes = [torch.tensor([0, 1, 2, 3, 4, 0])] if model.generator.conditional else []
    images = model(latents, *classes)
    track = bench.track
    (gradient,) = torch.autograd.grad(images.sum(), latents)
    images = images.detach()
    assert images.shape == (6, track.channels, track.resolution, track.resolution) and images.dtype == torch.float32
    assert bool(torch.isfinite(images).all()) and float(images.abs().max()) <= 2, "images are nominally in [0, 1]"
    assert not torch.equal(images[0], images[1])
    alone = model(latents[2:4], *(labels[2:4] for labels in classes)).detach()
    torch.testing.assert_close(images[2:4], alone, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=f"N, {model.latent_dim}"):
        model(latents[:, :-1], *classes)
    assert bool(torch.isfinite(gradient).all()) and float(gradient.abs().max()) > 0
    assert all(bool(torch.isfinite(t).all()) for t in model.state_dict().values())


@pytest.mark.parametrize("name", PRIORS)
def test_prior_asks_the_target_only_if_it_may(bench: Bench, name: str) -> None:
    stage, plugin, _ = trained_prior(bench, name)
    queries = bench.result(stage)[1].result["queries"]
    asked = sum(count for phases in queries.values() for kinds in phases.values() for count in kinds.values())
    assert ("target" in stage.inputs) == (plugin.scope == "target")
    assert (asked > 0) == (plugin.scope == "target")


@pytest.mark.parametrize("name", PRIORS)
def test_prior_same_seed_same_numbers_even_when_interrupted(
    bench: Bench, again: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _, _ = trained_prior(bench, name)
    second = interrupted(bench, again, bench.plan(prior_id=name), "prior", monkeypatch)
    assert bench.hashes(first) == again.hashes(second)
    assert bench.result(first)[1].result == again.result(second)[1].result


@pytest.mark.parametrize("name", PRIORS)
def test_prior_trains_from_its_seed(bench: Bench, name: str, tmp_path: Path) -> None:
    stage, plugin, model = trained_prior(bench, name)
    job = bench.job(stage, tmp_path)
    job.seed_weights()
    if same_weights(plugin.build(), model.state_dict()):
        job.seed_weights("other")
        assert same_weights(plugin.build(), model.state_dict()), "the prior was not trained"
        assert not plugin.seeded()
        pytest.skip("its weights are published ones, whatever the seed")
    other = replace(stage, seed=stage.seed + 1)
    folder = tmp_path / "work"
    (folder / STATE).mkdir(parents=True)
    prior.run(bench.job(other, folder))
    trained = load_file(folder / "model.safetensors")
    assert plugin.seeded() and not same_weights(model, trained)


def test_prior_context_leads_to_nothing_private(bench: Bench, tmp_path: Path) -> None:
    stage, _, _ = trained_prior(bench, PRIORS[0])
    job = bench.job(stage, tmp_path)
    assert_no_way_to_private(prior._Context(job, None), job)


# --- attacks -------------------------------------------------------------------------------------------------------


@dataclass
class Assault:
    """One attack against one target, ready to be called directly."""

    attack: Any
    oracle_of: Callable[[], Oracle]
    target: Classifier
    model: PriorModel | None
    ctx: AttackContext
    job: Job

    def prepare(self, job: Job) -> dict[str, Tensor]:
        """What the attack computes once per target, with this generator, in a folder of its own."""
        folder = self.job.workdir / f"prepare{job.stage.seed}"
        (folder / STATE).mkdir(parents=True)
        job = replace(job, workdir=folder)
        job.seed_weights()
        oracle = Oracle(self.target, self.attack.access, job.track.private.identities, job.stage.seed)
        artifact: dict[str, Tensor] = self.attack.prepare(oracle, self.model, invert._Context(job, {}))
        return artifact

    def invert(self, labels: list[int]) -> tuple[dict[int, Reconstruction], dict[str, Any]]:
        """The reconstructions by label and the queries."""
        oracle = self.oracle_of()
        results = []
        for item in self.attack.invert(oracle, self.model, labels, self.ctx):
            invert._check(self.job, item)
            results.append(item)
        assert [item.label for item in results] == sorted(item.label for item in results)
        return {item.label: item for item in results}, oracle.counts()


def liven(model: PriorModel) -> None:
    """Give a hardly trained prior images that differ: He weights, and batch norms that know the activations.
    Where a critic couples rows, the coupling is made strong enough to be seen."""
    generator = torch.Generator().manual_seed(1)
    norms = []
    for module in model.generator.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            fan = (
                module.weight[0].numel() if not isinstance(module, nn.ConvTranspose2d) else module.weight[:, 0].numel()
            )
            module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * (2 / fan) ** 0.5)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            norms.append(module)
            module.reset_running_stats()
            if module.affine:
                module.weight.fill_(1.0)
            module.momentum = None
            module.train()
    labels = [torch.arange(64) % 5] if model.generator.conditional else []
    with torch.no_grad():
        model.generator(torch.randn(64, model.latent_dim, generator=generator), *labels)
    for module in norms:
        module.eval()
    for module in (model.critic or nn.Identity()).modules():
        if isinstance(module, MinibatchDiscrimination):
            module.projection.mul_(0.01)


def balance(target: Classifier, model: PriorModel) -> None:
    """Let the hardly trained target tell generated images apart: no class is preferred over all of them."""
    latents = torch.randn(64, model.latent_dim, generator=torch.Generator().manual_seed(2))
    labels = [torch.arange(64) % 5] if model.generator.conditional else []
    with torch.no_grad():
        logits = target(model.generator(latents, *labels), Stream(0)).logits
    last = [module for module in target.head.modules() if isinstance(module, nn.Linear)][-1]
    last.bias.data -= logits.mean(0)
    assert len((logits - logits.mean(0)).argmax(1).unique()) > 1


def assault(bench: Bench, name: str, workdir: Path, defense: str = BASELINE) -> Assault:
    plan = bench.plan(defense, name)
    stage = {stage.kind: stage for stage in plan.stages.values()}["invert"]
    for _, key in stage.inputs.values():
        bench.compute(plan, plan.stages[key].kind)
    job = bench.job(stage, workdir)
    attack = bench.registry.build("attack", name, stage.params, bench.track)
    target = job.target()

    def oracle() -> Oracle:
        return Oracle(target, attack.access, bench.track.private.identities, stage.seed)

    model = prior.load_prior(job)
    if model is not None:
        liven(model)
        balance(target, model)
    case = Assault(attack, oracle, target, model, invert._Context(job, {}), job)
    if "prepare" in stage.inputs:  # not the stored one, which belongs to the generator as it was
        if (name, defense) not in bench.prepared:
            bench.prepared[name, defense] = case.prepare(job)
        case.ctx = invert._Context(job, {key: value.clone() for key, value in bench.prepared[name, defense].items()})
    return case


def queries_of(bench: Bench, stage: Stage) -> int:
    """Everything that was asked for these images: by the attack, its preparation and its prior."""
    stages = [(stage.kind, stage.key), *(pair for role, pair in stage.inputs.items() if role in ("prior", "prepare"))]
    asked = [bench.store.manifest(kind, key).result["queries"] for kind, key in stages]
    return sum(n for who in asked for phases in who.values() for kinds in phases.values() for n in kinds.values())


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_stage_stores_images(bench: Bench, name: str) -> None:
    stage = bench.compute(bench.plan(attack=name), "invert")["invert"]
    folder, _ = bench.result(stage)
    entries, track = json.loads((folder / "images.json").read_text()), bench.track
    assert sorted({entry["label"] for entry in entries}) == track.identities
    selected = [entry["label"] for entry in entries if entry["selected"]]
    assert set(selected) == set(track.identities), "selection must keep something of everybody"
    for entry in entries:
        for file in (entry["file"], entry["file"].replace("images/", "initial/")):
            assert read_png(folder / file, track.channels).shape[1:] == (track.resolution, track.resolution)
    assert queries_of(bench, stage) > 0


def dearest(bench: Bench, stage: Stage) -> int:
    """What the identity that was asked about most cost, with everything that was asked for all."""
    stages = [(stage.kind, stage.key), *(pair for role, pair in stage.inputs.items() if role in ("prior", "prepare"))]
    total: Counter[str] = Counter()
    for kind, key in stages:
        for who, phases in bench.store.manifest(kind, key).result["queries"].items():
            total[who] += sum(n for kinds in phases.values() for n in kinds.values())
    return total["shared"] + max(n for who, n in {"": 0, **total}.items() if who != "shared")


@pytest.mark.parametrize("name", [a for a in ATTACKS if LISTED.entry("attack", a).access in ("scores", "labels")])
def test_attack_keeps_to_its_budget(bench: Bench, name: str) -> None:
    """One query less than it needs: those that can stop return all images all the same, the others say so."""
    free = bench.plan(attack=name)
    needs = dearest(bench, bench.compute(free, "invert")["invert"])
    capped = bench.plan(attack=name, query_budget=needs - 1)
    keys = [{stage.kind: stage.key for stage in plan.stages.values()} for plan in (free, capped)]
    assert keys[0]["invert"] != keys[1]["invert"] and keys[0]["target"] == keys[1]["target"]
    if not bench.registry.plugin("attack", name).stops_early:
        with pytest.raises(StageFailed, match=f"budget of {needs - 1} queries"):
            bench.compute(capped, "invert")
        return
    stage = bench.compute(capped, "invert")["invert"]
    assert 0 < dearest(bench, stage) < needs
    entries = json.loads((bench.result(stage)[0] / "images.json").read_text())
    assert len(entries) == len(bench.track.identities) * bench.track.attack.images_per_identity


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_returns_what_the_contract_says(bench: Bench, name: str, tmp_path: Path) -> None:
    """With a prior whose images differ; with the one that was trained, ``check`` asks for more."""
    case = assault(bench, name, tmp_path)
    results, queries = case.invert(bench.track.identities)
    assert sorted(results) == bench.track.identities
    for item in results.values():
        for images in (item.images, item.initial):
            assert bool(torch.isfinite(images).all()) and float(images.min()) >= 0 and float(images.max()) <= 1
        assert all(isinstance(value, float) and np.isfinite(value) for value in item.notes.values())
    moved = any(not torch.equal(item.images, item.initial) for item in results.values())
    assert moved or LISTED.entry("attack", name).control, "nothing was optimised"
    assert not any(module.training for module in case.target.modules())
    asked = {label: sum(n for phase in p.values() for n in phase.values()) for label, p in queries.items()}
    assert not asked or all(asked[str(label)] > 0 for label in bench.track.identities), "some were forgotten"


@pytest.mark.parametrize("parts", [FEW, pytest.param(MANY, marks=pytest.mark.nightly)], ids=["few", "many"])
@pytest.mark.parametrize("defense", [BASELINE, *STOCHASTIC])
@pytest.mark.parametrize("name", ATTACKS)
def test_attack_result_does_not_depend_on_the_batch(
    bench: Bench, name: str, defense: str, parts: list[list[int]], tmp_path: Path
) -> None:
    """Identities alone, in pairs and all together: the same images up to float rounding, the same questions."""
    case = assault(bench, name, tmp_path, defense)
    everyone = bench.track.identities
    together, counted = case.invert(everyone)
    moved = max(float((item.images - item.initial).abs().max()) for item in together.values())
    assert moved > 1e-3 or LISTED.entry("attack", name).control, "without movement the comparison says nothing"
    for part in parts:
        some, queries = case.invert(part)
        assert sorted(some) == part
        assert {str(label) for label in part} <= queries.keys() or not queries
        for label in part:
            one, other = together[label], some[label]
            torch.testing.assert_close(other.initial, one.initial, rtol=0, atol=2e-6)
            torch.testing.assert_close(other.images, one.images, rtol=0, atol=2e-6 + 2e-4 * moved)
            if one.score is not None:
                torch.testing.assert_close(other.score, one.score, rtol=1e-3, atol=1e-4)
            if case.attack.group == 1 and queries:
                assert queries[str(label)] == counted[str(label)]


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_another_seed_other_numbers(
    bench: Bench, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seed alone, against the same target with the same prior. A method that draws nothing gives the same."""
    drawn = []
    for source in (RowStreams, Stream):
        for kind in ("uniform", "normal", "integers", "permutation"):
            if usual := getattr(source, kind, None):
                monkeypatch.setattr(source, kind, lambda *a, usual=usual, **k: [drawn.append(1), usual(*a, **k)][1])
    case = assault(bench, name, tmp_path)
    drawn.clear()
    one, _ = case.invert([0])
    stage = replace(case.job.stage, seed=7)
    other_job = replace(case.job, stage=stage)
    case.ctx = invert._Context(other_job, case.prepare(other_job) if "prepare" in stage.inputs else {})
    other, _ = case.invert([0])
    assert torch.equal(one[0].images, other[0].images) == (not drawn)
    assert torch.equal(one[0].initial, other[0].initial) <= torch.equal(one[0].images, other[0].images)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_resumed_between_blocks_gives_the_same_images(
    bench: Bench, again: Bench, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off inside the second block, and in the middle of every training of its preparation."""
    plan = bench.plan(attack=name)
    stage = bench.compute(plan, "utility")["invert"]
    monkeypatch.setattr(invert, "LARGEST_BLOCK", 2)
    if "prepare" in stage.inputs:
        prepared = interrupted(bench, again, plan, "prepare", monkeypatch)
        bench.compute(plan, "prepare")
        assert bench.hashes(prepared) == again.hashes(prepared)
    bench.lend(again, plan, "invert")

    def run(place: Bench, folder: Path) -> dict[str, str]:
        (folder / STATE).mkdir(parents=True, exist_ok=True)
        invert.run(place.job(stage, folder))
        return {path.name: file_sha256(path) for path in sorted((folder / "images").iterdir())}

    whole = run(bench, tmp_path / "whole")
    usual, written = invert.write_png, []

    def write_and_break(image: Tensor, path: Path, stored: str) -> None:
        usual(image, path, stored)
        written.append(path)
        if len({p.name[:6] for p in written}) == 3:
            raise InterruptedError("a kill")

    monkeypatch.setattr(invert, "write_png", write_and_break)
    with pytest.raises(InterruptedError):
        run(again, tmp_path / "broken")
    monkeypatch.setattr(invert, "write_png", usual)
    assert run(again, tmp_path / "broken") == whole


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("labels", [[], [5], [-1], [0, 0]], ids=str)
def test_attack_refuses_labels_that_are_none(bench: Bench, name: str, labels: list[int], tmp_path: Path) -> None:
    case = assault(bench, name, tmp_path)
    with pytest.raises(StageFailed, match=r"labels|classes"):
        list(case.attack.invert(case.oracle_of(), case.model, labels, case.ctx))


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_stops_at_numbers_that_are_not_finite(bench: Bench, name: str, tmp_path: Path) -> None:
    """A generator that breaks down is an error with a sentence, not a picture."""
    case = assault(bench, name, tmp_path)
    if case.model is None:
        pytest.skip("it has no generator")
    for parameter in case.model.generator.parameters():
        parameter.fill_(float("nan"))
    with pytest.raises(StageFailed, match=r"finite|became nan"):
        case.invert([0])


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_told_nothing_private(bench: Bench, name: str, tmp_path: Path) -> None:
    case = assault(bench, name, tmp_path)
    assert_no_way_to_private(case.ctx, case.job)


def test_a_planted_private_image_is_found(bench: Bench, tmp_path: Path) -> None:
    case = assault(bench, PROBE, tmp_path)
    images = torch.from_numpy(np.array(case.job.data.private_train()[0]))
    for secret in (images, images.float() / 255, images[2:3], case.job, case.job.data, case.job.private_train):
        case.ctx.where = {"deep": [lambda secret=secret: secret]}  # type: ignore[attr-defined]
        with pytest.raises(AssertionError, match="leads to"):
            assert_no_way_to_private(case.ctx, case.job)


def assert_no_way_to_private(ctx: Any, job: Job) -> None:
    """Follow every attribute, container, bound method and closure from ``ctx``."""
    data = job.data
    secret = [np.array(part()[0]).astype(np.float32) / 255 for part in (data.private_train, data.private_test)]
    private = {image.tobytes() for part in secret for image in part}
    seen: set[int] = set()
    stack: list[tuple[str, Any]] = [("ctx", ctx)]
    while stack:
        way, item = stack.pop()
        if id(item) in seen or isinstance(item, str | int | float | type | types.ModuleType | None):
            continue
        seen.add(id(item))
        assert not isinstance(item, Job | Store | Registry | TrackData | Classifier | Plan), f"{way} leads to {item!r}"
        if isinstance(item, Path):
            allowed = (job.workdir, weights_folder(job.store.home))
            assert any(item.is_relative_to(folder) for folder in allowed), f"{way} leads to {item}"
        if isinstance(item, ImageSet):
            assert item.images.shape[0] == job.track.public.images, f"{way} leads to other images"
        if isinstance(item, Tensor | np.ndarray):
            array = np.asarray(item)
            array = array.astype(np.float32) / 255 if array.dtype == np.uint8 else array
            if array.ndim >= 3:
                rows = array.reshape(-1, *array.shape[-3:])
                assert not any(np.ascontiguousarray(row).tobytes() in private for row in rows), f"{way} leads to faces"
            continue
        stack += [(f"{way}{name}", value) for name, value in steps(item)]


def steps(item: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(item, dict):
        yield from ((f"[{key!r}]", value) for key, value in item.items())
    elif isinstance(item, list | tuple | set | frozenset):
        yield from ((f"[{index}]", value) for index, value in enumerate(item))
    if inspect.ismethod(item):
        yield ".__self__", item.__self__
        item = item.__func__
    if inspect.isfunction(item):
        cells = zip(item.__code__.co_freevars, item.__closure__ or (), strict=True)
        yield from ((f".<{name}>", cell.cell_contents) for name, cell in cells)
        defaults = itertools.chain(item.__defaults__ or (), (item.__kwdefaults__ or {}).values())
        yield from ((f".<default {index}>", value) for index, value in enumerate(defaults))
    elif hasattr(item, "__dict__"):
        yield from ((f".{name}", value) for name, value in vars(item).items())
    elif isinstance(item, types.GeneratorType | types.BuiltinMethodType):
        yield from (("<inside>", value) for value in gc.get_referents(item))


# --- white-box attacks, adaptive -----------------------------------------------------------------------------------

WHITE_BOX = [a for a in ATTACKS if (e := LISTED.entry("attack", a)).access == "white_box" and not e.control]
UNCHANGED = {
    "paa": {"align_spread": 0.0},
    "taa": {"align_crop": (1.0, 1.0), "align_ratio": (1.0, 1.0), "align_flip": 0.0, "align_degrees": 0.0},
    "defense": {},
}


def aligned_case(case: Assault, align: str, **params: Any) -> Assault:
    """The same attack, averaging over views."""
    changed = case.attack.params.model_dump() | {"align": align} | params
    attack = type(case.attack)(resolve(case.attack.Params, changed, "aligned"), case.attack.track)
    ctx = copy.copy(case.ctx)
    ctx.adapt = lambda images, rng: images
    return replace(case, attack=attack, ctx=ctx)


def gradients(queries: dict[str, Any]) -> dict[str, int]:
    return {who: sum(kinds["gradient"] for kinds in phases.values()) for who, phases in queries.items()}


@pytest.mark.parametrize("name", WHITE_BOX)
def test_one_view_that_changes_nothing_is_the_attack_itself(bench: Bench, name: str, tmp_path: Path) -> None:
    case = assault(bench, name, tmp_path)
    plain, asked = case.invert([0, 3])
    for align, params in UNCHANGED.items():
        aligned, counted = aligned_case(case, align, align_samples=1, **params).invert([0, 3])
        assert counted == asked, align
        for label, item in plain.items():
            if issubclass(case.attack.Params, EnsembleParams):  # gradients of several models, added in another order
                torch.testing.assert_close(aligned[label].images, item.images, rtol=0, atol=1e-5)
            else:
                assert torch.equal(aligned[label].images, item.images), align
            assert torch.equal(aligned[label].initial, item.initial), align


@pytest.mark.parametrize("name", WHITE_BOX)
def test_every_view_is_a_query_and_belongs_to_its_row(bench: Bench, name: str, tmp_path: Path) -> None:
    """With three views three times the gradients; alone the same images as among others."""
    case = assault(bench, name, tmp_path)
    plain, asked = case.invert([0, 3])
    several = aligned_case(case, "taa", align_samples=3)
    together, counted = several.invert([0, 3])
    assert gradients(counted) == {who: 3 * count for who, count in gradients(asked).items()}
    assert any(not torch.equal(together[label].images, plain[label].images) for label in plain)
    moved = max(float((item.images - item.initial).abs().max()) for item in together.values())
    for label in (0, 3):
        alone, _ = several.invert([label])
        torch.testing.assert_close(alone[label].initial, together[label].initial, rtol=0, atol=2e-6)
        torch.testing.assert_close(alone[label].images, together[label].images, rtol=0, atol=2e-6 + 2e-4 * moved)


def test_an_adaptive_attack_averages_over_what_the_defense_does(bench: Bench, tmp_path: Path) -> None:
    images = torch.rand(3, 1, 32, 32)
    streams = [RowStreams([(0, label, 0) for label in range(3)], "align") for _ in range(2)]
    ctx = assault(bench, PROBE, tmp_path, "re").ctx
    assert ctx.adapt is not None
    expected = erase_rectangles(images, streams[0], (0.1, 0.4), mean=(0.449,))
    assert torch.equal(ctx.adapt(images, streams[1]), expected) and not torch.equal(expected, images)


def test_an_adaptive_attack_is_skipped_where_the_defense_has_nothing_to_average_over(bench: Bench) -> None:
    track = bench.track
    attack = bench.registry.facts(Selection("attack", PROBE, (), {"align": "defense"}), track)
    reasons = {}
    for name in ("none", "re", "ls"):
        defense = bench.registry.facts(Selection("defense", name), track)
        plan = make_plan([Cell(track, defense, attack, Seeds.of(0))], lambda *_: None)  # type: ignore[arg-type,return-value]
        reasons[name] = [reason for _, reason in plan.skipped]
    assert reasons["re"] == [] and "declares none" in reasons["none"][0] and "declares none" in reasons["ls"][0]
    both = combined([bench.registry.facts(Selection("defense", name), track) for name in ("bido", "re")])
    assert both.adapts


@pytest.mark.parametrize("name", [name for name in ATTACKS if LISTED.plugin("attack", name).block])
def test_an_attack_with_small_blocks_is_called_for_few_identities(
    bench: Bench, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of the identities before a break is computed again."""
    plan = bench.plan(attack=name)
    stage = bench.compute(plan, "utility")["invert"]
    bench.compute(plan, "prepare")
    cls, asked = bench.registry.plugin("attack", name), []
    usual = cls.invert

    def watched(attack: Any, oracle: Oracle, model: Any, labels: list[int], ctx: Any) -> Iterator[Reconstruction]:
        asked.append(labels)
        if len(asked) == 3:
            raise InterruptedError("a kill")
        return usual(attack, oracle, model, labels, ctx)

    monkeypatch.setattr(cls, "invert", watched)
    (tmp_path / STATE).mkdir()
    with pytest.raises(InterruptedError):
        invert.run(bench.job(stage, tmp_path))
    invert.run(bench.job(stage, tmp_path))
    size, everyone = cls.block, bench.track.identities
    blocks = [everyone[i : i + size] for i in range(0, len(everyone), size)]
    assert asked == [*blocks[:3], *blocks[2:]]
