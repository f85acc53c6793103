"""Plain implementations of published loops, as the specifications describe them: identities or restarts one after
another, networks with their batch norm and gradients for weights, images one by one through PIL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mibench.contracts import Rows

TO_TENSOR = transforms.ToTensor()


def gmi(G: nn.Module, D: nn.Module, T: nn.Module, labels: Tensor, start: Tensor, steps: int, batch: int) -> Tensor:
    """Zhang et al., CVPR 2020: batches of 60 identities, restarts one after another. -> images."""
    done = []
    for y, z0 in zip(labels.split(batch), start.split(batch), strict=True):
        z, v = z0.clone().requires_grad_(), torch.zeros_like(z0)
        for _ in range(steps):
            fake = G(z)
            scores = D(fake)
            if z.grad is not None:
                z.grad.zero_()
            loss = -scores.mean() * len(y) / 60 + 100 * functional.cross_entropy(T(fake).logits, y) * len(y) / 60
            loss.backward()
            before = v.clone()
            v = 0.9 * v - 0.02 * z.grad
            z = (z.detach() - 0.9 * before + 1.9 * v).clamp(-1, 1).requires_grad_()
        done.append(G(z).detach())
    return torch.cat(done)


def kedmi(G: nn.Module, D: nn.Module, T: nn.Module, rows: Rows, dim: int, steps: int) -> Tensor:
    """Chen et al., ICCV 2021: a Gaussian per identity, one draw per step. -> images of a draw."""
    noise, y = rows.streams("noise"), rows.label
    mu, s = torch.zeros(len(y), dim, device=y.device), torch.ones(len(y), dim, device=y.device)
    adam = torch.optim.Adam([mu.requires_grad_(), s.requires_grad_()], lr=0.02)
    for _ in range(steps):
        z = mu + torch.exp(s / 2) * noise.normal(len(y), dim)
        fake = G(z)
        logits = D(fake).logits
        prior = functional.softplus(torch.logsumexp(logits, 1)).mean() - torch.logsumexp(logits, 1).mean()
        adam.zero_grad()
        ((prior + 100 * functional.cross_entropy(T(fake).logits, y)) * len(y) / 60).backward()
        adam.step()
    with torch.no_grad():
        drawn: Tensor = G(mu + torch.exp(s / 2) * rows.streams("draws").normal(len(y), 1, dim)[:, 0])
    return drawn


@torch.no_grad()
def candidates(G: nn.Module, T: nn.Module, z: Tensor, labels: Sequence[int], count: int, batch: int = 25) -> Tensor:
    """Struppek et al., ICML 2022: confidence in each image and its mirror, and a full sort for each class."""
    confidence = []
    for part in z.split(batch):
        x = G(part).clamp(0, 1)
        confidence.append((T(x).logits.softmax(1) + T(x.flip(3)).logits.softmax(1)) / 2)
    scores = torch.cat(confidence)
    return torch.stack([scores[:, y].sort(descending=True).indices[:count] for y in labels])


@torch.no_grad()
def selection(
    T: nn.Module, images: Tensor, labels: Sequence[int], views: Callable[[Tensor], Iterator[Tensor]]
) -> Tensor:
    """... and its final selection: class after class, the mean confidence over transformed copies."""
    scores = []
    for y, x in zip(labels, images.chunk(len(labels)), strict=True):
        total = torch.zeros(len(x), device=x.device)
        for view in views(x):
            total += T(view).logits.softmax(1)[:, y]
        scores.append(total)
    return torch.cat(scores)


@torch.no_grad()
def brepmi(G: nn.Module, T: nn.Module, rows: Rows, start: Tensor, rounds: int, points: int = 32) -> Tensor:
    """Kahla et al., CVPR 2022: identity after identity; a sphere of points, then the proposal; scores for a loss that
    is only logged. -> the last z of each (R, d)."""
    spheres, done = rows.streams("sphere"), []
    for i, y in enumerate(rows.label.tolist()):
        z, R, sphere = start[i, None], 2.0, spheres.take(torch.tensor([i]))

        def phi(z: Tensor, y: int = y) -> Tensor:
            return torch.where(T(G(z)).logits.argmax(1) == y, 1.0, -1.0)

        for _ in range(rounds):
            alpha = min(R / 3, 3.0)
            u = R * functional.normalize(sphere.normal(1, points, z.shape[1])[0])
            q = phi(z + u)
            if q.sum() > 0.75 * points:
                R *= 1.3
            proposal = (z + alpha * (((q - 1) / 2)[:, None] * u).mean(0, keepdim=True) / R).clamp(-1.5, 1.5)
            functional.cross_entropy(T(G(z)).logits, torch.tensor([y], device=z.device))  # logged
            if phi(proposal) > 0:
                z = proposal
        done.append(z)
    return torch.cat(done)


class Files(Dataset[tuple[Tensor, int]]):
    """Encoded images, decoded and transformed one by one."""

    def __init__(self, files: Sequence[bytes], labels: Tensor, transform: Callable[[Any], Any]) -> None:
        self.files, self.labels, self.transform = files, labels, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(BytesIO(self.files[index])) as image:
            return self.transform(image), int(self.labels[index])


def encoded(images: np.ndarray, kind: str) -> list[bytes]:
    """(N, H, W, C) or (N, H, W) uint8 as files."""
    files = []
    for image in images:
        file = BytesIO()
        Image.fromarray(image).save(file, kind)
        files.append(file.getvalue())
    return files


def celeba_transform() -> Callable[[Any], Any]:
    """GMI's: crop 108, resize to 64, mirror."""
    crop = transforms.Lambda(lambda x: x[:, 55:163, 35:143])
    return transforms.Compose(
        [
            TO_TENSOR,
            crop,
            transforms.ToPILImage(),
            transforms.Resize((64, 64)),
            transforms.RandomHorizontalFlip(),
            TO_TENSOR,
        ]
    )


