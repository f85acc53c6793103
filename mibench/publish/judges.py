"""The panel of judges: when its figures need care, and what each judge knows of real photos. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mibench.publish import text
from mibench.publish.aggregate import mean_over_seeds
from mibench.publish.rows import TOP1
from mibench.records import RunRecord

SPREAD = 0.15  # judges this far apart disagree (evaluation 7.2)
FLAGS = {
    "saturated": "A judge recognises more reconstructions than real photos it never saw; look at the images instead",
    "evaluators disagree": "More than 15 points between judges",
}
KNOWLEDGE = {"n", "top1", "top5", "look_alikes", "calibration_error"}  # of a judge that is there
JUDGES = {
    "E1": "the legacy evaluator",
    "E2": "a classifier of another family",
    "E3": "open-set: it compares with photos",
}


def flags(runs: Sequence[RunRecord]) -> dict[str, str]:
    """The words of FLAGS that hold for one run, or for the finished runs of one cell, each with the figures."""
    top1 = {judge: mean_over_seeds(name, runs).mean for judge, name in TOP1.items()}
    known = {judge: mean for judge, mean in top1.items() if mean is not None}
    over = [
        f"{judge} {text.number(mean, 'fraction')} %, photos at most {text.number(bound, 'fraction')} %"
        for judge, mean in known.items()
        if (bound := _bound(runs, judge)) is not None and mean > bound
    ]
    found = {"saturated": ", ".join(over)} if over else {}
    if known and max(known.values()) - min(known.values()) > SPREAD:
        apart = ", ".join(f"{judge} {text.number(mean, 'fraction')} %" for judge, mean in known.items())
        found["evaluators disagree"] = apart
    return found


def _bound(runs: Sequence[RunRecord], judge: str) -> float | None:
    """The upper confidence bound of its accuracy on real photos, the largest over the runs."""
    told = [top1["ci_high"] for run in runs if (top1 := (run.judges or {}).get(judge.lower(), {}).get("top1"))]
    return max((bound for bound in told if bound is not None), default=None)


def knowledge_view(judges: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """A line per judge: what it knows of real photos that it never saw, or why it is not there."""
    return [{"judge": judge, "what": what} | _known(judges[judge.lower()]) for judge, what in JUDGES.items() if judges]


def _known(facts: Mapping[str, Any]) -> dict[str, Any]:
    if KNOWLEDGE - facts.keys():
        return {"reason": facts.get("reason") or "nothing is told of it"}
    tops = [
        {
            "text": text.number(facts[name]["value"], "fraction"),
            "interval": text.interval(facts[name]["ci_low"], facts[name]["ci_high"], "fraction"),
        }
        for name in ("top1", "top5")
    ]
    others = [
        None if facts[name] is None else text.number(facts[name], "fraction")
        for name in ("look_alikes", "calibration_error")
    ]
    return {"reason": None, "n": facts["n"], "tops": tops, "others": others}
