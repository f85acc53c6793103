"""What an audit found, as data and as one page that holds everything it shows."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mibench.audit.request import AuditRequest
from mibench.records import MetricValue, RunRecord

SCHEMA = 1
SHOWN = 8  # classes in the gallery
PICTURES = 4  # reconstructions of each
Picture = Callable[[RunRecord, dict[str, Any]], Path | None]
Private = Callable[[int, int], Path | None]  # of a label, the image of this index


@dataclass(frozen=True)
class Models:
    """What is attacked, by the ids of defenses: the model as it is, and the two that were trained here."""

    own: str
    undefended: str
    defended: str
    title: str  # of the defense


def findings(
    model: str,
    names: Sequence[str],
    runs: Sequence[RunRecord],
    models: Models,
    skipped: Mapping[str, str],
    notes: Sequence[str],
) -> dict[str, Any]:
    """The whole report on ``model``, which tells the classes ``names`` apart, as plain data. ``skipped`` are attacks
    that did not run, with reasons."""
    by = {(run.attack_label, run.defense): run for run in runs}
    attacks = [run.attack_label for run in runs if run.defense == models.own]
    whose = {"own": models.own, "undefended": models.undefended, "defended": models.defended}
    rows: list[dict[str, Any]] = []
    for attack in attacks:
        cells = {role: _cell(by.get((attack, name))) for role, name in whose.items()}
        rows.append({"attack": attack, "run": by[attack, models.own].run, **cells})
    rows.sort(key=lambda row: -((row["own"] or {}).get("value") or 0.0))
    natural = {role: _natural(by, attacks, name) for role, name in whose.items()}
    return {
        "schema": SCHEMA,
        "model": model,
        "track": runs[0].track if runs else None,
        "classes": len(names),
        "chance": runs[0].chance if runs else None,
        "defense": models.defended,
        "defense_title": models.title,
        "natural_accuracy": natural,
        "attacks": rows,
        "worst": rows[0]["attack"] if rows else None,
        "exposed": exposed(names, [by[attack, models.own] for attack in attacks]),
        "skipped": [{"attack": name, "reason": reason} for name, reason in skipped.items()],
        "notes": list(notes),
    }


def notes(request: AuditRequest, compared: str) -> list[str]:
    """What the figures mean and do not; ``compared``: the architecture of what was trained for comparison."""
    sentences = [
        "Recognised means: a second classifier, trained here on all images of --data and never shown to an attack, "
        "names the attacked class first. It is a stand-in for a person who knows the class.",
        "The attacker knows the architecture and the weights, and can differentiate through the model. One seed was "
        "run; the intervals cover the classes, not other trainings.",
        "Attacks are a lower bound: a stronger one, or one with better public images, may recover more.",
        "The natural accuracy of the audited model counts images on which it may have been trained. The two models "
        "trained here never saw them.",
        f"Attacks search images of {request.resolution}x{request.resolution} in {request.channels} channel(s).",
        f"The models trained here for comparison are of the architecture {compared}.",
    ]
    if request.public is None:
        sentences.append(
            "No public images were given, so attacks that need some did not run. --public DIR, a folder of similar "
            "images of others, makes the audit much stronger."
        )
    return sentences


def _cell(run: RunRecord | None) -> dict[str, Any] | None:
    metric = run.metrics.get("att1") if run is not None else None
    return None if metric is None else metric.public()


def _natural(by: dict[tuple[str, str], RunRecord], attacks: Sequence[str], name: str) -> dict[str, Any] | None:
    run = next((by[attack, name] for attack in attacks if (attack, name) in by), None)
    metric = run.metrics.get("nat1") if run else None
    return None if metric is None else metric.public()


def exposed(names: Sequence[str], runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Every attacked class: the largest share of its reconstructions that the evaluator took for it, by which attack,
    and how sure it was. The most exposed first."""
    classes = []
    for label in sorted({label for run in runs for label in run.identities}):
        rates = [(run.metrics.get("att1", MetricValue(None)).per_identity.get(str(label)), run) for run in runs]
        known = [(rate, run) for rate, run in rates if rate is not None]
        if not known:
            continue
        rate, run = max(known, key=lambda pair: (pair[0], pair[1].attack_label))
        sure = [image["confidence"] for image in run.images if image["label"] == label and image.get("confidence")]
        classes.append(
            {
                "label": label,
                "class": names[label] if label < len(names) else str(label),
                "rate": rate,
                "attack": run.attack_label,
                "confidence": sum(sure) / len(sure) if sure else None,
            }
        )
    return sorted(classes, key=lambda item: (-item["rate"], -(item["confidence"] or 0.0), item["label"]))


def gallery(
    report: dict[str, Any], runs: Sequence[RunRecord], own: str, picture: Picture, private: Private
) -> list[dict[str, Any]]:
    """For the most exposed classes: the nearest private image and what the attack made, most convincing first."""
    by = {run.attack_label: run for run in runs if run.defense == own}
    shown = []
    for item in report["exposed"][:SHOWN]:
        run = by[item["attack"]]
        images = [image for image in run.images if image["label"] == item["label"]]
        images.sort(key=lambda image: -(image.get("confidence") or 0.0))
        nearest = next((image["nearest"] for image in images if image.get("nearest") is not None), None)
        real = private(item["label"], int(nearest)) if nearest is not None else None
        made = [(image, picture(run, image)) for image in images[:PICTURES]]
        shown.append(
            item
            | {
                "private": _inline(real) if real is not None else None,
                "made": [
                    {"src": _inline(path), "correct": image["correct"]} for image, path in made if path is not None
                ],
            }
        )
    return shown


def _inline(path: Path) -> Markup:
    return Markup("data:image/png;base64," + base64.b64encode(path.read_bytes()).decode())


def page(report: dict[str, Any], shown: list[dict[str, Any]], templates: Path) -> str:
    """One HTML file; its policy allows its own style and the images inside it, and nothing else."""
    environment = Environment(loader=FileSystemLoader(templates), autoescape=True, undefined=StrictUndefined)
    environment.filters["percent"] = _percent
    style = (templates / "audit.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    template = environment.get_template("audit.html")
    return template.render(found=report, shown=shown, style=Markup(style), style_hash=f"sha256-{digest}")


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f} %"
