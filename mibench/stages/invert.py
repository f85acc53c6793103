"""Run an attack against a target, in blocks of identities; and its preparation, once per target."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mibench import stopping
from mibench.contracts import (
    Access,
    AttackContext,
    BudgetSpent,
    ControlContext,
    ImageSet,
    Loop,
    Oracle,
    Reconstruction,
)
from mibench.errors import StageFailed
from mibench.images.pixels import resized, write_png
from mibench.keys import digest
from mibench.nets.base import Classifier
from mibench.protocol.params import BUDGET, PRECISION
from mibench.registry.combination import adapts
from mibench.stages.job import Job, existing, save_tensors
from mibench.stages.prior import load_prior
from mibench.stages.student import load_student
from mibench.store.atomic import write_json

PER_IMAGE = ("images", "initial", "score", "selected", "shown")  # of a reconstruction
LARGEST_BLOCK = 60  # identities; a crash costs at most one block


class _Context(AttackContext):
    def __init__(self, job: Job, artifact: dict[str, Tensor]) -> None:
        self._tools = job.tools  # not the job, which leads to private images
        self.device, self.track, self._public = job.device, job.info, job.public
        self.stream = self._tools.stream  # type: ignore[method-assign]
        self.load_weights = self._tools.load_weights  # type: ignore[method-assign]
        self.images_per_identity = job.track.attack.images_per_identity * _effort(job)
        self.identities = job.track.identities
        self.artifact = artifact
        defense = job.defense()
        self.adapt = defense.adapt if adapts(defense) else None
        self.seed = job.stage.seed
        self.shown_side = job.track.evaluator.shown_side
        self.where = ""

    @property
    def public(self) -> ImageSet:  # type: ignore[override]
        return existing(self._public, self.track.id)

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Loop:
        return self._tools.loop(name, steps, state)

    def steps(self, name: str, count: int) -> Iterator[int]:
        return iter(Loop(name + self.where, count, {}, None, self._tools.progress))


def prepare(job: Job) -> dict[str, Any]:
    """Writes ``artifact.safetensors``: what the attack computes once per target."""
    attack = job.registry.build("attack", job.stage.plugin, job.stage.params, job.track)
    oracle, prior, ctx = _oracle(job, _asked(job)), load_prior(job, attack.tunes_prior), _Context(job, {})
    job.seed_weights()
    with job.closed(), rounded(job.stage.params.get(PRECISION), job.device):
        tensors = attack.prepare(oracle, prior, ctx)
    save_tensors(tensors, job.workdir / "artifact.safetensors")
    return {"queries": _counted(job, oracle)}


def run(job: Job) -> dict[str, Any]:
    """Writes ``images/`` and ``initial/`` as PNG and ``images.json`` with label, index, file, score, selected; in
    ``shown/`` the floats that the evaluator sees, where the track lets it see more than these pictures."""
    attack = job.registry.build("attack", job.stage.plugin, job.stage.params, job.track)
    artifact = {}
    if "prepare" in job.stage.inputs:
        folder, _ = job.parent("prepare")
        artifact = load_file(folder / "artifact.safetensors", device=str(job.device))
    prior = load_prior(job, attack.tunes_prior)
    target = _asked(job)
    for name in ("images", "initial", "blocks", *(["shown"] if job.track.evaluator.shown_side else [])):
        (job.workdir / name).mkdir(exist_ok=True)
    ctx = (_ControlContext if job.stage.access == Access.PRIVATE else _Context)(job, artifact)
    memory = _BlockSize(job)
    done = _finished_blocks(job)
    left = [label for label in ctx.identities if label not in done]
    while left:
        stopping.check()
        most = attack.group if BUDGET in job.stage.params else attack.block  # one may run out of its budget, not others
        labels = left[: min(memory.size, most or memory.size)]
        ctx.where = f" {len(done) + 1}-{len(done) + len(labels)} of {len(ctx.identities)}"
        oracle = _oracle(job, target)
        try:
            with job.closed(), rounded(job.stage.params.get(PRECISION), job.device):
                entries = _block(job, attack.invert(oracle, prior, labels, ctx), labels, oracle)
        except torch.OutOfMemoryError:
            memory.halve(len(labels))
            continue
        write_json(
            job.workdir / "blocks" / f"{labels[0]:06d}.json",
            {"labels": labels, "entries": entries, "queries": _counted(job, oracle)},
        )
        done |= set(labels)
        left = left[len(labels) :]
    return _collect(job)


@contextmanager
def rounded(precision: str | None, device: torch.device) -> Iterator[None]:
    """While an attack computes: products and convolutions in ``tf32`` (on a GPU; elsewhere there is no such thing) or
    ``bf16``, the rest in float32. None: all in float32."""
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = precision is not None
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def _effort(job: Job) -> int:
    """How many times as many results an attack makes as the track asks for."""
    return int(job.stage.params.get("effort", 1))


def _asked(job: Job) -> Classifier:
    """What the attack looks at: the served target, or the student that stands for it."""
    return load_student(job) if "student" in job.stage.inputs else job.target()


def _counted(job: Job, oracle: Oracle) -> dict[str, Any]:
    """The questions to the target; those to a student cost nothing."""
    return {} if "student" in job.stage.inputs else oracle.counts()


def _oracle(job: Job, asked: Classifier) -> Oracle:
    stage, budget = job.stage, job.stage.params.get(BUDGET)
    before = [role for role in ("prior", "student", "prepare") if role in stage.inputs]
    spent = 0 if budget is None else sum(_shared(job, role) for role in before)
    if "student" in before and budget is not None:
        if spent > budget:
            raise BudgetSpent(f"The student alone takes {spent} queries, more than the budget of {budget}.")
        budget = None
    return Oracle(asked, stage.access or "labels", job.track.private.identities, stage.seed, budget, spent)


def _shared(job: Job, role: str) -> int:
    """The questions of a stage before this one, which count for every identity."""
    phases = job.parent(role)[1].result.get("queries", {}).values()
    return sum(count for kinds in phases for phase in kinds.values() for count in phase.values())


def _block(job: Job, results: Iterator[Reconstruction], labels: Sequence[int], oracle: Oracle) -> list[dict[str, Any]]:
    """Check and write one block's reconstructions; the entries of its images."""
    entries: list[dict[str, Any]] = []
    seen = set()
    for item in results:
        if item.label not in labels or item.label in seen:
            raise StageFailed(f"The attack returned identity {item.label}, which was not asked for once.")
        seen.add(item.label)
        item = replace(item, images=item.images.float(), initial=item.initial.float())
        _check(job, item)
        if _effort(job) > 1:
            item = best(item, job.track.attack.images_per_identity, oracle)
        if side := job.track.evaluator.shown_side:
            shown = resized(item.images, side, "rendered") if item.shown is None else item.shown
            save_tensors({"images": shown.half()}, job.workdir / "shown" / f"{item.label:06d}.safetensors")
        selected = item.selected if item.selected is not None else torch.ones(len(item.images), dtype=torch.bool)
        for index in range(len(item.images)):
            name = f"{item.label:06d}_{index:03d}.png"
            for folder, images in (("images", item.images), ("initial", item.initial)):
                write_png(images[index], job.workdir / folder / name, job.track.attack.stored)
            entries.append(
                {
                    "label": item.label,
                    "index": index,
                    "file": f"images/{name}",
                    "score": None if item.score is None else float(item.score[index]),
                    "selected": bool(selected[index]),
                    "notes": item.notes,
                }
            )
    if missing := set(labels) - seen:
        raise StageFailed(f"The attack returned nothing for identities {sorted(missing)}.")
    return entries