def train(net: nn.Module, loader: DataLoader[Any], steps: int) -> None:
    """SGD as GMI's targets, from a loader, for so many steps."""
    optimiser = torch.optim.SGD(net.parameters(), 0.01, 0.9, weight_decay=1e-4)
    device = next(net.parameters()).device
    batches = iter(loader)
    for _ in range(steps):
        x, y = next(batches)
        optimiser.zero_grad()
        functional.cross_entropy(net(x.to(device)).logits, y.to(device)).backward()
        optimiser.step()


def hsic_terms(hidden: Sequence[Tensor], x: Tensor, one_hot: Tensor, sigma: float = 5.0) -> Tensor:
    """Peng et al., KDD 2022: every kernel and every inverse anew for each pair. -> sum of the dependences (2,)."""

    def kernel(a: Tensor) -> Tensor:
        squared = (a * a).sum(1, keepdim=True)
        distance = (squared - 2 * a @ a.T + squared.T).abs()
        return torch.exp(-distance / (2 * sigma**2 * a.shape[1]))

    def normalised(k: Tensor) -> Tensor:
        m = len(k)
        centred = k @ (torch.eye(m, device=k.device) - 1 / m)
        return centred @ torch.inverse(centred + 1e-5 * m * torch.eye(m, device=k.device))

    def dependence(k_a: Tensor, k_b: Tensor) -> Tensor:
        return (normalised(k_a) * normalised(k_b).T).sum()

    to_x, to_y = torch.zeros((), device=x.device), torch.zeros((), device=x.device)
    for z in hidden:
        to_x = to_x + dependence(kernel(z.flatten(1)), kernel(x.flatten(1)))
        to_y = to_y + dependence(kernel(z.flatten(1)), one_hot @ one_hot.T)
    return torch.stack([to_x, to_y])


@torch.no_grad()
def judge(nets: Sequence[tuple[nn.Module, int]], images: Tensor) -> list[Tensor]:
    """Each image by itself: to 8 bits, through PIL to the network's own size, back, and through the network."""
    to_image, device = transforms.ToPILImage(), images.device
    answers: list[list[Tensor]] = [[] for _ in nets]
    for image in images.cpu():
        for (net, side), said in zip(nets, answers, strict=True):
            seen = TO_TENSOR(to_image(image.clamp(0, 1)).resize((side, side), Image.Resampling.BILINEAR)).to(device)
            out = net(seen[None])
            said.append((out.logits if hasattr(out, "logits") else out).argmax(1))
    return [torch.cat(said) for said in answers]
