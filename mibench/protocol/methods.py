"""Methods as a user asks for them, and what planning knows of them. Pure: no files, no torch."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mibench.errors import UserError
from mibench.protocol.params import outside_brackets

Kind = Literal["defense", "attack", "prior"]
# What an attack may see of the target, from least to most.
ACCESS_RANK = {"labels": 0, "scores": 1, "white_box": 2, "private": 3}
# Hooks that only one part may have of its own, and those of them that a part with a whole training does not ask for.
ONE_OF = {"loss": "loss", "sampler": "sampler", "mix": "mixing", "train": "training"}
UNASKED = {"loss", "sampler", "mix"}
WHOLE = "training"  # the kind of a defense whose training asks no other part for loss, batches or mixing


@dataclass(frozen=True)
class Selection:
    """A method as the user asked for it: ``re[strong,p=0.5]``; or several defenses in one, ``re+bido[coco]``, whose
    ``parts`` have the presets and parameters."""

    kind: Kind
    id: str
    presets: tuple[str, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)
    parts: tuple[Selection, ...] = ()
    optional: bool = field(default=False, compare=False)  # asked for as one of all: left out if it cannot be used

    @property
    def label(self) -> str:
        """How to ask for it again."""
        if self.parts:
            return "+".join(part.label for part in self.parts)
        parts = [*self.presets, *(f"{key}={text_of(value)}" for key, value in sorted(self.params.items()))]
        return f"{self.id}[{','.join(parts)}]" if parts else self.id

    def with_params(self, params: dict[str, Any], only: Container[str] | None = None) -> Selection:
        """With these parameters too, where the id of the method (or of the part) is in ``only``."""
        if self.parts:
            return replace(self, parts=tuple(part.with_params(params, only) for part in self.parts))
        return replace(self, params=self.params | params) if only is None or self.id in only else self


@dataclass(frozen=True)
class Facts:
    """What planning needs to know of a plugin with its parameters on a track; no torch needed to hold it."""

    kind: Kind
    id: str
    label: str
    version: int
    params: dict[str, Any]  # resolved
    non_default: dict[str, Any]
    source_sha256: str
    skip: str | None = None
    deviations: tuple[str, ...] = ()
    access: str | None = None
    prior: dict[str, Any] | None = None  # {"id", "params"}
    prepares: bool = False
    scope: str | None = None
    seeded: bool = True  # of a prior: its training draws something
    role: str = ""  # of a defense: its kind in the registry
    adapts: bool = False  # of a defense: declares ``adapt``; of an attack: needs that
    swaps: tuple[dict[str, Any], ...] = ()  # of an attack: its parameters against masked gradients, one changed each
    brings: tuple[str, ...] = ()  # of a defense: hooks of its own that only one part of a combination can have
    like: Facts | None = None  # of the control that is trained until it is as accurate: the defense
    served: tuple[tuple[str, ...], ...] = ()  # of a defense: paths in ``params`` to what only serving the target reads
    against: str = "white_box"  # of a defense: the most that an attack may see and still meet it
    about: dict[str, Any] = field(default_factory=dict)  # title, presets, paper: what a page says of it

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Facts:
        """From ``dataclasses.asdict`` by way of JSON."""
        tuples = {name: tuple(data[name]) for name in ("deviations", "brings", "swaps")}
        like = cls.from_json(data["like"]) if data["like"] else None
        return cls(**data | tuples | {"served": tuple(tuple(path) for path in data["served"]), "like": like})

    @property
    def transfers(self) -> bool:
        """Of an attack: whether it inverts a student of the target, which needs no more than the target's scores."""
        return self.kind == "attack" and bool(self.params.get("transfer"))

    @property
    def trained(self) -> Facts:
        """These without what only serving the target reads: what its training depends on."""
        if not self.served:
            return self
        return replace(
            self, params=_without(self.params, self.served), non_default=_without(self.non_default, self.served)
        )


def _without(params: dict[str, Any], paths: Sequence[Sequence[str]]) -> dict[str, Any]:
    """``params`` without the values at ``paths``."""
    left = {}
    for name, value in params.items():
        below = [path[1:] for path in paths if path[0] == name]
        if [] in map(list, below):
            continue
        left[name] = _without(value, below) if below else value
    return left


def joined_by_plus(text: str) -> list[str]:
    """Split at every ``+`` outside brackets."""
    return outside_brackets(text, "+")


def asked_as(label: str) -> str:
    """A row's label without what sets it apart from others of the same name."""
    return label.partition(" (")[0]


def text_of(value: Any) -> str:
    """A parameter as a label has it."""
    if isinstance(value, (list, tuple)):
        return ":".join(text_of(item) for item in value)
    return json.dumps(value) if isinstance(value, bool | None) else str(value)


def combined(parts: Sequence[Facts]) -> Facts:
    """The facts of several defenses in one target. One that edits the input composes with any other; two that each
    have a loss, a sampler, a mixing or a training of their own do not, because nobody has said what both would be
    (UserError). Versions above 1 are among the parameters, so that a new version of a part is a new stage."""
    for hook, what in ONE_OF.items():
        own = [part.id for part in parts if hook in part.brings]
        if len(own) > 1:
            raise UserError(
                f"{' and '.join(own)} each have a {what} of their own and cannot be combined: a target has one, and "
                "nobody has said what both would be."
            )
    for part in parts:
        idle = [p.id for p in parts if p is not part and UNASKED & set(p.brings)]
        if part.role == WHOLE and idle:
            raise UserError(f"{part.id} trains in its own way, in which {' and '.join(idle)} would have no effect.")
    versions = {part.id: part.version for part in parts if part.version > 1}
    extra = {"versions": versions} if versions else {}
    return Facts(
        kind="defense",
        id="+".join(part.id for part in parts),
        label="+".join(part.label for part in parts),
        version=1,
        params={part.id: part.params for part in parts} | extra,
        non_default={part.id: part.non_default for part in parts} | extra,
        source_sha256="+".join(part.source_sha256 for part in parts),
        skip=next((part.skip for part in parts if part.skip), None),
        adapts=any(part.adapts for part in parts),
        deviations=tuple(dict.fromkeys(text for part in parts for text in part.deviations)),
        served=tuple((part.id, *path) for part in parts for path in part.served),
        about={"title": " with ".join(part.about.get("title", part.id) for part in parts), "kind": "combination"},
        against=min((part.against for part in parts), key=lambda access: ACCESS_RANK[access]),
    )
