"""Which published checkpoints can be imported: for each kind its network, and how its settings follow from shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from mibench.errors import UserError, unknown
from mibench.weights import stylegan2_file
from mibench.weights.fit import load_published, readings, tensors_in
from mibench.weights.pickles import tensors_of

Tensors = Mapping[str, Tensor]
Settings = dict[str, Any]


@dataclass(frozen=True)
class Use:
    """How a run uses the weights: ``parameter`` of the attack's prior holds their id, ``partner`` is a further
    parameter and the kind of weights that it needs, ``settings`` names the network's settings that the prior takes
    too, ``more`` computes others. ``prior`` is set if the attack takes its prior by name."""

    attack: str
    parameter: str
    prior: str = ""
    partner: tuple[str, str] | None = None
    settings: tuple[str, ...] = ()
    more: Callable[[Settings], Settings] = lambda settings: {}

    def params(self, name: str, settings: Settings) -> Settings:
        """The prior's parameters for the weights ``name`` of a network with these settings."""
        return {self.parameter: name, **{key: settings[key] for key in self.settings}, **self.more(settings)}


@dataclass(frozen=True)
class Kind:
    """``network`` is module:class, built with what ``settings`` finds in the shapes of the published tensors. ``note``:
    what no tensor tells."""

    title: str
    network: str
    settings: Callable[[Tensors], Settings]
    use: Use | None = None
    note: str = ""

    def build(self, settings: Settings) -> nn.Module:
        """The network without numbers, on the meta device: nothing is allocated for a file that does not fit."""
        module, name = self.network.split(":")
        try:
            network = getattr(import_module(module), name)
        except (ImportError, AttributeError):
            raise UserError(f"This version of mibench has no {name}.") from None
        with torch.device("meta"):
            net: nn.Module = network(**settings)
        return net


@dataclass(frozen=True)
class Fitted:
    """A checkpoint that fits its kind: tensors under their published names, and the network's arguments."""

    tensors: dict[str, Tensor]
    settings: Settings
    notes: list[str] = field(default_factory=list)


def fit(kind: str, content: Any) -> Fitted:
    """Find the network of ``kind`` in the content of a file and check every tensor's name, shape and values.

    Raises UserError saying what does not fit, and which other kind would.
    """
    if kind not in KINDS:
        raise unknown("kind of checkpoint", kind, KINDS)
    try:
        return _fit(KINDS[kind], content)
    except UserError as error:
        others = [name for name in KINDS if name != kind and _fits(name, content)]
        hint = f" It fits --as {' or '.join(others)}." if others else ""
        raise UserError(f"{error}{hint}") from None


def _fits(kind: str, content: Any) -> bool:
    try:
        _fit(KINDS[kind], content)
    except UserError:
        return False
    return True


def _fit(kind: Kind, content: Any) -> Fitted:
    notes = [kind.note] if kind.note else []
    if isinstance(content, Mapping) and kind.settings is stylegan2_file.settings_of:
        tensors, generator, known, more = _stylegan2(content)
        return _fitted(kind, tensors, notes + more, generator, known)
    refusal: UserError | None = None
    for tensors in readings(tensors_of(content)):
        try:
            return _fitted(kind, tensors, notes)
        except UserError as error:
            refusal = refusal or error
    raise refusal or UserError("It holds no tensors.")


def _fitted(
    kind: Kind, tensors: dict[str, Tensor], notes: list[str], generator: Any = None, known: Settings | None = None
) -> Fitted:
    if not tensors:
        raise UserError("It holds no tensors.")
    try:
        settings = kind.settings(tensors) | (known or {})
        net = kind.build(settings)
    except UserError:
        raise
    except Exception as error:  # tensors of any shape under the names that the kind looks at
        raise UserError(
            f"It is not {kind.title}: {_missing(error)}. It holds {len(tensors)} tensors, the first is "
            f"{next(iter(tensors))} {tuple(next(iter(tensors.values())).shape)}."
        ) from None
    aside = load_published(net, tensors)
    tensors = {name: value for name, value in tensors.items() if name not in aside}
    if generator is not None:
        assert isinstance(net, stylegan2_file.StyleGAN2)
        stylegan2_file.check(generator, net)
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UserError(f"The tensor {name} holds values that are not finite. The file is damaged.")
    if aside:
        notes = [*notes, f"Left aside, as no part of the network: {', '.join(aside)}."]
    return Fitted(tensors, settings, notes)


def _missing(error: Exception) -> str:
    return f"there is no tensor {error}" if isinstance(error, KeyError) else str(error)


