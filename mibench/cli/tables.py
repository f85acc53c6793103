"""The tables that ``run``, ``show`` and ``status`` print."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mibench.metrics import METRICS
from mibench.protocol.stage_kinds import STAGE_KINDS
from mibench.publish.aggregate import mean_over_seeds, way_value
from mibench.publish.compare import paired_difference
from mibench.publish.rows import MAJORITY, TOP1, Value, bounds_of, interval_of, leakage_of
from mibench.publish.study import study_tasks
from mibench.publish.text import duration, interval, number
from mibench.publish.way import Bounds, Scale, prior_of
from mibench.records import RunRecord

WIDE = 10_000  # columns
_HEADS = {
    "nat1": "natural",
    "att1": "attack top-1",
    "att5": "attack top-5",
    "att1_selected": "top-1 selected",
    "att1_step0": "step 0",
    "d_eval": "feature distance",
    "knn_eval": "KNN distance",
}
_WITH_PANEL = {"nat1": "natural", MAJORITY: "majority", **{name: judge for judge, name in TOP1.items()}}
_WITH_PANEL |= {"face_rate": "face rate", "att1_step0": "E1 step 0"}


class Out(Console):
    """A console that cuts no identifier and no number: a table that is too wide becomes a block for each row."""

    def show(self, item: RenderableType) -> None:
        wide = isinstance(item, Table) and Measurement.get(self, self.options.update(width=WIDE), item).maximum
        if not isinstance(item, Table) or wide <= self.width:
            self.print(item)
            return
        for line in [str(item.title or ""), *blocks(item, self.width)]:
            self.print(Text(line), soft_wrap=True)


def console() -> Out:
    """Standard output. A file has no width, so there every table is whole and no sentence is broken."""
    out = Out(highlight=False)
    return out if out.is_terminal else Out(highlight=False, width=WIDE)


def blocks(table: Table, width: int) -> list[str]:
    """The rows of a table one below the other: what its first columns name, and then each number with its head, as many
    to a line as fit."""
    heads = [str(column.header) for column in table.columns]
    rows = zip(*(list(map(str, column.cells)) for column in table.columns), strict=True)
    numbers = [i for i, column in enumerate(table.columns) if column.justify == "right"]
    named = max(1, min(numbers, default=1))
    lines = []
    for row in rows:
        lines.append(", ".join(f"{head} {cell}" for head, cell in zip(heads[:named], row[:named], strict=True)))
        line = " "
        for head, cell in zip(heads[named:], row[named:], strict=True):
            item = f"{head} {cell}".rstrip()
            if line.strip() and len(line) + 2 + len(item) > width:
                lines.append(line)
                line = " "
            line += f"{',' if line.strip() else ''} {item}"
        lines += [line] if line.strip() else []
    return lines


def results(
    runs: Sequence[RunRecord], controls: Container[str] = frozenset(), bounds: Bounds | None = None
) -> list[RenderableType]:
    """One table per track: a row per defense and attack, over seeds, with chance and the step-0 baseline; then what the
    figures are of. With a panel of judges, each attack's way from floor to ceiling (the ids ``bounds``), and a line
    that says what its figures mean, those of ``controls`` (ids) aside."""
    tables: list[RenderableType] = []
    for track in dict.fromkeys(run.track for run in runs):
        own = [run for run in runs if run.track == track]
        panel = leakage_of(run.metrics for run in own) == MAJORITY
        heads = _WITH_PANEL if panel else _HEADS
        table = Table(
            title=f"{track}: chance {number(own[0].chance, 'fraction')} %, accuracies in per cent",
            title_justify="left",
        )
        table.add_column("defense")
        table.add_column("attack")
        for head in [*heads.values(), *(["way"] if panel else [])]:
            table.add_column(head, justify="right")
        scale = Scale.of(own, bounds, MAJORITY)
        for defense, attack in dict.fromkeys((run.defense_label, run.attack_label) for run in own):
            cell = [run for run in own if (run.defense_label, run.attack_label) == (defense, attack)]
            values = [_value(mean_over_seeds(name, cell), name) for name in heads]
            way = [number(way_value(scale, cell, MAJORITY).mean, "fraction")] if panel else []
            table.add_row(Text(defense), Text(attack), *values, *way)
        tables.append(table)
        competing = [run for run in own if run.attack not in controls and run.defense not in controls] or own
        tables.append(Text("\n".join(_about(competing))))
        if panel:
            tables.append(Text(in_words(competing, own, bounds)))
    return tables


def _about(runs: Sequence[RunRecord]) -> list[str]:
    """What figures are of: seeds, identities, evaluators, intervals; a line each."""
    seeds = sorted({run.seed for run in runs})
    attacks = max(Counter((run.defense_label, run.attack_label, run.seed) for run in runs).values())
    often = "once" if attacks == 1 else f"{attacks} times"
    judges = next((run.judges for run in runs if run.judges), None)
    known = [f"{judge} {_known(judges[judge.lower()])}" for judge in TOP1] if judges else []
    people = max(len(run.identities) for run in runs)
    images = max(run.metrics["att1"].n / len(run.identities) for run in runs)
    whose = "of the same seeds" if all(run.seeds.evaluator == run.seed for run in runs) else "of seed 0"
    over = f"t over {len(seeds)} trainings" if len(seeds) > 1 else "over people: one training tells nothing of others"
    return [
        f"Seeds: {', '.join(map(str, seeds))}; each training attacked {often}, evaluators and public priors {whose}.",
        f"Identities: {people}, {images:g} images each.",
        f"Evaluators: on real photos that they never saw {', '.join(known)}." if known else "Evaluators: one, E1.",
        f"Intervals: 95 %, {over}.",
    ]


def in_words(runs: Sequence[RunRecord], everything: Sequence[RunRecord] = (), bounds: Bounds | None = None) -> str:
    """What the figures of a track with a panel mean: of the cell of ``runs`` whose majority is the highest, of the
    floor of its prior, if that is in ``everything``; and which cells do not get above it."""
    cells: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for run in runs:
        cells[(run.attack_label, run.defense_label)].append(run)
    values = {f"{attack} on {defense}": mean_over_seeds(MAJORITY, cell) for (attack, defense), cell in cells.items()}
    name, highest = max(values.items(), key=lambda item: -1 if item[1].mean is None else item[1].mean)
    best = next(cell for (attack, defense), cell in cells.items() if f"{attack} on {defense}" == name)
    if highest.mean is None:
        return f"No majority: {highest.reason}."
    people = max(len(run.identities) for run in runs)
    most = ", the most here" if len(values) > 1 else ""
    said = (
        f"At least two of three judges recognise {highest.mean * people:.1f} of {people} people, on average over the "
        f"images of each ({name}{most})."
    )
    scale = Scale.of(everything, bounds, MAJORITY)
    floors = [floor for run in best if (floor := scale.floor(run)) is not None]
    if floors:
        said += f" Without optimisation: {people * sum(floors) / len(floors):.1f}."
    if nothing := _at_the_floor(cells, everything, bounds):
        said += f" Nothing above the floor: {', '.join(nothing)}."
    return said


def _at_the_floor(
    cells: Mapping[tuple[str, str], Sequence[RunRecord]], everything: Sequence[RunRecord], bounds: Bounds | None
) -> list[str]:
    """The cells that recover no more than their prior does before anything is optimised, as far as one can tell: the
    interval of the paired difference reaches 0."""
    found = []
    for (attack, defense), cell in cells.items():
        floors = [
            run
            for run in everything
            if bounds and run.attack == bounds[0] and (run.defense_label, prior_of(run)) == (defense, prior_of(cell[0]))
        ]
        above = paired_difference(cell, floors, MAJORITY)
        if above is not None and (above.low is None or above.low <= 0):
            found.append(f"{attack} on {defense}")
    return found


def _known(judge: Mapping[str, Any]) -> str:
    return f"{number(judge['top1']['value'], 'fraction')} %" if "top1" in judge else f"is missing ({judge['reason']})"


def _value(value: Value, name: str) -> str:
    unit = METRICS[name].unit
    bounds = interval(value.low, value.high, unit)
    return number(value.mean, unit) + (f" [{bounds}]" if bounds else "")


def seconds(runs: Sequence[RunRecord]) -> Table:
    """Seconds per stage; a stage that several runs share is counted in each."""
    used = [k for k in STAGE_KINDS if any(stage.kind == k for run in runs for stage in run.stages)]
    table = Table(title="seconds per stage (stages with the same key are computed once)", title_justify="left")
    for head in ("defense", "attack", "seed", *used, "run"):
        table.add_column(head, justify="left" if head in ("defense", "attack", "run") else "right")
    for run in runs:
        by_kind = {stage.kind: stage.seconds for stage in run.stages}
        cells = [f"{by_kind[kind]:.1f}" if kind in by_kind else "-" for kind in used]
        table.add_row(Text(run.defense_label), Text(run.attack_label), str(run.seeds), *cells, run.run)
    return table


def metrics(run: RunRecord) -> Table:
    """Every metric of one run; a missing value with its reason."""
    table = Table(title=Text(run.name), title_justify="left")
    for head in ("metric", "value", "95 % interval", "n", "unit or reason"):
        table.add_column(head)
    for name, metric in run.metrics.items():
        info = METRICS.get(name)
        unit = info.unit if info else ""
        low, high = interval_of(metric, bounds_of(name))
        table.add_row(
            name,
            number(metric.value, unit) + (" %" if unit == "fraction" and metric.value is not None else ""),
            interval(low, high, unit),
            str(metric.n),
            metric.reason or unit,
        )
    return table


def study(run: Mapping[str, Any]) -> Table:
    """What people said of one run: an entry of a study's result."""
    table = Table(title=Text(f"{run['name']}, {run['identities']} identities"), title_justify="left")
    for head in ("raters", "value", "95 % interval", "answers", "unit or reason"):
        table.add_column(head)
    for task in study_tasks(run):
        table.add_section()
        for line in task["lines"]:
            cells = (line["title"], line["value"], line["interval"], str(line["n"]), line["reason"] or line["unit"])
            table.add_row(*map(Text, cells))
    return table


__all__ = ["console", "duration", "metrics", "results", "seconds", "study"]
