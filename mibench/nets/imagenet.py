"""torchvision's EfficientNets and DenseNets as classifiers: students, surrogates, pretrained on ImageNet or not.

They take pixels in [0, 1] as they are, of 32 or 64 pixels (any multiple of 32), in one or three channels; grey is
repeated to three. ``backbone`` is everything but the head, under torchvision's names: it loads torchvision's own
checkpoint files with ``mibench.nets.published.load_published``, or ``ctx.load_weights(net.backbone, id)``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

import torchvision
from torch import Tensor, nn

from mibench.errors import UserError
from mibench.nets.base import Classifier


class Colour(nn.Module):
    """(N, 1 or 3, H, W) -> (N, 3, H, W)."""

    def forward(self, images: Tensor) -> Tensor:
        return images.expand(-1, 3, -1, -1)


class Backbone(nn.Module):
    """A torchvision network's ``features``. The published head, for 1000 classes, is left aside when loading."""

    published_unused: ClassVar[tuple[str, ...]] = ("classifier",)

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        self.features = features

    @property
    def published_names(self) -> dict[str, str]:
        """torchvision's DenseNet files are older than its code: they say ``norm.1`` where the code says ``norm1``."""
        ours = {name.rpartition(".")[0] for name in self.state_dict()}
        return {re.sub(r"(denselayer\d+\.\w+)(\d)$", r"\1.\2", name): name for name in ours if "denselayer" in name}


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
        whole = getattr(torchvision.models, self.arch)(weights=None)
        width = whole.get_submodule(self.classifier).in_features
        self.backbone = Backbone(whole.features)
        self.colour = Colour()
        pool = [nn.AdaptiveAvgPool2d(1)] if self.pooled else []
        self.pool = nn.Sequential(*(part() for part in self.tail), *pool, nn.Flatten())
        self.feature_dim = width * (1 if self.pooled else (resolution // 32) ** 2)
        self.head: nn.Module = nn.Linear(self.feature_dim, num_classes)

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

    arch, classifier = "densenet121", "classifier"
    tail: ClassVar[tuple[type[nn.Module], ...]] = (nn.ReLU,)

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        """Cut after ``pool0`` and after each transition."""
        start, stage = 0, 0
        names = [name for name, _ in self.backbone.features.named_children()]
        for end, name in enumerate(names, start=1):
            if name == "pool0" or name.startswith("transition") or end == len(names):
                yield f"stage{stage}" if stage else "stem", self.backbone.features[start:end]
                start, stage = end, stage + 1


class DenseNet161(DenseNet121):
    """2208 features."""

    arch = "densenet161"


class DenseNet169(DenseNet121):
    """1664 features."""

    arch = "densenet169"


class DenseNet121Flat(DenseNet121):
    """The last feature map flattened, without pooling and without the ReLU before it: 4096 features at 64 pixels."""

    tail, pooled = (), False


class DenseNet161Flat(DenseNet121Flat):
    """8832 features at 64 pixels."""

    arch = "densenet161"


class DenseNet169Flat(DenseNet121Flat):
    """6656 features at 64 pixels."""

    arch = "densenet169"
