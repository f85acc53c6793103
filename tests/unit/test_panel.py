"""The panel of judges: closed forms of its figures, its place in the plan, and a run that has one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Cli, make_root

from mibench.metrics import METRICS, panel
from mibench.metrics.evidence import Evidence, Judges
from mibench.records import RunRecord
from mibench.submission import model
from mibench.submission.layout import Refused

PEOPLE = 3
SHIFT = {"arch": "oriented_gradients", "epochs": 4, "batch": 4, "lr": 0.003, "weight_decay": 0.0}


def answers(guesses: list[int], people: int = PEOPLE) -> torch.Tensor:
    """Logits whose largest is the guess."""
    return torch.nn.functional.one_hot(torch.tensor(guesses), people).float()


def evidence(judges: Judges | None, e1: list[int], label: list[int]) -> Evidence:
    nothing = torch.empty(0)
    return Evidence(
        images=nothing,
        label=torch.tensor(label),
        selected=torch.ones(len(label), dtype=torch.bool),
        logits=answers(e1),
        features=nothing,
        initial_logits=nothing,
        private_images=nothing,
        private_labels=nothing,
        private_features=nothing,
        test_logits=nothing,
        test_labels=nothing,
        judges=judges,
    )


def test_majority_and_unanimity() -> None:
    label = [0, 0, 1, 1, 2, 2]
    e1, e2, e3 = [0, 0, 1, 0, 2, 0], [0, 1, 1, 1, 0, 0], [0, 1, 0, 1, 0, 2]
    e = evidence(Judges(answers(e2), answers(e3) - 1, threshold=0.0), e1, label)
    assert panel.att1_e2(e).value == pytest.approx((0.5 + 1 + 0) / 3)
    assert panel.att1_e3(e).value == pytest.approx((0.5 + 0.5 + 0.5) / 3)
    assert panel.att_maj(e).per_identity == {"0": 0.5, "1": 1.0, "2": 0.0}
    assert panel.att_min(e).per_identity == {"0": 0.5, "1": 0.0, "2": 0.0}


def test_verification_is_by_the_threshold_alone() -> None:
    similarities = torch.tensor([[-0.3, -0.1, -0.9], [-0.5, -0.2, -0.4]])
    e = evidence(Judges(answers([0, 0]), similarities, threshold=-0.3), [0, 0], [0, 2])
    assert panel.att1_e3(e).value == 0.0  # somebody else lies nearer
    assert panel.ver_e3(e).per_identity == {"0": 1.0, "2": 0.0}


@pytest.mark.parametrize("name", [name for name, info in METRICS.items() if info.compute.startswith(panel.__name__)])
def test_without_judges_a_figure_is_null_with_a_reason(name: str) -> None:
    compute = getattr(panel, name)
    value = compute(evidence(None, [0], [0]))
    assert value.value is None and value.reason == panel.NO_PANEL
    value = compute(evidence(Judges(answers([0]), None, reason="get them"), [0], [0]))
    if "e2" in name:
        assert value.value == 1.0 or name == "conf_e2"
    else:
        assert value.value is None and "get them" in str(value.reason)


def test_similarity_is_to_the_nearest_photo_of_a_person() -> None:
    rng = np.random.default_rng(0)
    images, gallery, labels = rng.normal(size=(5, 8)), rng.normal(size=(9, 8)), np.arange(9) % PEOPLE
    made = panel.similarity(torch.from_numpy(images), torch.from_numpy(gallery), torch.from_numpy(labels))
    for i, image in enumerate(images):
        for person in range(PEOPLE):
            nearest = min(np.linalg.norm(image - photo) for photo in gallery[labels == person])
            assert float(made[i, person]) == pytest.approx(-nearest)


def test_the_threshold_lets_so_many_other_people_through() -> None:
    scores, labels = torch.rand(200, 20, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 20
    scores[torch.arange(200), labels] += 10  # the own person's similarity must play no part
    threshold = panel.false_acceptance_threshold(scores, labels, 0.01)
    others = scores[torch.nn.functional.one_hot(labels, 20) == 0]
    assert others.numel() == 200 * 19
    assert 0.009 <= float((others >= threshold).double().mean()) <= 0.01


def test_look_alikes_and_calibration() -> None:
    strangers = torch.tensor([[3.0, 0.0, 1.0], [2.0, 0.0, 1.0], [1.0, 0.0, 0.5], [0.5, 0.0, 0.4], [0.0, 0.4, 0.3]])
    # the four most like person 0 are taken for 0; for person 1 the one at .4 of four; person 2 never
    assert panel.look_alikes(strangers) == pytest.approx((1 + 0.25 + 0) / 3)
    probabilities = torch.tensor([[0.95, 0.05], [0.92, 0.08], [0.35, 0.65], [0.45, 0.55]])
    labels = torch.tensor([0, 1, 1, 0])
    # bin 0.9: |1 - 1.87|, bin 0.6: |1 - .65|, bin 0.5: |0 - .55|
    assert panel.calibration_error(probabilities, labels) == pytest.approx((0.87 + 0.35 + 0.55) / 4)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A run on the tiny track with a panel."""
    folder = tmp_path_factory.mktemp("panel")
    metrics = ["nat1", "att1", "att_maj", "att_min", "att1_e2", "att5_e2", "conf_e2", "att1_e3", "att5_e3", "ver_e3"]
    root = make_root(folder / "root", {"panel": {"cross": SHIFT, "open_set": "faces"}, "metrics": metrics})
    cli = Cli(folder / "home", root)
    cli.first = cli("run", "--track", "tiny", "--defense", "none", "--attack", "gmi", "--json")
    return cli


