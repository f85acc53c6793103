"""LoFt: a head of low rank (Yu et al., "Rank Matters: Understanding and Defending Model Inversion Attacks via Low-Rank
Feature Filtering", arXiv 2410.05814, 2024), and the confidence adaptation of its first version, CALoR."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mibench.contracts import (
    Batch,
    Classifier,
    Defense,
    DefenseParams,
    LoopHooks,
    Output,
    Progress,
    Recipe,
    Stream,
    TrainContext,
)
from mibench.primitives.training import mixed

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "none": nn.Identity,
}


def low_rank_head(features: int, rank: int, classes: int, activation: str = "tanh") -> nn.Sequential:
    """f -> W_2 act(W_1 BN(f) + b_1) + b_2, W_1 (r, F), W_2 (K, r): logits less b_2 have rank at most r."""
    return nn.Sequential(
        nn.BatchNorm1d(features), nn.Linear(features, rank), ACTIVATIONS[activation](), nn.Linear(rank, classes)
    )


def confidence_loss(logits: Tensor, labels: Tensor, gamma: float, alpha: float) -> Tensor:
    """alpha mean p_y^gamma log p_y, a scalar: least at p_y = exp(-1 / gamma), flat where p_y is near 0."""
    log_p = logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
    return alpha * (torch.exp(gamma * log_p) * log_p).mean()


class LoFt(Defense):
    """Plain training with a head of rank r in place of the last layer; ``confidence``: then a few epochs more with
    ``confidence_loss`` alone. Attacks see the head's input as features."""

    deviations = (
        "The recipe and the weights to start from are the track's, not a face network's published ones.",
        "The rank is a parameter; the paper's rule for other numbers of classes was not available.",
        "The confidence adaptation uses the recipe's batch size.",
    )

    class Params(DefenseParams):
        rank: int = Field(50, ge=1, description="r, at least 1")
        activation: Literal["tanh", "sigmoid", "relu", "relu6", "leaky_relu", "none"] = "tanh"
        confidence: bool = Field(False, description="adapt the confidence afterwards (CALoR)")
        gamma: float = Field(8.0, gt=0, description="of the adaptation: confidence moves to exp(-1 / gamma)")
        alpha: float = Field(0.25, gt=0, description="weight of the adaptation's loss")
        confidence_epochs: int = Field(5, ge=1)
        confidence_lr: float = Field(
            2e-5, gt=0, description="of SGD; a tenth after 3/5 and again after 4/5 of the epochs"
        )

    def build(self, net: Classifier) -> Classifier:
        net.head = low_rank_head(net.feature_dim, self.params.rank, self.track.num_classes, self.params.activation)
        return net

    def train(self, ctx: TrainContext) -> Classifier:
        net = ctx.default_train()
        if not self.params.confidence:
            return net
        return ctx.default_train(self.adaptation(ctx.recipe), LoopHooks(objective=self.objective), "confidence")

    def adaptation(self, recipe: Recipe) -> Recipe:
        """SGD with momentum 0.9, mirror images as the only augmentation."""
        epochs = self.params.confidence_epochs
        milestones = sorted({max(1, 3 * epochs // 5), max(1, 4 * epochs // 5)})
        off = {"shift": 0.0, "rotate": 0.0, "scale": 0.0, "light": 0.0, "crop": None, "jitter": None}
        sgd = {"optimiser": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 0.0, "select": "last"}
        steps = {"schedule": "steps", "milestones": milestones, "gamma": 0.1}
        return recipe.changed(off | sgd | steps | {"epochs": epochs, "lr": self.params.confidence_lr})

    def objective(self, net: Classifier, batch: Batch, rng: Stream, progress: Progress) -> Tensor:
        def loss(batch: Batch, output: Output, progress: Progress) -> Tensor:
            return confidence_loss(output.logits, batch.labels, self.params.gamma, self.params.alpha)

        return mixed(loss, batch, net(batch.images, rng), progress)
