"""How networks lie in memory, and what is done once to one that no longer trains. A stage that asks a network a
thousand times asks it through ``frozen``; one that trains a network trains it ``laid_out``. Both compute the same
functions in float32 and round otherwise than a network as it was built."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.nn.utils.parametrize import is_parametrized

Net = TypeVar("Net", bound=nn.Module)
OWN = ("mibench.nets.", "mibench.primitives.")
LAYERS = (*OWN, "torch.nn.", "torchvision.")  # they ask nothing of the layout of a hidden tensor, as ``view`` does


def frozen(net: Net) -> Net:
    """``net`` for inference, in place: eval mode, no gradients of weights, batch norm folded into the convolution or
    linear layer before it, laid out. What trains it further must take it before that."""
    net.eval().requires_grad_(False)
    _fold(net)
    return laid_out(net)


def laid_out(net: Net) -> Net:
    """``net`` with the weights of its convolutions in channels-last order where it is on a CPU, in place: there the
    kernels take 0.55 to 0.75 of the time. Networks of others are left as they are: their code may not stand it."""
    for part in net.modules():
        if type(part).__module__.startswith(OWN):
            for layer in _reach(part):
                for weight in layer.parameters(recurse=False):
                    if weight.ndim == 4 and weight.device.type == "cpu":
                        weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return net


def _reach(part: nn.Module) -> Iterator[nn.Module]:
    """``part`` and the layers in it, but no sequence that hands a hidden tensor to somebody's module."""
    yield part
    for child in part.children():
        inside = child.modules() if isinstance(child, nn.Sequential) else [child]
        if all(type(layer).__module__.startswith(LAYERS) for layer in inside):
            yield from _reach(child)


def _fold(net: nn.Module) -> None:
    """Batch norm that follows a layer in a plain sequence becomes part of it (Jacob et al., CVPR 2018, section 3.2)."""
    places: dict[nn.Module, set[nn.Module]] = defaultdict(set)
    for part in net.modules():
        for child in part.children():
            places[child].add(part)
    for sequence in [part for part in net.modules() if type(part) is nn.Sequential]:
        for index, (layer, norm) in enumerate(pairwise(list(sequence))):
            if len(places[layer]) > 1 or _watched(layer) or not _is_fixed(norm) or _watched(norm):
                continue
            if type(layer) is nn.Linear and type(norm) is nn.BatchNorm1d:
                sequence[index] = fuse_linear_bn_eval(layer, norm)
            elif type(layer) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
                sequence[index] = fuse_conv_bn_eval(layer, norm)
            elif type(layer) is nn.ConvTranspose2d and type(norm) is nn.BatchNorm2d:
                sequence[index] = fuse_conv_bn_eval(layer, norm, transpose=True)
            else:
                continue
            sequence[index + 1] = nn.Identity()


def _is_fixed(norm: nn.Module) -> bool:
    return isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) and norm.running_mean is not None and not norm.training


def _watched(layer: nn.Module) -> bool:
    """Whether somebody's hook or reparametrisation hangs on it."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks) or is_parametrized(layer)
