"""Ask the target about the sealed test images, once, and write down what it answers."""

from __future__ import annotations

from typing import Any

import torch

from mibench.stages.job import Job, predict, save_tensors


def run(job: Job) -> dict[str, Any]:
    """Writes ``logits.safetensors`` with the test images' logits and labels; accuracy is computed elsewhere."""
    test = job.images(*job.data.private_test(), job.track.private.identities)
    net = job.target()
    with job.closed():
        logits, _ = predict(net, test.images, job.stream("noise"))
    save_tensors({"logits": logits, "labels": test.labels}, job.workdir / "logits.safetensors")
    return {"images": len(test), "largest_logit": float(torch.linalg.vector_norm(logits, float("inf")))}
