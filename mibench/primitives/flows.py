"""Stacked densities over latents: S independent normalising flows or Gaussians, one per (row, layer), computed at once
by batched matrix products. No density meets another: stacked or one by one, each gives the same numbers.

Points are (S, B, d), B per density. ``sample`` maps base noise, N(0, I) in R^d, to points and their log-density. The
first ``shared`` numbers of a base vector are those that the layers of one row have in common.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from mibench.errors import StageFailed
from mibench.random import Rng


def log_normal(x: Tensor) -> Tensor:
    """log N(x; 0, I). (..., d) -> (...)."""
    return -0.5 * (x.square() + math.log(2 * math.pi)).sum(-1)


def layered_noise(rng: Rng, rows: int, layers: int, batch: int, dim: int, shared: int) -> Tensor:
    """Base noise (rows * layers, B, d): the first ``shared`` numbers common to a row's layers, the others each
    layer's own."""
    common = rng.normal(rows, 1, batch, shared).expand(-1, layers, -1, -1)
    return torch.cat([common, rng.normal(rows, layers, batch, dim - shared)], -1).flatten(0, 1)


class Density(nn.Module):
    """S densities q over R^d."""

    dim: int
    shared: int

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Points z (S, B, d) for base noise (S, B, d), and log q(z) (S, B)."""
        raise NotImplementedError

    def kl(self, noise: Tensor) -> Tensor:
        """(S,) KL(q || N(0, I)) in nats: the mean of log q(z) - log N(z) over the points z of ``noise``."""
        z, log_q = self.sample(noise)
        return (log_q - log_normal(z)).mean(1)

    def exact_kl(self) -> Tensor:
        """(S,) the same in closed form, where there is one."""
        raise NotImplementedError(f"{type(self).__name__} has no closed form")


class Gaussians(Density):
    """N(mu, L L^T), L lower triangular, or diagonal, with a positive diagonal; mu = 0 and L = I at the start."""

    def __init__(self, stack: int, dim: int, full: bool, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.dim = self.shared = dim
        self.mu = nn.Parameter(torch.zeros(stack, 1, dim, device=device))
        self.log_diagonal = nn.Parameter(torch.zeros(stack, 1, dim, device=device))
        self.lower = nn.Parameter(torch.zeros(stack, dim, dim, device=device)) if full else None

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        z = self.mu + torch.exp(self.log_diagonal) * noise
        if self.lower is not None:
            z = z + noise @ self.lower.tril(-1).transpose(1, 2)
        return z, log_normal(noise) - self.log_diagonal.sum(-1)

    def exact_kl(self) -> Tensor:
        """(S,) (||L||_F^2 + ||mu||^2 - d) / 2 - sum log L_ii."""
        square = torch.exp(2 * self.log_diagonal).sum((1, 2)) + self.mu.square().sum((1, 2))
        if self.lower is not None:
            square = square + self.lower.tril(-1).square().sum((1, 2))
        return (square - self.dim) / 2 - self.log_diagonal.sum((1, 2))


# --- Glow ----------------------------------------------------------------------------------------------------------


class Linears(nn.Module):
    """S linear layers, (S, B, in) -> (S, B, out): ``weight`` (S, in, out), ``bias`` (S, 1, out), zero at the start."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(weight.new_zeros(len(weight), 1, weight.shape[2]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class ZeroLinears(nn.Module):
    """S linear layers that start at zero, their output times exp(3 s)."""

    def __init__(self, stack: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = Linears(torch.zeros(stack, inputs, outputs))
        self.s = nn.Parameter(torch.zeros(stack, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x) * torch.exp(3 * self.s)
        return out


class ActNorm(nn.Module):
    """y = (x + b) exp(s) per channel; ``fit`` sets b and s so that y has mean 0 and deviation 1. log |det| = sum s."""

    def __init__(self, stack: int, channels: int) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros(stack, 1, channels))
        self.s = nn.Parameter(torch.zeros(stack, 1, channels))

    def fit(self, x: Tensor) -> None:
        self.b.copy_(-x.mean(1, keepdim=True))
        self.s.copy_(-torch.log(x.std(1, correction=0, keepdim=True) + 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.b) * torch.exp(self.s)

    def inverse(self, y: Tensor) -> Tensor:
        return y * torch.exp(-self.s) - self.b


class Translation(nn.Module):
    """The network t of a coupling: two hidden layers, each ActNorm and ELU, and a layer that starts at zero."""

    def __init__(self, rng: Rng, rows: int, layers: int, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()

        def linears(width: int) -> Linears:
            return Linears(0.05 * rng.normal(rows, layers, width, hidden).flatten(0, 1))

        stack = rows * layers
        self.one, self.one_norm = linears(inputs), ActNorm(stack, hidden)
        self.two, self.two_norm = linears(hidden), ActNorm(stack, hidden)
        self.out = ZeroLinears(stack, hidden, outputs)

    def fit(self, a: Tensor) -> None:
        self.one_norm.fit(self.one(a))
        self.two_norm.fit(self.two(functional.elu(self.one_norm(self.one(a)))))

    def forward(self, a: Tensor) -> Tensor:
        h = functional.elu(self.one_norm(self.one(a)))
        out: Tensor = self.out(functional.elu(self.two_norm(self.two(h))))
        return out


class Step(nn.Module):
    """ActNorm, a fixed random permutation of the channels, additive coupling (a, b) -> (a, b + t(a)). Only ActNorm
    has a determinant."""

    order: Tensor
    inverse_order: Tensor

    def __init__(self, rng: Rng, rows: int, layers: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.cut = channels // 2
        self.norm = ActNorm(rows * layers, channels)
        order = rng.uniform(rows, layers, channels).flatten(0, 1).argsort(dim=1, stable=True)
        self.register_buffer("order", order)
        self.register_buffer("inverse_order", order.argsort(dim=1))
        self.t = Translation(rng, rows, layers, self.cut, channels - self.cut, hidden)

    def fit(self, x: Tensor) -> None:
        self.norm.fit(x)
        self.t.fit(permuted(self.norm(x), self.order)[..., : self.cut])

    def forward(self, x: Tensor) -> Tensor:
        a, b = self._halves(permuted(self.norm(x), self.order))
        return torch.cat([a, b + self.t(a)], -1)

    def inverse(self, y: Tensor) -> Tensor:
        a, b = self._halves(y)
        return self.norm.inverse(permuted(torch.cat([a, b - self.t(a)], -1), self.inverse_order))

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[..., : self.cut], x[..., self.cut :]


def permuted(x: Tensor, order: Tensor) -> Tensor:
    """x (S, B, C) with each density's channels in its own order (S, C)."""
    return x.gather(2, order[:, None].expand_as(x))


class Glow(Density):
    """Glow (Kingma & Dhariwal, NeurIPS 2018) on a 1x1 map, where a convolution is a matrix: L levels of K steps. After
    every level but the last, half of the channels (the smaller half of an odd number) leaves and is N(m(h), e^2s(h))
    given the rest h. The channels that stay to the end are the shared part of the base.

    ``rows * layers`` flows, row by row. Weights and permutations come from the rows' own numbers; ActNorms are fitted
    to 100 draws of N(0, I), so that every flow starts close to N(0, I).
    """

    def __init__(
        self, rng: Rng, rows: int, layers: int, dim: int, steps: int = 10, levels: int = 3, hidden: int = 100
    ) -> None:
        super().__init__()
        least = 2 ** (levels - 1) + 1  # leaves two channels to the last coupling
        if dim < least:
            raise StageFailed(f"A flow of {levels} levels needs latents of at least {least} numbers; found {dim}.")
        self.dim = dim
        self.channels = [dim]  # of each level
        for _ in range(levels - 1):
            self.channels.append((self.channels[-1] + 1) // 2)
        self.shared = self.channels[-1]
        self.steps = [[Step(rng, rows, layers, c, hidden) for _ in range(steps)] for c in self.channels]
        self.gone = [c - h for c, h in pairwise(self.channels)]
        self.splits = [
            ZeroLinears(rows * layers, h, 2 * out) for h, out in zip(self.channels[1:], self.gone, strict=True)
        ]
        self.parts = nn.ModuleList([*(step for level in self.steps for step in level), *self.splits])
        data = rng.normal(rows, layers, 100, dim).flatten(0, 1)
        self.to(data.device)
        self._fit(data)

    @torch.no_grad()
    def _fit(self, x: Tensor) -> None:
        for channels, level in zip(self.channels, self.steps, strict=True):
            x = x[..., :channels]
            for step in level:
                step.fit(x)
                x = step(x)

    @property
    def _log_det(self) -> Tensor:
        """(S, 1): log |det| of all ActNorms."""
        return torch.cat([step.norm.s for level in self.steps for step in level], -1).sum(-1)

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        h, *eps = noise.split([self.shared, *reversed(self.gone)], -1)
        log_q = log_normal(noise) + self._log_det
        for index in reversed(range(len(self.steps))):
            if index < len(self.splits):
                m, s = self.splits[index](h).chunk(2, -1)
                h = torch.cat([h, m + torch.exp(s) * eps.pop(0)], -1)
                log_q = log_q - s.sum(-1)
            for step in reversed(self.steps[index]):
                h = step.inverse(h)
        return h, log_q

    def encode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of ``sample``: the base noise (S, B, d) of points z (S, B, d), and log q(z) (S, B)."""
        h, eps, log_q = z, [], self._log_det
        for index, level in enumerate(self.steps):
            for step in level:
                h = step(h)
            if index < len(self.splits):
                h, x = h.split([self.channels[index + 1], self.gone[index]], -1)
                m, s = self.splits[index](h).chunk(2, -1)
                eps.append((x - m) * torch.exp(-s))
                log_q = log_q - s.sum(-1)
        noise = torch.cat([h, *reversed(eps)], -1)
        return noise, log_q + log_normal(noise)
