"""Adaptive variants of attacks, and the checks for masked gradients, on made-up networks and made-up runs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from factories import make_catalogue, make_run

from mibench.checking.bench import Bench
from mibench.checking.track import reduced, smallest
from mibench.contracts import Oracle, Reconstruction
from mibench.errors import UserError
from mibench.nets.base import Classifier, Output
from mibench.planning.plan import Cell, Plan, make_plan
from mibench.primitives.distillation import soft_kl
from mibench.protocol.method_files import VARIABLE
from mibench.protocol.methods import Selection
from mibench.protocol.params import changed, multiplied
from mibench.publish import Catalogue
from mibench.publish.aggregate import boards
from mibench.publish.downloads import masking
from mibench.publish.standings import Standing, standings
from mibench.random import Stream
from mibench.records import MetricValue, RunRecord, Seeds
from mibench.registry import Registry
from mibench.running.request import Asked, Planner, adaptive, select_all
from mibench.stages import gradients
from mibench.stages.invert import best

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry(ROOT)


# --- which variants there are ---------------------------------------------------------------------------------------


def test_the_variants_of_a_white_box_attack(registry: Registry) -> None:
    """Everything that evaluation 7.5 lists, once; the attacks without gradients last, though one was asked for."""
    track = registry.track("orl32")
    chosen = select_all(registry, "attack", ["ppa", "smile", "floor"])
    labels = [attack.label for attack in adaptive(registry, track, chosen)]
    assert labels == [
        "ppa",
        "smile",
        "floor",
        *(f"ppa[align={view},align_samples=8]" for view in ("paa", "taa", "defense")),
        "ppa[loss=ce]",
        "ppa[loss=margin]",
        "ppa[effort=4]",
        "ppa[transfer=true]",
        "smile[effort=4]",
        "lokt",
        "brepmi",
    ]


def test_what_is_changed_already_is_no_variant_of_itself(registry: Registry) -> None:
    facts = registry.facts(registry.select("attack", "ppa[loss=ce,align=taa]"), registry.track("orl32"))
    assert list(facts.swaps) == [
        {"align": "paa"},
        {"align": "defense"},
        {"loss": "margin"},
        {"loss": "poincare"},
    ]


def test_every_registered_attack_has_steps_to_multiply(registry: Registry) -> None:
    for name, entry in registry.entries("attack").items():
        if not entry.control:
            cls = registry.plugin("attack", name)
            assert set(cls.effort) <= set(cls.Params.model_fields) and multiplied(cls.Params(), cls.effort, 2), name


def test_a_plan_with_variants_skips_the_view_that_a_defense_does_not_have(registry: Registry, tmp_path: Path) -> None:
    asked = Asked(track="synthfaces", defenses=("re", "bido"), attacks=("ppa",), adaptive=True)
    plan = Planner(registry, tmp_path).plan(asked)
    skipped = {(cell.defense.id, cell.attack.label) for cell, _ in plan.skipped}
    assert skipped == {(name, "ppa[align=defense,align_samples=8]") for name in ("none", "bido")}
    assert len([run for run in plan.runs if run.cell.defense.id == "re"]) == 11
    assert sum(stage.kind == "student" for stage in plan.stages.values()) == 3, "one of each target"


def test_effort_multiplies_what_counts_steps(registry: Registry) -> None:
    track = registry.track("orl32")

    def built(label: str) -> Any:
        facts = registry.facts(registry.select("attack", label), track)
        return facts, registry.build("attack", facts.id, facts.params, track).params

    facts, params = built("ppa[effort=3,milestones=30:40]")
    assert params.iterations == 240 and params.milestones == (90, 120)
    assert facts.params["iterations"] == 80 and facts.non_default["effort"] == 3
    assert built("ifgmi[effort=4]")[1].iterations == (320, 100)
    assert built("ppa[effort=1,transfer=false]")[0].non_default == built("ppa")[0].non_default
    assert multiplied(params, ("milestones", "nothing"), 2) == {"milestones": (180, 240)}
    with pytest.raises(UserError, match="effort"):
        built("ppa[effort=0]")


class _Fixed(Classifier):
    """Logits are the means of the left and the right half of an image."""

    head = nn.Identity()

    def forward(self, images: Tensor, rng: Any = None) -> Output:
        halves = torch.stack([half.flatten(1).mean(1) for half in images.chunk(2, 3)], 1)
        return Output(halves, halves, {})


@pytest.mark.parametrize(("access", "kept"), [("scores", [3, 1]), ("white_box", [3, 1]), ("labels", [1, 3])])
def test_of_more_results_the_model_chooses(access: str, kept: list[int]) -> None:
    images = torch.zeros(4, 1, 2, 2)
    images[1, ..., 1], images[2, ..., 0], images[3, ..., 1] = 0.4, 1.0, 0.9
    item = Reconstruction(1, images, images + 1, selected=torch.tensor([True, False, True, True]))
    oracle = Oracle(_Fixed(), access, 2)
    found = best(item, 2, oracle)
    assert torch.equal(found.images, images[kept]) and torch.equal(found.initial, images[kept] + 1)
    assert found.selected is not None and found.selected.tolist() == [k == 3 for k in kept] and found.score is not None
    assert oracle.counts()["shared"]["selection"]["label" if access == "labels" else "forward"] == 4
    own = replace(item, score=torch.tensor([9.0, 0.0, 1.0, 5.0]))
    assert torch.equal(best(own, 2, oracle).images, images[[0, 3]]), "an attack's own score, where it has one"


# --- gradients ------------------------------------------------------------------------------------------------------


class _Net(Classifier):
    """Logits are linear in the pixels, and then ``change`` is done to them."""

    def __init__(self, change: Any = None, sign: bool = False) -> None:
        super().__init__()
        self.head = nn.Flatten()
        self.weight = nn.Parameter(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)))
        self.change, self.sign = change, sign

    def forward(self, images: Tensor, rng: Any = None) -> Output:
        x = images.flatten(1)
        if self.sign:  # the same value, and a gradient whose sign is drawn anew for each image
            drawn = torch.where(rng.uniform(len(x), 1) < 0.5, -1.0, 1.0)
            x = x.detach() + drawn * (x - x.detach())
        logits = x @ self.weight.T
        return Output(logits if self.change is None else self.change(logits), x, {})


@pytest.mark.parametrize(
    ("net", "cosine"),
    [
        (_Net(), 1.0),  # of a linear network the gradient is the same everywhere
        (_Net(lambda o: torch.round(o)), None),
        (_Net(lambda o: o.detach()), None),
        (_Net(sign=True), 0.0),  # pairs agree as often as not: over 200 images of 28 pairs within .05
    ],
    ids=["plain", "rounded", "detached", "coin"],
)
def test_gradients_of_views_agree_as_far_as_they_exist(
    net: _Net, cosine: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        gradients, "transformed", lambda x, rng, p: x + 0.01 * (rng.uniform(len(x))[:, None, None, None])
    )
    images = Stream(1).uniform(200, 1, 4, 4)
    with torch.no_grad():
        labels = net(images, Stream(2)).logits.argmax(1)
    found, right = gradients.agreement(net, images, labels, 8, Stream(3), Stream(4))
    assert right.mean() > 0.9, "the answers stay"
    if cosine is None:
        assert bool(found.isnan().all())
    else:
        # one image whose other two classes change places under a view has two gradients
        assert float(found.nanmean()) == pytest.approx(cosine, abs=0.05) and not bool(found.isnan().any())


def test_a_student_has_the_gradients_that_a_rounded_target_hides() -> None:
    """The cheap form of the unmasking: descent on the student of a rounded linear target raises the margin of any class
    as far as descent on the target before it was rounded does; on the rounded one it does nothing."""
    target = _Net(lambda o: torch.round(o * 2) / 2)
    plain = _Net()
    images = Stream(1).uniform(2000, 1, 4, 4)
    student = _Net()
    torch.nn.init.zeros_(student.weight)
    with torch.no_grad():
        answers = target(images).logits
    optimiser = torch.optim.Adam(student.parameters(), 0.02)
    for step in range(400):
        part = slice(step % 10 * 200, step % 10 * 200 + 200)
        loss = soft_kl(answers[part], student(images[part]).logits).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def reached(through: _Net) -> float:
        x = torch.full((3, 1, 4, 4), 0.5, requires_grad=True)
        for _ in range(30):
            margin = through(x).logits.diagonal().sum() - through(x).logits.sum() / 3
            (gradient,) = torch.autograd.grad(margin, x)
            x = (x + 0.1 * gradient.sign()).clamp(0, 1).detach().requires_grad_()
        own = plain(x).logits.softmax(1)
        return float(own.diagonal().mean().detach())

    nowhere = plain(torch.full((3, 1, 4, 4), 0.5)).logits.softmax(1).diagonal().mean()
    assert reached(target) == pytest.approx(float(nowhere.detach()))
    assert reached(student) > reached(target) + 0.9 * (reached(plain) - reached(target))


# --- the checks -----------------------------------------------------------------------------------------------------

GRADIENTS = {"images": 40, "views": 8, "cosine": 0.5, "cosine_low": 0.45, "cosine_high": 0.55, "without": 0.0}
GRADIENTS |= {"accuracy": 1.0, "accuracy_views": 0.97}


def run(defense: str, label: str, att1: float, start: float = 0.1, seed: int = 0, **more: Any) -> RunRecord:
    """People differ by up to 2 points, and all attacks find the same ones easier."""
    attack = label.partition("[")[0]
    params = {"steps": 10} | {key: 4 if key == "effort" else True for key in ("effort", "transfer") if key in label}
    made = make_run(defense=defense, attack=attack, attack_label=label, attack_params=params, seed=seed, **more)

    def metric(mean: float) -> MetricValue:
        people = {str(i): mean + 0.02 * (i % 3 - 1) for i in range(9)} | {"9": mean}
        return MetricValue(mean, n=40, ci_low=mean - 0.05, ci_high=mean + 0.05, per_identity=people)

    return replace(made, metrics=made.metrics | {"att1": metric(att1), "att1_step0": metric(start)})


def known() -> Catalogue:
    base = make_catalogue()
    others = {"ppa": {"access": "white_box"}, "smile": {"access": "scores"}}
    return replace(base, attacks={**base.attacks, **others})


def found(runs: list[RunRecord]) -> Standing:
    [board] = boards(runs, baselines={"none"})
    [standing] = [s for s in standings(board, known()) if s.label == "re"]
    return standing


def hits(standing: Standing) -> dict[str, bool | None]:
    return {check.name: check.hit for check in standing.checks}


UNDEFENDED = {"gmi": 0.6, "gmi[effort=4]": 0.7, "gmi[transfer=true]": 0.3, "smile": 0.5}


def board_of(re: dict[str, float], start: float = 0.1, **more: Any) -> list[RunRecord]:
    there = [run("none", label, value, seed=s) for label, value in UNDEFENDED.items() for s in (0, 1)]
    return there + [run("re", label, value, start, seed=s, **more) for label, value in re.items() for s in (0, 1)]


def test_a_defense_that_lets_all_attacks_gain_raises_no_flag() -> None:
    standing = found(board_of({label: value - 0.15 for label, value in UNDEFENDED.items()}, gradients=GRADIENTS))
    assert hits(standing) == {"without gradients": False, "budget": False, "transfer": False, "gradients": False}
    assert "masking" not in {badge.word for badge in standing.badges}


@pytest.mark.parametrize(
    ("changes", "start", "check"),
    [
        ({"smile": 0.8}, 0.1, "without gradients"),
        ({"gmi[effort=4]": 0.4, "gmi": 0.4, "smile": 0.3}, 0.1, "budget"),
        ({}, 0.6, "budget"),
        ({"gmi[transfer=true]": 0.75}, 0.1, "transfer"),
    ],
)
def test_each_check_has_its_hit(changes: dict[str, float], start: float, check: str) -> None:
    standing = found(board_of({**UNDEFENDED, **changes}, start))
    assert [name for name, hit in hits(standing).items() if hit] == [check]
    [badge] = [badge for badge in standing.badges if badge.word == "masking"]
    assert check in badge.meaning and badge.tone == "bad"


@pytest.mark.parametrize(
    ("facts", "hit"),
    [
        ({"cosine": None, "cosine_low": None, "cosine_high": None, "without": 1.0}, True),
        ({"cosine": 0.01, "cosine_low": -0.01, "cosine_high": 0.03}, True),
        ({"cosine": 0.04, "cosine_low": 0.01, "cosine_high": 0.07}, False),
        ({"cosine": 0.01, "cosine_low": -0.01, "cosine_high": 0.03, "accuracy_views": 0.5}, None),
    ],
)
def test_gradients_that_say_nothing_of_each_other(facts: dict[str, Any], hit: bool | None) -> None:
    assert hits(found(board_of(UNDEFENDED, gradients=GRADIENTS | facts)))["gradients"] is hit


def test_what_is_so_on_the_undefended_model_too_tells_nothing() -> None:
    there = [replace_value(r, 0.8) if r.attack == "smile" else r for r in board_of({**UNDEFENDED, "smile": 0.75})]
    assert hits(found(there))["without gradients"] is None


def replace_value(record: RunRecord, mean: float) -> RunRecord:
    return replace(run(record.defense, record.attack_label, mean, seed=record.seed), run=record.run)


def test_what_cannot_be_told_has_its_reason() -> None:
    alone = found([run("none", "gmi", 0.6), run("re", "smile", 0.2)])
    assert set(hits(alone).values()) == {None}
    assert [check.said.partition(":")[0] for check in alone.checks] == [
        "It did not meet attacks with gradients and attacks without.",
        "No attack with gradients met both it and the undefended model.",
        "No attack met both the target and a student of it.",
        "Not computed",
    ]


def test_the_undefended_model_and_controls_are_not_checked_and_all_others_are_exported() -> None:
    [board] = boards(board_of(UNDEFENDED), baselines={"none"})
    assert [s.checks for s in standings(board, known()) if s.label == "none"] == [()]
    lines = masking(board, known()).splitlines()
    assert lines[0] == "defense,check,flag,said" and len(lines) == 1 + 4
    assert lines[1].startswith("re,without gradients,not raised,") and lines[4].startswith(
        "re,gradients,cannot be told,"
    )


# --- the worst attack -----------------------------------------------------------------------------------------------


def test_an_adaptive_variant_counts_as_the_worst_attack_once_it_has_as_many_trainings() -> None:
    cells = {"gmi": 0.3, "gmi[effort=4]": 0.5, "gmi[iterations=9]": 0.9}
    runs = [run("re", label, value + 0.01 * s, seed=s) for label, value in cells.items() for s in range(3)]
    runs += [run("none", "gmi", 0.6 + 0.01 * s, seed=s) for s in range(3)]
    [board] = boards(runs, baselines={"none"})
    case = board.cases["re"]
    assert board.required == ("gmi",), "a variant is required of nobody"
    assert case.attacks == ("gmi", "gmi[effort=4]") and case.worst is not None
    assert case.worst.attack == "gmi[effort=4]" and case.value.mean == pytest.approx(0.51)
    [short] = boards([r for r in runs if "effort" not in r.attack_label or r.seed == 0], baselines={"none"})
    assert short.cases["re"].attacks == ("gmi",) and short.cases["re"].rank is not None, "it costs no trainings"
    [one] = boards([r for r in runs if r.seed == 0], baselines={"none"})
    assert one.cases["re"].worst is not None and one.cases["re"].worst.attack == "gmi[effort=4]"


@pytest.mark.parametrize(
    ("label", "params", "is_variant"),
    [
        ("ppa", {"align": None, "loss": "ce"}, False),
        ("ppa[loss=ce]", {"loss": "ce"}, True),
        ("mine[hard]", {"align": "taa"}, True),
        ("ppa[transfer=true]", {"transfer": True}, True),
        ("ppa[effort=4]", {"effort": 4}, True),
        ("ppa[query_budget=9]", {"query_budget": 9}, False),
    ],
)
def test_which_runs_are_of_a_variant(label: str, params: dict[str, Any], is_variant: bool) -> None:
    assert changed(label, params) is is_variant


# --- on the smallest track --------------------------------------------------------------------------------------------


def test_rounded_logits_have_no_gradient_and_their_student_is_inverted_without_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(ROOT / "tests" / "data" / "quantised.py"))
    bench = Bench(Registry(ROOT), tmp_path)
    asked: dict[str, Any] = {"pool": 8, "iterations": 2, "selection_views": 2}

    def plan(defense: str, **params: Any) -> Plan:
        track, registry = smallest(), bench.registry
        registry.add(track)
        kinds = (("defense", defense, {}), ("attack", "ppa", asked | params))
        facts = [registry.facts(Selection(kind, name, (), values), track) for kind, name, values in kinds]
        priors = reduced(registry, "prior", "dcgan")
        return make_plan(
            [Cell(track, *facts, Seeds.of(0))],
            lambda name, _, on: registry.facts(Selection("prior", name, (), priors), on),
        )

    def result(of: Plan, kind: str) -> Any:
        return bench.result(bench.compute(of, kind))[1].result

    found = {name: result(plan(name), "gradients")["gradients"] for name in ("none", "quantised")}
    assert found["none"]["without"] == 0 and found["none"]["cosine"] > 0.1
    assert found["quantised"]["without"] == 1 and found["quantised"]["cosine"] is None
    through = plan("quantised", transfer=True, effort=2)
    queries = {kind: result(through, kind)["queries"] for kind in ("student", "prepare", "invert")}
    assert queries["student"] == {"shared": {"distillation": {"forward": 48, "gradient": 0, "label": 0}}}
    assert queries["prepare"] == queries["invert"] == {}
    folder = bench.result(bench.compute(through, "invert"))[0]
    images, starts = (sorted((folder / name).glob("*.png")) for name in ("images", "initial"))
    assert len(images) == 5 * 2 and len(list(folder.glob("images/*_002.png"))) == 0, "as many as the track asks for"
    assert any(one.read_bytes() != other.read_bytes() for one, other in zip(images, starts, strict=True))
