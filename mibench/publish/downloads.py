"""Results as files: CSV, JSON, Parquet, a LaTeX table and BibTeX, of one track or of everything."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import mibench
from mibench.keys import canonical, version_text
from mibench.publish import text
from mibench.publish.compare import PairedDifference, paired_difference
from mibench.publish.metrics import SHORT
from mibench.publish.model import Catalogue, Facts
from mibench.publish.rows import Board
from mibench.publish.standings import Standing, baseline, standings
from mibench.publish.tradeoff import Tradeoff, standings_table
from mibench.records import SCHEMA, RunRecord
from mibench.stats.comparisons import Paired

SEEDS = ("seed", "attack_seed", "prior_seed", "evaluator_seed")
HEAD = ("run", "track", "track_version", "defense", "attack", *SEEDS, "status", "reason", "origin", "chance", "seconds")
MADE = ("defense_params", "attack_params", "versions")  # JSON; versions by stage
EXPOSED = ("p10", "p25", "p50", "p75", "p90", "ids50", "any", "never", "tail10", "gini")
PARTS = ("", "_low", "_high", "_n", "_reason")


def table(runs: Sequence[RunRecord]) -> tuple[list[str], list[list[Any]]]:
    """Column names and one line per run: of every metric the value, the interval, the number of images and, without a
    value, the reason; how what leaks spreads over people."""
    names = sorted({name for run in runs for name in run.metrics})
    lines = []
    for run in runs:
        line: list[Any] = [run.run, run.track, run.track_version, run.defense_label, run.attack_label]
        line += [run.seed, run.seeds.attack, run.seeds.prior if run.searches else None, run.seeds.evaluator]
        line += [run.status, run.reason, run.origin, run.chance, round(run.seconds, 3)]
        line += [canonical(made) for made in made_of(run)]
        for name in names:
            metric = run.metrics.get(name)
            if metric is None:
                line += [None, None, None, None, "not measured"]
            else:
                line += [metric.value, metric.ci_low, metric.ci_high, metric.n, metric.reason]
        exposed = run.exposure or {}
        lines.append([*line, *(exposed.get(name) for name in EXPOSED)])
    heads = [name + part for name in names for part in PARTS]
    return [*HEAD, *MADE, *heads, *(f"exposure_{name}" for name in EXPOSED)], lines


def made_of(run: RunRecord) -> tuple[dict[str, Any], ...]:
    """Parameters of defense and attack; versions (the engine's and the method's) by stage."""
    versions = {stage.kind: version_text(stage.version) for stage in run.stages}
    return run.defense_params, run.attack_params, versions


def as_csv(runs: Sequence[RunRecord]) -> str:
    return _inert_csv(*table(runs))


def standings_csv(board: Board, found: Tradeoff) -> str:
    """One line per defense and setting."""
    return _inert_csv(*standings_table(board, found))


def _inert_csv(head: list[str], lines: list[list[Any]]) -> str:
    return _csv(head, [[_inert(item) for item in line] for line in lines])


def masking(board: Board, catalogue: Catalogue) -> str:
    """The masking checks of every defense as CSV: a line for each, whether it raises the flag, and the sentence."""
    word = {True: "raised", False: "not raised", None: "cannot be told"}
    lines = [
        [_inert(s.label), c.name, word[c.hit], _inert(c.said)] for s in standings(board, catalogue) for c in s.checks
    ]
    return _csv(["defense", "check", "flag", "said"], lines)


def net_protection(board: Board, catalogue: Catalogue) -> str:
    """The defenses against the undefended model of the same accuracy as CSV; fractions."""
    found = [(s, s.protection) for s in standings(board, catalogue) if s.protection]
    lines = [
        [_inert(s.label), _inert(p.control), p.gap, p.net.mean, p.net.low, p.net.high, p.net.seeds, len(p.attacks)]
        for s, p in found
    ]
    return _csv(["defense", "control", "accuracy_gap", "net", "net_low", "net_high", "seeds", "attacks"], lines)


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
    if name in ("run", "track", "defense", "attack", "status", "reason", "origin", *MADE) or name.endswith("_reason"):
        return pa.string()
    return pa.int64() if name in ("track_version", *SEEDS) or name.endswith("_n") else pa.float64()


LATEX_FORMS = ("", "transposed", "differences")


def as_latex(board: Board, catalogue: Catalogue, form: str = "") -> str:
    """The leaderboard as a LaTeX table (booktabs) with caption: a line per defense, a column per attack, means in per
    cent with their 95 % intervals. ``transposed``: a line per attack. ``differences``: what each attack recovers minus
    what it recovers from the undefended model, over the seeds that both have, in points."""
    defenses = standings(board, catalogue)
    attacks = sorted({label for s in defenses for label in s.cells})
    base = baseline(defenses, catalogue)
    apart = form == "differences"
    if apart:
        defenses = [s for s in defenses if s is not base]
    columns = ["Worst", *attacks] if apart else ["Natural", "Worst", *attacks]
    grid = [[_difference(s, name, base) if apart else _mean(s, name) for name in columns] for s in defenses]
    heads, names = columns, [s.label for s in defenses]
    if form == "transposed":
        heads, names, grid = names, heads, [list(line) for line in zip(*grid, strict=True)]
    what = f"{SHORT[board.leakage]} attack accuracy"
    told = f"{what} minus that on the undefended model in points" if apart else f"{what} in per cent"
    caption = f"{catalogue.board_title(board)} ({board.track}, version {board.version}): {told}, mean over seeds, "
    lines = [
        f"% {_comment(board.key)}, version {board.version}; {told}, mean over seeds. Needs booktabs.",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(caption)}95\,\% intervals in small print; mibench {mibench.__version__}.}}",
        rf"\label{{tab:{text.anchor(board.key, *([form] if form else []))}}}",
        rf"\begin{{tabular}}{{l{'r' * len(heads)}}}",
        r"\toprule",
        " & ".join(["Attack" if form == "transposed" else "Defense", *map(latex, heads)]) + r" \\",
        r"\midrule",
        *(" & ".join([latex(name), *line]) + r" \\" for name, line in zip(names, grid, strict=True)),
    ]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _mean(s: Standing, column: str) -> str:
    value = {"Natural": s.natural, "Worst": s.case.value}.get(column)
    if value is None and column in s.cells:
        value = s.cells[column].leaked
    if value is None or value.mean is None:
        return "--"
    return _small(text.number(value.mean, "fraction"), text.interval(value.low, value.high, "fraction"))


def _difference(s: Standing, column: str, base: Standing | None) -> str:
    found: Paired | PairedDifference | None = None
    if column == "Worst" and s.case.verdict:
        found = s.case.verdict.difference
    elif base and column in s.cells and column in base.cells:
        row = s.cells[column]
        found = paired_difference(row.runs, base.cells[column].runs, row.leakage)
    if found is None:
        return "--"
    return _small(text.points(found.mean), text.points_interval(found.low, found.high)).replace("−", "$-$")


def _small(number: str, interval: str) -> str:
    """A number with its interval in small print."""
    return number + (rf" {{\scriptsize {interval.replace('–', '--')}}}" if interval else "")


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
    form = paper.get("form") or "inproceedings"
    where = {"inproceedings": "booktitle", "article": "journal"}.get(form, "howpublished")
    fields = {"title": f"{{{latex(paper['title'])}}}", where: latex(paper["venue"]), "year": str(paper["year"])}
    if authors := paper.get("authors"):
        fields = {"author": " and ".join(latex(author) for author in authors)} | fields
    return _entry(form, re.sub(r"[^A-Za-z0-9]", "", name) + str(paper["year"]), fields | {"url": paper["url"]})


def own_bibtex(day: str, commit: str | None) -> str:
    """The entry of this benchmark with figures up to a ``day`` (2026-11-26)."""
    note = f"Version {mibench.__version__}, results of {day}" + (f", commit {commit}" if commit else "")
    title = "{mibench}: a benchmark and leaderboard for model inversion attacks and defenses on image classifiers"
    fields = {"author": "{The mibench maintainers}", "title": title, "year": day[:4], "note": note}
    return _entry("misc", f"mibench{day[:4]}", fields)


def _entry(form: str, key: str, fields: Mapping[str, str]) -> str:
    lines = [f"  {field} = {{{value}}}," for field, value in fields.items()]
    return "\n".join([f"@{form}{{{key},", *lines, "}"]) + "\n"


def papers(board: Board, catalogue: Catalogue) -> dict[str, str]:
    """The BibTeX entries of a board's methods, by ``defense re``, ``attack gmi`` and so on."""
    entries = {}
    for kind, known in (("defense", catalogue.defenses), ("attack", catalogue.attacks)):
        for name in sorted({getattr(row, kind) for row in board.rows}):
            if entry := bibtex(name, known.get(name, {})):
                entries[f"{kind} {name}"] = entry
    return entries


def as_bibtex(board: Board, catalogue: Catalogue, own: str = "") -> str:
    """The papers of all methods on a board, each once, after the entry of the benchmark itself."""
    entries = [own, *papers(board, catalogue).values()]
    return "\n".join(dict.fromkeys(entry for entry in entries if entry)) or "% no paper is named\n"
