"""The undefended model that is as accurate as a defense: how it is asked for, trained and compared."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from factories import make_catalogue, make_run

from mibench.checking.bench import Bench
from mibench.checking.track import reduced, smallest
from mibench.contracts import ImageSet
from mibench.errors import UserError
from mibench.nets.base import Classifier, Output
from mibench.planning.plan import Cell, Plan, make_plan
from mibench.protocol.methods import Facts, Selection
from mibench.protocol.params import outside_brackets
from mibench.publish.aggregate import boards
from mibench.publish.downloads import net_protection
from mibench.publish.methods import method_view
from mibench.publish.standings import Standing, standings
from mibench.records import RunRecord, Seeds, numbered
from mibench.registry import Registry
from mibench.running.order import Order
from mibench.running.request import build_plan
from mibench.running.worker import compute
from mibench.stages.target import Nearest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry(ROOT)


# --- asking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("like", ["re", "re[strong]", "re[strong,area=0.1:0.4,p=0.5]", "re[strong]+ls[alpha=0.1]"])
def test_its_label_asks_for_it_again(registry: Registry, like: str) -> None:
    control = registry.select("defense", "matched").with_params({"like": like})
    assert registry.select("defense", control.label) == control and control.params == {"like": like}


def test_only_what_stands_in_no_brackets_separates() -> None:
    assert outside_brackets("a,b[c,d[e,f],g],h", ",") == ["a", "b[c,d[e,f],g]", "h"]
    assert outside_brackets("", ",") == [""]


def test_the_control_of_every_defense_runs_by_itself_where_there_is_a_panel(registry: Registry) -> None:
    defenses = [registry.select("defense", name) for name in ("re[strong]", "deranged")]

    def labels(track: str, *more: str, trainings: int = 3) -> list[str]:
        chosen = defenses + [registry.select("defense", name) for name in more]
        attack = registry.select("attack", "miface")
        plan = build_plan(registry, registry.track(track), chosen, [attack], numbered(trainings))
        runs = [run.cell for run in plan.runs if run.cell.attack.id == "miface"]
        return list(dict.fromkeys(cell.defense.label for cell in runs))

    control = "matched[like=re[strong]]"
    assert labels("orl32") == ["none", "re[strong]", "deranged", control]
    assert sorted(labels("orl32", control)) == sorted(labels("orl32")), "once, though it was asked for"
    assert labels("synthfaces") == labels("orl32", trainings=2) == ["none", "re[strong]", "deranged"]


def test_it_waits_for_the_accuracy_of_its_defense(registry: Registry) -> None:
    track = registry.track("synthfaces")
    attack = registry.facts(registry.select("attack", "miface"), track)

    def plan(label: str, seed: int = 0) -> Plan:
        facts = registry.facts(registry.select("defense", label), track)
        again = Facts.from_json(_json(facts))
        assert again == facts
        return make_plan([Cell(track, again, attack, Seeds.of(seed))], lambda *_: facts)

    alone, (own,) = plan("matched[like=re]"), plan("re").runs
    (run,) = alone.runs
    assert run.stages["target"].inputs == {"utility": ("utility", own.stages["utility"].key)}
    assert set(alone.stages) >= {own.stages["target"].key, own.stages["utility"].key}, "it can be asked for alone"
    assert [stage.kind for stage in alone.stages.values()].index("utility") < list(alone.stages).index(
        run.stages["target"].key
    )
    asked = [("matched[like=re]", 0), ("matched[like=re]", 1), ("matched[like=ls]", 0)]
    assert len({plan(*each).runs[0].stages["target"].key for each in asked}) == 3
    assert plan("matched").runs[0].stages["target"].inputs == {}
    with pytest.raises(UserError, match="not to another control"):
        plan("matched[like=matched[like=re]]")


def _json(facts: Facts) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(asdict(facts)))
    return data


# --- training -------------------------------------------------------------------------------------------------------


class _Threshold(Classifier):
    """Takes every image brighter than ``at`` for class 1."""

    head = nn.Identity()

    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(at))

    def forward(self, images: torch.Tensor, rng: Any = None) -> Output:
        above = images.flatten(1).mean(1) - self.at
        logits = torch.stack([-above, above], 1)
        return Output(logits, logits, {})


def test_the_epoch_nearest_in_accuracy_is_kept() -> None:
    """Ten images, all of class 1: a threshold of t makes 10 - t of them right."""
    images = torch.arange(10.0)[:, None, None, None] + 0.5
    data = ImageSet(images, torch.ones(10, dtype=torch.long), 2)
    net = _Threshold(10.0)
    nearest = Nearest(net, data, 0.75)
    for at in (9.0, 4.0, 3.0, 2.0, 0.0, 3.0):  # accuracies .1, .6, .7, .8, 1, .7
        net.at.data.fill_(at)
        nearest.consider(net.train())
        assert net.training
    assert nearest.restore() == pytest.approx(
        {"stopped_after_epoch": 3, "stopped_accuracy": 0.7, "wanted_accuracy": 0.75}
    )
    assert net.at.item() == 3.0
    resumed = Nearest(_Threshold(0.0), data, 0.75)
    resumed.load_state_dict(nearest.state_dict())
    assert resumed.restore()["stopped_after_epoch"] == 3


def test_it_is_the_undefended_training_stopped_early(tmp_path: Path) -> None:
    """On the smallest track: as accurate as its notes say; matched to a defense that is none, it is the last epoch of
    the undefended training or an earlier one that is as accurate."""
    bench = Bench(Registry(ROOT), tmp_path)
    track = smallest()
    bench.registry.add(track)
    attack = bench.registry.facts(Selection("attack", "miface", (), reduced(bench.registry, "attack", "miface")), track)

    def results(label: str) -> Any:
        facts = bench.registry.facts(bench.registry.select("defense", label), track)
        plan = make_plan([Cell(track, facts, attack, Seeds.of(0))], lambda *_: facts)
        (run,) = plan.runs
        for stage in plan.stages.values():  # parents first
            if stage.kind in ("target", "utility"):
                compute(Order(home=bench.home, device="cpu", stage=stage, track=track), lambda event: None)
        return bench.result(run.stages["target"])[1].result["notes"]

    notes = results("matched[like=none]")
    assert notes["stopped_accuracy"] == notes["wanted_accuracy"] and 1 <= notes["stopped_after_epoch"] <= 6


# --- comparing ------------------------------------------------------------------------------------------------------


def board_of(defense: list[float], control: list[float], gap: float = 0.002, **more: list[float]) -> Standing:
    def runs(name: str, label: str, attack: str, values: list[float], nat1: float) -> list[RunRecord]:
        params = {"like": "re"} if name == "matched" else {}
        return [
            make_run(defense=name, defense_label=label, attack=attack, att1=v, nat1=nat1, seed=s, defense_params=params)
            for s, v in enumerate(values)
        ]

    made = runs("none", "none", "gmi", [0.7, 0.72, 0.71], 0.95)
    made += runs("re", "re", "gmi", defense, 0.9) + runs("matched", "matched[like=re]", "gmi", control, 0.9 + gap)
    for attack, values in more.items():
        made += runs("re", "re", attack, values, 0.9)
    known = make_catalogue()
    known = replace(known, defenses=known.defenses | {"matched": {"kind": "control"}})
    [board] = boards(made, controls=known.controls, baselines={"none"})
    [standing] = [s for s in standings(board, known) if s.label == "re"]
    view = method_view("defense", "re", [board], known)["boards"][0]["settings"]
    lines = net_protection(board, known).splitlines()
    assert len(lines) == 1 + (standing.protection is not None) and [v["label"] for v in view] == ["re"]
    assert (view[0]["net"] is None) == (standing.protection is None)
    return standing


def test_net_protection_is_the_paired_difference_to_the_control() -> None:
    defense, control = [0.30, 0.34, 0.29], [0.50, 0.55, 0.52]
    found = board_of(defense, control).protection
    assert found is not None and found.control == "matched[like=re]" and found.attacks == ("gmi",)
    reference = stats.ttest_rel(control, defense).confidence_interval()
    assert found.net.mean == pytest.approx(sum(control) / 3 - sum(defense) / 3) and found.net.seeds == 3
    assert (found.net.low, found.net.high) == pytest.approx(tuple(reference))
    assert found.gap == pytest.approx(0.002) and found.matched
    assert not board_of(defense, control, gap=-0.05).protection.matched  # type: ignore[union-attr]


def test_only_attacks_that_both_met_in_the_same_trainings_count() -> None:
    found = board_of([0.3, 0.34, 0.29], [0.5, 0.55, 0.52], ppa=[0.9, 0.9, 0.9]).protection
    assert found is not None and found.attacks == ("gmi",) and found.net.mean > 0
    short = board_of([0.3, 0.34, 0.29], [0.5]).protection
    assert short is not None and short.net.seeds == 1 and short.net.low is None


def test_the_control_does_not_compete() -> None:
    [board] = boards([make_run(defense="re")])
    assert standings(board, make_catalogue())[0].protection is None
