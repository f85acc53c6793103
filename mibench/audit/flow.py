"""An audit from beginning to end: prepare, try, plan; then compute and report."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mibench.audit import accuracy, report
from mibench.audit.accuracy import Accuracy
from mibench.audit.findings import Judge, Models, findings
from mibench.audit.prepare import Subject, prepare, write_method
from mibench.audit.request import AuditRequest
from mibench.data import load
from mibench.data.pictures import private_image
from mibench.errors import UserError
from mibench.planning.plan import Plan
from mibench.protocol.method_files import use_file
from mibench.protocol.tracks import Track
from mibench.records import numbered
from mibench.registry import Registry
from mibench.running.coordinator import Listener, Outcome
from mibench.running.placement import Place
from mibench.running.recording import image_file
from mibench.running.request import BASELINE, Decoding, Planner, build_plan, select_all
from mibench.running.runner import Result, execute
from mibench.store.artifacts import Manifest, Store
from mibench.store.atomic import write_text
from mibench.store.db import Database

Listening = Callable[[int], AbstractContextManager[Listener]]
"""Who hears, told how many stages there are, how the computing goes."""


@dataclass(frozen=True)
class Begun:
    """An audit of which everything is known but the results: the network is tried, its track and runs are planned.
    ``skipped``: attacks that do not run, with reasons."""

    request: AuditRequest
    subject: Subject
    track: Track
    known: Accuracy
    models: Models
    plan: Plan
    skipped: dict[str, str]
    images: int  # that train


@dataclass(frozen=True)
class Audit:
    """``answer`` is what audit.json holds; ``outcome`` what became of the stages."""

    answer: dict[str, Any]
    outcome: Outcome


def begin_audit(
    request: AuditRequest,
    *,
    registry: Registry,
    store: Store,
    decoding: Decoding | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    skip_damaged: bool = False,
) -> Begun:
    """Read the network and the images, try whether the one knows the other, and plan. Writes the track and the method;
    ``say`` hears what was read and skipped. Raises UserError for what does not fit together."""
    attacks, defense = _methods(request, registry)
    subject = prepare(request, store.home)
    track = Planner(registry, store.home, decoding, say, skip_damaged).track(str(subject.track))
    data = load(track, store.home)
    known, scale = accuracy.check(request, subject.network, subject.way, data)
    if scale != 1:
        flat = (
            f"Its answers are so flat that it is {known.sure:.0%} sure and {known.value:.0%} right; they are multiplied"
        )
        notes = [*subject.notes, f"{flat} by {scale:g}, which makes it as sure as it is right."]
        subject = replace(subject, way=replace(subject.way, scale=scale), notes=notes)
    write_method(subject)
    use_file(subject.plugin)
    models, plan, skipped = _trial(request, registry, track, subject, attacks, defense)
    return Begun(request, subject, track, known, models, plan, skipped, len(data.private_train()[1]))


def finish_audit(
    begun: Begun,
    *,
    registry: Registry,
    store: Store,
    database: Database,
    place: Place,
    listening: Listening,
    again: str,
) -> Audit:
    """Attack the network and the two that are trained for comparison, and write ``request.out``: audit.html and
    audit.json. Stages that were computed before are not computed again. ``again``: what to type to go on."""
    with listening(len(begun.plan.stages)) as listener:
        result = execute(store, begun.plan, place, listener, database)
    return Audit(_report(begun, result, again, store, registry.root / "site" / "audit"), result.outcome)


def _methods(request: AuditRequest, registry: Registry) -> tuple[tuple[str, ...], str]:
    """The attacks and the defense that were asked for, or else those of registry.yaml."""
    usual = registry.audit
    if usual is None and not (request.attacks and request.defense):
        raise UserError("registry.yaml has no `audit:` section: name --attack and --defense.")
    return request.attacks or (usual.attacks if usual else ()), request.defense or (usual.defense if usual else "")


def _trial(
    request: AuditRequest, registry: Registry, track: Track, subject: Subject, attacks: tuple[str, ...], defense: str
) -> tuple[Models, Plan, dict[str, str]]:
    own = registry.select("defense", subject.plugin.stem)
    defenses = [own, *select_all(registry, "defense", [BASELINE, defense])]
    defended = defenses[-1]
    title = registry.entry("defense", defended.parts[0].id if defended.parts else defended.id).title
    attacking = select_all(registry, "attack", attacks)
    skipped: dict[str, str] = {}
    if request.public is None:
        lacking = [each for each in attacking if registry.facts(each, track).prior is not None]
        skipped = {each.label: "it needs public images (--public DIR)" for each in lacking}
        attacking = [each for each in attacking if each.label not in skipped]
    if not attacking:
        raise UserError("Every attack that was asked for needs public images. Add --public DIR.")
    plan = build_plan(registry, track, defenses, attacking, numbered(1), controlled=own.id)
    skipped |= {cell.attack.label: reason for cell, reason in plan.skipped}
    named = registry.controls
    controls = (named.floor, named.ceiling, named.photos) if named is not None else ()
    return Models(own.id, BASELINE, defended.id, title, *controls), plan, skipped


def _report(begun: Begun, result: Result, again: str, store: Store, templates: Path) -> dict[str, Any]:
    """Write audit.json and audit.html; what the first holds."""
    request, models = begun.request, begun.models
    notes = report.notes(request, begun.subject.compared, begun.subject.notes, begun.known)
    notes += result.notes + [f"A stage failed: {message}" for message in result.outcome.failed.values()]
    left = len(begun.plan.stages) - len([m for m in result.manifests if m.key in begun.plan.stages])
    judge = _judge(result.manifests, begun.plan, len(load(begun.track, store.home).private_test()[1]))
    answer = findings(request.name, request.classes, result.records, models, judge, begun.skipped, notes)
    answer["unfinished"] = (
        f"{left} of {len(begun.plan.stages)} stages are missing. Go on with: {again}" if left else None
    )
    if left and not answer["attacks"]:
        answer["verdict"] |= {"title": "Not finished", "sentence": "No attack on the model has ended yet."}
    answer["next"] = report.next_steps(answer, request)
    shown = report.gallery(
        answer,
        result.records,
        models.own,
        picture=lambda run, entry: image_file(store, run, entry),
        private=lambda label, index: private_image(begun.track, store.home, label, index),
    )
    write_text(request.out / "audit.json", json.dumps(answer, indent=1, allow_nan=False) + "\n")
    write_text(request.out / "audit.html", report.page(answer, shown, templates))
    return answer


def _judge(manifests: list[Manifest], plan: Plan, n: int) -> Judge | None:
    """What the judge knows of the ``n`` sealed images, which it was not trained on; None before it is trained."""
    results = [
        manifest.result for manifest in manifests if manifest.kind == "evaluator" and manifest.key in plan.stages
    ]
    return Judge(float(results[0]["accuracy_on_sealed_images"]), n) if results else None
