"""The record of a run follows from the manifests of its stages alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mibench.keys import digest
from mibench.records import Seeds
from mibench.registry import Registry
from mibench.running.assembly import Question, assemble
from mibench.store.manifest import Manifest

TRACK = Registry().track("orl32")
ASKED = Question("0" * 12, TRACK, Seeds.of(2), "re[area=0.1:0.6]", "gmi", ["One."])


def asking(forward: int) -> dict[str, Any]:
    return {"queries": {"shared": {"search": {"forward": forward, "gradient": 1, "label": 0}}}}


def manifest(kind: str, plugin: str = "engine", **values: Any) -> Manifest:
    return Manifest(kind, digest(kind), plugin, 1, {"of": kind}, {}, 2, TRACK.id, TRACK.version, **values)


def manifests(**more: Manifest) -> dict[str, Manifest]:
    metrics = {"att1": {"value": 0.5, "n": 4, "per_identity": {"0": 0.5}}}
    usage = {"attempts": 2, "device_seconds": 7.5}
    return {
        "target": manifest("target", "re", seconds=3.0, environment={"device": "cuda:0", "peak_memory_mib": 9}),
        "invert": manifest("invert", "gmi", result=asking(5), usage=usage),
        "evaluate": manifest("evaluate", result={"metrics": metrics}, environment={"device": "cpu"}),
        **more,
    }


def test_what_manifests_say() -> None:
    record = assemble(ASKED, manifests(), [{"label": 0}], "2026-01-02T03:04:05+00:00")
    assert (record.defense, record.attack, record.name) == ("re", "gmi", "re[area=0.1:0.6]+gmi.orl32.s2")
    assert (record.defense_params, record.attack_params) == ({"of": "target"}, {"of": "invert"})
    assert record.metrics["att1"].value == 0.5 and record.environment == {"device": "cpu"}
    assert record.command == "mibench run --track orl32 --defense 're[area=0.1:0.6]' --attack gmi --seeds 3"
    assert replace(ASKED, seeds=Seeds.of(101)).command.endswith("--attack gmi --first-seed 101")
    assert replace(ASKED, seeds=Seeds.of(2, 1)).command.endswith("--attack gmi --seeds 3 --attack-seeds 2")
    assert (record.chance, record.deviations, record.identities) == (TRACK.chance, ["One."], [0])
    target, invert, _ = record.stages
    assert (target.kind, target.device, target.peak_memory_mib, target.attempts) == ("target", "cuda:0", 9, None)
    assert (invert.attempts, invert.device_seconds, invert.device) == (2, 7.5, None)


def test_questions_of_all_stages_are_added_up() -> None:
    own = {"queries": {"3": {"search": {"label": 2}}, **asking(10)["queries"]}}
    record = assemble(ASKED, manifests(prior=manifest("prior", result=own), prepare=manifest("prepare")), [], "")
    assert record.queries["shared"]["search"] == {"forward": 15, "gradient": 2, "label": 0}
    assert record.queries["3"] == {"search": {"label": 2}}
    assert record.asked() == {"forward": 15, "gradient": 2, "label": 2}


def test_a_run_without_features_still_has_its_record() -> None:
    assert assemble(ASKED, manifests(), [], "").features is None
    with_points = manifests(features=manifest("features", result={"values": {}}))
    assert assemble(ASKED, with_points, [], "").features == {"values": {}}