@torch.no_grad()
def best(item: Reconstruction, count: int, oracle: Oracle) -> Reconstruction:
    """The ``count`` images of more that the attack likes best by its own ``score``, or, without one, that the model it
    looks at is surest of, as far as the attack may ask: by score or by label, else the first."""
    score = item.score
    if score is None:
        with oracle.phase("selection"):
            if oracle.access == Access.LABELS:
                score = (oracle.labels(item.images) == item.label).float()
            else:
                score = oracle.scores(item.images)[:, item.label]
    item, kept = replace(item, score=score), score.argsort(descending=True, stable=True)[:count]
    return replace(item, **{name: value[kept] for name in PER_IMAGE if (value := getattr(item, name)) is not None})


def _check(job: Job, item: Reconstruction) -> None:
    asked = job.track.attack.images_per_identity * _effort(job)
    if len(item.images) != asked and job.stage.access != Access.PRIVATE:
        raise StageFailed(
            f"The attack returned {len(item.images)} images for identity {item.label}; the track asks every attack for "
            f"{asked}, so that figures compare."
        )
    some = (len(item.images), job.track.channels)
    side = job.track.resolution
    given = [("images", item.images, side), ("initial", item.initial, side)]
    if item.shown is not None:
        given.append(("shown", item.shown, job.track.evaluator.shown_side or side))
    for name, images, size in given:
        shape = (*some, size, size)
        if tuple(images.shape) != shape or not len(images):
            raise StageFailed(
                f"The attack's {name} for identity {item.label} have shape {tuple(images.shape)}; expected {shape}."
            )
        if not bool(torch.isfinite(images).all()):
            raise StageFailed(f"The attack's {name} for identity {item.label} contain numbers that are not finite.")


