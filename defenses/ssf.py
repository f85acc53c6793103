"""SSF: the last stage's shortcuts made weak (Koh et al., "On the Vulnerability of Skip Connections to Model Inversion
Attacks", ECCV 2024)."""

from pydantic import Field

from mibench.contracts import Classifier, Defense, DefenseParams
from mibench.nets import without_shortcuts


class SSF(Defense):
    """ReLU(branch(x) + k shortcut(x)) in the last stage; a DenseNet keeps the first k C of C channels."""

    deviations = (
        "The released ResNets also lose the shortcuts of the last fifth of their third stage, a leftover of an "
        "experiment; here these stay.",
        "ResNet-50 to 152 start from torchvision's present ImageNet weights, in the released code from its first.",
        "The released code takes the test images for validation, keeps several epochs and compares those of matched "
        "accuracy; which epoch's weights are kept here is the track's.",
        "On MaxViT the released code multiplies a convolution block's branch; here its shortcut.",
        "On ResNeSt-101 the released code also freezes what TL-DMI freezes; here nothing is.",
        "A DenseNet starts from scratch, as published; the undefended one beside it starts as the track says.",
    )

    class Params(DefenseParams):
        k: float = Field(0.2, ge=0, le=1, description="what is left of a shortcut, in [0, 1]")

    def skip(self) -> str | None:
        return without_shortcuts(self.track.arch)

    def build(self, net: Classifier) -> Classifier:
        return net.scale_shortcuts(self.params.k)
