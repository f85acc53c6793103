"""What an audit found, as data: figures with what they are worth, and a verdict that needs evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import factorial
from typing import Any

import numpy as np
from scipy.stats import binom

from mibench.records import MetricValue, RunRecord
from mibench.stats.audit import Table, matched, share_interval
from mibench.stats.intervals import population_interval

SCHEMA = 2
SURE = 0.05  # how seldom chance alone may do as well for a verdict
HALF = 0.5  # of its reconstructions, from which on a class counts as recognised


@dataclass(frozen=True)
class Models:
    """What is attacked, by the ids of defenses: the model as it is, and the two that were trained here. ``floor``,
    ``ceiling`` and ``photos`` are the ids of the controls."""

    own: str
    undefended: str
    defended: str
    title: str  # of the defense
    floor: str = ""
    ceiling: str = ""
    photos: str = ""


@dataclass(frozen=True)
class Judge:
    """What the judge is worth: of ``n`` private photos that it was not trained on, how many classes it names right."""

    accuracy: float
    n: int

    def public(self, chance: float) -> dict[str, Any]:
        hits = round(self.accuracy * self.n)
        low, high = share_interval(hits, self.n)
        useful = float(binom.sf(hits - 1, self.n, chance)) < 0.01
        return {"accuracy": self.accuracy, "n": self.n, "ci_low": low, "ci_high": high, "useful": useful}


def findings(
    model: str,
    names: Sequence[str],
    runs: Sequence[RunRecord],
    models: Models,
    judge: Judge | None,
    skipped: Mapping[str, str],
    notes: Sequence[str],
) -> dict[str, Any]:
    """The whole report on ``model``, which tells the classes ``names`` apart, as plain data. ``skipped`` are attacks
    that did not run, with reasons."""
    controls = (models.floor, models.ceiling, models.photos)
    by = {(run.attack_label, run.defense): run for run in runs if run.attack not in controls}
    attacks = [attack for attack, defense in by if defense == models.own]
    whose = {"own": models.own, "undefended": models.undefended, "defended": models.defended}
    rows: list[dict[str, Any]] = []
    for attack in attacks:
        cells = {role: _cell(by.get((attack, name))) for role, name in whose.items()}
        before = _cell(by[attack, models.own], "att1_step0")
        rows.append({"attack": attack, "run": by[attack, models.own].run, **cells, "before": before})
    rows.sort(key=lambda row: -((row["own"] or {}).get("value") or 0.0))
    natural = {role: _natural(by, attacks, name) for role, name in whose.items()}
    own = [by[attack, models.own] for attack in attacks]
    classes = recognised(names, own)
    chance = runs[0].chance if runs else None
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "model": model,
        "track": runs[0].track if runs else None,
        "classes": len(names),
        "chance": chance,
        "defense": models.defended,
        "defense_title": models.title,
        "natural_accuracy": natural,
        "attacks": rows,
        "worst": rows[0]["attack"] if rows else None,
        "floor": _best(runs, models.floor, models.own),
        "ceiling": _best(runs, models.ceiling, models.undefended),
        "photos": _best(runs, models.photos, models.undefended),
        "judge": None if judge is None or chance is None else judge.public(chance),
        "answers": answers(names, own, rows[0]["attack"]) if rows else [],
        "p": matched([table(run, len(names)) for run in own]) if own else None,
        "recognised": classes,
        "skipped": [{"attack": name, "reason": reason} for name, reason in skipped.items()],
        "notes": list(notes),
    }
    report["verdict"] = verdict(report)
    report["exposed"] = [item for item in classes if item["stands_out"]] if report["verdict"]["leaks"] else []
    return report


def verdict(report: Mapping[str, Any]) -> dict[str, Any]:
    """``leaks``: True, False (not told apart from chance) or None (there is no telling), and why, in sentences."""
    worst = report["attacks"][0] if report["attacks"] else None
    if worst is None or worst["own"] is None or worst["own"]["value"] is None:
        return {"leaks": None, "title": "No verdict", "sentence": "No attack gave a figure; the reasons are below."}
    judge, cell, chance, p = report["judge"], worst["own"], report["chance"], report["p"]
    count = len(report["attacks"])
    rank = f"the strongest of {count} attacks here" if count > 1 else "the only attack here"
    figure = (
        f"Of the images that {worst['attack']}, {rank}, rebuilt from the model, an independent classifier recognises "
        f"{percent(cell['value'])} as the class that was attacked (95 % interval {percent(cell['ci_low'])} to "
        f"{percent(cell['ci_high'])}); by chance it would be {percent(chance)}."
    )
    top = report["answers"][0]
    if top["share"] > HALF and report["classes"] > 2:
        figure += f" It gives one answer, {top['class']}, to {percent(top['share'])} of them."
    if judge is None or not judge["useful"]:
        known = "is not known" if judge is None else f"is {percent(judge['accuracy'])} (chance {percent(chance)})"
        why = f"The classifier that judges is no judge: its accuracy on photos that it was not trained on {known}."
        return {"leaks": None, "title": "No verdict", "sentence": f"{why} {figure}"}
    times = f"guessing does as well in {percent(p)} of cases" if p >= 1e-3 else "guessing hardly ever does as well"
    if p < SURE:
        return {"leaks": True, "title": "The model leaks", "sentence": f"{figure} That is more than chance: {times}."}
    few = len({item["label"] for item in report["recognised"]})
    least = 1 / factorial(min(few, 20))
    so_few = f" With {few} classes attacked, guessing does as well as any attack in {percent(least)} of cases."
    return {
        "leaks": False,
        "title": "Not told apart from chance",
        "sentence": f"{figure} That is not told apart from chance: {times}.{so_few if least > SURE else ''}",
    }


def table(run: RunRecord, classes: int) -> Table:
    """(n, K): of the reconstructions of each attacked class the shares that the judge takes for each class."""
    counts = np.zeros((len(run.identities), classes))
    places = {label: place for place, label in enumerate(run.identities)}
    for image in run.images:
        counts[places[image["label"]], image["verdict"]] += 1
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def answers(names: Sequence[str], runs: Sequence[RunRecord], attack: str) -> list[dict[str, Any]]:
    """What the judge takes an attack's reconstructions for: the share of each class, the most frequent first."""
    run = next(run for run in runs if run.attack_label == attack)
    counts = Counter(image["verdict"] for image in run.images)
    return [{"class": names[label], "share": count / len(run.images)} for label, count in counts.most_common() if count]


