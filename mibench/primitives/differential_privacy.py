"""What differentially private training needs of a network: no layer that mixes the images of a batch, and each image's
own gradient."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


def without_batch_norm(net: nn.Module, groups: int) -> None:
    """Replace every BatchNorm in ``net`` by a GroupNorm of gcd(``groups``, width) groups."""
    for name, module in list(net.named_children()):
        if isinstance(module, BatchNorm):
            width = module.num_features
            setattr(net, name, nn.GroupNorm(math.gcd(groups, width), width, module.eps, module.affine))
        else:
            without_batch_norm(module, groups)


def not_in_place(net: nn.Module) -> None:
    """Let no layer overwrite its input, which backward hooks forbid."""
    for module in net.modules():
        if getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010  (a layer's type does not say that it has one)


def batch_norm_gradients(layer: nn.Module, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """What each image adds to the gradients of a BatchNorm's gain and bias, as a rule for Opacus, which has none
    because there is no guarantee with batch norm. ``backprops`` (N, C, ...) -> (N, C) each."""
    assert isinstance(layer, BatchNorm)
    standardised = functional.batch_norm(activations[0], None, None, training=True, eps=layer.eps)
    gain, bias = (value.reshape(*value.shape[:2], -1).sum(2) for value in (backprops * standardised, backprops))
    return {layer.weight: gain, layer.bias: bias}
