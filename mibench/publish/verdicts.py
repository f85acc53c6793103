"""What is said of a defense in words: what its worst attack recovers with and without it, what that costs, and against
how many attacks it clearly helps. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mibench.publish import text
from mibench.publish.compare import TONES, paired_difference, readings
from mibench.publish.links import attack_page, defense_page
from mibench.publish.model import Catalogue
from mibench.publish.names import attack_name, defense_name
from mibench.publish.rows import UTILITY, Board, Verdict
from mibench.publish.standings import Standing, baseline
from mibench.stats.comparisons import Paired, paired_means


def verdicts_view(board: Board, defenses: Sequence[Standing], catalogue: Catalogue) -> dict[str, Any]:
    """``base``: the undefended model; ``items``: every defense that competes, in the board's order; ``best``: those
    that share the first rank and leak less than the undefended model, the one whose worst attack recovers least
    first."""
    base = baseline(defenses, catalogue)
    competing = [s for s in defenses if s is not base and s.defense not in catalogue.controls]
    items = [_item(s, base, board, catalogue) for s in competing]
    return {
        "base": None if base is None else _figures(base, catalogue),
        "items": items,
        "best": [item for item in items if item["rank"] == 1 and item["word"] == "leaks less"],
    }


def _figures(s: Standing, catalogue: Catalogue) -> dict[str, Any]:
    """Natural accuracy and what the worst attack recovers, over all seeds of a defense."""
    return {
        "label": s.label,
        "name": defense_name(catalogue, s.defense, s.label),
        "href": defense_page(s.defense),
        "rank": s.case.rank,
        "worst": text.number(s.case.value.mean, "fraction"),
        "attack": attack_name(catalogue, s.worst.attack, s.worst.attack_label) if s.worst else None,
        "attack_href": attack_page(s.worst.attack) if s.worst else None,
        "natural": text.number(s.natural.mean, "fraction"),
    }


def _item(s: Standing, base: Standing | None, board: Board, catalogue: Catalogue) -> dict[str, Any]:
    verdict = s.case.verdict
    leaked = _leaked(s, base, verdict) if base and verdict else None
    return _figures(s, catalogue) | {
        "word": verdict.word if verdict else None,
        "tone": TONES.get(verdict.word, "") if verdict else "",
        "leaked": leaked,
        "accuracy": accuracy(s, base) if base else None,
        "clearly": _clear(s, base, board, catalogue) if base else None,
        "missing": s.case.missing,
    }


def _leaked(s: Standing, base: Standing, verdict: Verdict) -> dict[str, Any] | None:
    """What the worst attack recovers without and with the defense, over the seeds of the primary test."""
    if s.case.worst is None or base.case.worst is None:
        return None
    seeds = verdict.difference.seeds
    without, own = (math.fsum(case.worst.values[:seeds]) / seeds for case in (base.case, s.case) if case.worst)
    return {"without": text.number(without, "fraction"), "own": text.number(own, "fraction")} | _difference(
        verdict.difference
    )


def _difference(paired: Paired) -> dict[str, Any]:
    return {"difference": text.points(paired.mean), "interval": text.points_interval(paired.low, paired.high)}


def accuracy(s: Standing, base: Standing) -> dict[str, Any] | None:
    """Natural accuracy without and with the defense, over the seeds that both trained; None without any. Exploratory,
    unlike the primary test."""
    own, without = natural_by_seed(s), natural_by_seed(base)
    seeds = sorted(own.keys() & without.keys())
    if not seeds:
        return None
    paired = paired_means([own[seed] - without[seed] for seed in seeds])
    sure = paired.low is not None and paired.high is not None and not paired.low <= 0 <= paired.high
    word = "one training" if len(seeds) == 1 else ("higher" if paired.mean > 0 else "lower")
    return {
        "without": text.number(math.fsum(without[seed] for seed in seeds) / len(seeds), "fraction"),
        "own": text.number(math.fsum(own[seed] for seed in seeds) / len(seeds), "fraction"),
        "word": word if sure or len(seeds) == 1 else "not told apart",
    } | _difference(paired)


def natural_by_seed(s: Standing) -> dict[int, float]:
    """Accuracy of each target that the defense trained, by seed; of several records of one the newest."""
    done = sorted((run for run in s.runs if run.status == "done" and UTILITY in run.metrics), key=lambda r: r.created)
    values = {run.seed: run.metrics[UTILITY].value for run in done}
    return {seed: value for seed, value in values.items() if value is not None}


def _clear(s: Standing, base: Standing, board: Board, catalogue: Catalogue) -> dict[str, int]:
    """Against how many attacks the defense leaks less, of how many that both faced on several seeds; Holm's correction
    is over these."""
    labels = [a for a in s.cells if a in base.cells and s.cells[a].attack not in catalogue.controls]
    found = [paired_difference(s.cells[a].runs, base.cells[a].runs, board.leakage) for a in labels]
    tested = [d for d in found if d is not None and d.over == "seeds"]
    return {"less": readings(tested).count("leaks less"), "of": len(tested)}
