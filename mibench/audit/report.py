"""An audit's report: what to say of its figures, and one page that holds everything it shows."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mibench.audit.accuracy import Accuracy
from mibench.audit.findings import percent
from mibench.audit.request import AuditRequest
from mibench.records import RunRecord

SHOWN = 8  # classes in the gallery
PICTURES = 4  # reconstructions of each
Picture = Callable[[RunRecord, dict[str, Any]], Path | None]
Private = Callable[[int, int], Path | None]  # of a label, the image of this index


def next_steps(report: Mapping[str, Any], request: AuditRequest) -> list[str]:
    """What to do with these findings, the most useful first."""
    leaks, steps = report["verdict"]["leaks"], []
    if leaks is False:
        steps.append("Do not read this as safe: it is low for these attacks, with these public images and this judge.")
    if leaks:
        steps.append(
            f"Train with a defense: below is what {report['defense_title']} costs and saves on your images; "
            f"docs/tour-engineer.md goes on from there."
        )
        steps.append("Serve labels or rounded scores instead of the network, and do not publish its weights.")
    judge = report["judge"]
    if judge is not None and judge["accuracy"] < 0.9:
        steps.append(
            f"The judge knows {percent(judge['accuracy'])} of photos it was not trained on, so it misses what a person "
            f"would see: more photos of each class, or more --epochs (now {request.epochs}), make it better."
        )
    if request.public is None:
        steps.append("Give images of others with --public DIR: attacks that learn from them are much stronger.")
    if request.identities is not None or len(report["attacks"]) < 3:
        steps.append("Leave --attack and --identities out: three attacks on all classes tell more.")
    if request.val is None:
        steps.append(
            "Give images that it was not trained on with --val DIR: its accuracy above counts some that it was."
        )
    plugin = shlex.quote(str(request.out / "own_model.py"))
    track = shlex.quote(str(request.out / "track.yaml"))
    steps.append(
        f"Attack it in other ways: mibench run --track {track} --plugin {plugin} --defense own_model --attack all"
    )
    return steps


def notes(request: AuditRequest, compared: str, function: Sequence[str], known: Accuracy) -> list[str]:
    """What the figures mean and do not; ``compared``: the architecture of what was trained for comparison;
    ``function``: what of the network's answers is attacked; ``known``: how often it names the class of its images."""
    sentences = [
        *function,
        f"Before anything was attacked, the network named the class of {percent(known.value)} of {known.n} images of "
        f"--data; its gradients follow its answers.",
        "Recognised means: a second classifier, trained here on four fifths of --data and never shown to an attack, "
        "names the attacked class first. It is a stand-in for a person who knows the class."
        if request.val is None
        else "Recognised means: a second classifier, trained here on --data and never shown to an attack, names the "
        "attacked class first. It is a stand-in for a person who knows the class.",
        "Whether that is more than chance is told by matching classes and reconstructions anew: a judge that always "
        "gives one answer is right as often as chance.",
        "Floor: images of the prior that the model likes best, before anything is optimised. Ceiling: private photos "
        "as well as the prior can draw them. Photos: private photos themselves.",
        "The attacker knows the architecture and the weights, and can differentiate through the model. One seed was "
        "run; the intervals cover the classes, not other trainings.",
        "Attacks are a lower bound: a stronger one, or one with better public images, may recover more.",
        f"Attacks search images of {request.resolution}x{request.resolution} in {request.channels} channel(s).",
        f"The models trained here for comparison are of the architecture {compared}.",
    ]
    if request.val is None:
        sentences.append(
            "The natural accuracy of the audited model counts images on which it may have been trained. The two models "
            "trained here never saw them."
        )
    if request.allow_copies:
        sentences.append("Private images among the public ones were allowed.")
    return sentences


def gallery(
    report: dict[str, Any], runs: Sequence[RunRecord], own: str, picture: Picture, private: Private
) -> list[dict[str, Any]]:
    """For the most exposed classes, or, where none stands out, those that were recognised most often: the nearest
    private image and what the attack made, most convincing first."""
    by = {run.attack_label: run for run in runs if run.defense == own}
    shown = []
    for item in (report["exposed"] or report["recognised"])[:SHOWN]:
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
    environment.filters["percent"] = percent
    style = (templates / "audit.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    template = environment.get_template("audit.html")
    return template.render(found=report, shown=shown, style=Markup(style), style_hash=f"sha256-{digest}")