def _stylegan2(content: Any) -> tuple[dict[str, Tensor], Any, Settings, list[str]]:
    """Tensors, the layers in the file (None for a state dict), what only they tell, and notes."""
    if any(key in content for key in ("G_ema", "G", "D")):
        key, generator = stylegan2_file.generator_in(content)
        notes = [] if key == "G_ema" else [f"It has no G_ema; this is {key}, the generator without weight averaging."]
        clamp = stylegan2_file.conv_clamp_of(generator)
        tensors = stylegan2_file.without_filters(stylegan2_file.state_of(generator))
        return tensors, generator, {"conv_clamp": clamp}, notes
    tensors = stylegan2_file.without_filters(tensors_in(tensors_of(content)))
    note = "A state dict does not say conv_clamp; it is taken as 256, what stylegan2-ada-pytorch trains with."
    return tensors, None, {"conv_clamp": 256.0}, [note]


# --- settings from shapes ------------------------------------------------------------------------------------------


def _indices(tensors: Tensors, pattern: str) -> list[int]:
    """The digits that ``pattern`` captures in the tensors' names, in order; IndexError if there is none."""
    indices = sorted({int(match[1]) for name in tensors if (match := re.fullmatch(pattern, name))})
    if not indices:
        raise IndexError(f"there is no tensor {pattern!r}")
    return indices


def _gmi_generator(tensors: Tensors) -> Settings:
    last = _indices(tensors, "l2_5.([0-9]).weight")[-1]
    image = tensors[f"l2_5.{last}.weight"]
    return {
        "resolution": 4 * 2 ** (last + 1),
        "channels": image.shape[1],
        "width": image.shape[0],
        "latent_dim": tensors["l1.0.weight"].shape[1],
    }


def _gmi_critic(tensors: Tensors) -> Settings:
    first, last = tensors["ls.0.weight"], _indices(tensors, "ls.([0-9]).weight")[-1]
    return {"resolution": 4 * 2 ** (last - 1), "channels": first.shape[1], "width": first.shape[0]}


def _kedmi_discriminator(tensors: Tensors) -> Settings:
    first, kernels = tensors["layer1.0.weight"], tensors["mbd1.T"]
    return {
        "num_classes": len(tensors["fc_layer.weight"]),
        "resolution": 64 if "layer4.0.weight" in tensors else 32,
        "channels": first.shape[1],
        "width": first.shape[0],
        "mbd": tuple(kernels.shape[1:]),
    }


def _conditional_generator(tensors: Tensors) -> Settings:
    blocks = _indices(tensors, "block([0-9]).c1.weight")
    image = tensors[f"conv{blocks[-1] + 1}.weight"]
    return {
        "num_classes": len(tensors["block2.b1.weights.weight"]),
        "resolution": 4 * 2 ** len(blocks),
        "channels": image.shape[0],
        "width": image.shape[1],
        "latent_dim": tensors["l1.weight"].shape[1],
    }


def _projection_discriminator(tensors: Tensors) -> Settings:
    blocks = _indices(tensors, "block([0-9]).c1.weight_orig")
    first = tensors["block1.c1.weight_orig"]
    return {
        "num_classes": len(tensors["l_y.weight_orig"]),
        "resolution": 2 * 2 ** len(blocks),
        "channels": first.shape[1],
        "width": first.shape[0],
    }


def _classifier(first: str, head: str, resolution: int) -> Callable[[Tensors], Settings]:
    def settings(tensors: Tensors) -> Settings:
        classes, channels = len(tensors[f"{head}.weight"]), tensors[f"{first}.weight"].shape[1]
        return {"num_classes": classes, "channels": channels, "resolution": resolution}

    return settings


_IR = ("feature.input_layer.0", "fc_layer")
_SIZES = ("width", "latent_dim")


def _imagenet(title: str, name: str, first: str, head: str, resolution: int = 64, note: str = "") -> Kind:
    return Kind(title, f"mibench.nets.imagenet:{name}", _classifier(first, head, resolution), note=note)


_TRANSFORMS = (
    "The tensors do not tell whether it was trained with its input transform, as torchvision's is that starts from "
    "ImageNet weights; the network has it, and net.without_input_transform() takes it away."
)


def _residual(depth: int) -> Kind:
    return _imagenet(f"torchvision's ResNet-{depth}", f"ResNet{depth}", "conv1", "fc", 224)


def _with_crop(settings: Settings) -> Settings:
    """PPA and IF-GMI cut the middle 800 pixels out of the faces of 1024, and nothing off smaller images."""
    return {"centre_crop": 800 if settings["img_resolution"] == 1024 else None}


