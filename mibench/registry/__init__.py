"""What exists: tracks, defenses, attacks and priors, read from ``registry.yaml`` without importing any of them."""

from __future__ import annotations

import ast
import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mibench.errors import UserError, unknown
from mibench.metrics import METRICS
from mibench.protocol.method_files import Entry, MethodFile, file_source, literal, named_files, package_sources, parsed
from mibench.protocol.methods import Facts, Kind, Selection, combined, joined_by_plus
from mibench.protocol.params import BaseParams, RunParams, common, multiplied, non_default, parse_call, resolve
from mibench.protocol.suites import suite_tracks
from mibench.protocol.tracks import Track
from mibench.protocol.yaml_files import read_yaml
from mibench.registry.facts import further, question_of, remembered
from mibench.registry.loading import Unusable, imported, track_info
from mibench.resources import resource_root

SCHEMA = 1
PRIVATE = "private"  # access of controls that see private images
PRIORS = Path(__file__).parents[1] / "priors"  # not in ``root``: the engine brings them
CONTROLS = Path(__file__).parents[1] / "controls"  # these too, which see private images


class AuditSection(BaseModel):
    """What ``mibench model audit`` runs unless it is told otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    attacks: tuple[str, ...]
    defense: str


class AdaptiveSection(BaseModel):
    """What ``--adaptive`` adds to attacks that were asked for. ``effort``: times their steps and restarts. ``views``:
    how many are averaged, by the track's presets, of which the last counts. ``attacks``: beside them, not by gradient.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    effort: int = Field(ge=2)
    views: dict[str, int]
    attacks: tuple[str, ...]


