"""The only view of the target that an attack or a target-scoped prior gets: what its access allows, counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mibench.contracts.rows import Rows, RowView
from mibench.contracts.values import Access
from mibench.errors import StageFailed
from mibench.keys import stream_seed
from mibench.nets.base import Classifier, Output
from mibench.protocol.methods import ACCESS_RANK
from mibench.random import Rng, Stream

SMALLEST_BATCH = 4


class AccessDenied(StageFailed):
    """An attack asked the target for more than its declared access allows."""


class BudgetSpent(StageFailed):
    """The next question would exceed the query budget of an identity; it was neither asked nor counted."""


class Oracle:
    """Answers about a frozen target in eval mode, as much as ``access`` allows, and counts every question.

    Counts are images, per identity where ``rows`` is given and under "shared" where it is not, per phase, in three
    kinds: ``forward`` (scores or logits), ``gradient`` (images whose input gradient can be taken) and ``label``.
    One call asks about each row once; a method that looks at several views of a row calls once per view.

    With a ``budget`` no identity costs more images than that: those asked about for itself, of all kinds and phases,
    and all shared ones, with the ``spent`` of stages before. What shared ones leave is dealt out evenly to the rows of
    an identity, so that a search that runs once per image has as much for each. A call that would exceed it raises
    BudgetSpent.
    """

    def __init__(
        self,
        net: Classifier,
        access: Access | str,
        num_classes: int,
        seed: int = 0,
        budget: int | None = None,
        spent: int = 0,
    ) -> None:
        self._net = net.eval().requires_grad_(False)
        self._rank = ACCESS_RANK[str(access)]
        self.access = str(access)
        self.num_classes = num_classes
        self._seed = seed
        self._shared: Stream | None = None
        self._phase = "optimisation"
        self._budget, self._spent = budget, spent
        self._asked: Counter[tuple[int, int]] = Counter()  # images by row, where there is a budget
        self._counts: dict[str, dict[str, dict[str, int]]] = defaultdict(
            lambda: defaultdict(lambda: {"forward": 0, "gradient": 0, "label": 0})
        )

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Book the questions asked inside under ``name`` (search, optimisation, selection, prior)."""
        previous, self._phase = self._phase, name
        try:
            yield
        finally:
            self._phase = previous

    def output(self, images: Tensor, rows: Rows | RowView | None = None) -> Output:
        """Logits, features and named hidden tensors, differentiable in ``images``. White box only."""
        self._require("white_box")
        self._count(images, rows, "gradient" if images.requires_grad and torch.is_grad_enabled() else "forward")
        return self._ask(images, rows)

    def logits(self, images: Tensor, rows: Rows | RowView | None = None) -> Tensor:
        """(N, K) logits, differentiable in ``images``. White box only."""
        return self.output(images, rows).logits

    @torch.no_grad()
    def scores(self, images: Tensor, rows: Rows | RowView | None = None) -> Tensor:
        """(N, K) softmax scores, without gradient."""
        self._require("scores")
        images = self._without_derivative(images)
        self._count(images, rows, "forward")
        return self._ask(images, rows).logits.softmax(1)

    @torch.no_grad()
    def labels(self, images: Tensor, rows: Rows | RowView | None = None) -> Tensor:
        """(N,) predicted classes."""
        images = self._without_derivative(images)
        self._count(images, rows, "label")
        return self._ask(images, rows).logits.argmax(1)

    def counts(self) -> dict[str, Any]:
        """{identity or "shared": {phase: {"forward": n, "gradient": n, "label": n}}}."""
        return {who: {phase: dict(kinds) for phase, kinds in phases.items()} for who, phases in self._counts.items()}

    def state_dict(self) -> dict[str, Any]:
        """The counts and where a stochastic target's noise stands: state of a loop that asks the target."""
        shared = self._shared and self._shared.state_dict()
        return {"counts": self.counts(), "shared": shared, "asked": [[*row, n] for row, n in self._asked.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._counts.clear()
        for who, phases in state["counts"].items():
            for phase, kinds in phases.items():
                self._counts[who][phase] = dict(kinds)
        self._asked = Counter({(label, restart): n for label, restart, n in state.get("asked", ())})
        if state["shared"] is not None:
            self._shared = Stream(0, next((t.device for t in self._net.parameters()), "cpu"))
            self._shared.load_state_dict(state["shared"])

    def _ask(self, images: Tensor, rows: Rows | RowView | None) -> Output:
        watched = images.requires_grad and images.device.type != "cpu"  # there the loss tells, and looking costs time
        if not watched and not bool(torch.isfinite(images).all()):
            raise StageFailed("The target was asked about images that contain numbers that are not finite.")
        if rows is not None:
            return self._answer(images, rows.noise)
        if self._shared is None:
            self._shared = Stream(stream_seed("oracle", self._seed), images.device)
        return self._answer(images, self._shared)

    def _answer(self, images: Tensor, noise: Rng) -> Output:
        """Kernels round batches of fewer than four images in another way; a long descent amplifies that until one
        identity alone is not what it is among others. So small batches are filled up."""
        n = len(images)
        more = SMALLEST_BATCH - n
        if more <= 0 or n == 0:
            return self._net(images, noise)
        out = self._net(torch.cat([images, images[-1:].expand(more, -1, -1, -1)]), _Filled(noise, n))
        return Output(out.logits[:n], out.features[:n], {name: hidden[:n] for name, hidden in out.hidden.items()})

    def _count(self, images: Tensor, rows: Rows | RowView | None, kind: str) -> None:
        if rows is None:
            if self._budget is not None:
                most = max((self._total(who) for who in self._counts if who != "shared"), default=0)
                self._afford(self._total("shared") + len(images) + most, self._budget)
            self._counts["shared"][self._phase][kind] += len(images)
            return
        if len(images) != len(rows):
            raise ValueError(f"{len(images)} images were asked about for {len(rows)} rows")
        if self._budget is not None:
            self._book(rows, self._budget - self._total("shared"))
        for label, count in rows.counts.items():
            self._counts[str(label)][self._phase][kind] += count

    def _total(self, who: str) -> int:
        """Images asked about for an identity alone, or shared ones with those of the stages before."""
        phases = self._counts.get(who, {}).values()
        return sum(sum(kinds.values()) for kinds in phases) + (self._spent if who == "shared" else 0)

    def _book(self, rows: Rows | RowView, left: int) -> None:
        """Raises BudgetSpent if an identity, or one of its rows, would have more than its part of ``left``."""
        asked = rows.asked
        for label, count in rows.counts.items():
            self._afford(self._total(str(label)) + count, left)
        for row, count in asked.items():
            self._afford(self._asked[row] + count, left // rows.restarts)
        self._asked.update(asked)

    def _afford(self, asked: int, allowed: int) -> None:
        if asked > allowed:
            raise BudgetSpent(
                f"The budget of {self._budget} queries per identity does not allow what the attack asks for next, and "
                "it cannot stop here: set its parameters so that they need fewer, or give a larger --budget."
            )

    def _require(self, access: str) -> None:
        if self._rank < ACCESS_RANK[access]:
            raise AccessDenied(f"The attack declares access {self.access!r} and asked for {access!r}.")

    def _without_derivative(self, images: Tensor) -> Tensor:
        """``images`` cut off from every way to differentiate through the answer. Reverse mode ends here by itself;
        forward mode and functional transforms, which ``no_grad`` does not stop, are refused."""
        transformed = torch._C._functorch.maybe_current_level() is not None  # type: ignore[attr-defined]
        if transformed or forward_ad.unpack_dual(images).tangent is not None:
            raise AccessDenied(f"The attack declares access {self.access!r} and asked for a derivative.")
        return images.detach()


class _Filled:
    """The noise of ``n`` images, for a batch that was filled up with copies of the last one."""

    def __init__(self, rng: Rng, n: int) -> None:
        self._rng, self._n = rng, n

    def uniform(self, n: int, *shape: int) -> Tensor:
        return self._fill(self._rng.uniform(self._n, *shape), n)

    def normal(self, n: int, *shape: int) -> Tensor:
        return self._fill(self._rng.normal(self._n, *shape), n)

    def _fill(self, drawn: Tensor, n: int) -> Tensor:
        return torch.cat([drawn, drawn[-1:].expand(n - self._n, *drawn.shape[1:])])
