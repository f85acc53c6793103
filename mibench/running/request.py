"""From what a user asks for, in the words of the command line, to a plan."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mibench.data import tracked
from mibench.data.sets.decoding import Progress
from mibench.errors import UserError, unknown
from mibench.metrics import METRICS
from mibench.metrics.weights import at_hand
from mibench.planning.plan import Cell, Plan, make_plan
from mibench.protocol.grid_files import read_grid
from mibench.protocol.methods import Facts, Kind, Selection
from mibench.protocol.params import BUDGET, PRECISION, RunParams, parse_value
from mibench.protocol.suites import load_suite
from mibench.protocol.tracks import Track
from mibench.publish.ranking import TRAININGS
from mibench.records import ATTACKS_APART, Seeds, numbered
from mibench.registry import Registry
from mibench.resources import cores
from mibench.weights.starting import missing as no_weights
from mibench.weights.starting import weights_folder

DEFAULT_TRACK = "orl32"
FIRST = Seeds.of(0)
BASELINE = "none"  # the undefended model, shown beside every run

Decoding = Callable[[str], AbstractContextManager[Progress]]
"""Who hears, by the track's id, how the decoding of a folder of images goes."""


@dataclass(frozen=True)
class Asked:
    """What a user asked for: defenses x attacks x seeds on a track, or a grid file, or (cells of) a suite."""

    defenses: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    track: str = DEFAULT_TRACK
    seeds: int = 1
    first_seed: int = 0
    attack_seeds: int = 1
    settings: tuple[str, ...] = ()
    grid: str | None = None
    suite: str | None = None
    cells: tuple[str, ...] = ()
    budget: int | None = None
    adaptive: bool = False
    precision: str | None = None

    @property
    def names(self) -> bool:
        """Whether methods or a track were named."""
        said = self.defenses or self.attacks or self.settings or self.budget or self.precision or self.adaptive
        return bool(said or self.track != DEFAULT_TRACK)


class Planner:
    """Makes plans of what is asked for. With ``decoding``, folders of images are decoded first, with ``skip_damaged``
    without those that cannot be read; ``say`` hears what was read and skipped."""

    def __init__(
        self,
        registry: Registry,
        home: Path,
        decoding: Decoding | None = None,
        say: Callable[[str], None] = lambda sentence: None,
        skip_damaged: bool = False,
    ) -> None:
        self._registry, self._home, self._decoding = registry, home, decoding
        self._say, self._skip = say, skip_damaged

    def plan(self, asked: Asked) -> Plan:
        """Raises UserError for what does not exist or cannot be read."""
        if asked.first_seed + asked.seeds > ATTACKS_APART:
            raise UserError(f"Trainings are numbered below {ATTACKS_APART:,}: ask for fewer, or for earlier ones.")
        seeds = numbered(asked.seeds, asked.first_seed, asked.attack_seeds)
        if asked.suite is not None:
            return self.suite(asked.suite, asked.cells, seeds)
        if asked.grid is not None:
            return self.grid(Path(asked.grid))
        settings: dict[str, Any] = {}
        for item in asked.settings:
            key, equals, value = item.partition("=")
            if not equals:
                raise UserError(f"Cannot read --set {item!r}. Expected defense.NAME=VALUE or attack.NAME=VALUE.")
            settings[key.strip()] = value
        beside = {BUDGET: asked.budget, PRECISION: asked.precision}
        settings |= {f"attack.{name}": str(given) for name, given in beside.items() if given is not None}
        track = self.track(asked.track)
        defenses, attacks = asked.defenses or ("none",), asked.attacks or ("all",)
        return self.crossed(track, defenses, attacks, seeds, settings, asked.adaptive)

    def suite(self, name: str, cells: tuple[str, ...] = (), seeds: Sequence[Seeds] = (FIRST,)) -> Plan:
        """The plan for some cells of a suite, all without names."""
        whole_suite = load_suite(self._registry.root, name)
        whole = Plan()
        for cell in whole_suite.chosen(cells).values():
            track = self.track(cell.track)
            defenses = select_all(self._registry, "defense", whole_suite.groups[cell.defenses])
            attacks = select_all(self._registry, "attack", [cell.attack])
            if cell.adaptive:
                attacks = adaptive(self._registry, track, attacks)
            whole.add(build_plan(self._registry, track, defenses, attacks, seeds))
        return whole

    def grid(self, path: Path) -> Plan:
        """The plan for a grid file."""
        whole = Plan()
        for block in read_grid(path).grid:
            for name in block.tracks:
                seeds = numbered(block.seeds, attacks=block.attack_seeds)
                settings = {key: _text(value) for key, value in block.settings.items()}
                crossed = (self.track(name), block.defenses, block.attacks, seeds, settings)
                whole.add(self.crossed(*crossed, block.adaptive))
        return whole

    def crossed(
        self,
        track: Track,
        defenses: Sequence[str],
        attacks: Sequence[str],
        seeds: Sequence[Seeds],
        settings: dict[str, str],
        with_adaptive: bool = False,
    ) -> Plan:
        """The plan for defenses x attacks x seeds on a track; ``settings``: ``defense.NAME``, ``attack.NAME`` ->
        value. ``with_adaptive``: with the attacks' adaptive variants."""
        chosen = {
            "defense": select_all(self._registry, "defense", defenses),
            "attack": select_all(self._registry, "attack", attacks),
        }
        by_kind: dict[str, dict[str, Any]] = {"defense": {}, "attack": {}}
        for item, value in settings.items():
            kind, dot, name = item.partition(".")
            if not (dot and name):
                raise UserError(f"Cannot read --set {item!r}. Expected defense.NAME=VALUE or attack.NAME=VALUE.")
            if kind not in by_kind:
                raise unknown("kind in --set", kind, by_kind)
            by_kind[kind][name] = parse_value(value)
        for kind, values in by_kind.items():
            if values:
                chosen[kind] = apply_settings(self._registry, chosen[kind], values)
        if with_adaptive:
            chosen["attack"] = adaptive(self._registry, track, chosen["attack"])
        return build_plan(self._registry, track, chosen["defense"], chosen["attack"], seeds)

    def track(self, name: str) -> Track:
        """A track by name or file, with the split of its data as it is prepared here; without data, without split."""
        track = self._registry.track(name)
        if not tracked.is_tracked(track):
            return track
        if self._decoding is not None:
            with self._decoding(track.id) as tell:
                said = tracked.prepare(track, self._home, cores(), tell, skip_damaged=self._skip)
            for sentence in said:
                self._say(sentence)
        track = tracked.resolve(track, self._home)
        self._registry.add(track)
        return track


