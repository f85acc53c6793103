"""Photos: a control, no attack. The target's own training photos, judged like reconstructions (specification of
evaluation, 7.2)."""

from collections.abc import Iterator, Sequence

from pydantic import Field

from mibench.contracts import (
    Access,
    Attack,
    AttackContext,
    BaseParams,
    ControlContext,
    Oracle,
    PriorModel,
    Reconstruction,
)


class Photos(Attack):
    """Per identity its first training photos, as many as the track asks images for."""

    access = Access.PRIVATE

    class Params(BaseParams):
        shift: int = Field(0, ge=0, description="show the photos of the person so many numbers on, in a circle")

    def invert(
        self, oracle: Oracle, prior: PriorModel | None, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        assert isinstance(ctx, ControlContext)
        for label in labels:
            photos = ctx.photos((label + self.params.shift) % self.track.num_classes)
            yield Reconstruction(label, photos, photos)
