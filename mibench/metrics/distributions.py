"""How two sets of features compare as distributions: shared support, and the distance of two normal fits."""

from __future__ import annotations

import torch
from torch import Tensor


def prdc(real: Tensor, fake: Tensor, nearest_k: int) -> dict[str, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    ``real`` (N, F) and ``fake`` (M, F) are features. A ball around a sample reaches to its ``nearest_k``-th
    nearest neighbour in its own set, boundary excluded. All are shares, but density can exceed 1.

    Raises:
        ValueError: a set has no more than ``nearest_k + 1`` samples.
    """
    real, fake = _features(real), _features(fake)
    fewest = min(len(real), len(fake))
    if nearest_k < 1 or fewest <= nearest_k + 1:
        raise ValueError(f"{nearest_k} neighbours need more than {nearest_k + 1} samples in each set, not {fewest}.")
    distance = _distances(real, fake)  # (N, M)
    real_radius, fake_radius = _radii(real, nearest_k), _radii(fake, nearest_k)
    in_real_ball = distance < real_radius[:, None]
    in_fake_ball = distance < fake_radius[None]
    shares = {
        "precision": in_real_ball.any(0).double().mean(),
        "recall": in_fake_ball.any(1).double().mean(),
        "density": in_real_ball.sum(0).double().mean() / nearest_k,
        "coverage": in_real_ball.any(1).double().mean(),
    }
    return {name: float(share) for name, share in shares.items()}


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """|m_r - m_f|^2 + tr(S_r + S_f - 2 (S_r S_f)^(1/2)) of the means and covariances of two sets of features.

    With S = R'R, the trace of the square root is the sum of the singular values of R_r R_f', which needs no
    square root of a product that is singular when there are fewer samples than features. It is FID (Heusel et
    al. 2017) only on that paper's Inception features.

    Raises:
        ValueError: a set has fewer than two samples.
    """
    real, fake = _features(real), _features(fake)
    if min(len(real), len(fake)) < 2:
        raise ValueError("A covariance needs at least two samples in each set.")
    real_root, fake_root = _covariance_root(real), _covariance_root(fake)
    shift = (real.mean(0) - fake.mean(0)).square().sum()
    shared = torch.linalg.svdvals(real_root @ fake_root.T).sum()
    distance = shift + real_root.square().sum() + fake_root.square().sum() - 2 * shared
    return float(distance.clamp(min=0))


def _features(values: Tensor) -> Tensor:
    values = torch.as_tensor(values, dtype=torch.float64)
    if values.ndim != 2:
        raise ValueError(f"Features are (samples, features), not {tuple(values.shape)}.")
    return values


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Without the matrix product shortcut, whose rounding breaks ties."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _radii(samples: Tensor, nearest_k: int) -> Tensor:
    """The distance of each sample to its ``nearest_k``-th nearest neighbour; the nearest of all is itself."""
    return _distances(samples, samples).kthvalue(nearest_k + 1, dim=1).values


def _covariance_root(samples: Tensor) -> Tensor:
    """R with R'R the covariance, of at most as many rows as there are features."""
    centred = (samples - samples.mean(0)) / (len(samples) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R if len(centred) > centred.shape[1] else centred