def _text(value: Any) -> str:
    """A value of a YAML file as it is written on the command line."""
    if isinstance(value, list):
        return ":".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value)


def build_plan(
    registry: Registry,
    track: Track,
    defenses: list[Selection],
    attacks: list[Selection],
    seeds: Sequence[Seeds],
    controlled: str | None = None,
) -> Plan:
    """The plan for defenses x attacks x seeds on a track, the undefended model first. Where the track has
    a panel, with the controls, those that are trained only beside as many trainings as a comparison needs;
    ``controlled``: with them, but floors only for the defense of this id."""
    baseline = Selection("defense", BASELINE)
    if all(s.id != BASELINE for s in defenses):
        defenses = [baseline, *defenses]
    defense_facts = [registry.facts(s, track) for s in defenses]
    attack_facts = [registry.facts(s, track) for s in attacks]
    if controlled is None and len({each.target for each in seeds}) >= TRAININGS:
        defense_facts += _matched(registry, track, defense_facts)
    floors, once = _controls(registry, track, attack_facts) if controlled or track.panel is not None else ([], [])
    evaluation = {
        "versions": {name: METRICS[name].version for name in track.metrics if METRICS[name].version > 1},
        "weights": at_hand(track.metrics),
    }
    evaluation = {name: value for name, value in evaluation.items() if value}
    cells = [
        Cell(track, defense, attack, seed, evaluation)
        for attack in [*attack_facts, *floors]
        for defense in defense_facts
        for seed in seeds
        if attack not in floors or controlled in (None, defense.id)
    ]
    first = [each for each in seeds if not each.again] or [seeds[0]]
    cells += [
        Cell(track, registry.facts(baseline, track), control, each, evaluation) for control in once for each in first
    ]

    def prior_facts(name: str, params: dict[str, Any], on: Track) -> Facts:
        return registry.facts(registry.select("prior", name).with_params(params), on)

    return make_plan(cells, prior_facts)


