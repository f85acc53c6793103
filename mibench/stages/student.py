"""An undefended student of the target, distilled on public images: what an attack that transfers inverts instead.

Whatever a defense does to gradients or to answers, the student has gradients of its own (Papernot et al., "Practical
Black-Box Attacks against Machine Learning", 2017; Athalye et al., ICML 2018).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mibench.contracts import Access, Context, Loop, Oracle
from mibench.nets.base import Classifier
from mibench.nets.frozen import frozen, laid_out
from mibench.primitives.distillation import soft_kl
from mibench.primitives.queries import in_chunks
from mibench.primitives.training import Epochs, fit_student
from mibench.stages.job import Job, existing, load_weights, predict, save_weights

EPOCHS, BATCH, LR = 20, 64, 1e-3  # over the public images, as they are; the rate falls to 0 as a cosine


class _Context(Context):
    def __init__(self, job: Job) -> None:
        self.device, self.track = job.device, job.info
        self._tools = job.tools
        self.stream = job.tools.stream  # type: ignore[method-assign]

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Loop:
        return self._tools.loop(name, steps, state)


def run(job: Job) -> dict[str, Any]:
    """Writes ``model.safetensors``: a fresh network of the track's architecture, taught min KL(softmax T(x) ||
    softmax S(x)) by the target's scores of each public image, asked for once. The result holds the queries, and how
    often both give a public image the same label."""
    images = existing(job.public, job.track.id).images
    oracle = Oracle(job.target(), Access.SCORES, job.track.private.identities, job.stage.seed)
    with job.closed(), oracle.phase("distillation"):
        answers = in_chunks(oracle.scores, images)
    log_p = answers.clamp(min=torch.finfo(answers.dtype).tiny).log()
    job.seed_weights()
    student = laid_out(job.network(job.track.target.arch).to(job.device))
    batches = Epochs(job.stream, "student", len(images), BATCH)
    steps = EPOCHS * max(1, len(images) // min(BATCH, len(images)))

    def loss(step: int, rng: object) -> Tensor:
        index = batches(step)
        return soft_kl(log_p[index], student(images[index]).logits).mean()

    optimiser = torch.optim.Adam(student.parameters(), LR)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    fit_student(_Context(job), "student", student, steps, loss, optimiser, cosine)
    save_weights(student, job.workdir / "model.safetensors")
    told, _ = predict(student, images)
    agreement = float((told.argmax(1) == log_p.argmax(1)).float().mean())
    return {"queries": oracle.counts(), "agreement": agreement}


def load_student(job: Job) -> Classifier:
    """The stage's parent student, in eval mode."""
    folder, _ = job.parent("student")
    student = job.network(job.track.target.arch)
    load_weights(student, folder / "model.safetensors")
    return frozen(student.to(job.device).eval())