def _cell(run: RunRecord | None, metric_id: str = "att1") -> dict[str, Any] | None:
    """A metric; its interval is over classes, and of classes that all agree what so few of them allow."""
    metric = run.metrics.get(metric_id) if run is not None else None
    if metric is None:
        return None
    cell = metric.public()
    if metric.per_identity:
        low, high = population_interval(np.array([list(metric.per_identity.values())]))
        cell |= {"ci_low": low, "ci_high": high}
    return cell


def _best(runs: Sequence[RunRecord], control: str, defense: str) -> dict[str, Any] | None:
    """A control's figure; of several priors the largest."""
    cells = [_cell(run) for run in runs if run.attack == control and run.defense == defense]
    return max((cell for cell in cells if cell and cell["value"] is not None), key=lambda c: c["value"], default=None)


def _natural(by: dict[tuple[str, str], RunRecord], attacks: Sequence[str], name: str) -> dict[str, Any] | None:
    run = next((by[attack, name] for attack in attacks if (attack, name) in by), None)
    metric = run.metrics.get("nat1") if run else None
    return None if metric is None else metric.public()


def recognised(names: Sequence[str], runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Every attacked class: the largest share of its reconstructions that the judge took for it, by which attack, how
    sure it was, and how often it took other classes' for it. ``stands_out``: at least half of its own were recognised,
    and of no other class as many were taken for it. The most recognised first."""
    classes = []
    tables = {run.attack_label: table(run, len(names)) for run in runs}
    for label in sorted({label for run in runs for label in run.identities}):
        rates = [(run.metrics.get("att1", MetricValue(None)).per_identity.get(str(label)), run) for run in runs]
        known = [(rate, run) for rate, run in rates if rate is not None]
        if not known:
            continue
        rate, run = max(known, key=lambda pair: (pair[0], pair[1].attack_label))
        sure = [image["confidence"] for image in run.images if image["label"] == label and image.get("confidence")]
        others = np.delete(tables[run.attack_label][:, label], list(run.identities).index(label))
        false = float(others.max()) if len(others) else 0.0
        classes.append(
            {
                "label": label,
                "class": names[label] if label < len(names) else str(label),
                "rate": rate,
                "attack": run.attack_label,
                "confidence": sum(sure) / len(sure) if sure else None,
                "others": float(others.mean()) if len(others) else None,
                "stands_out": rate >= HALF and rate > false,
            }
        )
    return sorted(classes, key=lambda item: (-item["rate"], -(item["confidence"] or 0.0), item["label"]))


def percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f} %"
