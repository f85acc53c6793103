"""Every registered attack against ``mibench.contracts``, on the track ``tiny``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from assaults import assault, whole_and_resumed
from plugins import ATTACKS, DEFENSES, LISTED, Bench, interrupted, stochastic

from mibench.contracts import Oracle, Reconstruction, RowStreams, Stream
from mibench.errors import StageFailed
from mibench.images.pixels import read_png
from mibench.planning.plan import Stage
from mibench.running.request import BASELINE
from mibench.stages import invert
from mibench.store.artifacts import STATE

FEW = [[2], [0, 1]]  # of the identities of the track, attacked together; ``check`` takes others
MANY = [[0], [1], [2], [3], [4], [0, 1], [2, 3], [1, 4]]
STOCHASTIC = [name for name in DEFENSES if stochastic(name)]
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")


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
    if "prepare" in stage.inputs:
        prepared = interrupted(bench, again, plan, "prepare", monkeypatch)
        bench.compute(plan, "prepare")
        assert bench.hashes(prepared) == again.hashes(prepared)
    bench.lend(again, plan, "invert")
    whole, resumed = whole_and_resumed(bench, again, stage, tmp_path, monkeypatch)
    assert resumed == whole


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