class ControlSection(BaseModel):
    """What runs by itself on a track with a panel. ``floor``: with the prior of each attack that has one, on every
    target. ``ceiling``: with these priors, and ``photos``, once: they ask no target. ``matched``: of each defense,
    under the same attacks; its parameter ``like`` is the defense."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    floor: str
    ceiling: str
    photos: str
    matched: str | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    schema_: int = Field(alias="schema")
    licence: str | None = None  # of every method that names none of its own
    audit: AuditSection | None = None
    controls: ControlSection | None = None
    adaptive: AdaptiveSection | None = None
    tracks: dict[str, dict[str, Any]]
    defenses: dict[str, Entry]
    attacks: dict[str, Entry]
    priors: dict[str, Entry]


class Registry:
    """The registry of one checkout or installation. ``home`` is where plugin facts are remembered between runs."""

    def __init__(self, root: Path | None = None, home: Path | None = None) -> None:
        self.root = (root or resource_root()).resolve()
        self.home = home

    @cached_property
    def _file(self) -> _File:
        path = self.root / "registry.yaml"
        try:
            data = read_yaml(path, "registry")
            schema = data.get("schema") if isinstance(data, dict) else None
            if isinstance(schema, int) and schema > SCHEMA:  # first, because a newer file may have other fields
                raise UserError(f"{path} has schema {schema}; this version of mibench reads up to {SCHEMA}.")
            return _File.model_validate(data)
        except ValidationError as error:
            raise UserError(f"{path} cannot be read: {error}") from None

    @property
    def licence(self) -> str | None:
        return self._file.licence

    @property
    def audit(self) -> AuditSection | None:
        return self._file.audit

    @property
    def controls(self) -> ControlSection | None:
        return self._file.controls

    @property
    def adaptive(self) -> AdaptiveSection:
        """Raises UserError if registry.yaml has no such section."""
        if self._file.adaptive is None:
            raise UserError(f"{self.root / 'registry.yaml'} has no section `adaptive` to say what --adaptive adds.")
        return self._file.adaptive

    @cached_property
    def tracks(self) -> dict[str, Track]:
        """The tracks in registry.yaml, and those that were added since."""
        return {name: self._read(name, section, "registry.yaml") for name, section in self._file.tracks.items()}

    @cached_property
    def suite_tracks(self) -> dict[str, Track]:
        """The tracks that suites bring."""
        tracks = {name: self._read(name, section, "suites") for name, section in suite_tracks(self.root).items()}
        if both := tracks.keys() & self._file.tracks.keys():
            raise UserError(f"Tracks both in a suite and in registry.yaml: {', '.join(sorted(both))}.")
        return tracks

    def _read(self, name: str, section: dict[str, Any], where: str) -> Track:
        try:
            return self._checked(Track(id=name, **section))
        except ValidationError as error:
            raise UserError(f"Track {name!r} in {where} cannot be read: {error}") from None

    def track(self, name: str) -> Track:
        """The track called ``name``, or the one in the file ``name`` (.yaml). Raises UserError."""
        if name.endswith((".yaml", ".yml")):
            from mibench.registry.own_tracks import read_track

            own = read_track(Path(name))
            if own.id in self._file.tracks:
                raise UserError(f"{name} has the id {own.id!r} of a track in registry.yaml. Give it another `id`.")
            self.add(own)
            return own
        if name not in self.tracks:
            if name not in self.suite_tracks:
                raise unknown("track", name, [*self.tracks, *self.suite_tracks])
            self.add(self.suite_tracks[name])
        return self.tracks[name]

    def add(self, track: Track) -> None:
        """Make a track known to this registry that registry.yaml does not have, or has without its data's split."""
        self._checked(track)
        self.tracks[track.id] = track

    @staticmethod
    def _checked(track: Track) -> Track:
        for metric in track.metrics:
            if metric not in METRICS:
                raise unknown(f"metric of track {track.id}", metric, METRICS)
            if not METRICS[metric].compute:
                raise UserError(f"Track {track.id!r} asks for the metric {metric!r}, which is {METRICS[metric].title}.")
        return track

    @cached_property
    def _sources(self) -> dict[Kind, dict[str, MethodFile]]:
        """All methods: those of registry.yaml, of files that the user named, and of installed packages."""
        sources: dict[Kind, dict[str, MethodFile]] = {}
        listings: dict[Kind, dict[str, Entry]] = {
            "defense": self._file.defenses,
            "attack": self._file.attacks,
            "prior": self._file.priors,
        }
        for kind, listed in listings.items():
            own = [MethodFile(kind, name, self._file_of(kind, name), self._licensed(e)) for name, e in listed.items()]
            sources[kind] = {source.id: source for source in [*own, *package_sources(kind)]}
        for path in named_files():
            source = file_source(path)
            known = sources[source.kind].get(source.id)
            if known is not None and known.path.resolve() != path.resolve():
                raise UserError(f"{path} is called like the {source.kind} {source.id!r} in {known.path}. Rename it.")
            sources[source.kind].setdefault(source.id, source)
        return sources

    def is_control_of_ours(self, name: str) -> bool:
        """Whether an attack is a control that the engine brings, and may see private images."""
        return self.path("attack", name).parent == CONTROLS

    def is_prior_of_ours(self, name: str) -> bool:
        """Whether a prior is one that the engine brings."""
        return name in self.entries("prior") and self.path("prior", name).parent == PRIORS

    def _licensed(self, entry: Entry) -> Entry:
        licence = self._file.licence
        return entry if entry.licence or not licence else entry.model_copy(update={"licence": licence})

    def source(self, kind: Kind, name: str) -> MethodFile:
        """Where a method is. Raises UserError if there is none of this name."""
        sources = self._sources[kind]
        if name not in sources:
            raise unknown(kind, name, sources)
        return sources[name]

    def entries(self, kind: Kind) -> dict[str, Entry]:
        return {name: source.entry for name, source in self._sources[kind].items()}

    @property
    def bounds(self) -> tuple[str, str] | None:
        """The controls that are floor and ceiling of a prior."""
        return (self.controls.floor, self.controls.ceiling) if self.controls else None

    @property
    def control_ids(self) -> frozenset[str]:
        """The defenses and attacks that are controls."""
        kinds: tuple[Kind, ...] = ("defense", "attack")
        return frozenset(name for kind in kinds for name, entry in self.entries(kind).items() if entry.control)

    def entry(self, kind: Kind, name: str) -> Entry:
        return self.source(kind, name).entry

    def select(self, kind: Kind, text: str) -> Selection:
        """Read ``re[strong,p=0.5]``; the name and the presets must exist. Defenses joined by ``+`` are one."""
        texts = joined_by_plus(text) if kind == "defense" else [text]
        if len(texts) > 1:
            return self._combination([self.select(kind, part) for part in texts])
        name, presets, params = parse_call(text, kind)
        entry = self.entry(kind, name)
        for preset in presets:
            if preset not in entry.presets:
                raise unknown(f"preset of {name}", preset, entry.presets)
        return Selection(kind, name, tuple(presets), params)

    def _combination(self, parts: list[Selection]) -> Selection:
        """What edits the input comes first, in the order given; the others by name, as their order does not matter."""
        names = [part.id for part in parts]
        kinds = {name: self.entry("defense", name).kind for name in names}
        for name in names:
            if names.count(name) > 1 or kinds[name] == "baseline":
                raise UserError(f"{'+'.join(names)}: name each defense once, and only defenses.")
        parts = sorted(parts, key=lambda part: (kinds[part.id] != "data", part.id if kinds[part.id] != "data" else ""))
        return Selection("defense", "+".join(part.id for part in parts), parts=tuple(parts))

    def path(self, kind: Kind, name: str) -> Path:
        return self.source(kind, name).path

    def _file_of(self, kind: Kind, name: str) -> Path:
        if kind == "prior":
            return PRIORS / f"{name}.py"
        if kind == "attack" and self._file.attacks[name].access == PRIVATE:
            return CONTROLS / f"{name}.py"
        return self.root / f"{kind}s" / f"{name}.py"

    def _literal(self, kind: Kind, name: str, field: str) -> Any:
        """A class attribute of the plugin that is written down as a plain value, read without running the file."""
        source = self.source(kind, name)
        try:
            tree = parsed(source.path)
        except UserError:
            return None  # listed all the same; whoever imports it gets the error
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        values = (literal(node, field) for node in classes if source.class_name in (None, node.name))
        return next((value for value in values if value is not None), None)

    def version(self, kind: Kind, name: str) -> int:
        """The version that the plugin's file declares, 1 without one."""
        version = self._literal(kind, name, "version")
        return version if isinstance(version, int) else 1

    def deviations(self, kind: Kind, name: str) -> tuple[str, ...]:
        """The deviations that the plugin's file writes down as plain text; those it computes are in its runs."""
        texts = self._literal(kind, name, "deviations")
        return tuple(text for text in texts or () if isinstance(text, str))

    def plugin(self, kind: Kind, name: str) -> type[Any]:
        """Import the plugin and return its class. Imports torch. What the file replaces of torch or the engine is put
        back, with a warning. Raises UserError if it cannot be used."""
        from mibench import contracts
        from mibench.registry.guard import undisturbed

        base = {"defense": contracts.Defense, "attack": contracts.Attack, "prior": contracts.Prior}[kind]
        source = self.source(kind, name)
        if source.problem:
            raise Unusable(f"{kind.capitalize()} {name!r} cannot be used: {source.problem}.")
        with undisturbed() as changed:
            module = imported(source)
        if changed:
            warnings.warn(f"{kind} {name} replaced {', '.join(sorted(changed))}; this was undone.", stacklevel=2)
        members = vars(module).values()
        classes = [
            c for c in members if isinstance(c, type) and issubclass(c, base) and c.__module__ == module.__name__
        ]
        if source.class_name:
            classes = [c for c in classes if c.__name__ == source.class_name]
        if len(classes) != 1:
            raise UserError(
                f"{source.path} must define exactly one subclass of {base.__name__}; it defines {len(classes)}."
            )
        return classes[0]

    def values(self, selection: Selection, track: Track) -> dict[str, Any]:
        """Parameters from the track's preset, the named presets and the explicit ones, the later ones winning."""
        presets = self.entry(selection.kind, selection.id).presets
        values: dict[str, Any] = {}
        for preset in (*track.presets, *selection.presets):
            values |= presets.get(preset, {})
        return values | selection.params

    def facts(self, selection: Selection, track: Track) -> Facts:
        """Resolve and validate the parameters and ask the plugin what planning must know.

        Remembered under ``home`` (``mibench/registry/facts.py``); which packages are installed is looked up every time.
        Raises UserError for a wrong parameter.
        """
        if selection.parts:
            return combined([self.facts(part, track) for part in selection.parts])
        try:
            facts = self._remembered(selection, track)
        except Unusable as error:
            if not selection.optional:
                raise
            return Facts(selection.kind, selection.id, selection.label, 0, {}, {}, "", skip=str(error).rstrip("."))
        if self.controls and (selection.kind, selection.id) == ("defense", self.controls.matched):
            facts = self._matching(facts, track)
        about = self.entry(selection.kind, selection.id).about
        return replace(facts, skip=facts.skip or self._lacking(selection.kind, selection.id), about=about)

    def _matching(self, facts: Facts, track: Track) -> Facts:
        """The control that is as accurate as a defense, with that defense; skipped where that is."""
        if facts.params["like"] is None:
            return facts
        like = self.facts(self.select("defense", facts.params["like"]), track)
        if like.like is not None:
            raise UserError(f"{facts.label}: a control is matched to a defense, not to another control.")
        return replace(facts, like=like, skip=facts.skip or like.skip)

    def _lacking(self, kind: Kind, name: str) -> str | None:
        """Which package that the plugin names in ``requires`` is not installed, and what to type."""
        for package, extra in (self._literal(kind, name, "requires") or {}).items():
            if importlib.util.find_spec(package) is None:
                return f"it needs the package {package}, which is not installed: pip install 'mibench[{extra}]'"
        return None

    def _remembered(self, selection: Selection, track: Track) -> Facts:
        method, values = self.source(selection.kind, selection.id), self.values(selection, track)
        question = question_of(method, selection, track, values)
        return remembered(self.home, question, lambda: self._ask(selection, track, values, question["source"]))

    def _ask(self, selection: Selection, track: Track, values: dict[str, Any], source: str) -> Facts:
        cls = self.plugin(selection.kind, selection.id)
        shared: dict[str, Any] = {}
        if selection.kind == "attack":
            given = {name: value for name, value in values.items() if name in RunParams.model_fields}
            shared = common(resolve(RunParams, given, selection.id).model_dump(mode="json"))
        params = _own_params(cls, values, selection.kind, selection.id)
        plugin = self.build(selection.kind, selection.id, params.model_dump() | shared, track)
        return Facts(
            selection.kind,
            selection.id,
            selection.label,
            cls.version,
            params.model_dump(mode="json") | shared,
            non_default(params) | shared,
            source,
            skip=plugin.skip(),
            **further(plugin, track, self.entry(selection.kind, selection.id).kind),
        )

    def build(self, kind: Kind, name: str, params: dict[str, Any], track: Track) -> Any:
        """An instance of the plugin with resolved ``params``. Imports torch."""
        if "+" in name:
            from mibench.registry.combination import Combined

            names = name.split("+")
            return Combined([self.build(kind, part, params[part], track) for part in names])
        cls = self.plugin(kind, name)
        own = _own_params(cls, params, kind, name)
        if kind == "attack" and "effort" in (shared := common(params)):
            own = resolve(cls.Params, own.model_dump() | multiplied(own, cls.effort, shared["effort"]), name)
        return cls(own, track_info(track))

    def unlisted(self) -> Iterator[str]:
        """Plugin files that registry.yaml does not name, and names without a file, as sentences."""
        kinds: tuple[Kind, ...] = ("defense", "attack", "prior")
        for kind in kinds:
            entries = {name for name in self._sources[kind] if self.path(kind, name) == self._file_of(kind, name)}
            folder = PRIORS.parent if kind == "prior" else self.root
            files = {path.stem for path in (folder / f"{kind}s").glob("*.py")} - {"__init__"}
            ours = {path.stem for path in CONTROLS.glob("*.py")} if kind == "attack" else set()
            for name in sorted(files - entries):
                yield f"{kind}s/{name}.py is not in registry.yaml."
            for name in sorted(entries - files - ours):
                yield f"{kind} {name!r} is in registry.yaml but {kind}s/{name}.py does not exist."


def _own_params(cls: type[Any], values: dict[str, Any], kind: Kind, name: str) -> BaseParams:
    """The parameters that the method itself takes, validated."""
    shared = RunParams.model_fields if kind == "attack" else {}
    return resolve(cls.Params, {key: value for key, value in values.items() if key not in shared}, name)
