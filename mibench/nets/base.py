"""What every classifier here looks like: a body that yields named hidden tensors, features, and a linear head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mibench.random import Rng


class Output(NamedTuple):
    """What a classifier returns.

    logits: (N, K). features: (N, F), the input of the head. hidden: tensors by name, in order of depth: what a
    defense may regularise (BiDO) and what a stochastic head adds (MID's ``mu`` and ``std``).
    """

    logits: Tensor
    features: Tensor
    hidden: dict[str, Tensor]


@runtime_checkable
class StochasticHead(Protocol):
    """A head that draws noise, in training and at inference: it returns logits and further named tensors."""

    def sample(self, features: Tensor, rng: Rng | None) -> tuple[Tensor, dict[str, Tensor]]: ...


class Classifier(nn.Module):
    """Base of targets and evaluators. Images are (N, C, H, W) float in [0, 1]; any normalisation is inside.

    A subclass sets ``head`` and implements ``stages``; its stages are what a transfer defense freezes and, unless
    ``taps`` names some, what a dependency defense regularises. ``normalisation``: mean and std of the input.
    """

    taps: ClassVar[tuple[str, ...] | None] = None
    shortcuts: ClassVar[bool] = False  # whether ``scale_shortcuts`` works

    head: nn.Module
    feature_dim: int
    normalisation: tuple[float, float] | None = None
    _statistics_frozen: tuple[nn.Module, ...] = ()

    def freeze(self, count: int, statistics: bool = False) -> None:
        """Stop training the first ``count`` stages. Their batch norm keeps adapting to the data it sees unless
        ``statistics`` freezes that too. Raises ValueError if there are not that many stages before the features."""
        stages = [stage for name, stage in self.stages() if name != "features"]
        if not 0 <= count <= len(stages):
            raise ValueError(f"{type(self).__name__} has {len(stages)} stages; {count} cannot be frozen")
        for stage in stages[:count]:
            stage.requires_grad_(False)
        if statistics:
            self._statistics_frozen = tuple(stages[:count])

    def transfer_frozen(self, stem: bool = True) -> list[nn.Module]:
        """The parts that TL-DMI freezes in this architecture (Ho et al., CVPR 2024). Without ``stem`` an IR network's
        first layer is not among them. Raises NotImplementedError where the paper has no rule for it."""
        raise NotImplementedError(f"TL-DMI has no rule for {type(self).__name__}")

    def freeze_for_transfer(self, statistics: bool = False, stem: bool = True) -> None:
        """Stop training the parts that TL-DMI freezes; see ``freeze`` and ``transfer_frozen``."""
        parts = self.transfer_frozen(stem)
        for part in parts:
            part.requires_grad_(False)
        if statistics:
            self._statistics_frozen = tuple(parts)

    def without_feature_norm(self) -> Classifier:
        """This network with features as a bottleneck takes them: without a batch norm that only serves the head."""
        return self

    def scale_shortcuts(self, factor: float) -> Classifier:
        """This network with the shortcuts of its last stage multiplied by ``factor``; 0 removes them."""
        raise NotImplementedError(f"{type(self).__name__} has no shortcuts")

    def without_input_transform(self) -> Classifier:
        """This network without the step from one normalisation to another that it was trained with. Raises
        NotImplementedError where there is none."""
        raise NotImplementedError(f"{type(self).__name__} does not transform its input")

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        for stage in self._statistics_frozen:
            stage.eval()
        return self

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        """The parts of the body from the image to the features, in order, by name. Each is applied to the last."""
        raise NotImplementedError(f"{type(self).__name__} must implement stages()")

    def body(self, images: Tensor) -> dict[str, Tensor]:
        """Every stage's output by name; the last one holds the (N, F) features."""
        hidden: dict[str, Tensor] = {}
        x = images
        for name, stage in self.stages():
            x = stage(x)
            hidden[name] = x
        return hidden

    def forward(self, images: Tensor, rng: Rng | None = None) -> Output:
        """``rng`` feeds a stochastic head; deterministic classifiers ignore it."""
        if self.normalisation is not None:
            mean, std = self.normalisation
            images = (images - mean) / std
        hidden = self.body(images)
        features = next(reversed(hidden.values()))
        if self.taps is not None:
            hidden = {name: hidden[name] for name in self.taps}
        if isinstance(self.head, StochasticHead):
            logits, extra = self.head.sample(features, rng)
            return Output(logits, features, hidden | extra)
        return Output(self.head(features), features, hidden)


@torch.no_grad()
def parameter_count(net: nn.Module, trainable: bool = False) -> int:
    """Number of scalars in the parameters; only those that train if ``trainable``."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad or not trainable)
