"""The device that nobody has behaves as one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from elsewhere import DEVICE, Elsewhere
from torch import Tensor, nn


def test_what_is_there_stays_there_and_computes() -> None:
    with Elsewhere():
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)).to(DEVICE)
        x = torch.rand(3, 1, 4, 4).to(DEVICE).requires_grad_()
        y = torch.zeros(len(x), dtype=torch.long, device=x.device)
        loss = nn.functional.cross_entropy(net(x), y)
        (slope,) = torch.autograd.grad(loss, x)
        assert slope.shape == x.shape and bool((slope != 0).any())
        adam = torch.optim.Adam(net.parameters(), 0.1)
        nn.functional.cross_entropy(net(x), y).backward()
        adam.step()
        assert all(p.device == DEVICE for p in net.parameters()) and x[1:].device == DEVICE
        assert x.detach().cpu().device.type == "cpu" and float(loss) > 0
        assert x[torch.tensor([0, 2])].device == DEVICE  # an index may stay


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x + torch.zeros(3),
        lambda x: torch.cat([x, torch.zeros(1)]),
        lambda x: torch.where(torch.tensor([True, False, True]), x, x),
        lambda x: nn.Linear(3, 1)(x),
        lambda x: torch.zeros(3)[torch.ones(1, dtype=torch.long, device=x.device)],
        lambda x: torch.randn(3, generator=torch.Generator(), device=x.device),
        lambda x: x.numpy(),
        lambda x: x.gather(0, torch.zeros(1, dtype=torch.long)),
    ],
)
def test_what_was_not_moved_is_noticed(wrong: Callable[[Tensor], object]) -> None:
    with Elsewhere():
        x = torch.rand(3, device=DEVICE)
        assert (x + 1).device == DEVICE and (x + torch.tensor(2.0)).device == DEVICE
        with pytest.raises((RuntimeError, TypeError)):
            wrong(x)
