"""Which runs are seeds of one row (rule 12 of the design), and what a row is called. Pure.

Runs belong together when their methods, versions and resolved parameters are equal; a parameter that a record does not
have had its default. Records say which of their parameters are not the default (``StageInfo.non_default``); of older
ones, which do not, it is taken that a parameter which others of the same label lack was gained since.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from mibench.errors import UserError
from mibench.keys import canonical, split_version
from mibench.protocol.methods import Kind, asked_as, joined_by_plus, text_of
from mibench.protocol.params import parse_call
from mibench.protocol.stage_kinds import STAGE_KINDS
from mibench.publish.model import Catalogue
from mibench.publish.rows import design_of
from mibench.records import RunRecord, StageInfo

VERSION = "version"
JUDGES = ("of every training", "of seed 0")
ALWAYS = {name for name, kind in STAGE_KINDS.items() if not kind.extra and (kind.always or kind.where)}

_Number = TypeVar("_Number", bound=Hashable)


@dataclass(frozen=True)
class Setting:
    """What has to be equal: ``values`` by name. ``chosen`` are the names of those that are not the default; None: the
    record does not say. ``label`` is how it was asked for."""

    label: str
    values: dict[str, Any]
    chosen: frozenset[str] | None

    @cached_property
    def text(self) -> str:
        return canonical([self.label, self.values, None if self.chosen is None else sorted(self.chosen)])

    def alike(self, other: Setting) -> bool:
        """Whether both agree on what both say, and what only one says is the default."""
        common = self.values.keys() & other.values.keys()
        return all(self.values[name] == other.values[name] for name in common) and all(
            not (more := one.values.keys() - common)
            or (self.label == other.label if one.chosen is None else not more & one.chosen)
            for one in (self, other)
        )


def classes(settings: Sequence[Setting]) -> list[int]:
    """For each setting the number of its class. What could belong to several classes is one of its own."""
    unique = {setting.text: setting for setting in settings}.values()
    heads: list[Setting] = []
    found: dict[str, int] = {}
    for setting in sorted(unique, key=lambda s: (-len(s.values), s.chosen is None, s.text)):
        fitting = [number for number, head in enumerate(heads) if setting.alike(head)]
        if len(fitting) != 1:
            fitting = [len(heads)]
            heads.append(setting)
        found[setting.text] = fitting[0]
    return [found[setting.text] for setting in settings]


# --- what a run says -----------------------------------------------------------------------------------------------


def defense_setting(run: RunRecord) -> Setting:
    served = [stage for stage in run.stages if stage.kind in ("target", "serve", "utility")]
    own = _setting(run.defense_label, run.defense, run.defense_params, served)
    return replace(own, values=own.values | _engine(run, {"serve"}))


def attack_setting(run: RunRecord) -> Setting:
    """With the prior that it searches."""
    own = _setting(run.attack_label, run.attack, run.attack_params, [s for s in run.stages if s.kind == "invert"])
    values, chosen = own.values | _engine(run, {"prior", "prepare"}), own.chosen
    for stage in run.stages:
        if stage.kind == "prior":
            its = _setting("", stage.plugin, stage.params, [stage])
            values |= {_of("prior", name): value for name, value in its.values.items()}
            told = None if its.chosen is None else {_of("prior", name) for name in its.chosen}
            chosen = None if chosen is None or told is None else chosen | told
    return replace(own, values=values, chosen=chosen)


def engine_setting(run: RunRecord) -> Setting:
    """Versions of what the engine computes for every run, and of its metrics."""
    judged = next((stage.params for stage in run.stages if stage.kind == "evaluate"), {})
    metrics = dict.fromkeys(run.metrics, 1) | judged.get("versions", {})
    return Setting("", _engine(run, ALWAYS) | {f"{name} version": n for name, n in metrics.items()}, frozenset())


def _engine(run: RunRecord, kinds: Container[str]) -> dict[str, Any]:
    return {f"{s.kind} stage": split_version(s.version)[0] for s in run.stages if s.kind in kinds}


def _setting(label: str, plugin: str, params: Mapping[str, Any], stages: Sequence[StageInfo]) -> Setting:
    parts = plugin.split("+")
    values, told = _flat(parts, params), [stage.non_default for stage in stages]
    if stages:
        values[VERSION] = split_version(stages[0].version)[1]
    if len(parts) > 1:  # that of a part is among the parameters where it is not 1
        values |= {_of(part, VERSION): params.get("versions", {}).get(part, 1) for part in parts}
    known = [own for own in told if own is not None]
    chosen = frozenset(name for own in known for name in _flat(parts, own)) if known else None
    return Setting(label, values, chosen)


def _flat(parts: Sequence[str], params: Mapping[str, Any]) -> dict[str, Any]:
    """Of several defenses in one: ``re.area`` and so on."""
    if len(parts) == 1:
        return dict(params)
    return {_of(part, name): value for part in parts for name, value in params.get(part, {}).items()}


def _of(part: str, name: str) -> str:
    return f"{part} {name}" if name == VERSION else f"{part}.{name}"


# --- names ---------------------------------------------------------------------------------------------------------


def named(runs: Sequence[RunRecord], catalogue: Catalogue | None = None) -> list[RunRecord]:
    """The runs of one board with labels that are equal where the methods are, and differ where these do: a method that
    is not the first under its label has there what it differs in, as ``re[strong] (area=0.1:0.6)`` or ``gmi (version
    1)``. The first is what the label asks for on the code that runs, as far as the catalogue tells; of several of that
    kind, the one with most runs."""
    known = catalogue or Catalogue()
    defenses, attacks = _labels(runs, "defense", defense_setting, known), _labels(runs, "attack", attack_setting, known)
    return [
        replace(run, defense_label=defense, attack_label=attack)
        for run, defense, attack in zip(runs, defenses, attacks, strict=True)
    ]


def marked(label: str) -> bool:
    """Whether a label has something that sets it apart from what it asks for."""
    return asked_as(label) != label


def _labels(
    runs: Sequence[RunRecord], kind: Kind, setting: Callable[[RunRecord], Setting], catalogue: Catalogue
) -> list[str]:
    settings = [setting(run) for run in runs]
    labels = [""] * len(runs)
    for method in {getattr(run, kind) for run in runs}:
        own = [place for place, run in enumerate(runs) if getattr(run, kind) == method]
        same = _groups(own, classes([settings[place] for place in own]))
        called = {
            n: min((settings[p].label for p in own), key=lambda text: (len(text), text)) for n, own in same.items()
        }
        for label in set(called.values()):
            rivals = {n: same[n] for n in same if called[n] == label}
            known = {n: _known([settings[p] for p in own]) for n, own in rivals.items()}
            marks = _marks(runs, rivals, known, _asked(kind, label, runs[0].track, catalogue))
            for number, own in rivals.items():
                for place in own:
                    labels[place] = f"{label} ({marks[number]})" if marks[number] else label
    return labels


def _groups(places: Iterable[int], numbers: Iterable[_Number]) -> dict[_Number, list[int]]:
    groups: dict[_Number, list[int]] = defaultdict(list)
    for place, number in zip(places, numbers, strict=True):
        groups[number].append(place)
    return groups


def _known(settings: Sequence[Setting]) -> dict[str, Any]:
    return {name: value for setting in settings for name, value in setting.values.items()}


def _marks(
    runs: Sequence[RunRecord],
    rivals: Mapping[_Number, Sequence[int]],
    known: Mapping[_Number, Mapping[str, Any]],
    asked: Mapping[str, Any],
) -> dict[_Number, str]:
    """What sets each of several methods with one name apart; nothing of the one that has the name to itself: that which
    is ``asked`` for, as far as one knows."""
    apart = _apart(known.values())
    fits = {
        n: all(own.get(name, asked[name]) == asked[name] for name in apart & asked.keys()) for n, own in known.items()
    }

    def rank(number: _Number) -> tuple[Any, ...]:
        own = [runs[place] for place in rivals[number]]
        return fits[number], len(own), max((run.created, run.run) for run in own)

    first = max(rivals, key=rank)
    plain = first if fits[first] or len(rivals) == 1 else None
    return {number: "" if number == plain else said for number, said in _differences(known).items()}


def _differences(known: Mapping[_Number, Mapping[str, Any]]) -> dict[_Number, str]:
    """What sets each of several methods apart: what they have in common with other values, and, where that does not
    tell all of them apart, what only some of them have."""
    apart = _apart(known.values())
    common = {name for name in apart if all(name in own for own in known.values())}
    for names in (sorted(common), sorted(apart)):
        said = {
            number: ", ".join(_said(name, own[name]) if name in own else f"{name} default" for name in names)
            for number, own in known.items()
        }
        if len(set(said.values())) == len(said):
            return said
    return {number: f"variant {place}" for place, number in enumerate(known, start=1)}


def _apart(known: Collection[Mapping[str, Any]]) -> set[str]:
    """The names of what several methods do not have in common."""
    names = {name for values in known for name in values}
    return {n for n in names if len({canonical(own[n]) if n in own else "" for own in known}) > 1}


def _said(name: str, value: Any) -> str:
    return f"{name} {value}" if name.endswith((VERSION, "stage")) else f"{name}={text_of(value)}"


def _asked(kind: Kind, label: str, track: str, catalogue: Catalogue) -> dict[str, Any]:
    """What a label asks for on the code that runs: versions, the values of presets, and those that it names."""
    methods = catalogue.defenses if kind == "defense" else catalogue.attacks
    presets = catalogue.tracks.get(track, {}).get("presets") or ()
    asked: dict[str, Any] = _here()
    parts = joined_by_plus(label)
    for part in parts:
        try:
            name, wanted, params = parse_call(part, kind)
        except UserError:
            continue
        facts = methods.get(name, {})
        before = f"{name}." if len(parts) > 1 else ""
        for preset in (*presets, *wanted):
            asked |= {before + key: value for key, value in (facts.get("presets") or {}).get(preset, {}).items()}
        asked |= {before + key: value for key, value in params.items()}
        if facts.get("code_version") is not None:
            asked[_of(name, VERSION) if len(parts) > 1 else VERSION] = facts["code_version"]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asked.items()}


def _here() -> dict[str, Any]:
    return {f"{name} stage": kind.version for name, kind in STAGE_KINDS.items()}


# --- boards --------------------------------------------------------------------------------------------------------


def apart(runs: Iterable[RunRecord]) -> dict[tuple[str, int, str], list[RunRecord]]:
    """The runs by board: track, its version, and what sets the stages behind them apart from those of others, as
    ``target stage 1``, as no figure compares. That is empty for the runs of the code that runs, or where all are
    alike."""
    versions: dict[tuple[str, int], list[RunRecord]] = defaultdict(list)
    for run in runs:
        versions[(run.track, run.track_version)].append(run)
    found: dict[tuple[str, int, str], list[RunRecord]] = defaultdict(list)
    for key, own in versions.items():
        settings = [engine_setting(run) for run in own]
        rivals: dict[Any, list[int]] = {}
        known = {}
        for number, places in _groups(range(len(own)), classes(settings)).items():
            old = [place for place in places if design_of(own[place]) is False]  # seed 0 is the same in both
            if old and any(design_of(own[place]) for place in places):
                parts = dict(zip(JUDGES, ([place for place in places if place not in old], old), strict=True))
            else:
                parts = {"": places}
            for judges, part in parts.items():
                rivals[number, judges] = part
                known[number, judges] = _known([settings[p] for p in part]) | ({"judges": judges} if judges else {})
        marks = _marks(own, rivals, known, _here() | {"judges": JUDGES[0]})
        for number, places in rivals.items():
            found[(*key, marks[number])] += [own[place] for place in places]
    return found
