"""SSD (Zhuang et al., "Stealthy Shield Defense: A Conditional Mutual Information-Based Approach against Black-Box Model
Inversion Attacks", ICLR 2025)."""

import torch
from pydantic import Field
from torch import Tensor, nn

from mibench.contracts import Access, Classifier, Defense, DefenseParams, Rng, TrainContext
from mibench.nets.base import StochasticHead
from mibench.primitives.samplers import held_out

FLOOR = 1e-12  # of a class mean's entries: no score becomes 0


def entropy(f: Tensor) -> Tensor:
    """H = -sum f log f in nats, 0 log 0 = 0. (N, K) -> (N,)."""
    return -torch.special.xlogy(f, f).sum(1)


def class_probability(f: Tensor, temperature: float) -> Tensor:
    """softmax(f / T), of scores, not of logits: with which probability each class is moved to. (N, K) -> the same."""
    return (f / temperature).softmax(1)


def water_filling(f: Tensor, q: Tensor, budget: Tensor) -> Tensor:
    """p = argmin KL(p || q) with ||p - f||_1 <= budget. (N, K) distributions, q > 0, and (N,); float64 -> (N, K).

    q where the budget reaches it; else p_i = clip(f_i, w_A q_i, w_B q_i), where raising the scores up to w_A q and
    lowering those above w_B q each moves half of the budget.
    """
    half = (budget / 2)[:, None]
    r, order = (f / q).sort(1)
    f_sorted, q_sorted = f.gather(1, order), q.gather(1, order)

    def level(r: Tensor, f: Tensor, q: Tensor, sign: int) -> Tensor:
        """w where the water stands, entries in the order in which it reaches them."""
        total_f, total_q = f.cumsum(1), q.cumsum(1)
        needed = sign * (r[:, 1:] * total_q[:, :-1] - total_f[:, :-1])  # to reach the next entry
        last = (needed <= half).sum(1, keepdim=True)
        return (total_f.gather(1, last) + sign * half) / total_q.gather(1, last)

    low = level(r, f_sorted, q_sorted, 1)
    high = level(r.flip(1), f_sorted.flip(1), q_sorted.flip(1), -1)
    p = torch.minimum(torch.maximum(f, low * q), high * q)
    reached = (f - q).abs().sum(1) <= budget
    return torch.where(reached[:, None], q, p)


def shielded(f: Tensor, means: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """The scores that are served for f where class y was drawn: towards ``means[y]``, within epsilon H(f)."""
    return water_filling(f, means[y], epsilon * entropy(f))


class Shield(nn.Module):
    """The head ``inner`` and, once it is served, log p in place of its logits. ``means`` (K, K): q of every class."""

    def __init__(self, inner: nn.Module, classes: int) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("means", torch.full((classes, classes), 1 / classes, dtype=torch.float64))
        self.means: Tensor
        self.temperature = self.epsilon = 0.0
        self.up = False

    def sample(self, features: Tensor, rng: Rng | None) -> tuple[Tensor, dict[str, Tensor]]:
        inner = self.inner
        logits, hidden = inner.sample(features, rng) if isinstance(inner, StochasticHead) else (inner(features), {})
        if not self.up:
            return logits, hidden
        f = logits.double().softmax(1)
        u = torch.rand(len(f), device=f.device) if rng is None else rng.uniform(len(f))
        reached = class_probability(f, self.temperature).cumsum(1) <= u[:, None]
        y = reached.sum(1).clamp(max=f.shape[1] - 1)
        return shielded(f, self.means, y, self.epsilon).log().to(logits.dtype), hidden


class StealthyShield(Defense):
    """In place of the scores f serve p = argmin KL(p || q_y) with ||p - f||_1 <= epsilon H(f), y drawn from
    softmax(f / T). The network is trained as usual; whoever holds it leaves this out."""

    served = ("temperature", "epsilon")
    against = Access.SCORES
    deviations = (
        "By default the class means are the training images'; the paper holds a part of the data out (held_out).",
        "Entries of a class mean are at least 1e-12, and scores are computed in float64.",
        "White-box attacks are left out: they would meet an undefended network, not a masked one.",
    )

    class Params(DefenseParams):
        temperature: float = Field(0.1, gt=0, description="T, by which scores are divided before a class is drawn")
        epsilon: float = Field(0.5, ge=0, description="the budget of change per nat of entropy, at least 0")
        held_out: float = Field(
            0.0,
            ge=0,
            lt=1,
            description="share of each person's training images that only make the class means; 0: all do both",
        )

    def build(self, net: Classifier) -> Classifier:
        net.head = Shield(net.head, self.track.num_classes)
        return net

    def train(self, ctx: TrainContext) -> Classifier:
        data, kept = ctx.data, held_out(ctx.data.labels, self.params.held_out, ctx.stream("held out"))
        ctx.data = data.subset(~kept)
        seen = data.subset(kept) if bool(kept.any()) else data
        net = ctx.default_train()
        rng, classes = ctx.stream("class means"), range(self.track.num_classes)
        with torch.no_grad():
            f = torch.cat([net(part, rng).logits.double().softmax(1) for part in seen.images.split(512)])
            q = torch.stack([f[seen.labels == k].mean(0) for k in classes]).clamp(min=FLOOR)
            net.get_buffer("head.means").copy_(q / q.sum(1, keepdim=True))
        return net

    def deploy(self, net: Classifier) -> Classifier:
        assert isinstance(net.head, Shield)
        net.head.temperature, net.head.epsilon, net.head.up = self.params.temperature, self.params.epsilon, True
        return net
