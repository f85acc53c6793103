"""What every hook of a plugin receives."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mibench.contracts.loop import Loop
from mibench.contracts.values import TrackInfo
from mibench.random import Stream


class Context:
    """What every plugin hook receives: the device, random streams, progress and a resumable loop."""

    device: torch.device
    track: TrackInfo

    def stream(self, name: str) -> Stream:
        """A random stream of this stage, the same for the same run seed, whatever the device."""
        raise NotImplementedError

    def load_weights(self, net: nn.Module, weights: str, part: str = "") -> None:
        """Fill ``net`` with a published checkpoint that `mibench import-checkpoint` put into the store under the id
        ``weights``, or with weights of that name that the program carries; of a ``part`` of them alone
        (``generator``). Raises UserError if they are not there or do not fit."""
        raise NotImplementedError

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Loop:
        """Iterate over the steps of a training loop. ``state`` names everything that changes (networks, optimisers,
        streams: anything with ``state_dict``); it is saved now and then, so that a killed stage resumes with the
        same numbers. Report the loss with ``loop.report(loss=...)``: a loss that is not finite fails the stage."""
        raise NotImplementedError
