"""Every white-box attack averaging over views, and whom ``align=defense`` meets."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from assaults import Assault, assault, whole_and_resumed
from plugins import ATTACKS, LISTED, PROBE, Bench

from mibench.contracts import RowStreams
from mibench.images.augment import erase_rectangles
from mibench.planning.plan import Cell, make_plan
from mibench.primitives.distillation import EnsembleParams
from mibench.protocol.methods import Selection, combined
from mibench.protocol.params import resolve
from mibench.records import Seeds

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")

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


def test_an_adaptive_attack_that_is_broken_off_goes_on_to_the_same_images(
    bench: Bench, again: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each identity's views come from streams of its own, whatever came before."""
    plan = bench.plan(attack=PROBE, align="paa", align_samples=2)
    stage = bench.compute(plan, "invert")["invert"]
    bench.lend(again, plan, "invert")
    whole, resumed = whole_and_resumed(bench, again, stage, tmp_path, monkeypatch)
    assert resumed == whole and len(whole) == len(bench.track.identities) * bench.track.attack.images_per_identity
    plain = bench.compute(bench.plan(attack=PROBE), "invert")["invert"]
    assert any(bench.hashes(plain)[f"images/{name}"]["sha256"] != sha256 for name, sha256 in whole.items())


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
