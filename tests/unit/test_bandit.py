"""The bandit primitive against torch: distributions, nn.Linear with one optimiser each, a reward whose best action is
known; and the rewards and queries of the attack that uses it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from mibench.contracts import AttackContext, Oracle, PriorModel, TrackInfo
from mibench.nets.base import Classifier, Output
from mibench.primitives.bandit import Agents, Perceptrons, Replay
from mibench.random import RowStreams, Stream
from mibench.registry import Registry

DIM, HIDDEN = 3, 8


def streams(*rows: int, purpose: str = "agent") -> RowStreams:
    return RowStreams([(0, row, 0) for row in rows], purpose)


def agents(*rows: int, lr: float = 0.01, dim: int = DIM) -> Agents:
    return Agents(streams(*rows), len(rows), dim, HIDDEN, lr, target_entropy=-dim)


def enlarged(net: Agents) -> Agents:
    """With critics whose last layers are as large as the others, so that states matter."""
    with torch.no_grad():
        for part in (net.q1, net.q2):
            part.weights[-1].mul_(100)
            part.biases[-1].mul_(100)
    return net


# --- networks ------------------------------------------------------------------------------------------------------


class Single(nn.Module):
    """One of the stack's perceptrons from nn.Linear."""

    def __init__(self, stack: Perceptrons, index: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for weight, bias in zip(stack.weights, stack.biases, strict=True):
            layer = nn.Linear(weight.shape[1], weight.shape[2])
            layer.load_state_dict({"weight": weight[index].T, "bias": bias[index, 0]})
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


def test_networks_have_the_published_shape_and_start() -> None:
    net = Agents(streams(0, 1), 2, 100, 256, 5e-4, -100)
    assert [tuple(w.shape) for w in net.actor.weights] == [(2, 100, 256), (2, 256, 256), (2, 256, 200)]
    assert [tuple(w.shape) for w in net.q1.weights] == [(2, 200, 256), (2, 256, 256), (2, 256, 1)]
    for part, inputs, last in ((net.actor, 100, 1 / 16), (net.q1, 200, 3e-3), (net.q2, 200, 3e-3)):
        for index, bound in enumerate([1 / math.sqrt(inputs), 1 / 16, last]):
            for values in (part.weights[index], part.biases[index]):
                assert float(values.detach().abs().max()) <= bound
            assert float(part.weights[index].detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert torch.equal(net.log_tau, torch.zeros(2)), "temperature 1"
    assert not torch.equal(net.q1.weights[0], net.q2.weights[0])
    assert not torch.equal(net.q1.weights[0][0], net.q1.weights[0][1])


def test_the_actor_starts_like_a_network_of_torch() -> None:
    """At random states the means spread by 0.07, as those of untouched nn.Linear layers do; the critics' values stay
    near 0."""
    torch.manual_seed(0)
    layers = [nn.Linear(100, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 200)]
    net, s = Agents(streams(0, 1, 2, 3), 4, 100, 256, 5e-4, -100), Stream(1).normal(4, 500, 100)
    with torch.no_grad():
        mu, theirs = net.actor(s)[..., :100], nn.Sequential(*layers)(s[0])[:, :100]
        values = net.q1(torch.cat([s, s.tanh()], -1))
    assert float(mu.std(1).mean()) == pytest.approx(float(theirs.std(0).mean()), rel=0.1)
    assert float(mu.std(1).mean()) == pytest.approx(0.07, rel=0.05)
    assert float(values.abs().max()) < 0.02


@pytest.mark.parametrize("wide", [False, True], ids=["scalar", "vector"])
def test_log_density_is_that_of_a_squashed_gaussian(wide: bool) -> None:
    """The mean over dimensions of what torch.distributions says of tanh(N(mu, sigma^2))."""
    net = enlarged(agents(0, 1))
    s = Stream(1).normal(2, 5, DIM)
    e = Stream(2).normal(2, 5, DIM) if wide else Stream(2).normal(2, 1, 1)
    a, log_pi = net.act(s, e)
    mu, log_sigma = net.actor(s).chunk(2, -1)
    gauss = torch.distributions.Normal(mu.double(), log_sigma.double().exp())
    u = mu.double() + log_sigma.double().exp() * e.double()
    squashed = torch.distributions.TransformedDistribution(gauss, [torch.distributions.TanhTransform(cache_size=1)])
    torch.testing.assert_close(a.double(), u.tanh(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(log_pi.double(), squashed.log_prob(u.tanh()).mean(-1), rtol=1e-3, atol=1e-4)
    assert float(a.detach().abs().max()) <= 1


def test_scalar_noise_is_one_number_for_all_dimensions() -> None:
    net = enlarged(agents(0))
    s = Stream(1).normal(1, 4, DIM)
    mu, log_sigma = net.actor(s).chunk(2, -1)
    u = torch.atanh(net.act(s, torch.full((1, 1, 1), 0.5))[0])
    torch.testing.assert_close((u - mu) / log_sigma.exp(), torch.full_like(u, 0.5), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("raw", "log_sigma"), [(50.0, 2.0), (-50.0, -20.0)])
def test_log_sigma_is_kept_within_bounds(raw: float, log_sigma: float) -> None:
    net = agents(0)
    with torch.no_grad():
        net.actor.weights[-1].zero_()
        net.actor.biases[-1].zero_()[..., DIM:] = raw
    e = torch.full((1, 1, 1), 0.1)
    a, _ = net.act(torch.zeros(1, 1, DIM), e)
    torch.testing.assert_close(a, torch.full_like(a, math.tanh(0.1 * math.exp(log_sigma))))


# --- learning ------------------------------------------------------------------------------------------------------


def episodes(rows: int, batch: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = Stream(seed)
    s, a = rng.normal(rows, batch, DIM), rng.normal(rows, batch, DIM).tanh()
    return s, a, rng.normal(rows, batch), rng.normal(rows, 1, 1)


def test_updates_are_those_of_single_agents_of_nn_linear() -> None:
    """Five updates; each agent again alone with nn.Linear, four Adams and backward(). As released, the actor's loss
    takes the temperature of before its update."""
    net, lr, target = enlarged(agents(0, 1, lr=0.01)), 0.01, -float(DIM)
    singles: list[dict[str, Any]] = []
    for index in range(2):
        parts: dict[str, Any] = {n: Single(getattr(net, n), index) for n in ("actor", "q1", "q2")}
        parts["log_tau"] = torch.zeros((), requires_grad=True)
        parts["adams"] = [torch.optim.Adam(parts[n].parameters(), lr) for n in ("q1", "q2", "actor")]
        parts["adams"].append(torch.optim.Adam([parts["log_tau"]], lr))
        singles.append(parts)
    for step in range(5):
        s, a, r, e = episodes(2, 6, step)
        net.learn(s, a, r, e)
        for i, one in enumerate(singles):
            opt_q1, opt_q2, opt_actor, opt_tau = one["adams"]
            for q, optimiser in ((one["q1"], opt_q1), (one["q2"], opt_q2)):
                optimiser.zero_grad()
                (0.5 * functional.mse_loss(q(torch.cat([s[i], a[i]], 1))[:, 0], r[i])).backward()
                optimiser.step()
            mu, log_sigma = one["actor"](s[i]).chunk(2, 1)
            u = mu + log_sigma.clamp(-20, 2).exp() * e[i]
            action = u.tanh()
            log_pi = torch.distributions.Normal(mu, log_sigma.clamp(-20, 2).exp()).log_prob(u)
            log_pi = (log_pi - torch.log(1 - action**2 + 1e-6)).mean(1)
            tau = one["log_tau"].detach().exp()
            opt_tau.zero_grad()
            (-(one["log_tau"] * (log_pi.detach() + target))).mean().backward()
            opt_tau.step()
            opt_actor.zero_grad()
            value = one["q1"](torch.cat([s[i], action], 1))[:, 0]
            (tau * log_pi - value).mean().backward()
            opt_actor.step()
    for i, one in enumerate(singles):
        for name in ("actor", "q1", "q2"):
            stack = getattr(net, name)
            for layer, weight, bias in zip(one[name].layers, stack.weights, stack.biases, strict=True):
                torch.testing.assert_close(weight[i].T, layer.weight, rtol=1e-3, atol=2e-5)
                torch.testing.assert_close(bias[i, 0], layer.bias, rtol=1e-3, atol=2e-5)
        torch.testing.assert_close(net.log_tau[i], one["log_tau"])
    assert float(net.log_tau.detach().abs().min()) > 0.02


def test_each_step_moves_its_own_network_only() -> None:
    """The actor's loss goes through Q1, which must stay; both critics follow the reward, whatever the actor does."""
    one, other = enlarged(agents(0)), enlarged(agents(0))
    with torch.no_grad():
        other.actor.weights[-1].mul_(3)
    for net in (one, other):
        net.learn(*episodes(1, 6))
    for critic, same in ((one.q1, other.q1), (one.q2, other.q2)):
        assert all(torch.equal(a, b) for a, b in zip(critic.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.q1.weights[0], enlarged(agents(0)).q1.weights[0])


def test_the_temperature_falls_by_the_learning_rate_every_update() -> None:
    """A log-density per dimension never comes near a target entropy of -100, so Adam walks at full pace."""
    net = Agents(streams(0, 1), 2, DIM, HIDDEN, 5e-4, -100)
    for step in range(200):
        net.learn(*episodes(2, 4, step))
    torch.testing.assert_close(net.log_tau.detach(), torch.full((2,), -200 * 5e-4), rtol=0.02, atol=0)


BEST = torch.tensor([[0.6, -0.5, 0.2], [-0.7, 0.1, 0.4]])


def bandit(rows: list[int], steps: int, vector: bool = True) -> Agents:
    """Agents that learned the reward -10 ||a - best||^2, each its own."""
    n, best = len(rows), BEST[rows]
    net = Agents(streams(*rows), n, DIM, 32, 3e-3, -DIM)
    memory = Replay(n, DIM, 4000, "cpu")
    states, noise, replay = (streams(*rows, purpose=p) for p in ("state", "noise", "replay"))

    def e(batch: int) -> Tensor:
        return noise.normal(n, batch, DIM) if vector else noise.normal(n, 1, 1)

    for _ in range(steps):
        s = states.normal(n, DIM)
        with torch.no_grad():
            a = net.act(s[:, None], e(1))[0][:, 0]
        memory.add(s, a, -10 * (a - best).square().sum(1))
        if len(memory) > 32:
            net.learn(*memory.draw(replay.uniform(n, 32)), e(32))
    return net


@pytest.mark.parametrize("vector", [True, False], ids=["vector", "scalar"])
def test_agents_learn_what_is_rewarded(vector: bool) -> None:
    """Each its own bowl: near 0, from -4 and less; the other's best action would be worth -21."""

    def reward(net: Agents) -> Tensor:
        with torch.no_grad():
            a, _ = net.act(streams(0, 1, purpose="test").normal(2, 200, DIM), torch.zeros(1, 1, 1))
        return -10 * (a - BEST[:, None]).square().sum(2).mean(1)

    assert float(reward(bandit([0, 1], 0)).max()) < -4
    assert float(reward(bandit([0, 1], 1500, vector)).min()) > -2


def test_stacked_agents_are_agents_one_by_one() -> None:
    together = bandit([0, 1], 120)
    for row in range(2):
        alone = bandit([row], 120)
        for (name, a), b in zip(together.named_parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(a[row], b[0], rtol=1e-3, atol=1e-4, msg=name)


# --- replay --------------------------------------------------------------------------------------------------------


def test_replay_returns_whole_episodes_of_the_same_agent() -> None:
    memory = Replay(2, 1, 10, "cpu")
    for i in range(4):
        value = torch.tensor([[float(i)], [10.0 + i]])
        memory.add(value, 100 + value, 200 + value[:, 0])
    assert len(memory) == 4
    s, a, r = memory.draw(torch.tensor([[0.0, 0.24, 0.25, 0.99], [0.5, 0.5, 0.75, 0.9999999]]))
    assert s[..., 0].tolist() == [[0, 0, 1, 3], [12, 12, 13, 13]]
    assert torch.equal(a, 100 + s) and torch.equal(r, 200 + s[..., 0])


def test_replay_forgets_the_oldest() -> None:
    memory = Replay(1, 1, 3, "cpu")
    for i in range(5):
        memory.add(torch.full((1, 1), float(i)), torch.zeros(1, 1), torch.zeros(1))
    assert len(memory) == 3
    assert sorted(memory.states.flatten().tolist()) == [2, 3, 4]


# --- the attack ----------------------------------------------------------------------------------------------------

TRACK = TrackInfo("tiny", "faces", 4, 1, 3, (0.5,))


class Picture(nn.Module):
    """The latent is the image."""

    def forward(self, z: Tensor) -> Tensor:
        return (z.reshape(-1, 1, 4, 4) + 1) / 2


class Means(Classifier):
    """Logits: the means of three rows of the image, times 5."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Identity()
        self.feature_dim = 3

    def forward(self, images: Tensor, rng: Any = None) -> Any:
        logits = 5 * images.mean((1, 3))[:, :3]
        return Output(logits, images.flatten(1), {})


class Context(AttackContext):
    def __init__(self) -> None:
        self.device, self.track, self.seed = torch.device("cpu"), TRACK, 0
        self.images_per_identity, self.identities = 2, [0, 1, 2]

    def steps(self, name: str, count: int) -> Any:
        return range(count)


def attack(**params: Any) -> tuple[dict[int, Any], dict[str, Any]]:
    """Reconstructions by label and queries."""
    oracle = Oracle(Means(), "scores", 3)
    prior = PriorModel(Picture(), 16)
    cls = Registry().plugin("attack", "rlbmi")
    found = cls(cls.Params(**{"width": 16, "restarts": 1, **params}), TRACK)
    return {r.label: r for r in found.invert(oracle, prior, [0, 2], Context())}, oracle.counts()


def test_the_reward_is_the_published_one() -> None:
    """Conformance 13: p_y = 0.6 and the best other 0.3 give 4 ln 0.6 + 8 ln 0.3 when z' = a."""
    reward = Registry().plugin("attack", "rlbmi").reward  # type: ignore[attr-defined]
    scores = torch.tensor([[0.3, 0.6, 0.1], [0.5, 0.2, 0.3], [0.4, 0.4, 0.2], [1.0, 0.0, 0.0]])
    labels = torch.tensor([1, 1, 0, 1])
    floor = 8 * math.log(1e-7)
    expected = [4 * math.log(0.6) + 8 * math.log(0.3), 4 * math.log(0.2) + floor, 4 * math.log(0.4) + floor]
    torch.testing.assert_close(reward(scores, scores, labels), torch.tensor([*expected, -200 + floor]))
    action = torch.tensor([[0.5, 0.25, 0.25]])
    two = reward(scores[:1], action, labels[:1])
    assert float(two) == pytest.approx(2 * math.log(0.6) + 2 * math.log(0.25) + 8 * math.log(0.3), rel=1e-5)


@pytest.mark.parametrize(
    ("params", "queries"),
    [({"episodes": 7}, 14), ({"episodes": 7, "alpha": 0.25}, 21), ({"episodes": 7, "restarts": 3}, 42)],
    ids=["alpha 0", "alpha > 0", "restarts"],
)
def test_queries_are_counted_by_hand(params: dict[str, Any], queries: int) -> None:
    """An episode asks about the rewarded image and one further; about G(a) too if it is another image than G(z')."""
    found, counts = attack(batch=3, **params)
    expected = {"optimisation": {"forward": queries, "gradient": 0, "label": 0}}
    assert counts == {"0": expected, "2": expected}
    assert all(len(r.images) == params.get("restarts", 1) for r in found.values())


def test_with_alpha_zero_both_images_coincide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conformance 13: z' = a whatever the state; with alpha = 0.5 the state shows."""
    seen: list[Tensor] = []
    added: list[Tensor] = []
    scores, add = Oracle.scores, Replay.add

    def watched_scores(self: Oracle, x: Tensor, rows: Any = None) -> Tensor:
        seen.append(x)
        return scores(self, x, rows)

    def watched_add(self: Replay, s: Tensor, a: Tensor, r: Tensor) -> None:
        added.append(a)
        add(self, s, a, r)

    monkeypatch.setattr(Oracle, "scores", watched_scores)
    monkeypatch.setattr(Replay, "add", watched_add)
    attack(episodes=1)
    torch.testing.assert_close(seen[0], (added[0].reshape(-1, 1, 4, 4) + 1) / 2)
    seen.clear()
    attack(episodes=1, alpha=0.5)
    torch.testing.assert_close(seen[1], (added[1].reshape(-1, 1, 4, 4) + 1) / 2)
    assert not torch.allclose(seen[0], seen[1])


def test_the_best_image_is_kept_and_the_agent_beats_its_start() -> None:
    short, _ = attack(episodes=40, batch=16, lr=5e-3, noise="vector")
    long, _ = attack(episodes=400, batch=16, lr=5e-3, noise="vector")
    for label in (0, 2):
        a, b = short[label], long[label]
        assert torch.equal(a.initial, b.initial), "what comes first does not depend on how long it goes on"
        for r in (a, b):
            p = Means()(r.images).logits.softmax(1)[:, label]
            torch.testing.assert_close(p, r.score)
        assert float(b.score) > float(a.score)
        first = Means()(b.initial).logits.softmax(1)[:, label]
        assert float(b.score) > float(first) + 0.2


def test_a_memory_too_small_to_learn_from_is_refused() -> None:
    with pytest.raises(ValidationError, match="memory > batch"):
        attack(memory=8, batch=8)
