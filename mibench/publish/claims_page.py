"""How claims are written: as a page, as JSON, and as the two sentences that answer the study's question. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from mibench.protocol.claims import Features, LeakAt, Lower, Trend
from mibench.protocol.suites import Suite
from mibench.publish.claims import FAILS, HOLDS, OPEN, Comparison, Figure, Outcome, Verdict
from mibench.publish.evidence import Missing
from mibench.publish.links import run_page
from mibench.publish.rows import Board

TONES = {HOLDS: "good", FAILS: "bad", OPEN: ""}


def claims_view(board: Board, title: str, suite: Suite, found: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "track": board.track,
        "title": title,
        "question": suite.title,
        "seeds": suite.seeds,
        "tally": [(_said(word, count), count) for word, count in _counts(found)],
        "claims": [_claim(outcome) for outcome in found],
    }


def _claim(outcome: Outcome) -> dict[str, Any]:
    missing = sum(len(item.seeds) for item in outcome.missing)
    return {
        "id": outcome.id,
        "statement": outcome.claim.statement,
        "verdict": outcome.verdict,
        "tone": TONES[outcome.verdict],
        "test": how_tested(outcome),
        "headline": _headline(outcome),
        "comparisons": [_comparison(comparison) for comparison in outcome.comparisons],
        "untold": [f"{c.title} ({c.why})" for c in outcome.comparisons if not c.figures],
        "done": outcome.wanted - missing,
        "wanted": outcome.wanted,
        "missing": missing_in_words(outcome.missing, outcome.trainings),
    }


def _headline(outcome: Outcome) -> str:
    """The difference that settles a statement; of an open one the first that is known."""
    known = [c for c in outcome.comparisons if c.figures]
    settling = [c for c in known if c.verdict == outcome.verdict] or known
    return f"{settling[0].title} {_difference(settling[0])}" if settling else ""


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "id": comparison.id,
        "title": comparison.title,
        "verdict": comparison.verdict,
        "tone": TONES[comparison.verdict],
        "why": comparison.why,
        "p": None if comparison.adjusted is None else f"{comparison.adjusted:.2g}",
        "seeds": comparison.seeds,
        "figures": [_figure(figure) for figure in comparison.figures],
        "runs": _runs(comparison.figures),
    }


def _figure(figure: Figure) -> dict[str, Any]:
    return {"id": figure.id, "title": figure.title, "text": figure.written, "interval": figure.interval}


def _runs(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    runs = {run.run: run for figure in figures for run in figure.runs}
    return [{"name": run.name, "href": run_page(run)} for run in sorted(runs.values(), key=lambda run: run.name)]


def how_tested(outcome: Outcome) -> str:
    """Which test decides a statement."""
    claim, of = outcome.claim, len(outcome.comparisons)
    attacks = f"{len(outcome.attacks)} attacks ({', '.join(outcome.attacks)})"
    if isinstance(claim, Lower):
        equal = claim.equal_accuracy
        what = f"the worst of {attacks} recovers less"
        what += "".join(f", of {label} those that it can face" for label in claim.attacks_on)
        what += f"; accuracies within {100 * equal:g} points" if equal else ""
    elif isinstance(claim, Trend):
        what = f"the worst of {attacks} recovers less with more of it ({claim.dose}): least squares slope"
    elif isinstance(claim, LeakAt):
        what = (
            f"the worst of {attacks} recovers less from the setting that leaks least on the other trainings, of those "
            f"that surely lose at most {100 * claim.loss:g} points of accuracy, {claim.undefended} among them "
            f"(Leak@{100 * claim.loss:g})"
        )
    else:
        what = f"each measure is on its side under each of {attacks}"
    among = f"Holm over {of} comparisons, all of which have to hold" if of > 1 else "one comparison"
    least = f"{100 * claim.least:g} points"
    if isinstance(claim, Features):
        least = "; ".join(f"{measure.least:g} ({measure.title})" for measure in claim.measures)
    return (
        f"{what[0].upper()}{what[1:]}. Paired t test over trainings at 5 %, {among}; smallest difference that counts: "
        f"{least}."
    )


def missing_in_words(missing: Iterable[Missing], trainings: int) -> list[str]:
    """One line for each defense: ``re: plgmi, smile; kedmi (trainings 3, 4)``."""
    by_defense: dict[str, dict[tuple[int, ...], list[str]]] = defaultdict(lambda: defaultdict(list))
    for item in dict.fromkeys(missing):
        by_defense[item.defense][item.seeds].append(item.attack)
    return [
        f"{defense}: "
        + "; ".join(
            ", ".join(attacks) + ("" if len(seeds) == trainings else f" (trainings {', '.join(map(str, seeds))})")
            for seeds, attacks in groups.items()
        )
        for defense, groups in by_defense.items()
    ]


def as_object(board: Board, suite: Suite, found: Sequence[Outcome]) -> dict[str, Any]:
    """What ``mibench claims --json`` prints, with the ids of the runs behind every figure."""
    return {
        "schema": 1,
        "track": board.track,
        "track_version": board.version,
        "question": suite.title,
        "trainings": suite.seeds,
        "claims": [
            {
                "id": outcome.id,
                "statement": outcome.claim.statement,
                "test": how_tested(outcome),
                "verdict": outcome.verdict,
                "comparisons": [_plain(comparison) for comparison in outcome.comparisons],
                "missing": [
                    {"defense": item.defense, "attack": item.attack, "seeds": list(item.seeds)}
                    for item in outcome.missing
                ],
            }
            for outcome in found
        ],
    }


def _plain(comparison: Comparison) -> dict[str, Any]:
    return {
        "id": comparison.id,
        "title": comparison.title,
        "verdict": comparison.verdict,
        "why": comparison.why,
        "p": comparison.test.p if comparison.test else None,
        "p_adjusted": comparison.adjusted,
        "detectable": comparison.test.detectable if comparison.test else None,
        "seeds": comparison.seeds,
        "attacks": list(comparison.attacks),
        "figures": [
            {
                "id": figure.id,
                "title": figure.title,
                "value": figure.value,
                "low": figure.low,
                "high": figure.high,
                "unit": figure.unit,
                "runs": [run.run for run in figure.runs],
            }
            for figure in comparison.figures
        ],
    }


# --- the answer ------------------------------------------------------------------------------------------------------


def answer(board: Board, found: Sequence[Outcome]) -> str:
    """Two sentences in Markdown: what the first statement's test says, in numbers, and what the others' say."""
    first, *others = found
    one = first.comparisons[0]
    said = one.why
    if one.figures:
        own, other = (figure.written for figure in one.figures[:2])
        said = f"{other} from `{one.sides[1]}`, {own} from `{one.sides[0]}` ({_difference(one)}{_scope(first, one)})"
    lead = f"On `{board.track}`, “{first.claim.statement.rstrip('.')}” {_bold(first)}: {said}."
    parts = []
    for word, count in _counts(others):
        if count:
            same = "; ".join(_short(outcome) for outcome in others if outcome.verdict == word)
            parts.append(f"{count} {_said(word, count)} ({same})")
    if len(parts) == 1:
        return f"{lead} The other {parts[0]}."
    return f"{lead} Of the other {len(others)}, {', '.join(parts[:-1])} and {parts[-1]}."


def _counts(found: Sequence[Outcome]) -> list[tuple[Verdict, int]]:
    return [(word, sum(outcome.verdict == word for outcome in found)) for word in (HOLDS, FAILS, OPEN)]


def _said(word: Verdict, count: int) -> str:
    return word if count == 1 else {HOLDS: "hold here", FAILS: "do not hold here", OPEN: OPEN}[word]


def _bold(outcome: Outcome) -> str:
    return f"**{outcome.verdict}**" + (" yet" if outcome.verdict == OPEN and outcome.missing else "")


def _scope(outcome: Outcome, comparison: Comparison) -> str:
    accuracy = comparison.figure("accuracy")
    parts = [f"accuracy {accuracy.written}"] if accuracy else []
    parts.append(f"{comparison.seeds} of {outcome.trainings} trainings")
    parts.append(f"the worst of {len(comparison.attacks)} of {len(outcome.attacks)} attacks")
    return "; " + ", ".join(parts)


def _difference(comparison: Comparison) -> str:
    figure = comparison.figure("difference")
    assert figure is not None
    return f"{figure.written}, 95 % interval {figure.interval}" if figure.interval else figure.written


def _short(outcome: Outcome) -> str:
    """Its title, and, where it is settled, a difference that settles it."""
    if outcome.verdict == OPEN:
        return outcome.claim.title
    return f"{outcome.claim.title}: {_headline(outcome)}"
