"""The views of a generator agree: z -> image, z -> w -> image, and block by block."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mibench.contracts import PriorModel
from mibench.nets.gan import DcganGenerator, GmiGenerator
from mibench.nets.generator import Generator, Plain
from mibench.random import Stream

GENERATORS = {
    "gmi": lambda: GmiGenerator(32, 1, 4, 12),
    "gmi64": lambda: GmiGenerator(64, 3, 2, 12),
    "dcgan": lambda: DcganGenerator(32, 1, 4, 12),
    "dcgan-tanh": lambda: DcganGenerator(64, 3, 2, 12, output="tanh"),
    "plain": lambda: Plain(nn.Sequential(nn.Linear(12, 16), nn.Unflatten(1, (1, 4, 4))), 12),
}
every_generator = pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)


def latents(n: int = 5) -> Tensor:
    return Stream(0).normal(n, 12)


@every_generator
def test_blocks_chained_are_the_whole(make: type[Generator]) -> None:
    torch.manual_seed(0)
    net = make().eval()
    z = latents()
    w = net.map(z)
    assert w.shape == (5, net.num_ws, net.w_dim)
    image = net(z)
    assert torch.equal(net.synthesis(w), image)
    features = None
    for index in range(net.blocks - 1):
        features = net.block(index, w, features)
        assert torch.allclose(net.synthesis(w, index + 1, features), image, atol=1e-6)


@every_generator
def test_truncation_draws_towards_the_mean(make: type[Generator]) -> None:
    net = make().eval()
    assert torch.equal(net.map(latents(), 0.5), 0.5 * net.map(latents()))


@every_generator
@pytest.mark.parametrize("shape", [(5, 11), (5, 13), (12,), (5, 1, 12)], ids=str)
def test_latents_that_do_not_fit_are_named(make: type[Generator], shape: tuple[int, ...]) -> None:
    net = make().eval()
    with pytest.raises(ValueError, match=r"takes latents \(N, 12\)"):
        net(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"takes latents \(N, 12\)"):
        net.map(torch.zeros(shape))


def test_any_module_becomes_a_generator() -> None:
    class Own(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.sigmoid(z)[:, None, None]

    model = PriorModel(Own(), 12)
    assert isinstance(model.generator, Generator) and model.generator.latent_dim == 12
    assert torch.equal(model(latents()), model.generator.synthesis(model.generator.map(latents())))


def test_a_generator_of_another_latent_size_is_refused() -> None:
    with pytest.raises(ValueError, match="takes latents of 12 numbers, not 100"):
        PriorModel(GmiGenerator(32, 1, 4, 12), 100)
