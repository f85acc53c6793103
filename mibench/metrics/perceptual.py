"""Metrics whose networks come with published weights. Where those are not on this machine the value is null."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mibench.images.pixels import Pixels, subset
from mibench.metrics.distributions import frechet_distance
from mibench.metrics.evidence import Evidence, macro, nearest_private
from mibench.metrics.weights import missing
from mibench.records import MetricValue

FID_MINIMUM = 5000
_BATCH = 64


def _colour(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def _resized(images: Tensor, size: int) -> Tensor:
    return functional.interpolate(_colour(images), (size, size), mode="bicubic", antialias=True).clamp(0, 1)


def d_face(e: Evidence) -> MetricValue:
    if reason := missing("facenet"):
        return MetricValue(None, reason=reason)
    from facenet_pytorch import InceptionResnetV1

    net = InceptionResnetV1(pretrained="vggface2").eval()

    def embed(images: Tensor | Pixels) -> Tensor:
        return torch.cat([net(_resized(chunk, 160) * 2 - 1) for chunk in images.split(_BATCH)])

    label = e.label[e.selected]
    with torch.inference_mode():
        distance, _ = nearest_private(
            embed(subset(e.images, e.selected)), label, embed(e.private_images), e.private_labels
        )
    return macro(distance, label)


def lpips(e: Evidence) -> MetricValue:
    if reason := missing("lpips"):
        return MetricValue(None, reason=reason)
    import lpips as library

    net = library.LPIPS(net="alex", verbose=False).eval()
    private = torch.cat([_resized(chunk, 64) for chunk in e.private_images.split(_BATCH)]) * 2 - 1
    values = []
    with torch.inference_mode():
        for chunk, labels in zip(e.images.split(_BATCH), e.label.split(_BATCH), strict=True):
            for image, label in zip(_resized(chunk, 64) * 2 - 1, labels, strict=True):
                own = private[e.private_labels == label]
                values.append(net(image.expand_as(own), own).min())
    return macro(torch.stack(values), e.label)


def fid(e: Evidence) -> MetricValue:
    if len(e.images) < FID_MINIMUM:
        return MetricValue(
            None, reason=f"FID needs at least {FID_MINIMUM:,} reconstructions; this run has {len(e.images):,}"
        )
    if reason := missing("inception"):
        return MetricValue(None, reason=reason)
    from pytorch_fid.inception import InceptionV3

    net = InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()

    def embed(images: Tensor | Pixels) -> Tensor:
        with torch.inference_mode():
            return torch.cat([net(_resized(chunk, 299))[0].flatten(1) for chunk in images.split(_BATCH)])

    value = frechet_distance(embed(e.private_images), embed(e.images))
    return MetricValue(float(value), len(e.images))


def face_rate(e: Evidence) -> MetricValue:
    from facenet_pytorch import MTCNN

    detector = MTCNN(image_size=160, keep_all=False, post_process=False, device="cpu")
    detected: list[float] = []
    for chunk in e.images.split(_BATCH):
        pixels = (_resized(chunk, 160) * 255).round().byte().permute(0, 2, 3, 1).cpu()
        boxes, _ = detector.detect([image.numpy() for image in pixels])
        detected += [float(box is not None) for box in boxes]
    return macro(torch.tensor(detected), e.label.cpu())