def shown(judged: Cli) -> Any:
    """The record of the attack's run."""
    runs = json.loads(judged("export", "--format", "results").stdout)["runs"]
    return next(run["record"] for run in runs if run["attack"] == "gmi")


def test_a_run_is_judged_by_three(judged: Cli) -> None:
    runs = {run["attack_label"]: run for run in json.loads(judged.first.stdout)["runs"]}
    run = runs["gmi"]
    assert [s["kind"] for s in run["stages"]].count("panel") == 1
    metrics = run["metrics"]
    assert all(metrics[name]["reason"] is None for name in metrics)
    assert metrics["att_min"]["value"] <= min(metrics[name]["value"] for name in ("att1", "att1_e2", "att1_e3"))
    assert metrics["att_min"]["value"] <= metrics["att_maj"]["value"]
    key = next(s["key"] for s in shown(judged)["stages"] if s["kind"] == "evaluate")
    entries = json.loads((judged.home / "store" / "evaluate" / key[:2] / key / "images.json").read_text())
    votes = [sum(e[who] == e["label"] for who in ("verdict", "e2", "e3")) for e in entries]
    assert metrics["att_maj"]["value"] == pytest.approx(np.mean([vote >= 2 for vote in votes]))


def test_what_the_judges_know_is_in_the_record(judged: Cli) -> None:
    judges = shown(judged)["judges"]
    assert set(judges) == {"e1", "e2", "e3"}
    for facts in judges.values():
        assert facts["n"] == 15 and 0 <= facts["top1"]["ci_low"] <= facts["top1"]["value"] <= facts["top5"]["value"]
        assert 0 <= facts["look_alikes"] <= 1
    assert judges["e3"]["threshold"] < 0 and 0 <= judges["e3"]["verified"] <= 1


def test_a_submission_is_verified_by_the_judges_answers(judged: Cli, tmp_path: Path) -> None:
    run = shown(judged)
    judged("submit", "pack", run["run"], "--out", str(tmp_path / "packed"), "--yes")
    verified = json.loads(judged("submit", "verify", str(tmp_path / "packed"), "--json").stdout)
    assert verified["ok"], verified
    (figures,) = [check["message"] for check in verified["checks"] if "computed again" in check["message"]]
    assert "att_maj" in figures.partition(" computed")[0]


def test_the_panel_is_the_same_wherever_it_is_trained(judged: Cli, tmp_path: Path) -> None:
    again = Cli(tmp_path / "home", judged.root)
    again("run", "--track", "tiny", "--attack", "photos")
    one, other = (next(cli.home.glob("store/panel/*/*/manifest.json")) for cli in (judged, again))
    assert json.loads(one.read_text())["outputs"] == json.loads(other.read_text())["outputs"]
    assert json.loads(one.read_text())["result"] == json.loads(other.read_text())["result"]


@pytest.mark.parametrize(
    "facts", [{"top1": 0.5}, {"e4": {}}, {"top1": {"value": 2.0, "ci_low": None, "ci_high": None}}]
)
def test_what_a_stranger_says_of_judges_is_bounded(judged: Cli, facts: dict[str, Any]) -> None:
    record = shown(judged)
    assert model.read(RunRecord, record, "record").judges == record["judges"]
    broken = record | {"judges": facts if "e4" in facts else {"e1": facts}}
    with pytest.raises(Refused, match="judges"):
        model.read(RunRecord, broken, "record")