_STYLEGAN2 = (
    *("z_dim", "w_dim", "img_resolution", "img_channels", "mapping_layers"),
    *("channel_base", "channel_max", "conv_clamp"),
)

KINDS: dict[str, Kind] = {
    "gmi": Kind(
        "GMI's generator",
        "mibench.nets.gan:GmiGenerator",
        _gmi_generator,
        Use("gmi", "weights", partner=("critic_weights", "gmi_critic"), settings=_SIZES),
    ),
    "gmi_critic": Kind(
        "GMI's critic",
        "mibench.nets.gan:GmiCritic",
        _gmi_critic,
        Use("gmi", "critic_weights", partner=("weights", "gmi"), settings=("width",)),
    ),
    "kedmi": Kind(
        "KEDMI's generator",
        "mibench.nets.gan:GmiGenerator",
        _gmi_generator,
        Use("kedmi", "weights", partner=("critic_weights", "kedmi_discriminator"), settings=_SIZES),
    ),
    "kedmi_discriminator": Kind(
        "KEDMI's discriminator",
        "mibench.nets.gan:KedmiDiscriminator",
        _kedmi_discriminator,
        Use(
            "kedmi",
            "critic_weights",
            partner=("weights", "kedmi"),
            settings=("width",),
            more=lambda settings: {"kernels": list(settings["mbd"])},
        ),
    ),
    "plgmi": Kind(
        "PLG-MI's conditional generator",
        "mibench.nets.conditional:ConditionalGenerator",
        _conditional_generator,
        Use("plgmi", "weights", settings=_SIZES),
    ),
    "plgmi_discriminator": Kind(
        "PLG-MI's projection discriminator",
        "mibench.nets.conditional:ProjectionDiscriminator",
        _projection_discriminator,
    ),
    "stylegan2": Kind(
        "a StyleGAN2-ADA generator",
        "mibench.nets.stylegan2:StyleGAN2",
        stylegan2_file.settings_of,
        Use("ppa", "weights", prior="stylegan2", settings=_STYLEGAN2, more=_with_crop),
    ),
    "vgg16": Kind("VGG16 at 64 pixels", "mibench.nets.faces:VGG16", _classifier("feature.0", "fc_layer", 64)),
    "vgg16_bido": Kind("BiDO's VGG16", "mibench.nets.faces:StagedVGG16", _classifier("layer1.0", "fc_layer", 64)),
    "mcnn": Kind("the MNIST target MCNN", "mibench.nets.small:MCNN", _classifier("layer1.0", "fc_layer", 32)),
    "scnn": Kind("the MNIST evaluator SCNN", "mibench.nets.small:SCNN", _classifier("feature.0", "fc_layer", 32)),
    "ir152": Kind("IR152 at 64 pixels", "mibench.nets.faces:IR152", _classifier(*_IR, 64)),
    "facenet64": Kind("FaceNet64 (face.evoLVe)", "mibench.nets.faces:FaceNet64", _classifier(*_IR, 64)),
    "facenet112": Kind("the evaluator FaceNet at 112 pixels", "mibench.nets.faces:FaceNet112", _classifier(*_IR, 112)),
    "densenet121": _imagenet("torchvision's DenseNet-121", "DenseNet121", "features.conv0", "classifier"),
    "densenet161": _imagenet("torchvision's DenseNet-161", "DenseNet161", "features.conv0", "classifier"),
    "densenet169": _imagenet("torchvision's DenseNet-169", "DenseNet169", "features.conv0", "classifier"),
    "efficientnet_b0": _imagenet("torchvision's EfficientNet-B0", "EfficientNetB0", "features.0.0", "classifier.1"),
    "efficientnet_b1": _imagenet("torchvision's EfficientNet-B1", "EfficientNetB1", "features.0.0", "classifier.1"),
    "efficientnet_b2": _imagenet("torchvision's EfficientNet-B2", "EfficientNetB2", "features.0.0", "classifier.1"),
    **{f"resnet{depth}": _residual(depth) for depth in (18, 34, 50, 101, 152)},
    "resnest101": _imagenet("ResNeSt-101 as published", "ResNeSt101", "conv1.0", "fc", 224),
    "maxvit_t": _imagenet("torchvision's MaxViT-T", "MaxViTT", "stem.0.0", "classifier.5", 224),
    "inception_v3": _imagenet(
        "torchvision's Inception-v3", "InceptionV3", "Conv2d_1a_3x3.conv", "fc", 299, _TRANSFORMS
    ),
    "facenet_casia": Kind("facenet-pytorch's CASIA-WebFace", "mibench.nets.casia:CasiaFaceNet", lambda tensors: {}),
}
