"""What the defenses that weaken skip connections (Koh et al., ECCV 2024) share: how they leave the released code."""

DEVIATIONS = (
    "The released ResNets also lose the shortcuts of the last fifth of their third stage, a leftover of an experiment; "
    "here these stay.",
    "ResNet-50 to 152 start from torchvision's present ImageNet weights, in the released code from its first.",
    "The released code takes the test images for validation, keeps several epochs and compares those of matched "
    "accuracy; which epoch's weights are kept here is the track's.",
    "On MaxViT the released code multiplies a convolution block's branch; here its shortcut.",
    "On ResNeSt-101 the released code also freezes what TL-DMI freezes; here nothing is.",
)
