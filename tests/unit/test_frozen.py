"""Networks prepared once: the same functions, whoever built them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from mibench.nets import build_classifier
from mibench.nets.base import Classifier, Output
from mibench.nets.frozen import frozen, laid_out
from mibench.nets.gan import DcganGenerator, GmiCritic, GmiGenerator, KedmiDiscriminator
from mibench.nets.generator import Generator, Plain

NETS = {
    "convnet": lambda: build_classifier("convnet", 5, 1, 32, None),
    "small_resnet": lambda: build_classifier("small_resnet", 5, 1, 32, None),
    "vgg16": lambda: build_classifier("vgg16", 5, 3, 64, None),
    "gmi generator": lambda: GmiGenerator(32, 1, 8),
    "dcgan generator": lambda: DcganGenerator(32, 1, 8),
    "gmi critic": lambda: GmiCritic(32, 1, 8),
    "kedmi discriminator": lambda: KedmiDiscriminator(5, 32, 1, 8, (4, 3)),
}


def _lived_in(net: nn.Module) -> nn.Module:
    """With batch norm that has seen data, so that folding it does something."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return net.eval().requires_grad_(False)


def _asked(net: nn.Module, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """What ``net`` says, and the gradient of one combination of it."""
    x = x.clone().requires_grad_()
    out = net(x)
    if isinstance(out, Output):
        said = [out.logits, out.features, *out.hidden.values()]
    else:
        said = [part for part in out if isinstance(part, Tensor)] if isinstance(out, tuple) else [out]
    (slope,) = torch.autograd.grad(said[0].square().sum(), x)
    return [part.detach() for part in said], slope


@pytest.mark.parametrize("name", NETS)
def test_a_frozen_network_computes_the_same_function(name: str) -> None:
    torch.manual_seed(0)
    net = _lived_in(NETS[name]()).double()
    size = (
        (6, net.latent_dim)
        if isinstance(net, Generator)
        else (6, 3 if name == "vgg16" else 1, *[64 if name == "vgg16" else 32] * 2)
    )
    x = torch.rand(*size, dtype=torch.float64)
    said, slope = _asked(net, x)
    ready = frozen(copy.deepcopy(net))
    again, slope_again = _asked(ready, x)
    for before, after in zip(said, again, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(slope_again, slope, rtol=1e-9, atol=1e-9)
    assert not ready.training and not any(p.requires_grad for p in ready.parameters())
    norms = [m for m in ready.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    folded = [m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) < len(folded) or not folded
    wide = [p for p in ready.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert wide and all(p.is_contiguous(memory_format=torch.channels_last) for p in wide)


def test_inner_levels_of_a_generator_are_folded_too() -> None:
    torch.manual_seed(0)
    net = _lived_in(DcganGenerator(32, 1, 8)).double()
    ready = frozen(copy.deepcopy(net))
    w = net.map(torch.randn(3, net.latent_dim, dtype=torch.float64))
    h, ready_h = net.block(0, w, None), ready.block(0, w, None)
    torch.testing.assert_close(ready_h, h)
    torch.testing.assert_close(ready.synthesis(w, 1, ready_h), net.synthesis(w, 1, h))


class _Views(nn.Module):
    """Somebody's layer, which takes it for granted how a tensor lies in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)


class _Theirs(Classifier):
    """A plugin's classifier, of the same habit."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head, self.feature_dim = (
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.Linear(144, 2),
            144,
        )

    def forward(self, images: Tensor, rng: object = None) -> Output:
        features = self.norm(self.conv(images)).view(len(images), -1)
        return Output(self.head(features), features, {})


def test_networks_of_others_keep_their_layout() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 8, 8)
    theirs = frozen(_lived_in(_Theirs()))
    theirs(x)
    body = Plain(nn.Sequential(nn.Unflatten(1, (3, 4, 4)), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), _Views()), 48)
    frozen(_lived_in(body))(torch.rand(2, 48))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in body.modules())  # folding asks nothing of anybody


def test_what_somebody_else_relies_on_is_not_folded() -> None:
    shared = nn.Conv2d(1, 2, 3)
    twice = nn.ModuleList([nn.Sequential(shared, nn.BatchNorm2d(2)), nn.Sequential(shared, nn.ReLU())])
    watched = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    seen: list[Tensor] = []
    watched[1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    normed = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 2, 3)), nn.BatchNorm2d(2))
    batch = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False))
    frozen(nn.ModuleList([twice, watched, normed, batch]))
    for sequence in (twice[0], watched, normed, batch):
        assert isinstance(sequence[1], nn.BatchNorm2d)  # type: ignore[index]
    watched(torch.rand(1, 1, 4, 4))
    assert len(seen) == 1


def test_a_network_trains_on_as_it_was_built_in_another_layout() -> None:
    net = build_classifier("convnet", 5, 1, 32, None).double()
    other = laid_out(copy.deepcopy(net))
    x, y = torch.rand(4, 1, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    for each in (net, other):
        torch.nn.functional.cross_entropy(each(x).logits, y).backward()
    for (name, p), q in zip(net.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-9, atol=1e-9, msg=name)
