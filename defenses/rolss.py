"""RoLSS: the last stage without its shortcuts (Koh et al., "On the Vulnerability of Skip Connections to Model Inversion
Attacks", ECCV 2024)."""

from mibench.contracts import Classifier, Defense
from mibench.nets import without_shortcuts
from mibench.primitives.shortcuts import DEVIATIONS


class RoLSS(Defense):
    """Every residual block of the last stage computes ReLU(branch(x)); the first one's 1x1 convolution stays unused.

    A DenseNet keeps nothing of what came before a layer, which leaves its last block a plain chain.
    """

    deviations = (
        *DEVIATIONS,
        "A DenseNet starts from scratch, as published; the undefended one beside it starts as the track says.",
    )

    def skip(self) -> str | None:
        return without_shortcuts(self.track.arch)

    def build(self, net: Classifier) -> Classifier:
        return net.scale_shortcuts(0.0)
