"""The resumable loop that every trainer uses, and what a defense may change inside it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mibench import stopping
from mibench.contracts.values import Batch, Progress
from mibench.errors import StageFailed
from mibench.keys import stream_seed
from mibench.nets.base import Classifier
from mibench.random import Stream
from mibench.store.state import load_state, save_state

# How often a loop saves its state; tests and machines that take jobs away at short notice set the variable.
CHECKPOINT_SECONDS = float(os.environ.get("MIBENCH_CHECKPOINT_SECONDS") or 20)


class Reporter(Protocol):
    """Who hears about progress."""

    def __call__(self, step: int, steps: int, loss: float | None, name: str) -> None: ...


class Loop:
    """The steps of a training loop: reports progress, refuses a loss that is not finite, saves state to resume from.

    Everything random inside step ``i`` must come from streams named after ``i`` (torch's global generator is seeded
    with it and ``seed``), so that ``state``, networks and optimisers, is all that a resumed loop needs to give the
    same numbers.
    """

    def __init__(
        self,
        name: str,
        steps: int,
        state: dict[str, Any],
        folder: Path | None,
        reporter: Reporter | None,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.steps = steps
        self._state = state
        self._folder = folder / f"state-{name}" if folder else None
        self._reporter = reporter
        self._seed = seed
        self._loss: Tensor | None = None
        self._step = 0

    def report(self, loss: Tensor) -> None:
        """Tell the loop this step's loss, a scalar. Raises StageFailed at the step where it is not finite."""
        self._loss = loss.detach()
        if self._loss.device.type == "cpu" or self._step % 20 == 0:
            self._check()

    def _check(self) -> None:
        if self._loss is not None and not math.isfinite(value := float(self._loss)):
            raise StageFailed(f"The loss of {self.name!r} became {value} at step {self._step} of {self.steps}.")

    def __iter__(self) -> Iterator[int]:
        start = self._resume()
        saved = told = time.monotonic()
        for step in range(start, self.steps):
            self._step = step
            torch.manual_seed(stream_seed(self.name, self._seed, step))  # dropout, whatever came before
            yield step
            now = time.monotonic()
            if stopping.asked() and step + 1 < self.steps:
                self._check()
                if self._folder:
                    self._save(step + 1)
                raise stopping.Stopped
            if self._reporter and (now - told > 0.25 or step + 1 == self.steps):
                told = now
                self._reporter(step + 1, self.steps, None if self._loss is None else float(self._loss), self.name)
            if self._folder and now - saved > CHECKPOINT_SECONDS:
                saved = now
                self._check()
                self._save(step + 1)
        self._check()
        torch.manual_seed(stream_seed(self.name, self._seed, self.steps))  # the same after a resumed loop
        if self._folder:
            self._save(self.steps)

    def _save(self, step: int) -> None:
        assert self._folder is not None
        save_state(self._folder, step, {name: item.state_dict() for name, item in self._state.items()})

    def _resume(self) -> int:
        saved = load_state(self._folder) if self._folder else None
        if saved is None:
            return 0
        step, tree = saved
        for name, item in self._state.items():
            item.load_state_dict(tree[name])
        return step


Sampler = Callable[[Tensor, int, Stream], Iterator[Tensor] | None]


@dataclass(frozen=True)
class LoopHooks:
    """What a defense may change inside the loop beyond its usual hooks; a field left out changes nothing.

    objective: (net, batch, rng, progress) -> the scalar to minimise, in place of the loss of one forward pass.
    optimiser: wraps the recipe's optimiser; ``zero_grad`` and ``step`` are called on what it returns.
    sampler: in place of the defense's; its batches may have any size, also 0 where ``objective`` knows what to do.
    after_epoch: called with the network after each epoch, in train mode.
    state: what else changes in a step, by name (anything with ``state_dict``): resumed, and kept with the best epoch.
    """

    objective: Callable[[Classifier, Batch, Stream, Progress], Tensor] | None = None
    optimiser: Callable[[torch.optim.Optimizer], torch.optim.Optimizer] | None = None
    sampler: Sampler | None = None
    after_epoch: Callable[[Classifier], None] | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
