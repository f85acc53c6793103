"""What metrics are computed from, and how per-image values become a metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mibench.images.pixels import Pixels
from mibench.records import MetricValue
from mibench.stats import bootstrap_interval


@dataclass(frozen=True)
class Judges:
    """What E2 and E3 say of n images: ``cross`` (n, K) logits, ``open_set`` (n, K) similarities, at most 0, or None
    with a ``reason``. E3 verifies a person from the similarity ``threshold`` on."""

    cross: Tensor
    open_set: Tensor | None
    threshold: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Evidence:
    """The reconstructions, what the evaluator says of them, and the private images. No plugin takes part.

    images (n, C, H, W) in [0, 1], read back from PNG. label (n,). selected (n,) bool. logits (n, K) and features
    (n, F) are the evaluator's; initial_logits those of the images before optimisation. private_* are the training
    images of the target with their evaluator features. test_logits and test_labels are the target's own, on the
    sealed test images. judges: the panel's other two; None on a track without one.
    """

    images: Tensor | Pixels
    label: Tensor
    selected: Tensor
    logits: Tensor
    features: Tensor
    initial_logits: Tensor
    private_images: Tensor | Pixels
    private_labels: Tensor
    private_features: Tensor
    test_logits: Tensor
    test_labels: Tensor
    judges: Judges | None = None


def top_k(logits: Tensor, label: Tensor, k: int) -> Tensor:
    """(n,) float: 1 where the label is among the ``k`` largest logits."""
    return (logits.topk(min(k, logits.shape[1]), dim=1).indices == label[:, None]).any(1).float()


def macro(values: Tensor, label: Tensor) -> MetricValue:
    """The mean over identities of their mean, its 95 % bootstrap interval over identities, and the parts."""
    if not len(values):
        return MetricValue(None, reason="there are no images")
    per_identity = {
        str(identity): float(values[label == identity].double().mean()) for identity in label.unique().tolist()
    }
    means: Sequence[float] = list(per_identity.values())
    low, high = bootstrap_interval(means)
    return MetricValue(sum(means) / len(means), len(values), low, high, None, per_identity)


def nearest_private(features: Tensor, label: Tensor, private: Tensor, private_label: Tensor) -> tuple[Tensor, Tensor]:
    """For each image, the squared L2 distance to the nearest private image of its own identity, and its index."""
    distance = torch.cdist(features.double(), private.double()).square()
    distance = distance.masked_fill(label[:, None] != private_label[None], float("inf"))
    best = distance.min(1)
    return best.values.float(), best.indices
