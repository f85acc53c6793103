"""An attack, and what it receives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from mibench.contracts.context import Context
from mibench.contracts.oracle import Oracle
from mibench.contracts.prior import PriorModel
from mibench.contracts.rows import Rows
from mibench.contracts.values import Access, ImageSet, PriorRef, Reconstruction, TrackInfo
from mibench.errors import StageFailed
from mibench.nets.generator import Generator
from mibench.protocol.params import BaseParams
from mibench.random import Rng


class AttackContext(Context):
    """What ``Attack.prepare`` and ``Attack.invert`` receive. It holds no private image and no evaluator.

    public: the track's public images. images_per_identity: how many reconstructions the track asks for.
    artifact: what ``prepare`` returned, by name. shown_side: the evaluator's own resolution, where the track lets it
    see more than the track's pixels (``resize: rendered``). adapt: the ``adapt`` of the defense under attack, or None
    if it has none: what an attacker who knows the defense averages over (``mibench.primitives.alignment``).
    """

    public: ImageSet
    images_per_identity: int
    identities: Sequence[int]
    artifact: dict[str, Tensor]
    adapt: Callable[[Tensor, Rng], Tensor | None] | None = None
    seed: int
    shown_side: int | None = None

    def rows(self, labels: Sequence[int], restarts: int) -> Rows:
        """The rows for ``labels`` x ``restarts``. Raises StageFailed unless the labels are different classes."""
        self.check_labels(labels)
        if restarts < 1:
            raise StageFailed(f"Expected at least one row per identity, found {restarts}.")
        return Rows(labels, restarts, self.seed, self.device)

    def check_labels(self, labels: Sequence[int]) -> None:
        """Raises StageFailed unless ``labels`` are different classes of the target, at least one."""
        wrong = sorted({label for label in labels if not 0 <= label < self.track.num_classes})
        if wrong:
            raise StageFailed(f"The target has the classes 0 to {self.track.num_classes - 1}; {wrong} were asked for.")
        if not labels or len(set(labels)) != len(labels):
            raise StageFailed(f"Expected different labels, at least one; found {list(labels)}.")

    def groups(self, labels: Sequence[int], size: int) -> Iterator[list[int]]:
        """The fixed groups of ``size`` attacked identities that contain ``labels``, whole: for networks that couple
        the rows of a batch, so that an identity's result does not depend on what else was asked for."""
        self.check_labels(labels)
        wanted = set(labels)
        everyone = list(self.identities)
        for start in range(0, len(everyone), size):
            group = everyone[start : start + size]
            if wanted & set(group):
                yield group

    def shown(self, generator: Generator, render: Callable[[Generator], Tensor]) -> Tensor | None:
        """``render`` of the generator drawing at the evaluator's resolution, not clamped, as the released code of PPA
        and IF-GMI judges its results; None on tracks whose evaluator is shown the returned images themselves."""
        if self.shown_side is None:
            return None
        with torch.no_grad():
            return render(generator.at(self.shown_side))

    def steps(self, name: str, count: int) -> Iterator[int]:
        """``range(count)`` with progress reporting."""
        raise NotImplementedError


class ControlContext(AttackContext):
    """What a control of the engine's own (``mibench/controls``) receives: an attack's context, and private images."""

    private: ImageSet  # the target's training images

    def photos(self, label: int) -> Tensor:
        """(n, C, H, W): the person's training images, at most as many as the track asks reconstructions for."""
        mine = (self.private.labels == label).nonzero()[: self.images_per_identity, 0]
        return self.private.images[mine]


class Attack:
    """A way to reconstruct what a class looks like."""

    version: ClassVar[int] = 1
    access: ClassVar[Access] = Access.WHITE_BOX
    group: ClassVar[int] = 1  # identities that must be computed together (see AttackContext.groups)
    block: ClassVar[int | None] = None  # at most so many identities per call, each call stored when it is done
    deviations: ClassVar[tuple[str, ...]] = ()
    effort: ClassVar[tuple[str, ...]] = ("iterations",)  # parameters for ``effort`` to multiply
    tunes_prior: ClassVar[bool] = False  # whether it trains a copy of the prior further: then it gets it unfolded
    stops_early: ClassVar[bool] = False  # whether it returns what it has when the query budget is spent

    class Params(BaseParams):
        pass

    def __init__(self, params: Any, track: TrackInfo) -> None:
        self.params = params
        self.track = track

    def skip(self) -> str | None:
        """A reason why this attack makes no sense on the track, or None."""
        return None

    @property
    def adapts(self) -> bool:
        """Whether it needs ``ctx.adapt``; then it is skipped on a defense that declares none."""
        return getattr(self.params, "align", None) == "defense"

    def prior(self) -> PriorRef | None:
        """The generative model this attack searches."""
        return None

    def prepare(self, oracle: Oracle, prior: PriorModel | None, ctx: AttackContext) -> dict[str, Tensor]:
        """Optional work done once per target (students, surrogates, scores of a pool): tensors by name, which
        ``invert`` finds in ``ctx.artifact``. An attack that does not override this has no such stage."""
        return {}

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        """Yield one Reconstruction for every label."""
        raise NotImplementedError
