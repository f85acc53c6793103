"""Train the generative model that an attack searches."""

from __future__ import annotations

from typing import Any

from mibench.contracts import ImageSet, Loop, Oracle, PriorContext, PriorModel
from mibench.nets.frozen import frozen
from mibench.stages.job import Job, existing, load_weights, save_weights


class _Context(PriorContext):
    def __init__(self, job: Job, oracle: Oracle | None) -> None:
        self._tools = job.tools  # not the job, which leads to private images
        self.device, self.track, self._public, self.oracle = job.device, job.info, job.public, oracle
        self.stream = self._tools.stream  # type: ignore[method-assign]
        self.load_weights = self._tools.load_weights  # type: ignore[method-assign]

    @property
    def public(self) -> ImageSet:  # type: ignore[override]
        return existing(self._public, self.track.id)

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Loop:
        return self._tools.loop(name, steps, state)


def run(job: Job) -> dict[str, Any]:
    """Writes ``model.safetensors``; the result counts what was asked of the target."""
    prior = job.registry.build("prior", job.stage.plugin, job.stage.params, job.track)
    oracle = None
    if prior.scope == "target":
        assert job.stage.access is not None
        oracle = Oracle(job.target(), job.stage.access, job.track.private.identities, job.stage.seed)
    job.seed_weights()
    model = prior.build().to(job.device)
    ctx = _Context(job, oracle)
    with job.closed():
        prior.train(ctx, model)
    save_weights(model, job.workdir / "model.safetensors")
    return {"queries": oracle.counts() if oracle else {}}


def load_prior(job: Job, tuned: bool = False) -> PriorModel | None:
    """The parent prior, frozen, or None if the attack has none. ``tuned``: as it was built, for an attack that trains
    a copy of it further."""
    if "prior" not in job.stage.inputs:
        return None
    folder, manifest = job.parent("prior")
    prior = job.registry.build("prior", manifest.plugin, manifest.params, job.track)
    model: PriorModel = prior.build()
    load_weights(model, folder / "model.safetensors")
    model = model.to(job.device)
    return model.eval().requires_grad_(False) if tuned else frozen(model)
