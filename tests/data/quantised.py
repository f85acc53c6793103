"""A made-up defense that hides gradients and protects nobody: it rounds the logits that it serves."""

import torch
from pydantic import Field
from torch import Tensor, nn

from mibench.contracts import Classifier, Defense, DefenseParams


class Rounded(nn.Module):
    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step

    def forward(self, logits: Tensor) -> Tensor:
        return torch.round(logits / self.step) * self.step


class Quantised(Defense):
    class Params(DefenseParams):
        step: float = Field(0.5, gt=0, description="distance between two logits that it can serve")

    def deploy(self, net: Classifier) -> Classifier:
        net.head = nn.Sequential(net.head, Rounded(self.params.step))
        return net
