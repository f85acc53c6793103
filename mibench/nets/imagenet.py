"""torchvision's EfficientNets, DenseNets, ResNets, MaxViT and Inception, and timm's ResNeSt, as classifiers: targets,
evaluators, students, surrogates, pretrained on ImageNet or not.

They take pixels in [0, 1], normalised where the track says so, of any multiple of 32 pixels (MaxViT: 224, Inception:
299), in one or three channels; grey is repeated to three. ``backbone`` is everything but the head, under the library's
names: it loads the library's own checkpoint files with ``mibench.weights.fit.load_published``, or
``ctx.load_weights(net.backbone, id)``.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, ClassVar, cast

import torchvision
from torch import Tensor, nn

from mibench.errors import MissingError, UserError
from mibench.nets.base import Classifier
from mibench.nets.skips import narrow_last_block, scale


class Colour(nn.Module):
    """(N, 1 or 3, H, W) -> (N, 3, H, W)."""

    def forward(self, images: Tensor) -> Tensor:
        return images.expand(-1, 3, -1, -1)


class Backbone(nn.Module):
    """A torchvision network's ``features``. The published head, for 1000 classes, is left aside when loading."""

    published_unused: ClassVar[tuple[str, ...]] = ("classifier", "fc")

    def __init__(self, features: nn.Sequential, flat: bool = False) -> None:
        super().__init__()
        self.features = features
        self._flat = flat  # the file has the parts of ``features`` at its top level

    @property
    def published_names(self) -> dict[str, str]:
        """torchvision's DenseNet files are older than its code: they say ``norm.1`` where the code says ``norm1``."""
        ours = {name.rpartition(".")[0] for name in self.state_dict()}
        older = {re.sub(r"(denselayer\d+\.\w+)(\d)$", r"\1.\2", name): name for name in ours if "denselayer" in name}
        parts = {name: f"features.{name}" for name, _ in self.features.named_children()} if self._flat else {}
        return older | parts


