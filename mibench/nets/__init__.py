"""Network architectures by the name that tracks use."""

from __future__ import annotations

from importlib import import_module

from mibench.errors import unknown
from mibench.nets.base import Classifier

_CLASSIFIERS = {
    "convnet": "mibench.nets.small:ConvNet",
    "small_resnet": "mibench.nets.small:SmallResNet",
    "vgg16": "mibench.nets.faces:VGG16",
    "ir152": "mibench.nets.faces:IR152",
    "facenet64": "mibench.nets.faces:FaceNet64",
    "facenet112": "mibench.nets.faces:FaceNet112",
}


def build_classifier(arch: str, num_classes: int, channels: int, resolution: int) -> Classifier:
    """A fresh classifier. Raises UserError for an unknown architecture."""
    if arch not in _CLASSIFIERS:
        raise unknown("architecture", arch, _CLASSIFIERS)
    module, name = _CLASSIFIERS[arch].split(":")
    network: Classifier = getattr(import_module(module), name)(num_classes, channels=channels, resolution=resolution)
    return network
