"""RoLSS: the last stage without its shortcuts (Koh et al., "On the Vulnerability of Skip Connections to Model Inversion
Attacks", ECCV 2024)."""

from mibench.contracts import Classifier, Defense
from mibench.nets import without_shortcuts


class RoLSS(Defense):
    """Every residual block of the last stage computes ReLU(branch(x)); the first one's 1x1 convolution stays unused.

    A DenseNet keeps nothing of what came before a layer, which leaves its last block a plain chain.
    """

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

    def skip(self) -> str | None:
        return without_shortcuts(self.track.arch)

    def build(self, net: Classifier) -> Classifier:
        return net.scale_shortcuts(0.0)
