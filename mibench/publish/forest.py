"""One line per attack (or per defense): what is recovered without a defense and with it, and what a paired comparison
says. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mibench.publish import text
from mibench.publish.compare import TONES, PairedDifference, paired_difference, readings
from mibench.publish.rows import Row


def forest(lines: Iterable[tuple[str, str, str, Row, Row | None]]) -> list[dict[str, Any]]:
    """Of a name, a link, a label, a row and the same attack on the undefended model each; the order stays. What the
    lines say holds for all of them at once."""
    drawn = list(lines)
    found = [paired_difference(row.runs, base.runs, row.leakage) if base else None for *_, row, base in drawn]
    return [
        {"name": name, "href": href, "label": label} | _line(row, each, word)
        for (name, href, label, row, _), each, word in zip(drawn, found, readings(found), strict=True)
    ]


def _line(row: Row, difference: PairedDifference | None, word: str | None) -> dict[str, Any]:
    """Places are per cent of the picture's width, from 0 to 100 % attack accuracy. Both ends come from the same seeds
    and identities; the bar is the interval of the difference, laid where the undefended model stands."""
    line: dict[str, Any] = {
        "own": text.number(row.leaked.mean, "fraction"),
        "interval": text.interval(row.leaked.low, row.leaked.high, "fraction"),
        "reason": row.leaked.reason,
        "at": _place(row.leaked.mean),
        "bar": (_place(row.leaked.low), _place(row.leaked.high)) if row.leaked.low is not None else None,
        "without": None,
        "word": None,
        "tone": "",
    }
    if difference is None or word is None:
        return line
    low, high = difference.low, difference.high
    return line | {
        "own": text.number(difference.one, "fraction"),
        "without": text.number(difference.other, "fraction"),
        "difference": text.points(difference.mean),
        "interval": text.points_interval(low, high),
        "at": _place(difference.one),
        "from": _place(difference.other),
        "bar": None
        if low is None or high is None
        else (_place(difference.other + low), _place(difference.other + high)),
        "word": word,
        "tone": TONES.get(word, ""),
    }


def _place(value: float | None) -> float | None:
    return None if value is None else round(100 * min(max(value, 0.0), 1.0), 2)