def _controls(registry: Registry, track: Track, attacks: list[Facts]) -> tuple[list[Facts], list[Facts]]:
    """What runs by itself with a panel and in an audit, unless it is asked for anyway: the floors of the attacks'
    priors, for every target, and, for every seed, what asks no target."""
    if registry.controls is None:
        return [], []
    asked, named = {facts.label for facts in attacks}, registry.controls
    priors = [ref for facts in attacks if (ref := facts.prior)]

    def with_priors(name: str) -> list[Facts]:
        control = registry.select("attack", name)
        settings = [{"prior": r["id"]} | ({"prior_params": r["params"]} if r["params"] else {}) for r in priors]
        each = {(facts := registry.facts(control.with_params(s), track)).label: facts for s in settings}
        return [facts for label, facts in each.items() if label not in asked]

    photos = registry.facts(registry.select("attack", named.photos), track)
    once = [*with_priors(named.ceiling), *([photos] if photos.label not in asked else [])]
    return with_priors(named.floor), once


def _matched(registry: Registry, track: Track, defenses: list[Facts]) -> list[Facts]:
    """Beside every defense, where the track has a panel, the undefended model that is no more accurate."""
    if registry.controls is None or registry.controls.matched is None or track.panel is None:
        return []
    control, asked = registry.select("defense", registry.controls.matched), {facts.label for facts in defenses}
    apart = registry.control_ids | {BASELINE}
    found = [registry.facts(control.with_params({"like": f.label}), track) for f in defenses if f.id not in apart]
    return [facts for facts in found if facts.label not in asked]


def select_all(registry: Registry, kind: Kind, texts: Iterable[str]) -> list[Selection]:
    """Read the ``--defense`` or ``--attack`` options; ``all`` means everything registered but the
    controls."""
    selections: list[Selection] = []
    for text in texts:
        everything = [name for name, entry in registry.entries(kind).items() if not entry.control]
        for name in everything if text == "all" else [text]:
            selection = replace(registry.select(kind, name), optional=text == "all")
            if selection not in selections:
                selections.append(selection)
    return selections


def adaptive(registry: Registry, track: Track, attacks: Sequence[Selection]) -> list[Selection]:
    """The attacks, and what an attacker tries who expects that gradients are masked (evaluation 7.5): each attack with
    its loss averaged over views, with its other losses, with more steps and restarts, and through an undefended
    student; beside them the attacks without gradients that the registry names. Controls have no variants."""
    section = registry.adaptive
    views = next((section.views[name] for name in reversed(track.presets) if name in section.views), None)
    found = list(attacks)
    for attack in attacks:
        if registry.entry("attack", attack.id).control:
            continue
        facts = registry.facts(attack, track)
        for swap in facts.swaps:
            samples = {"align_samples": views} if "align" in swap and views else {}
            found.append(attack.with_params(swap | samples))
        found.append(attack.with_params({"effort": section.effort}))
        if facts.access == "white_box":
            found.append(attack.with_params({"transfer": True}))
    found += [replace(registry.select("attack", name), optional=True) for name in section.attacks]
    once: dict[str, Selection] = {}
    for attack in found:
        once.setdefault(attack.label, attack)
    return list(once.values())


def apply_settings(registry: Registry, selections: list[Selection], settings: dict[str, Any]) -> list[Selection]:
    """Add ``--set defense.area=...`` to every selected method that has such a parameter.

    Raises UserError if none has it.
    """
    for key in settings:
        single = [part for s in selections for part in s.parts or (s,)]
        models = {s.id: registry.plugin(s.kind, s.id).Params for s in single}
        every = {s.id for s in single if s.kind == "attack" and key in RunParams.model_fields}
        taking = [name for name, model in models.items() if key in model.model_fields or name in every]
        if not taking:
            fields = sorted({name for model in models.values() for name in model.model_fields})
            raise unknown(f"parameter of {', '.join(models)}", key, fields)
        selections = [s.with_params({key: settings[key]}, taking) for s in selections]
    return selections


def missing_data(plan: Plan, home: Path, skipped: bool = False) -> list[str]:
    """Sentences about data sets and weights to start from that the plan needs and that are not here; those of runs
    that are skipped for another reason only if asked."""
    cells = [run.cell for run in plan.runs] + [cell for cell, _ in plan.skipped if skipped]
    tracks = {cell.track.id: cell.track for cell in cells}
    starts = {(cell.track.target.arch, initial) for cell in cells for initial in cell.initials}
    starts |= {(track.evaluator.arch, track.evaluator.initial) for track in tracks.values()}
    needs: dict[str, str] = {}  # the first track's sentence speaks for all that need the same
    for track in tracks.values():
        for what, sentence in tracked.missing(track, home).items():
            needs.setdefault(what, sentence)
    sentences = list(needs.values())
    sentences += [s for arch, kind in sorted(starts) if (s := no_weights(arch, kind, weights_folder(home)))]
    return list(dict.fromkeys(sentences))
