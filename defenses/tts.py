"""TTS: train with all shortcuts, then without the last stage's (Koh et al., "On the Vulnerability of Skip Connections
to Model Inversion Attacks", ECCV 2024)."""

from pydantic import Field

from mibench.contracts import Classifier, Defense, DefenseParams, TrainContext
from mibench.nets import without_shortcuts
from mibench.primitives.shortcuts import DEVIATIONS


class TTS(Defense):
    """5 of 100 epochs with the whole network; the others go on from these weights, without the last stage's shortcuts
    and with the recipe's schedule begun anew."""

    deviations = (
        *DEVIATIONS,
        "The released 5 and 95 epochs are shares of the recipe's.",
    )

    class Params(DefenseParams):
        first: float = Field(0.05, gt=0, lt=1, description="share of the epochs with all shortcuts, in (0, 1)")

    def skip(self) -> str | None:
        if self.track.arch.startswith("densenet"):
            return "a DenseNet without shortcuts has other weights, so training cannot go on with them"
        return without_shortcuts(self.track.arch)

    def train(self, ctx: TrainContext) -> Classifier:
        epochs = max(1, round(self.params.first * ctx.recipe.epochs))
        ctx.default_train(ctx.recipe.changed({"epochs": epochs}), name="with shortcuts")
        ctx.net.scale_shortcuts(0.0)
        return ctx.default_train(ctx.recipe.changed({"epochs": max(1, ctx.recipe.epochs - epochs)}))

    def deploy(self, net: Classifier) -> Classifier:
        return net.scale_shortcuts(0.0)
