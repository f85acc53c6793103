"""MID: a variational information bottleneck before the classifier (Wang et al., AAAI 2021)."""

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mibench.contracts import Batch, Classifier, Defense, DefenseParams, Output, Progress, Rng, Stream
from mibench.primitives.samplers import identity_balanced


def information(mu: Tensor, std: Tensor) -> Tensor:
    """KL(N(mu, std^2) || N(0, 1)), summed over dimensions, mean over the batch. (N, k) each; a scalar, in nats."""
    return -0.5 * (1 + 2 * std.log() - mu.square() - std.square()).sum(1).mean()


class Bottleneck(nn.Module):
    """s = Linear(F, 2k)(f), mu = s[:k], std = softplus(s[k:] - 5), z = mu + std eps, logits = Linear(k, K)(z).

    k = F // 2. z is sampled at inference too, as released, unless ``mean_only``.
    """

    def __init__(self, features: int, classes: int, mean_only: bool) -> None:
        super().__init__()
        self.k = features // 2
        self.statistics = nn.Linear(features, 2 * self.k)
        self.classify = nn.Linear(self.k, classes)
        self.mean_only = mean_only

    def sample(self, features: Tensor, rng: Rng | None) -> tuple[Tensor, dict[str, Tensor]]:
        s = self.statistics(features)
        mu, std = s[:, : self.k], functional.softplus(s[:, self.k :] - 5)
        if self.mean_only and not self.training:
            return self.classify(mu), {"mu": mu, "std": std}
        eps = torch.randn_like(mu) if rng is None else rng.normal(*mu.shape)
        return self.classify(mu + std * eps), {"mu": mu, "std": std}


class Mid(Defense):
    """L = CE + beta I(features; z)."""

    deviations = (
        "The released classes for IR networks end in a softmax before cross-entropy; here they give logits.",
        "Which epoch is kept is the track's choice; the released script keeps the best one on the test images.",
        "With per_identity an epoch has as many batches as a shuffled one; the released sampler's has fewer, by the "
        "images that fill no group.",
    )

    class Params(DefenseParams):
        beta: float = Field(0.003, ge=0, description="weight of the information term, at least 0")
        mean_only: bool = Field(False, description="no noise at inference")
        per_identity: int | None = Field(
            None, ge=2, description="images of one identity per batch, as where BiDO's code trains it; None: any"
        )

    def build(self, net: Classifier) -> Classifier:
        net = net.without_feature_norm()
        net.head = Bottleneck(net.feature_dim, self.track.num_classes, self.params.mean_only)
        return net

    def sampler(self, labels: Tensor, batch: int, rng: Stream) -> Iterator[Tensor] | None:
        return identity_balanced(labels, batch, self.params.per_identity, rng) if self.params.per_identity else None

    def loss(self, batch: Batch, output: Output, progress: Progress) -> Tensor:
        cross_entropy = functional.cross_entropy(output.logits, batch.labels)
        return cross_entropy + self.params.beta * information(output.hidden["mu"], output.hidden["std"])
