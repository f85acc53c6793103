"""What the page of a run shows, as plain values for the template."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mibench.keys import version_text
from mibench.publish import text
from mibench.publish.judges import FLAGS, flags, knowledge_view
from mibench.publish.links import attack_page, defense_page, run_page, track_page
from mibench.publish.metrics import SHORT, metric_facts, ordered
from mibench.publish.model import Catalogue
from mibench.publish.rows import MAJORITY, TOP1, bounds_of, interval_of, leakage_of
from mibench.publish.standings import Badge
from mibench.records import RunRecord, StageInfo

FACES = "face_rate"
GUESS = {"E1": "verdict", "E2": "e2", "E3": "e3"}  # whom a judge takes an image for


def run_view(
    run: RunRecord,
    catalogue: Catalogue,
    picture: Callable[[dict[str, Any]], Any],
    siblings: Sequence[RunRecord] = (),
    most: int | None = None,
    floor: RunRecord | None = None,
) -> dict[str, Any]:
    """A run's page. ``picture`` says what the gallery shows of an image, ``{"src", "nearest"}`` or None; it is asked
    about the first ``most`` identities. ``siblings`` are the runs of the same cell, ``floor`` what its prior gives on
    the same target before anything is optimised."""
    leakage = leakage_of([run.metrics])
    panel = leakage == MAJORITY
    names = ordered(run.metrics, catalogue)
    gallery = _gallery(run, picture, most)
    return {
        "run": run,
        "title": catalogue.tracks.get(run.track, {}).get("title") or run.track,
        "track_href": track_page(run.track),
        "defense_href": defense_page(run.defense),
        "attack_href": attack_page(run.attack),
        "siblings": [{"seed": str(r.seeds), "href": run_page(r), "here": r.run == run.run} for r in siblings],
        "sensitive": catalogue.sensitive(run.track),
        "metrics": [_metric(run, name, catalogue, panel) for name in names],
        "apart": _apart(run, names, catalogue, panel),
        "flags": [Badge(word, f"{FLAGS[word]}: {figures}.", "bad") for word, figures in flags([run]).items()],
        "judges": knowledge_view(run.judges),
        "reproduced": _reproduced(run, catalogue),
        "defense_params": text.flat(run.defense_params),
        "attack_params": text.flat(run.attack_params),
        "environment": text.flat(run.environment),
        "stages": [_stage(stage) for stage in run.stages],
        "queries": _queries(run),
        "identities": _identities(run),
        "leakage": SHORT[leakage],
        "gallery": gallery,
        "choosing": any(not image.get("selected") for image in run.images),
        "judged": _judged(run, leakage, floor),
        "framed": any(image["nearest"] for person in gallery for image in person["images"]),
        "attacked": len(run.identities),
    }


def _stage(stage: StageInfo) -> dict[str, Any]:
    """A line of the table of stages; what an older record does not say is left blank."""
    return {
        "stage": stage,
        "version": version_text(stage.version),
        "params": text.plain(stage.params),
        "attempts": "" if stage.attempts is None else str(stage.attempts),
        "device_time": "" if stage.device_seconds is None else text.duration(stage.device_seconds),
        "memory": "" if stage.peak_memory_mib is None else f"{stage.peak_memory_mib} MiB",
        "parents": ", ".join(stage.inputs or ()),
    }


def _metric(run: RunRecord, name: str, catalogue: Catalogue, panel: bool) -> dict[str, Any]:
    metric, facts = run.metrics[name], metric_facts(catalogue, name, panel=panel)
    low, high = interval_of(metric, bounds_of(name))
    return facts | {
        "value": text.number(metric.value, facts["raw_unit"]),
        "interval": text.interval(low, high, facts["raw_unit"]),
        "n": metric.n,
        "reason": metric.reason if metric.value is None else None,
    }


def _apart(run: RunRecord, names: Sequence[str], catalogue: Catalogue, panel: bool) -> list[dict[str, Any]]:
    """The metrics of the protected people and of the others, where a defense protects some."""
    lines = []
    for name in names:
        if means := run.apart(name):
            facts = metric_facts(catalogue, name, panel=panel)
            one, other = (text.number(mean, facts["raw_unit"]) for mean in means)
            lines.append({"title": facts["title"], "unit": facts["unit"], "protected": one, "others": other})
    return lines


def _reproduced(run: RunRecord, catalogue: Catalogue) -> dict[str, Any] | None:
    """What running it again gave, metric by metric; None if nobody did."""
    outcome = run.reproduced
    if not outcome:
        return None
    lines = []
    for item in outcome["metrics"]:
        facts = metric_facts(catalogue, item["metric"])
        numbers = {
            name: text.number(item[name], facts["raw_unit"]) for name in ("stored", "again", "difference", "tolerance")
        }
        lines.append({"title": facts["title"], "unit": facts["unit"], "within": item["within"]} | numbers)
    return {"lines": lines, "verdict": outcome["verdict"], "created": outcome["created"], "exact": outcome["exact"]}


def _queries(run: RunRecord) -> list[dict[str, Any]]:
    """Queries to the target by phase: the shared ones, and the mean per attacked identity."""
    table: list[dict[str, Any]] = []
    labels = sorted((key for key in run.queries if key != "shared"), key=_label)
    groups = [("shared by all identities", [run.queries.get("shared", {})])]
    groups.append(("per identity", [run.queries[label] for label in labels]))
    for title, counts in groups:
        for phase in sorted({phase for count in counts for phase in count}):
            row: dict[str, Any] = {"who": title, "phase": phase}
            for kind in ("forward", "gradient", "label"):
                row[kind] = text.number(sum(c.get(phase, {}).get(kind, 0) for c in counts) / len(counts), None)
            table.append(row)
    return table


def _identities(run: RunRecord) -> dict[str, Any] | None:
    """The distribution of attack accuracy over identities, None where it is not known."""
    exposed = run.exposure
    if exposed is None:
        return None
    people = run.metrics[run.leakage].per_identity
    shares = {
        name: text.number(exposed[name], "fraction") for name in ("p10", "p25", "p50", "p75", "p90", "tail10", "any")
    }
    return shares | {
        "strip": [
            {"label": n, "text": f"{100 * people[n]:.0f}", "level": round(10 * people[n])}
            for n in sorted(people, key=_label)
        ],
        "count": len(people),
        "images": f"{exposed['images']:g}",
        "half": round(exposed["ids50"] * len(people)),
        "never": round(exposed["never"] * len(people)),
        "gini": None if exposed["gini"] is None else f"{exposed['gini']:.2f}",
    }


def _gallery(run: RunRecord, picture: Callable[[dict[str, Any]], Any], most: int | None) -> list[dict[str, Any]]:
    """Reconstructions by identity, in the order of their index; empty when no image is shown."""
    groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    carried = set(run.identities[:most])
    for image in sorted(run.images, key=lambda image: (int(image["label"]), int(image["index"]))):
        shown = picture(image) if int(image["label"]) in carried else None
        if shown is not None:
            confidence = image.get("confidence")
            groups[int(image["label"])].append(
                shown
                | {
                    "index": int(image["index"]),
                    "selected": bool(image.get("selected")),
                    "verdicts": _verdicts(image),
                    "confidence": None if confidence is None else text.number(confidence, "fraction"),
                }
            )
    return [
        {
            "label": label,
            "images": groups[label],
            "accepted": _accepted(groups[label]),
            "faceless": _faceless(run, label),
        }
        for label in sorted(groups)
    ]


def _judged(run: RunRecord, leakage: str, floor: RunRecord | None) -> list[str]:
    """What the judges say of all images, how many show a face, and what the prior gives by itself."""

    def share(name: str, of: RunRecord = run) -> str | None:
        metric = of.metrics.get(name)
        return None if metric is None or metric.value is None else f"{text.number(metric.value, 'fraction')} %"

    judges = [f"{judge} {told}" for judge, name in TOP1.items() if (told := share(name))]
    judges += [f"majority {told}" for told in [share(MAJORITY)] if told]
    lines = [f"taken for the person by {', '.join(judges)}"] if judges else []
    lines += [f"a face is found in {told}" for told in [share(FACES)] if told]
    return lines + [f"the prior by itself gets {told}" for told in [share(leakage, floor) if floor else None] if told]


def _faceless(run: RunRecord, label: int) -> bool:
    """Whether no image of a person shows a face: what accepts them, accepts noise."""
    metric = run.metrics.get(FACES)
    return metric is not None and metric.per_identity.get(str(label)) == 0


def _verdicts(image: Mapping[str, Any]) -> dict[str, int | None]:
    """Whom each judge that is there takes the image for; None for the attacked identity."""
    found = {judge: image.get(key) for judge, key in GUESS.items()}
    return {judge: None if guess == image["label"] else guess for judge, guess in found.items() if guess is not None}


def _accepted(images: Sequence[Mapping[str, Any]]) -> str:
    """How many images of an identity are taken for it: by the majority where there are three judges, else by E1."""
    votes = [[guess is None for guess in image["verdicts"].values()] for image in images if image["verdicts"]]
    three = bool(votes) and all(len(vote) == 3 for vote in votes)
    count = sum(sum(vote) >= 2 if three else vote[0] for vote in votes)
    return f"{'majority' if three else 'E1'}: {count} of {len(votes)}"


def _label(name: str) -> tuple[bool, int, str]:
    return not name.isdigit(), int(name) if name.isdigit() else 0, name
