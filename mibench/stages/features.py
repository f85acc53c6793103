"""Where a run's reconstructions lie among the private images in the target's feature space, beside randomly erased
versions of these images (Tran et al., "Random Erasing vs. Model Inversion", TMLR 2025, Figure 2). The paper shows one
class and names no projection; the plane, the scalars and the number of draws are ours."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import Tensor

from mibench.errors import StageFailed
from mibench.images.augment import erase_rectangles
from mibench.images.pixels import Pixels, read_png
from mibench.records import MetricValue
from mibench.stages.hulls import area, hull, intersection
from mibench.stages.job import Job, predict
from mibench.stats import bootstrap_interval
from mibench.store.atomic import write_json

Array = NDArray[np.float64]

# The protocol's, the same for every defense: the range that the paper trains with.
AREA = (0.1, 0.4)  # of the image, one square
DRAWS = 10  # erased versions of each image
CHUNK = 4096  # images erased at once; which squares are drawn depends on it in larger sets
KEPT = 60  # points of a set that are written, besides the corners of its hull; numbers come from all of them

SETS = ("private", "erased", "reconstructed")
VALUES = ("overlap_private", "overlap_erased", "distance_private", "distance_erased", "distance_within")


def run(job: Job) -> dict[str, Any]:
    """Writes ``features.json``: per identity the plane's points, hulls and scalars. The result holds the means."""
    net, noise, erasing = job.target(), job.stream("noise"), job.stream("erase")
    identities = job.track.identities
    private = job.private_train()
    attacked = private.subset(torch.isin(private.labels, torch.tensor(identities, device=job.device)))
    images, labels = attacked.images, attacked.labels.cpu()

    folder, _ = job.parent("invert")
    entries: list[dict[str, Any]] = json.loads((folder / "images.json").read_text())
    made = torch.stack([read_png(folder / entry["file"], job.track.channels) for entry in entries]).to(job.device)
    made_labels = torch.tensor([entry["label"] for entry in entries])

    def features(pixels: Tensor | Pixels) -> Array:
        with job.closed():
            values = predict(net, pixels, noise)[1].double().cpu().numpy()
        if not np.isfinite(values).all():
            raise StageFailed("The target's features contain numbers that are not finite.")
        return values

    of_private, of_made = features(images), features(made)
    erased = []
    for draw in range(DRAWS):
        parts = (erase_rectangles(part, erasing, AREA, mean=job.track.fill) for part in images.split(CHUNK))
        erased.append(np.concatenate([features(part) for part in parts]))
        job.progress(draw + 1, DRAWS, None, "erased images")
    of_erased = np.stack(erased, 1)  # (images, draws, F)
    table = []
    for label in identities:
        own, of_label = (labels == label).numpy(), (made_labels == label).numpy()
        sets = (of_private[own], of_erased[own].reshape(-1, of_private.shape[1]), of_made[of_label])
        table.append({"label": label} | identity(*sets))
    facts = {"draws": DRAWS, "area": list(AREA), "fill": list(job.track.fill)}
    write_json(job.workdir / "features.json", {"schema": 1, **facts, "identities": table})
    return facts | summary(table)


def plane(sets: Sequence[Array]) -> tuple[list[Array], float | None]:
    """Project sets of features (n_i, F) to the first two principal components of their union, centred at its mean;
    the component's largest loading is positive. Returns (n_i, 2) each, and the share of the union's variance that
    the plane holds, None if there is no variance."""
    union = np.concatenate(sets)
    centred = union - union.mean(0)
    _, size, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(axes[np.arange(len(axes[:2])), np.abs(axes[:2]).argmax(1)])[:, None]
    points = centred @ axes.T
    if points.shape[1] < 2:
        points = np.column_stack([points, np.zeros(len(points))])
    total = float((size**2).sum())
    share = float((size[:2] ** 2).sum()) / total if total else None
    return np.split(points, np.cumsum([len(part) for part in sets])[:-1]), share


def identity(private: Array, erased: Array, reconstructed: Array) -> dict[str, Any]:
    """Plane, hulls and scalars of one identity from its features (n, F).

    overlap_*: share of the area of the reconstructions' hull that lies in the hull of the other set. distance_*: mean
    Euclidean distance, in the whole feature space, from a reconstruction to the nearest point of the other set;
    distance_within: from a private image to the nearest other private image of the identity, which gives the scale.
    A scalar that cannot be had is None, with its reason.
    """
    points, share = plane([private, erased, reconstructed])
    scale = max(float(np.abs(part).max()) for part in points)
    hulls = [hull(part, scale) for part in points]
    polygons = [part[corners] for part, corners in zip(points, hulls, strict=True)]
    values: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for name, polygon in zip(SETS[:2], polygons[:2], strict=True):
        key = f"overlap_{name}"
        values[key] = None
        if not area(polygons[2]):
            reasons[key] = "the reconstructions' hull has no area"
        elif not area(polygon):
            reasons[key] = f"the hull of the {name} images has no area"
        else:
            shared = area(intersection(polygons[2], polygon)) / area(polygons[2])
            values[key] = min(max(shared, 0.0), 1.0)  # rounding alone leaves [0, 1]
    values["distance_private"] = nearest(reconstructed, private)
    values["distance_erased"] = nearest(reconstructed, erased)
    values["distance_within"] = None
    if len(private) > 1:
        between = cdist(private, private)
        np.fill_diagonal(between, np.inf)
        values["distance_within"] = float(between.min(1).mean())
    else:
        reasons["distance_within"] = "the identity has one private image"
    digits = 4 - int(np.floor(np.log10(scale))) if scale else 0  # five digits of the plane's size
    drawn = [written(part, corners, digits) for part, corners in zip(points, hulls, strict=True)]
    return {
        "counts": {name: len(part) for name, part in zip(SETS, points, strict=True)},
        "variance": share,
        "points": {name: part for name, (part, _) in zip(SETS, drawn, strict=True)},
        "hulls": {name: corners for name, (_, corners) in zip(SETS, drawn, strict=True)},
        "values": values,
        "reasons": reasons,
    }


def nearest(points: Array, others: Array) -> float:
    """The mean Euclidean distance from each of ``points`` (n, F) to the nearest of ``others``."""
    return float(cdist(points, others).min(1).mean())


def written(points: Array, corners: list[int], digits: int) -> tuple[list[list[float]], list[int]]:
    """The points to write, rounded: the hull's corners and the first of the others; and the corners among them."""
    others = [index for index in range(len(points)) if index not in set(corners)][:KEPT]
    kept = sorted([*corners, *others])
    place = {index: position for position, index in enumerate(kept)}
    return [[round(float(x), digits) for x in points[index]] for index in kept], [place[index] for index in corners]


def summary(table: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each scalar's mean over the identities that have it, with their number ``n`` and its 95 % bootstrap interval over
    identities."""
    means: dict[str, Any] = {}
    for name in VALUES:
        own = [row["values"][name] for row in table if row["values"][name] is not None]
        if own:
            means[name] = MetricValue(sum(own) / len(own), len(own), *bootstrap_interval(own))
        else:
            why = Counter(row["reasons"][name] for row in table).most_common(1)
            means[name] = MetricValue(None, reason=why[0][0] if why else "there are no identities")
    return {"identities": len(table), "values": {name: value.public() for name, value in means.items()}}
