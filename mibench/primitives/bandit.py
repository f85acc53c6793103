"""Soft actor-critic for one-step episodes, N agents at once (Haarnoja et al., "Soft Actor-Critic Algorithms and
Applications", 2018).

An episode is a state s, an action a = tanh(mu(s) + sigma(s) e) in (-1, 1)^d and a reward r, and it ends there: a
contextual bandit. The critics' target is r itself, so there are no target networks and no discount. Agents are stacked
in batched matrix products and never meet: stacked or one by one, each learns the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from mibench.random import Rng

LOG_SIGMA = (-20.0, 2.0)
CRITIC_START = 3e-3  # bound of the last layer's initial weights


class Perceptrons(nn.Module):
    """N multilayer perceptrons with ReLU, (N, B, in) -> (N, B, out). Weights (N, in, out) and biases (N, 1, out)
    start uniform within 1 / sqrt(in), as nn.Linear does; with ``last``, those of the last layer within that."""

    def __init__(self, rng: Rng, agents: int, sizes: Sequence[int], last: float | None = None) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for index, (inputs, outputs) in enumerate(pairwise(sizes)):
            bound = last if last is not None and index + 2 == len(sizes) else 1 / math.sqrt(inputs)
            start = bound * (2 * rng.uniform(agents, inputs + 1, outputs) - 1)
            self.weights.append(nn.Parameter(start[:, :-1].contiguous()))
            self.biases.append(nn.Parameter(start[:, -1:].contiguous()))

    def forward(self, x: Tensor) -> Tensor:
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x.relu() if index else x, weight)
        return x


class Replay:
    """The last ``capacity`` episodes (s, a, r) of N agents; ``last`` so many are held."""

    def __init__(self, agents: int, dim: int, capacity: int, device: torch.device | str) -> None:
        self.states = torch.empty(agents, capacity, dim, device=device)
        self.actions = torch.empty_like(self.states)
        self.rewards = torch.empty(agents, capacity, device=device)
        self.seen = 0

    def __len__(self) -> int:
        return min(self.seen, self.rewards.shape[1])

    def add(self, s: Tensor, a: Tensor, r: Tensor) -> None:
        """One episode of each agent: s, a (N, d) and r (N,)."""
        place = self.seen % self.rewards.shape[1]
        self.states[:, place], self.actions[:, place], self.rewards[:, place] = s, a, r
        self.seen += 1

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """s, a (N, B, d) and r (N, B) of the episodes that the uniform numbers u (N, B) pick, with replacement."""
        index = (u * len(self)).long().clamp(max=len(self) - 1)
        wide = index[..., None].expand(-1, -1, self.states.shape[2])
        return self.states.gather(1, wide), self.actions.gather(1, wide), self.rewards.gather(1, index)


class Agents(nn.Module):
    """N agents with states and actions in R^d: actor d-h-h-2d, critics Q1 and Q2 2d-h-h-1, temperature tau, 1 at the
    start, each with its own Adam. Critics start near 0 (``CRITIC_START``), the actor like any network."""

    def __init__(self, rng: Rng, agents: int, dim: int, hidden: int, lr: float, target_entropy: float) -> None:
        super().__init__()
        self.actor = Perceptrons(rng, agents, [dim, hidden, hidden, 2 * dim])
        self.q1 = Perceptrons(rng, agents, [2 * dim, hidden, hidden, 1], CRITIC_START)
        self.q2 = Perceptrons(rng, agents, [2 * dim, hidden, hidden, 1], CRITIC_START)
        self.log_tau = nn.Parameter(self.actor.biases[0].new_zeros(agents))
        self.target_entropy = target_entropy
        self._critics = torch.optim.Adam([*self.q1.parameters(), *self.q2.parameters()], lr=lr)
        self._tau = torch.optim.Adam([self.log_tau], lr=lr)
        self._actor = torch.optim.Adam(self.actor.parameters(), lr=lr)

    def act(self, s: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """Actions a = tanh(u), u = mu + sigma e, (N, B, d) for states (N, B, d) and noise e that broadcasts to them;
        log pi(a | s) (N, B), the mean and not the sum over dimensions of log N(u; mu, sigma^2) - log(1 - a^2 + 1e-6).
        """
        mu, log_sigma = self.actor(s).chunk(2, -1)
        log_sigma = log_sigma.clamp(*LOG_SIGMA)
        a = torch.tanh(mu + log_sigma.exp() * e)
        log_gauss = -0.5 * e.square() - log_sigma - 0.5 * math.log(2 * math.pi)
        return a, (log_gauss - torch.log(1 - a.square() + 1e-6)).mean(-1)

    def learn(self, s: Tensor, a: Tensor, r: Tensor, e: Tensor) -> None:
        """One update on episodes s, a (N, B, d) and r (N, B): critics, temperature, actor, whose new actions use the
        noise e and whose loss the temperature before its update. Means over an agent's batch, sums over agents."""
        sa = torch.cat([s, a], -1)
        errors = (self.q1(sa)[..., 0] - r).square() / 2 + (self.q2(sa)[..., 0] - r).square() / 2
        descend_alone(self._critics, errors)
        action, log_pi = self.act(s, e)
        tau = self.log_tau.detach().exp()[:, None]
        descend_alone(self._tau, -self.log_tau[:, None] * (log_pi.detach() + self.target_entropy))
        descend_alone(self._actor, tau * log_pi - self.q1(torch.cat([s, action], -1))[..., 0])


def descend_alone(optimiser: torch.optim.Optimizer, losses: Tensor) -> None:
    """One step on losses (N, B), each agent's mean; no other network behind them gets a gradient."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for p, gradient in zip(parameters, torch.autograd.grad(losses.mean(1).sum(), parameters), strict=True):
        p.grad = gradient
    optimiser.step()
