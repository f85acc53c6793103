"""How long an audit will take: from what ran here before, and where nothing like it did, from a step of each network
that is timed now and the number of steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mibench.audit.flow import Begun
from mibench.audit.foreign import Foreign
from mibench.audit.prepare import SMALL
from mibench.nets import build_classifier
from mibench.nets.base import Classifier
from mibench.planning.estimates import estimate, filled, past_seconds
from mibench.planning.plan import Stage
from mibench.resources import cores
from mibench.running.forecast import makespan
from mibench.running.placement import Placement
from mibench.running.runner import lookup, needed
from mibench.store.artifacts import Store
from mibench.store.db import Database

START = 2.0  # seconds until a stage's process has imported torch and read its files
BATCH = 32


def forecast(begun: Begun, store: Store, database: Database, place: Placement) -> Iterator[str]:
    """What is to do, kind by kind with its time, and how long it takes together. Lines."""
    done = lookup(store, begun.plan, [])
    todo = needed(begun.plan, done)
    if not todo:
        yield "Everything was computed before."
        return
    known = estimate(todo, past_seconds(database.durations()))
    steps = _Steps(begun)
    seconds = {stage.key: known.get(stage.key) or steps.seconds(stage) for stage in todo}
    guessed = {key: value for key, value in seconds.items() if value is not None}
    for kind in dict.fromkeys(stage.kind for stage in todo):
        own = [stage for stage in todo if stage.kind == kind]
        times = [guessed[stage.key] for stage in own if stage.key in guessed]
        yield f"{len(own):>4} {kind:<10} {spoken(sum(times)) if times else 'unknown'}"
    slots = place.jobs or cores()
    whole = makespan(todo, set(done), filled(todo, guessed), slots)
    unknown = len(todo) - len(guessed)
    rest = f"; {unknown} of them are of unknown length and count as the median" if unknown else ""
    yield f"{len(todo)} stages, about {spoken(whole)} with {slots} at a time{rest}. Broken off, it goes on from there."


class _Steps:
    """Seconds of stages by their steps; a network is timed once."""

    def __init__(self, begun: Begun) -> None:
        self._begun = begun
        self._each: dict[tuple[str, bool], float] = {}

    def seconds(self, stage: Stage) -> float | None:
        """None where no number of steps is known."""
        track, models = self._begun.track, self._begun.models
        images = self._begun.images
        if stage.kind == "evaluator":
            return START + track.evaluator.epochs * images * self._step(track.evaluator.arch, training=True)
        if stage.kind == "target" and stage.plugin != models.own:
            return START + track.target.epochs * images * self._step(track.target.arch, training=True)
        if stage.kind in ("target", "utility", "evaluate"):
            return START
        if stage.kind == "invert":
            rounds = stage.params.get("iterations", 0)
            asked = len(track.identities) * track.attack.images_per_identity
            steps = sum(rounds) if isinstance(rounds, (list, tuple)) else rounds
            return START + steps * asked * self._step("" if self._own(stage) else track.target.arch, training=False)
        if stage.kind == "prior" and {"steps", "batch"} <= stage.params.keys():  # a generator, its critic, and back
            return START + 3 * stage.params["steps"] * stage.params["batch"] * self._step(SMALL, training=True)
        if stage.kind == "prepare" and "pool" in stage.params:
            return START + stage.params["pool"] * self._step("" if self._own(stage) else track.target.arch, False)
        return None

    def _own(self, stage: Stage) -> bool:
        _, key = stage.inputs["target"]
        return self._begun.plan.stages[key].plugin == self._begun.models.own

    def _step(self, arch: str, training: bool) -> float:
        """Seconds that one image takes, there and back; ``arch`` is '' for the audited network."""
        if (arch, training) not in self._each:
            self._each[arch, training] = timed(self._network(arch), self._images, training)
        return self._each[arch, training]

    def _network(self, arch: str) -> Classifier:
        track, subject = self._begun.track, self._begun.subject
        if arch:
            return build_classifier(
                arch, track.private.identities, track.channels, track.resolution, track.normalisation
            )
        return Foreign(subject.network, track.private.identities, subject.way)

    @property
    def _images(self) -> Tensor:
        track = self._begun.track
        return torch.rand(BATCH, track.channels, track.resolution, track.resolution)


def timed(net: Classifier, images: Tensor, training: bool) -> float:
    """Seconds for one image, forward and back, on one thread, the second time."""
    threads = torch.get_num_threads()
    state: dict[str, Any] = {name: value.clone() for name, value in net.state_dict().items()}
    net.train(training).requires_grad_(training)
    torch.set_num_threads(1)
    try:
        for _ in range(2):
            start = time.perf_counter()
            asked = images.clone().requires_grad_(not training)
            functional.cross_entropy(net(asked).logits, torch.zeros(len(images), dtype=torch.long)).backward()
            seconds = time.perf_counter() - start
    finally:
        torch.set_num_threads(threads)
        net.load_state_dict(state)
        net.eval()
    return seconds / len(images)


def spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
