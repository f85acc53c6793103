"""Exponential moving averages of weights."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def weight_average(net: nn.Module, decay: float) -> AveragedModel:
    """The running average of ``net``'s parameters and buffers; with ``decay`` 0 it is ``net`` after its last update."""
    return AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