class ImageNetClassifier(Classifier):
    """``arch`` is torchvision's name; ``head`` a new linear layer, without torchvision's dropout before it."""

    arch: ClassVar[str]
    classifier: ClassVar[str]  # torchvision's linear head
    tail: ClassVar[tuple[type[nn.Module], ...]]  # what follows the last feature map
    pooled: ClassVar[bool] = True

    def __init__(self, num_classes: int, channels: int = 3, resolution: int = 64) -> None:
        super().__init__()
        if channels not in (1, 3) or resolution < 32 or resolution % 32:
            raise UserError(
                f"{type(self).__name__} takes images in 1 or 3 channels whose side is a multiple of 32 pixels; found "
                f"{channels} channels of {resolution} pixels. Use another track or another architecture."
            )
        whole = self.whole()
        width = whole.get_submodule(self.classifier).in_features
        self.backbone = self.trunk(whole)
        self.colour = Colour()
        pool = [nn.AdaptiveAvgPool2d(1)] if self.pooled else []
        self.pool = nn.Sequential(*(part() for part in self.tail), *pool, nn.Flatten())
        self.feature_dim = width * (1 if self.pooled else (resolution // 32) ** 2)
        self.head: nn.Module = nn.Linear(self.feature_dim, num_classes)

    @classmethod
    def whole(cls) -> Any:
        """The library's network, with fresh weights."""
        return getattr(torchvision.models, cls.arch)(weights=None)

    @classmethod
    def trunk(cls, whole: Any) -> Backbone:
        return Backbone(whole.features)

    @property
    def published_names(self) -> dict[str, str]:
        """For a checkpoint of the whole network, with a head for as many classes."""
        inner = {published: f"backbone.{name}" for published, name in self.backbone.published_names.items()}
        return inner | {"features": "backbone.features", self.classifier: "head"}

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        """The parts of ``features``, in order, by name."""
        raise NotImplementedError(f"{type(self).__name__} must implement blocks()")

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        (stem, first), *between, (_, last) = self.blocks()
        yield stem, nn.Sequential(self.colour, first)
        yield from between
        yield "features", nn.Sequential(last, self.pool)


class EfficientNetB0(ImageNetClassifier):
    """1280 features (Tan and Le, ICML 2019)."""

    arch, classifier, tail = "efficientnet_b0", "classifier.1", ()

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        for index, part in enumerate(self.backbone.features):
            yield f"stage{index}" if index else "stem", part


class EfficientNetB1(EfficientNetB0):
    arch = "efficientnet_b1"


class EfficientNetB2(EfficientNetB0):
    """1408 features."""

    arch = "efficientnet_b2"


class DenseNet121(ImageNetClassifier):
    """1024 features (Huang et al., CVPR 2017)."""

    taps = ("stage1", "stage2", "stage3", "stage4")
    shortcuts = True
    arch, classifier = "densenet121", "classifier"
    tail: ClassVar[tuple[type[nn.Module], ...]] = (nn.ReLU,)

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        """Cut after ``pool0``, after each dense block and after each transition."""
        start = 0
        names = [name for name, _ in self.backbone.features.named_children()]
        for end, name in enumerate(names, start=1):
            ours = {"pool0": "stem", names[-1]: "norm"}.get(name, name.replace("denseblock", "stage"))
            if ours != name or name.startswith("transition"):
                yield ours, self.backbone.features[start:end]
                start = end

    def scale_shortcuts(self, factor: float) -> Classifier:
        """The last block keeps this share of the channels before it; at 1 nothing changes."""
        if factor != 1:
            self.feature_dim = narrow_last_block(self.backbone.features, factor)
            self.head = nn.Linear(self.feature_dim, cast(nn.Linear, self.head).out_features)
        return self


class DenseNet161(DenseNet121):
    """2208 features."""

    arch = "densenet161"


class DenseNet169(DenseNet121):
    """1664 features."""

    arch = "densenet169"


class DenseNet121Flat(DenseNet121):
    """The last feature map flattened, without pooling and without the ReLU before it: 4096 features at 64 pixels."""

    tail, pooled, shortcuts = (), False, False


class DenseNet161Flat(DenseNet121Flat):
    """8832 features at 64 pixels."""

    arch = "densenet161"


class DenseNet169Flat(DenseNet121Flat):
    """6656 features at 64 pixels."""

    arch = "densenet169"


class ResNet18(ImageNetClassifier):
    """512 features (He et al., CVPR 2016; torchvision's, with its stride in the 3x3 convolution)."""

    taps = ("stage1", "stage2", "stage3", "stage4")
    shortcuts = True
    arch, classifier, tail = "resnet18", "fc", ()
    parts: ClassVar[dict[str, str]] = {f"layer{n}": f"stage{n}" for n in (1, 2, 3, 4)}

    @classmethod
    def trunk(cls, whole: Any) -> Backbone:
        named = [(name, part) for name, part in whole.named_children() if name not in ("avgpool", "global_pool", "fc")]
        return Backbone(nn.Sequential(OrderedDict(named)), flat=True)

    @property
    def published_names(self) -> dict[str, str]:
        inner = {published: f"backbone.{name}" for published, name in self.backbone.published_names.items()}
        return inner | {self.classifier: "head"}

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        features = self.backbone.features
        first = next(i for i, (name, _) in enumerate(features.named_children()) if name == "layer1")
        yield "stem", nn.Sequential(self.colour, *features[:first])
        for name, ours in self.parts.items():
            yield ours, features.get_submodule(name)
        yield "features", self.pool

    def transfer_frozen(self, stem: bool = True) -> list[nn.Module]:
        """Everything before the last stage."""
        return list(self.backbone.features[:-1])

    def scale_shortcuts(self, factor: float) -> Classifier:
        scale(self.backbone.features[-1], factor)
        return self


class ResNet34(ResNet18):
    arch = "resnet34"


class ResNet50(ResNet18):
    """2048 features, as the deeper ones."""

    arch = "resnet50"


class ResNet101(ResNet18):
    arch = "resnet101"


class ResNet152(ResNet18):
    arch = "resnet152"


class ResNeSt101(ResNet18):
    """2048 features (Zhang et al., CVPR workshops 2022), timm's."""

    arch = "resnest101"

    @classmethod
    def whole(cls) -> Any:
        try:
            from timm import create_model
        except ImportError:
            raise MissingError("ResNeSt-101 is timm's. Type: pip install 'mibench[timm]'") from None
        return create_model("resnest101e", pretrained=False)

    def transfer_frozen(self, stem: bool = True) -> list[nn.Module]:
        """Everything before the sixteenth block of the third stage."""
        *first, third, _ = self.backbone.features
        return [*first, *cast(nn.Sequential, third)[:15]]


class MaxViTT(ImageNetClassifier):
    """512 features (Tu et al., ECCV 2022): pooled, normalised, one linear layer and tanh; 224 pixels."""

    taps = ("stage1", "stage2", "stage3", "stage4", "features")
    shortcuts = True
    arch, classifier, tail = "maxvit_t", "classifier.5", ()

    def __init__(self, num_classes: int, channels: int = 3, resolution: int = 224) -> None:
        if resolution != 224:
            raise UserError(f"MaxViT-T takes images of 224 pixels, found {resolution}. Use another track.")
        super().__init__(num_classes, channels, resolution)
        self.pool = nn.Sequential()
        if num_classes == 1000:
            self.head = nn.Linear(self.feature_dim, num_classes, bias=False)  # as published

    @classmethod
    def trunk(cls, whole: Any) -> Backbone:
        parts = [("stem", whole.stem), ("blocks", whole.blocks), ("classifier", whole.classifier[:-1])]
        backbone = Backbone(nn.Sequential(OrderedDict(parts)), flat=True)
        backbone.published_unused = ("classifier.5",)  # type: ignore[misc]
        return backbone

    @property
    def published_names(self) -> dict[str, str]:
        inner = {published: f"backbone.{name}" for published, name in self.backbone.published_names.items()}
        return {self.classifier: "head"} | inner

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        stem, blocks, last = self.backbone.features
        yield "stem", nn.Sequential(self.colour, stem)
        for index, block in enumerate(cast(nn.ModuleList, blocks), start=1):
            yield f"stage{index}", block
        yield "features", last

    def transfer_frozen(self, stem: bool = True) -> list[nn.Module]:
        """Everything before the last stage."""
        first, blocks, _ = self.backbone.features
        return [first, *cast(nn.ModuleList, blocks)[:-1]]

    def scale_shortcuts(self, factor: float) -> Classifier:
        scale(cast(nn.ModuleList, self.backbone.features[1])[-1], factor)
        return self


class InceptionV3(Classifier):
    """2048 features at 299 pixels, the evaluator of the 224-pixel protocols (Szegedy et al., CVPR 2016).

    torchvision's network as it comes with ImageNet weights: the input is moved from mean 0.5, std 0.5 to ImageNet's
    (``transform_input``). No tensor of a checkpoint tells whether a network was trained or is used with that step.
    The auxiliary head keeps 1000 outputs; while training, its logits are in ``hidden`` as ``aux``."""

    def __init__(self, num_classes: int, channels: int = 3, resolution: int = 299) -> None:
        super().__init__()
        if resolution != 299:
            raise UserError(
                f"Inception-v3 takes images of 299 pixels, found {resolution}. Set the recipe's resolution."
            )
        self.net = torchvision.models.inception_v3(weights=None, init_weights=False, transform_input=True)
        self.colour = Colour()
        self.feature_dim = 2048
        self.net.fc = nn.Identity()
        self.head: nn.Module = nn.Linear(self.feature_dim, num_classes)

    @property
    def published_names(self) -> dict[str, str]:
        return {name: f"net.{name}" for name, _ in self.net.named_children() if name != "fc"} | {"fc": "head"}

    def without_input_transform(self) -> Classifier:
        """As torchvision builds it where no weights are named: what PPA's attack code loads trained weights into."""
        self.net.transform_input = False
        return self

    def body(self, images: Tensor) -> dict[str, Tensor]:
        out = self.net(self.colour(images))
        return {"aux": out.aux_logits, "features": out.logits} if self.training else {"features": out}
