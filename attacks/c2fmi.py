"""C2FMI: coarse-to-fine inversion from scores (Ye et al., "C2FMI: Corse-to-Fine Black-box Model Inversion Attack", IEEE
TDSC 2023)."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize, relu

from mibench.contracts import Access, Attack, AttackContext, BaseParams, PriorModel, PriorRef, Reconstruction
from mibench.evolution import differential_evolution
from mibench.latents import descend_adam
from mibench.nets import build_classifier
from mibench.oracle import Oracle
from mibench.pool import render_single, style_pool
from mibench.training import fit_student, pack, unpack


def truncated(p: Tensor, top: int | None) -> Tensor:
    """What M sees of softmax scores (N, K): log p >= -1000, plus 50, shifted so that nothing is negative, 0 for all but
    the ``top`` largest, of length 1."""
    v = p.log().clamp(min=-1000) + 50
    v = v + relu(-v.amin(1, keepdim=True))
    if top is not None:
        v = torch.where(p >= p.topk(top).values[:, -1:], v, 0)
    return normalize(v)
