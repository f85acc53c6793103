"""TL-DMI: pretrain on public data, freeze the first layers, fine-tune the rest (Ho et al., CVPR 2024)."""

from typing import Literal

from pydantic import Field

from mibench.contracts import Classifier, Defense, DefenseParams, TrainContext
from mibench.errors import UserError


class TransferLearning(Defense):
    """The frozen stages have never been trained on a private image."""

    deviations = (
        "Pretraining uses the track's public identities where the papers' face and ImageNet weights do not fit.",
        "The released code's pretraining on PubFig83 and FaceScrub (VGG16) is not offered.",
    )

    class Params(DefenseParams):
        frozen: int = Field(2, ge=0, description="stages frozen, from the image on, with source public")
        frozen_statistics: bool = Field(False, description="freeze the frozen stages' batch norm statistics too")
        source: Literal["public", "published", "none"] = Field(
            "public",
            description="pretrained on the track's public identities; the published weights that the recipe starts "
            "from, with the paper's layers frozen; or none, these layers frozen as they were drawn, as in the released "
            "code's FaceNet64, whose weights a misspelt name keeps from being loaded",
        )
        frozen_stem: bool = Field(
            True,
            description="whether an IR network's stem is among the paper's frozen layers; in the released code not",
        )

    def build(self, net: Classifier) -> Classifier:
        if self.params.source != "public":
            net.freeze_for_transfer(self.params.frozen_statistics, self.params.frozen_stem)
            return net
        try:
            net.freeze(self.params.frozen, self.params.frozen_statistics)
        except ValueError as error:
            raise UserError(f"tl.frozen: {error}.") from None
        return net

    def train(self, ctx: TrainContext) -> Classifier:
        if self.params.source != "public":
            if reason := self._contradiction(ctx.recipe.initial):
                raise UserError(f"tl with source {self.params.source}: {reason}.")
            return ctx.default_train()
        public = ctx.public_labelled()
        assert public is not None  # skip() says so where there is none
        source = ctx.fit(ctx.new_network(public.num_classes), public, "pretrain")
        stages = dict(source.stages())
        for name, stage in ctx.net.stages():
            stage.load_state_dict(stages[name].state_dict())
        return ctx.default_train()

    def skip(self) -> str | None:
        if self.params.source != "public":
            return self._contradiction((self.params.recipe or {}).get("initial", self.track.initial))
        return None if self.track.public_labelled else "the track has no labelled public images to pretrain on"

    def _contradiction(self, initial: str) -> str | None:
        """Between the source and what the recipe starts from."""
        if self.params.source == "published" and initial == "scratch":
            return "its frozen layers would keep random weights: it starts from scratch"
        if self.params.source == "none" and initial != "scratch":
            return f"it says that nothing is pretrained, but starts from {initial} weights"
        return None