def _finished_blocks(job: Job) -> set[int]:
    done: set[int] = set()
    for path in sorted((job.workdir / "blocks").glob("*.json")):
        done |= set(json.loads(path.read_text())["labels"])
    return done


def _collect(job: Job) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    queries: dict[str, dict[str, Counter[str]]] = {}
    paths = sorted((job.workdir / "blocks").glob("*.json"))
    for path in paths:
        block = json.loads(path.read_text())
        entries += block["entries"]
        for who, phases in block["queries"].items():
            for phase, kinds in phases.items():
                queries.setdefault(who, {}).setdefault(phase, Counter()).update(kinds)
    write_json(job.workdir / "images.json", entries)
    for path in paths:
        path.unlink()
    (job.workdir / "blocks").rmdir()
    return {"queries": {who: {p: dict(k) for p, k in phases.items()} for who, phases in queries.items()}}


class _ControlContext(_Context, ControlContext):
    """With the private images; for the engine's own controls alone."""

    def __init__(self, job: Job, artifact: dict[str, Tensor]) -> None:
        if not job.registry.is_control_of_ours(job.stage.plugin):
            raise StageFailed(f"{job.stage.plugin} asks for private images, which no attack gets.")
        super().__init__(job, artifact)
        self.private = job.private_train()


class _BlockSize:
    """How many identities fit on the device at once: found once, remembered per device, track, and attack with its
    parameters. It never enters a stage key, because it never changes a result."""

    def __init__(self, job: Job) -> None:
        device = torch.cuda.get_device_name(job.device) if job.device.type == "cuda" else "cpu"
        stage = job.stage
        self._path = job.store.home / "cache" / "blocks.json"
        self._name = f"{device}/{stage.track}/{stage.plugin}/{digest(stage.params)[:12]}"
        self.size = int(self._read().get(self._name, LARGEST_BLOCK))

    def _read(self) -> dict[str, int]:
        try:
            sizes: dict[str, int] = json.loads(self._path.read_text())
            return sizes
        except (OSError, ValueError):
            return {}

    def halve(self, used: int) -> None:
        """``used`` were too many. Raises StageFailed if that was one."""
        if used == 1:
            raise StageFailed("One identity alone does not fit into the device's memory.")
        torch.cuda.empty_cache()
        self.size = used // 2
        write_json(self._path, self._read() | {self._name: self.size})
