"""The kinds of stages that a run consists of: what each is called, what can change it, whose results it reads and who
computes it. This table is the only place that lists them."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

from mibench.protocol.methods import Kind


@dataclass(frozen=True)
class StageKind:
    """One kind of stage.

    version: of the engine's part; raised when that may change a result. method: whose code it runs, if any's.
    own: whether that is what the method is there for, so that its time is the method's. track: the sections of a track
    that can change the result. compute: ``module:function``. needs, may_read: the kinds whose results it reads, always
    or where the run has them. seed: which of the run's seeds it has; without one it draws nothing that they decide.
    title: what one is called, of ``track``, ``defense``, ``attack``, ``prior``, its ``seed`` and the run's ``seeds``.
    streams: the name of its random streams. always: whether every attack has it. shown: its files are shown and no
    other stage reads them. extra: a run without it still has its result. where: the section or switch without which a
    track has no such stage. weights: published ones that it computes more with where they are on this machine.
    """

    name: str
    track: tuple[str, ...]
    compute: str
    title: str
    method: Kind | None = None
    own: bool = False
    needs: tuple[str, ...] = ()
    may_read: tuple[str, ...] = ()
    version: int = 1
    seed: Literal["target", "attack", "prior", "evaluator"] | None = None
    streams: str = ""
    always: bool = True
    shown: bool = False
    extra: bool = False
    where: str = ""
    weights: str = ""

    @property
    def reads(self) -> tuple[str, ...]:
        return self.needs + self.may_read


# Parents before children. An attack's two halves share its random streams.
STAGE_KINDS = {
    kind.name: kind
    for kind in (
        StageKind(
            "evaluator",
            track=("private", "evaluator"),
            version=2,
            compute="mibench.stages.evaluator:run",
            seed="evaluator",
            title="evaluator of {track} seed {seed}",
        ),
        StageKind(
            "panel",
            track=("private", "public", "evaluator", "panel"),
            version=2,
            compute="mibench.stages.panel:run",
            seed="evaluator",
            title="panel of {track} seed {seed}",
            always=False,
            where="panel",
            weights="recogniser",
        ),
        StageKind(
            "target",
            track=("private", "public", "target"),
            version=2,
            compute="mibench.stages.target:run",
            seed="target",
            title="target {defense} seed {seed}",
            method="defense",
            own=True,
            may_read=("utility",),  # of the defense that a control is to be as accurate as
        ),
        StageKind(
            "serve",
            track=(),
            compute="mibench.stages.serve:run",
            seed="target",
            title="serve {defense} seed {seed}",
            method="defense",
            needs=("target",),
            always=False,
        ),
        StageKind(
            "prior",
            track=("public",),
            compute="mibench.stages.prior:run",
            seed="prior",
            title="prior {prior}",
            method="prior",
            own=True,
            may_read=("target", "serve"),
            always=False,
        ),
        StageKind(
            "student",
            track=("public", "target"),
            compute="mibench.stages.student:run",
            seed="target",
            title="student of {defense} seed {seed}",
            method="defense",
            needs=("target",),
            may_read=("serve",),
            always=False,
        ),
        StageKind(
            "prepare",
            track=("public", "attack"),
            version=2,
            compute="mibench.stages.invert:prepare",
            seed="attack",
            title="prepare {attack} on {defense} seed {seeds}",
            method="attack",
            own=True,
            needs=("target",),
            may_read=("serve", "prior", "student"),
            streams="attack",
            always=False,
        ),
        StageKind(
            "invert",
            track=("public", "attack"),
            version=2,
            compute="mibench.stages.invert:run",
            seed="attack",
            title="invert {attack} on {defense} seed {seeds}",
            method="attack",
            own=True,
            needs=("target",),
            may_read=("serve", "prior", "student", "prepare"),
            streams="attack",
        ),
        StageKind(
            "utility",
            track=("private",),
            compute="mibench.stages.utility:run",
            seed="target",
            title="utility of {defense} seed {seed}",
            method="defense",
            needs=("target",),
            may_read=("serve",),
        ),
        StageKind(
            "gradients",
            track=("private",),
            compute="mibench.stages.gradients:run",
            seed="target",
            title="gradients of {defense} seed {seed}",
            method="defense",
            needs=("target",),
            may_read=("serve",),
            shown=True,
            extra=True,
        ),
        StageKind(
            "evaluate",
            track=("private", "attack", "metrics"),
            version=2,
            compute="mibench.stages.evaluate:run",
            title="evaluate {attack} on {defense} seed {seeds}",
            needs=("evaluator", "invert", "utility"),
            may_read=("panel",),
            shown=True,
        ),
        StageKind(
            "features",
            track=("private", "attack"),
            compute="mibench.stages.features:run",
            seed="target",
            title="features {attack} on {defense} seed {seeds}",
            method="defense",
            needs=("target", "invert"),
            may_read=("serve",),
            shown=True,
            extra=True,
            where="feature_space",
        ),
    )
}

EXTRA = {name for name, kind in STAGE_KINDS.items() if kind.extra}
# Those that ask the target for an attack.
ASKING = tuple(name for name, kind in STAGE_KINDS.items() if kind.method in ("prior", "attack") or name == "student")


def computed_by(method: str) -> tuple[str, ...]:
    """The kinds of stages whose time is that of a defense, a prior or an attack."""
    return tuple(name for name, kind in STAGE_KINDS.items() if kind.own and kind.method == method)


def is_shared(kind: str, inputs: Container[str]) -> bool:
    """Whether tracks of one family have the stage in common: what no target has a part in."""
    return not STAGE_KINDS[kind].needs and STAGE_KINDS[kind].method != "defense" and "target" not in inputs
