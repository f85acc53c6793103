"""Face embeddings that an attacker owns, classifiers of people who have nothing to do with the target, and the inverse
map from the target's scores to such an embedding (C2FMI; Ye et al., TDSC 2023)."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, normalize

from mibench.contracts import AttackContext, BaseParams, Oracle, TrackInfo
from mibench.errors import StageFailed
from mibench.nets import build_classifier
from mibench.nets.base import Output
from mibench.primitives.queries import in_chunks
from mibench.primitives.training import fit_student, pack, unpack
from mibench.random import Stream


class EmbeddingParams(BaseParams):
    """Which embedding an attacker owns."""

    embedding: Literal["casia", "public"] = Field("casia", description="published, or of the labelled public people")
    casia_weights: str | None = Field(None, description="id of the imported InceptionResnetV1 of CASIA-WebFace")
    embedding_steps: int = Field(400, ge=1, description="training steps of the embedding if embedding=public")

    @model_validator(mode="after")
    def _one_embedding(self) -> Self:
        if self.embedding == "public" and self.casia_weights:
            raise ValueError("expected casia_weights only with embedding=casia")
        return self

    def lacking(self, track: TrackInfo) -> str | None:
        """Why there is no embedding on ``track``, or None."""
        if self.embedding == "public":
            return no_people(track)
        if self.casia_weights is not None:
            return None
        return (
            "its embedding needs facenet-pytorch's weights 20180408-102900-casia-webface.pt: import them with `mibench "
            "import-checkpoint FILE --as facenet_casia` and name their id in casia_weights, or set embedding=public"
        )


def no_people(track: TrackInfo) -> str | None:
    """Why no network on ``track`` can learn to tell public people apart, or None."""
    return None if track.public_labelled else "the track has no labelled public people to learn an embedding from"


class _Logits(nn.Module):
    def forward(self, output: Output) -> Tensor:
        return output.logits


def people_embedding(ctx: AttackContext, weights: str | None) -> nn.Module:
    """Images -> the logits of people. With imported ``weights``: of CASIA-WebFace's 10,575, eval mode, frozen. Without:
    of the labelled public people, a small network that ``fit_people`` trains. Raises StageFailed if there are none."""
    if weights is not None:
        from mibench.nets.casia import CasiaFaceNet

        published: nn.Module = CasiaFaceNet().to(ctx.device)
        ctx.load_weights(published, weights)
        return published.eval().requires_grad_(False)
    people = int(ctx.public.labels.max()) + 1
    if people < 2:
        raise StageFailed("An embedding that tells public people apart needs public images of two people with labels.")
    net = build_classifier("convnet", people, ctx.track.channels, ctx.track.resolution)
    return nn.Sequential(net, _Logits()).to(ctx.device)


def fit_people(ctx: AttackContext, net: nn.Module, steps: int, batch: int = 64, lr: float = 1e-3) -> nn.Module:
    """Train what ``people_embedding`` gave with cross-entropy and Adam on the labelled public images."""
    images, labels = ctx.public.images, ctx.public.labels
    labelled = (labels >= 0).nonzero()[:, 0]

    def loss(step: int, rng: Stream) -> Tensor:
        i = labelled[rng.integers(len(labelled), batch)]
        return cross_entropy(net(images[i]), labels[i])

    return fit_student(ctx, "embedding", net, steps, loss, torch.optim.Adam(net.parameters(), lr))


# --- the inverse map ------------------------------------------------------------------------------------------------


def visible(p: Tensor, top: int | None) -> Tensor:
    """What an inverse map sees of scores (N, K): log p, at least -1000, plus 50, moved up until nothing is negative, 0
    for all but the ``top`` largest (None: all), of length 1."""
    v = p.log().clamp(min=-1000) + 50
    shown = p >= p.topk(top or p.shape[1]).values[:, -1:]
    lowest = v.masked_fill(~shown, torch.inf).amin(1, keepdim=True)
    return normalize((v - lowest.clamp(max=0)) * shown)


def full_confidence(noise: Tensor, label: int) -> Tensor:
    """The pseudo-scores (n, K) whose embedding is wanted: |N(0, I)| with 1e18 at y, of length 1. In float32 the noise
    of the other classes is lost in M's sums."""
    v = noise.abs()
    v[:, label] = 1e18
    return normalize(v)


class InverseMap(nn.Sequential):
    """M: visible scores (N, K) -> embeddings (N, E), two hidden layers."""

    def __init__(self, classes: int, width: int, outputs: int) -> None:
        super().__init__(
            nn.Linear(classes, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.25),
            nn.Linear(width, outputs),
        )


def fit_inverse_map(
    ctx: AttackContext, net: nn.Module, seen: Tensor, wanted: Tensor, epochs: int, batch: int = 128, lr: float = 1e-3
) -> nn.Module:
    """Train M with MSE to ``wanted`` (N, E) on what is ``seen`` (N, K) of the scores of the same images: Adam, the rate
    times 0.8 every other epoch."""
    adam = torch.optim.Adam(net.parameters(), lr)
    epoch = math.ceil(len(seen) / batch)

    def loss(step: int, rng: Stream) -> Tensor:
        i = rng.integers(len(seen), batch)
        return mse_loss(net(seen[i]), wanted[i])

    schedule = torch.optim.lr_scheduler.StepLR(adam, 2 * epoch, 0.8)
    return fit_student(ctx, "inverse map", net, epochs * epoch, loss, adam, schedule)


def prepare_inverse_map(
    oracle: Oracle, ctx: AttackContext, weights: str | None, steps: int, top: int | None, width: int, epochs: int
) -> dict[str, Tensor]:
    """M of the embedding e with imported ``weights``, learnt from the public images, about each of which the target is
    asked once, under "search"; and e itself where it has no weights but learns in ``steps`` steps."""
    images = ctx.public.images
    e = people_embedding(ctx, weights)
    own = {} if weights is not None else {"e": fit_people(ctx, e, steps)}
    with torch.no_grad(), oracle.phase("search"):
        seen = in_chunks(lambda x: visible(oracle.scores(x), top), images)
        wanted = in_chunks(e, images)
    M = InverseMap(ctx.track.num_classes, width, wanted.shape[1]).to(ctx.device)
    return pack(M=fit_inverse_map(ctx, M, seen, wanted, epochs), **own)


def stored_inverse_map(ctx: AttackContext, weights: str | None, width: int) -> tuple[nn.Module, nn.Module]:
    """e and M as ``prepare_inverse_map`` left them in the attack's artefact; eval mode, frozen."""
    e = people_embedding(ctx, weights)
    if weights is None:
        unpack(e, ctx.artifact, "e")
    M = InverseMap(ctx.track.num_classes, width, len(ctx.artifact["M/5.bias"])).to(ctx.device)
    return e, unpack(M, ctx.artifact, "M")
