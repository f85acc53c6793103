"""A track's results by defense: one standing per defense, with a cell for each attack it faced, and its badges."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mibench.keys import split_version
from mibench.protocol.stage_kinds import STAGE_KINDS
from mibench.publish.judges import FLAGS, flags
from mibench.publish.masking import Check, checks
from mibench.publish.model import Catalogue
from mibench.publish.protection import Protection, protection
from mibench.publish.rows import Board, Case, Row, Value
from mibench.records import RunRecord


@dataclass(frozen=True)
class Badge:
    """A word beside a defense or a cell, and the sentence behind it."""

    word: str
    meaning: str
    tone: str = ""  # good, bad, or nothing


@dataclass(frozen=True)
class Standing:
    """One defense (with its setting) on a track. ``cells`` holds a row for each attack label it faced."""

    case: Case
    worst: Row | None  # the cell of the worst attack; None: no attack finished
    cells: Mapping[str, Row]
    badges: tuple[Badge, ...]
    # none of the undefended model and of controls:
    checks: tuple[Check, ...] = ()  # whether it hides gradients
    protection: Protection | None = None  # against the control that is as accurate, if that was run

    @property
    def defense(self) -> str:
        return self.case.defense

    @property
    def label(self) -> str:
        return self.case.label

    @property
    def natural(self) -> Value:
        return self.case.natural

    @property
    def runs(self) -> list[RunRecord]:
        return [run for label in sorted(self.cells) for run in self.cells[label].runs]

    @property
    def seeds(self) -> int:
        """How many targets were trained and attacked."""
        return len({run.seed for run in self.runs if run.status == "done"})


def standings(board: Board, catalogue: Catalogue) -> list[Standing]:
    """The board's defenses in its default order: ranked ones by their worst attack, then those with attacks to face."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in board.rows:
        groups[row.defense_label].append(row)
    base = next((rows for label, rows in groups.items() if is_baseline(catalogue, label)), [])
    controls = [row for row in board.rows if row.defense in catalogue.controls]
    return [_standing(case, groups[label], base, controls, board, catalogue) for label, case in board.cases.items()]


def _standing(
    case: Case, rows: list[Row], undefended: list[Row], controls: list[Row], board: Board, catalogue: Catalogue
) -> Standing:
    runs = [run for row in rows for run in row.runs]
    found: tuple[Check, ...] = ()
    net = None
    if not is_baseline(catalogue, case.defense) and case.defense not in catalogue.controls:
        own, base = ({row.attack_label: row for row in part} for part in (rows, undefended))
        found = checks(own, base, catalogue)
        net = protection([row for row in rows if row.attack not in catalogue.controls], controls)
    return Standing(
        case=case,
        worst=next((row for row in rows if row.worst), None),
        cells={row.attack_label: row for row in rows},
        badges=tuple(_badges(case, rows, runs, board, catalogue, found)),
        checks=found,
        protection=net,
    )


def _badges(
    case: Case, rows: list[Row], runs: list[RunRecord], board: Board, catalogue: Catalogue, found: Sequence[Check]
) -> list[Badge]:
    badges = []
    origins = {run.origin for run in runs}
    if "differs" in origins:
        badges.append(Badge("differs", "Run again here, with figures outside the track's tolerance.", "bad"))
    elif origins == {"measured"}:
        badges.append(Badge("measured", "Every run behind this row was computed by the maintainers of this board."))
    elif origins <= {"measured", "reproduced"}:
        badges.append(Badge("reproduced", "Submitted, and run again here within the track's tolerance.", "good"))
    else:
        badges.append(Badge("submitted", "Figures as their authors sent them; not run again here yet."))
    if case.front:
        badges.append(Badge("front", "No other defense has both more accuracy and less leakage.", "good"))
    if case.missing and case.defense not in catalogue.controls:
        faced = len(board.required) - len(case.missing)
        badges.append(Badge(f"{faced} of {len(board.required)} attacks", f"Still to face: {', '.join(case.missing)}."))
    competes = not is_baseline(catalogue, case.defense) and case.defense not in catalogue.controls
    if competes and not any(_adaptive(row, catalogue) for row in rows):
        meaning = "No attack here was made to get around this defense, or is an adaptive variant (--adaptive)."
        badges.append(Badge("not adaptive", meaning, "bad"))
    if hits := [f"{check.name}: {check.said}" for check in found if check.hit]:
        meaning = "Its gradients may hide what it does not remove; its figures against attacks by gradient flatter it."
        badges.append(Badge("masking", " ".join([meaning, *hits]), "bad"))
    of_cells = {row.attack_label: flags([run for run in row.runs if run.status == "done"]) for row in rows}
    for word, meaning in FLAGS.items():
        if cells := [f"{attack} ({figures[word]})" for attack, figures in of_cells.items() if word in figures]:
            badges.append(Badge(word, f"{meaning}: {'; '.join(cells)}.", "bad"))
    old, newer = other_code(runs, catalogue)
    if old:
        badges.append(Badge("stale code", f"Computed by an older version of {', '.join(old)}; run it again.", "bad"))
    if newer:
        badges.append(Badge("newer code", f"Computed by a newer version of {', '.join(newer)} than is here.", "bad"))
    return badges


def _adaptive(row: Row, catalogue: Catalogue) -> bool:
    """Whether the attack was made against a defense, or is an adaptive variant."""
    return row.adaptive or bool(catalogue.attacks.get(row.attack, {}).get("adaptive"))


def is_baseline(catalogue: Catalogue, defense: str) -> bool:
    """Whether this is the undefended model."""
    return catalogue.defenses.get(defense, {}).get("kind") == "baseline"


def baseline(defenses: Sequence[Standing], catalogue: Catalogue) -> Standing | None:
    """The undefended model on a board; of several the one under its plain name."""
    own = [s for s in defenses if is_baseline(catalogue, s.defense)]
    return min(own, key=lambda s: (s.label != s.defense, s.label), default=None)


def other_code(runs: list[RunRecord], catalogue: Catalogue) -> tuple[list[str], list[str]]:
    """What behind the runs has a newer version now, and what an older one: methods by id, and the engine's stages by
    kind. Runs of an earlier version of the protocol cannot be repeated, and nothing is said of them."""
    known: dict[str, Mapping[str, Any]] = {"target": catalogue.defenses, "invert": catalogue.attacks}
    found: tuple[set[str], set[str]] = (set(), set())
    current = [run for run in runs if run.track_version >= catalogue.tracks.get(run.track, {}).get("version", 0)]
    for stage in (stage for run in current for stage in run.stages):
        engine, plugin = split_version(stage.version)
        method = known.get(stage.kind, {}).get(stage.plugin, {}).get("code_version")
        kind = STAGE_KINDS.get(stage.kind)
        engine_now = kind.version if kind else None
        for name, was, now in ((stage.kind, engine, engine_now), (stage.plugin, plugin, method)):
            if now is not None and was != now:
                found[was > now].add(name)
    return sorted(found[0]), sorted(found[1])
