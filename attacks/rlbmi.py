"""RLB-MI: reinforcement learning-based black-box model inversion (Han et al., CVPR 2023)."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mibench.contracts import Access, Attack, AttackContext, BaseParams, Oracle, PriorModel, PriorRef, Reconstruction
from mibench.contracts.oracle import BudgetSpent
from mibench.primitives.bandit import Agents, Replay
from mibench.primitives.latents import checked
from mibench.primitives.selection import best_restart

LOG_FLOOR = -50.0  # of log p


class RlbMi(Attack):
    """One soft actor-critic agent per identity learns to answer a random latent z with a latent a in (-1, 1)^d such
    that z' = alpha z + (1 - alpha) a renders the class: episodes of one step, rewarded by

        2 log p_y(G(z')) + 2 log p_y(G(a)) + 8 log max(1e-7, p_y(G(z')) - max_{j != y} p_j(G(z'))).

    The best image by p_y among one further action per episode is kept. Queries per identity: 2 an episode (reward,
    further action), because z' = a for alpha = 0; 3 for other alpha.
    """

    version = 3
    access = Access.SCORES
    effort = ("episodes",)
    stops_early = True
    deviations = (
        "With alpha = 0 the two images of the reward coincide and are asked about once.",
        "log p is kept above -50; released code lets it become minus infinity.",
        "There is an agent for each image that the track asks for; published is one.",
        "Episodes are drawn from the replay memory with replacement.",
        "No target networks and no discount: episodes of one step have no next value.",
        "On the small tracks fewer episodes, smaller networks, and noise of its own for each dimension of each action. "
        "One number for all, as released, explores a line and loses to random search at so few queries.",
    )

    class Params(BaseParams):
        episodes: int = Field(40_000, ge=1)
        alpha: float = Field(0.0, ge=0, lt=1, description="share of the state in z'")
        lr: float = Field(5e-4, gt=0, description="of actor, critics and temperature")
        width: int = Field(256, ge=1, description="of the networks' two hidden layers")
        batch: int = Field(256, ge=1, description="episodes per update; updates start when more are remembered")
        memory: int = Field(1_000_000, ge=1, description="episodes remembered")
        target_entropy: float = -100.0
        noise: Literal["scalar", "vector"] = Field(
            "scalar",
            description="of actions: one number for all dimensions and the whole batch, as released, or each its own",
        )
        restarts: int | None = Field(None, ge=1, description="agents per identity; default: the track's images")
        prior_params: dict[str, Any] = Field(default_factory=dict, description="parameters of the WGAN-GP prior")

        @model_validator(mode="after")
        def _can_learn(self) -> Self:
            if self.memory <= self.batch:
                raise ValueError("expected memory > batch: updates start when more than a batch is remembered")
            return self

    def prior(self) -> PriorRef:
        return PriorRef("wgan_gp", self.params.prior_params)

    @staticmethod
    def reward(scores: Tensor, scores_action: Tensor, labels: Tensor) -> Tensor:
        """(R,) from the scores (R, K) of G(z') and of G(a)."""
        p_y, p_action = (p.gather(1, labels[:, None])[:, 0] for p in (scores, scores_action))
        margin = p_y - scores.scatter(1, labels[:, None], -1).amax(1)
        log_p, log_action = (p.log().clamp(min=LOG_FLOOR) for p in (p_y, p_action))
        return 2 * log_p + 2 * log_action + 8 * margin.clamp(min=1e-7).log()

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        p, generator, d = self.params, prior.generator, prior.latent_dim
        rows = ctx.rows(labels, p.restarts or ctx.images_per_identity)
        n = len(rows)
        agents = Agents(rows.streams("agent"), n, d, p.width, p.lr, p.target_entropy)
        memory = Replay(n, d, min(p.memory, p.episodes), ctx.device)
        states, noise, replay = (rows.streams(name) for name in ("state", "action", "replay"))

        def e(batch: int) -> Tensor:
            return noise.normal(n, 1, 1) if p.noise == "scalar" else noise.normal(n, batch, d)

        @torch.no_grad()
        def act() -> tuple[Tensor, Tensor, Tensor]:
            """z, a, z' (n, d)."""
            z = states.normal(n, d)
            a = agents.act(z[:, None], e(1))[0][:, 0]
            return z, a, p.alpha * z + (1 - p.alpha) * a

        def render(z: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                x = generator(z).clamp(0, 1)
            return x, oracle.scores(x, rows)

        best = torch.full((n,), -1.0, device=ctx.device)
        images = initial = torch.empty(0)
        try:
            for episode in ctx.steps("rlbmi", p.episodes):
                z, a, moved = act()
                scores = render(moved)[1]
                r = self.reward(scores, render(a)[1] if p.alpha else scores, rows.label)
                memory.add(z, a, checked(r, episode))
                if len(memory) > p.batch:
                    agents.learn(*memory.draw(replay.uniform(n, p.batch)), e(p.batch))
                x, scores = render(act()[2])
                p_y = scores.gather(1, rows.label[:, None])[:, 0]
                if not len(initial):
                    images = initial = x
                better = p_y >= best
                images = torch.where(better[:, None, None, None], x, images)
                best = torch.where(better, p_y, best)
        except BudgetSpent:
            if not len(initial):
                raise
        yield from best_restart(rows, images, initial, best)
