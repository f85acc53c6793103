"""Photos: a control, no attack. The target's own training photos, judged like reconstructions (specification of
evaluation, 7.2)."""

from collections.abc import Iterator, Sequence

from mibench.contracts import Access, Attack, AttackContext, ControlContext, Oracle, PriorModel, Reconstruction


class Photos(Attack):
    """Per identity its first training photos, as many as the track asks images for."""

    access = Access.PRIVATE

    def invert(
        self, oracle: Oracle, prior: PriorModel | None, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        assert isinstance(ctx, ControlContext)
        for label in labels:
            photos = ctx.photos(label)
            yield Reconstruction(label, photos, photos)
