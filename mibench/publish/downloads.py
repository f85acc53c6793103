"""Results as files: CSV, JSON, Parquet, a LaTeX table and BibTeX, of one track or of everything."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import mibench
from mibench.publish import text
from mibench.publish.metrics import SHORT
from mibench.publish.model import Catalogue, Facts
from mibench.publish.rows import Board
from mibench.publish.standings import standings
from mibench.publish.tradeoff import Tradeoff, standings_table
from mibench.records import SCHEMA, RunRecord

SEEDS = ("seed", "attack_seed", "prior_seed", "evaluator_seed")
HEAD = ("run", "track", "track_version", "defense", "attack", *SEEDS, "status", "reason", "origin", "chance", "seconds")
EXPOSED = ("p10", "p25", "p50", "p75", "p90", "ids50", "any", "never", "tail10", "gini")
PARTS = ("", "_low", "_high", "_n", "_reason")


def table(runs: Sequence[RunRecord]) -> tuple[list[str], list[list[Any]]]:
    """Column names and one line per run: of every metric the value, the interval, the number of images and, without a
    value, the reason; how what leaks spreads over people."""
    names = sorted({name for run in runs for name in run.metrics})
    lines = []
    for run in runs:
        line: list[Any] = [run.run, run.track, run.track_version, run.defense_label, run.attack_label]
        line += astuple(run.seeds)
        line += [run.status, run.reason, run.origin, run.chance, round(run.seconds, 3)]
        for name in names:
            metric = run.metrics.get(name)
            if metric is None:
                line += [None, None, None, None, "not measured"]
            else:
                line += [metric.value, metric.ci_low, metric.ci_high, metric.n, metric.reason]
        exposed = run.exposure or {}
        lines.append([*line, *(exposed.get(name) for name in EXPOSED)])
    heads = [name + part for name in names for part in PARTS]
    return [*HEAD, *heads, *(f"exposure_{name}" for name in EXPOSED)], lines


def as_csv(runs: Sequence[RunRecord]) -> str:
    return _inert_csv(*table(runs))


def standings_csv(board: Board, found: Tradeoff) -> str:
    """One line per defense and setting."""
    return _inert_csv(*standings_table(board, found))


def _inert_csv(head: list[str], lines: list[list[Any]]) -> str:
    return _csv(head, [[_inert(item) for item in line] for line in lines])


def _csv(head: list[str], lines: list[list[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([head, *lines])
    return buffer.getvalue()


def _inert(item: Any) -> Any:
    """Text that a spreadsheet would run as a formula gets an apostrophe in front."""
    return f"'{item}" if isinstance(item, str) and item.startswith(("=", "+", "-", "@", "\t", "\r")) else item


def as_json(runs: Sequence[RunRecord]) -> str:
    data = {"schema": SCHEMA, "mibench": mibench.__version__, "runs": [run.public() for run in runs]}
    return json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n"


def as_parquet(runs: Sequence[RunRecord]) -> bytes:
    """The CSV's columns with their types: text, int64 for counts, float64 for the rest; null without a value."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import csv as reader

    head, lines = table(runs)
    # Through a CSV: arrays made from lists would import pandas, half a second, wherever that is installed.
    columns = reader.read_csv(
        io.BytesIO(_csv(head, lines).encode()),
        parse_options=reader.ParseOptions(newlines_in_values=True),
        convert_options=reader.ConvertOptions(
            column_types={name: _arrow_type(pa, name) for name in head}, null_values=[""], strings_can_be_null=True
        ),
    )
    sink = pa.BufferOutputStream()
    pq.write_table(columns, sink)
    return bytes(sink.getvalue().to_pybytes())


def _arrow_type(pa: Any, name: str) -> Any:
    if name in ("run", "track", "defense", "attack", "status", "reason", "origin") or name.endswith("_reason"):
        return pa.string()
    return pa.int64() if name in ("track_version", *SEEDS) or name.endswith("_n") else pa.float64()


def as_latex(board: Board, catalogue: Catalogue) -> str:
    """The leaderboard as a LaTeX table (booktabs): a line per defense, a column per attack, means in per cent."""
    defenses = standings(board, catalogue)
    attacks = sorted({label for s in defenses for label in s.cells})
    lines = [
        f"% {_comment(board.track)}, version {board.version}; {SHORT[board.leakage]} attack accuracy in per cent, "
        "mean over seeds",
        rf"\begin{{tabular}}{{l{'r' * (len(attacks) + 2)}}}",
        r"\toprule",
        " & ".join(["Defense", "Natural", "Worst", *map(latex, attacks)]) + r" \\",
        r"\midrule",
    ]
    for s in defenses:
        worst = s.case.value.mean
        cells = [s.cells[a].leaked.mean if a in s.cells else None for a in attacks]
        numbers = [_latex_number(value) for value in (s.natural.mean, worst, *cells)]
        lines.append(" & ".join([latex(s.label), *numbers]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex_number(value: float | None) -> str:
    return "--" if value is None else text.number(value, "fraction")


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def latex(name: str) -> str:
    """A name as LaTeX text."""
    return "".join(_LATEX.get(character, character) for character in " ".join(name.split()))


def _comment(name: str) -> str:
    return " ".join(name.split())


def bibtex(name: str, facts: Facts) -> str | None:
    """The entry of a method's paper, None where the registry names none."""
    paper: Mapping[str, Any] | None = facts.get("reference")
    if not paper:
        return None
    key = re.sub(r"[^A-Za-z0-9]", "", name) + str(paper["year"])
    fields = {"title": f"{{{latex(paper['title'])}}}", "booktitle": latex(paper["venue"]), "year": str(paper["year"])}
    if authors := paper.get("authors"):
        fields = {"author": " and ".join(latex(author) for author in authors)} | fields
    lines = [f"  {field} = {{{value}}}," for field, value in (fields | {"url": paper["url"]}).items()]
    return "\n".join([f"@inproceedings{{{key},", *lines, "}"]) + "\n"


def papers(board: Board, catalogue: Catalogue) -> dict[str, str]:
    """The BibTeX entries of a board's methods, by ``defense re``, ``attack gmi`` and so on."""
    entries = {}
    for kind, known in (("defense", catalogue.defenses), ("attack", catalogue.attacks)):
        for name in sorted({getattr(row, kind) for row in board.rows}):
            if entry := bibtex(name, known.get(name, {})):
                entries[f"{kind} {name}"] = entry
    return entries


def as_bibtex(board: Board, catalogue: Catalogue) -> str:
    """The papers of all methods on a board, each once."""
    return "\n".join(dict.fromkeys(papers(board, catalogue).values())) or "% no paper is named\n"
