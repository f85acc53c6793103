"""Network architectures by the name that tracks use. No torch before one is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mibench.errors import unknown

if TYPE_CHECKING:
    from mibench.nets.base import Classifier

_CLASSIFIERS = {
    "convnet": "mibench.nets.small:ConvNet",
    "small_resnet": "mibench.nets.small:SmallResNet",
    "oriented_gradients": "mibench.nets.gradients:GradientClassifier",
    "vgg16": "mibench.nets.faces:VGG16",
    "ir152": "mibench.nets.faces:IR152",
    "facenet64": "mibench.nets.faces:FaceNet64",
    "facenet112": "mibench.nets.faces:FaceNet112",
    "efficientnet_b0": "mibench.nets.imagenet:EfficientNetB0",
    "efficientnet_b1": "mibench.nets.imagenet:EfficientNetB1",
    "efficientnet_b2": "mibench.nets.imagenet:EfficientNetB2",
    "mcnn": "mibench.nets.small:MCNN",
    "scnn": "mibench.nets.small:SCNN",
    "resnet18": "mibench.nets.imagenet:ResNet18",
    "resnet34": "mibench.nets.imagenet:ResNet34",
    "resnet50": "mibench.nets.imagenet:ResNet50",
    "resnet101": "mibench.nets.imagenet:ResNet101",
    "resnet152": "mibench.nets.imagenet:ResNet152",
    "resnest101": "mibench.nets.imagenet:ResNeSt101",
    "maxvit_t": "mibench.nets.imagenet:MaxViTT",
    "inception_v3": "mibench.nets.imagenet:InceptionV3",
    "densenet121": "mibench.nets.imagenet:DenseNet121",
    "densenet161": "mibench.nets.imagenet:DenseNet161",
    "densenet169": "mibench.nets.imagenet:DenseNet169",
    "densenet121_flat": "mibench.nets.imagenet:DenseNet121Flat",
    "densenet161_flat": "mibench.nets.imagenet:DenseNet161Flat",
    "densenet169_flat": "mibench.nets.imagenet:DenseNet169Flat",
}


def known_architecture(arch: str) -> None:
    """Raises UserError for an unknown one."""
    if arch not in _CLASSIFIERS:
        raise unknown("architecture", arch, _CLASSIFIERS)


def classifier_type(arch: str) -> type[Classifier]:
    """The class behind a name. Raises UserError for an unknown architecture."""
    known_architecture(arch)
    module, name = _CLASSIFIERS[arch].split(":")
    network: type[Classifier] = getattr(import_module(module), name)
    return network


def without_shortcuts(arch: str) -> str | None:
    """Why the shortcuts of an architecture cannot be scaled, or None."""
    return None if classifier_type(arch).shortcuts else f"the target's architecture {arch} has no shortcuts"


def build_classifier(
    arch: str,
    num_classes: int,
    channels: int,
    resolution: int,
    normalisation: tuple[float, float] | None = None,
) -> Classifier:
    """A fresh classifier; ``normalisation`` is the mean and std that it takes from pixels. Raises UserError for an
    unknown architecture."""
    make: Any = classifier_type(arch)
    network: Classifier = make(num_classes, channels=channels, resolution=resolution)
    network.normalisation = normalisation
    return network
