"""SSF: the last stage's shortcuts made weak (Koh et al., "On the Vulnerability of Skip Connections to Model Inversion
Attacks", ECCV 2024)."""

from pydantic import Field

from mibench.contracts import Classifier, Defense, DefenseParams
from mibench.nets import without_shortcuts
from mibench.primitives.shortcuts import DEVIATIONS


class SSF(Defense):
    """ReLU(branch(x) + k shortcut(x)) in the last stage; a DenseNet keeps the first k C of C channels."""

    deviations = (
        *DEVIATIONS,
        "A DenseNet starts from scratch, as published; the undefended one beside it starts as the track says.",
    )

    class Params(DefenseParams):
        k: float = Field(0.2, ge=0, le=1, description="what is left of a shortcut, in [0, 1]")

    def skip(self) -> str | None:
        return without_shortcuts(self.track.arch)

    def build(self, net: Classifier) -> Classifier:
        return net.scale_shortcuts(self.params.k)
