"""An audit from beginning to end: prepare, plan, compute, report."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mibench.audit import report
from mibench.audit.prepare import Subject, prepare
from mibench.audit.report import Models
from mibench.audit.request import AuditRequest
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
from mibench.store.artifacts import Store
from mibench.store.atomic import write_text
from mibench.store.db import Database

Listening = Callable[[int], AbstractContextManager[Listener]]
"""Who hears, told how many stages there are, how the computing goes."""


@dataclass(frozen=True)
class Audit:
    """``answer`` is what audit.json holds; ``outcome`` what became of the stages."""

    answer: dict[str, Any]
    outcome: Outcome


@dataclass(frozen=True)
class _Trial:
    """The track, the models and the runs of an audit; ``skipped``: attacks that do not run, with reasons."""

    track: Track
    models: Models
    plan: Plan
    skipped: dict[str, str]


def run_audit(
    request: AuditRequest,
    *,
    registry: Registry,
    store: Store,
    database: Database,
    place: Place,
    listening: Listening,
    decoding: Decoding | None = None,
) -> Audit:
    """Attack the network and the two that are trained for comparison, and write ``request.out``: audit.html and
    audit.json, and what ``prepare`` writes. Stages that were computed before are not computed again.

    Raises UserError for what does not fit together, before anything is computed; a stage that fails is in the outcome.
    """
    attacks, defense = _methods(request, registry)
    subject = prepare(request, store.home)
    use_file(subject.plugin)
    track = Planner(registry, store.home, decoding).track(str(subject.track))
    trial = _trial(request, registry, track, subject, attacks, defense)
    with listening(len(trial.plan.stages)) as listener:
        result = execute(store, trial.plan, place, listener, database)
    answer = _report(request, trial, result, subject.compared, store, registry.root / "site" / "audit")
    return Audit(answer, result.outcome)


def _methods(request: AuditRequest, registry: Registry) -> tuple[tuple[str, ...], str]:
    """The attacks and the defense that were asked for, or else those of registry.yaml."""
    usual = registry.audit
    if usual is None and not (request.attacks and request.defense):
        raise UserError("registry.yaml has no `audit:` section: name --attack and --defense.")
    return request.attacks or (usual.attacks if usual else ()), request.defense or (usual.defense if usual else "")


def _trial(
    request: AuditRequest, registry: Registry, track: Track, subject: Subject, attacks: tuple[str, ...], defense: str
) -> _Trial:
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
    plan = build_plan(registry, track, defenses, attacking, numbered(1))
    skipped |= {cell.attack.label: reason for cell, reason in plan.skipped}
    return _Trial(track, Models(own.id, BASELINE, defended.id, title), plan, skipped)


def _report(
    request: AuditRequest, trial: _Trial, result: Result, compared: str, store: Store, templates: Path
) -> dict[str, Any]:
    """Write audit.json and audit.html; what the first holds."""
    notes = report.notes(request, compared)
    notes += [f"A stage failed: {message}" for message in result.outcome.failed.values()]
    answer = report.findings(request.name, request.classes, result.records, trial.models, trial.skipped, notes)
    shown = report.gallery(
        answer,
        result.records,
        trial.models.own,
        picture=lambda run, entry: image_file(store, run, entry),
        private=lambda label, index: private_image(trial.track, store.home, label, index),
    )
    write_text(request.out / "audit.json", json.dumps(answer, indent=1, allow_nan=False) + "\n")
    write_text(request.out / "audit.html", report.page(answer, shown, templates))
    return answer
