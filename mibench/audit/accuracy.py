"""Is it the network that its owner has? How often it names the class of its own images; and where it does not, which
other reading of weights, pixels or classes would have it do so. Asked before anything is attacked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from mibench.audit.foreign import Foreign, Way
from mibench.audit.probe import follow
from mibench.audit.request import NORMALISATIONS, AuditRequest
from mibench.data import TrackData, cache
from mibench.data.sets import imaging
from mibench.data.sets.folder import ordered
from mibench.errors import UserError

ASKED = 256  # images at most, of all classes in turn
TRIED = 96  # images on which another reading is tried
FAR = 0.1  # below what its owner states, or above what was measured
CHANCE = 1e-3  # how seldom guessing must do as well
HIGH = 0.9  # what few images cannot tell from luck, and is none


@dataclass(frozen=True)
class Accuracy:
    """``value``: the share of ``n`` images whose class the network names, mean over classes; ``answers``: how often it
    names each; ``sure``: the mean of its largest softmax."""

    value: float
    n: int
    answers: tuple[int, ...]
    sure: float = 1.0

    @property
    def chance(self) -> float:
        return 1 / len(self.answers)

    @property
    def guessed(self) -> bool:
        """Whether guessing does about as well."""
        near = self.value <= self.chance + FAR * (1 - self.chance)
        lucky = float(binom.sf(round(self.value * self.n) - 1, self.n, self.chance)) > CHANCE
        return near or (lucky and self.value < HIGH)

    def below(self, stated: float) -> bool:
        """Whether it is far below what was stated, and not by the chance of few images."""
        return self.value < stated - max(FAR, 3 * (stated * (1 - stated) / self.n) ** 0.5)


def check(request: AuditRequest, network: nn.Module, way: Way, data: TrackData) -> tuple[Accuracy, float]:
    """The accuracy on images of --data, and by what the logits must be multiplied for the network to be as sure as it
    is right (Guo et al. 2017): 1 unless they are so flat that no attack that climbs them gets anywhere. Raises
    UserError that says what the likely reasons are where the accuracy is near chance, or, on --val if there is one, far
    below what was stated; and where gradients are lost on such images."""
    stated, classes = request.expect_accuracy, len(request.classes)
    picked, truth = _chosen(*data.private_train())
    scores = logits(network, way, classes, picked)
    known = asked = measure(scores, truth)
    if request.val is not None and stated is not None:
        other, labels = _chosen(*data.private_test())
        asked = measure(logits(network, way, classes, other), labels)
    if asked.below(stated) if stated is not None else known.guessed:
        raise UserError(_sentence(request, asked, list(reasons(request, network, way, data, known))))
    follow(Foreign(network, classes, way).eval().requires_grad_(False), picked[:8])
    return known, _scale(scores, truth) if 2 * known.sure < known.value else 1.0


def _scale(scores: Tensor, truth: Tensor) -> float:
    """The power of two that makes the right classes likeliest."""
    tried = [2.0**power for power in range(13)]
    return min(tried, key=lambda scale: float(functional.cross_entropy(scale * scores, truth)))


def _chosen(images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    chosen = np.sort(sample(labels, ASKED))
    return _floats(images[chosen]), torch.from_numpy(np.array(labels[chosen]))


def sample(labels: np.ndarray, count: int) -> np.ndarray:
    """Where so many images are, of all classes in turn."""
    rank = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        rank[of_class] = np.argsort(np.random.RandomState(int(label)).permutation(len(of_class)))
    return np.lexsort((labels, rank))[:count]


@torch.no_grad()
def logits(network: nn.Module, way: Way, classes: int, images: Tensor) -> Tensor:
    net = Foreign(network, classes, way).eval()
    return torch.cat([net(part).logits for part in images.split(64)]).float()


def measure(scores: Tensor, truth: Tensor) -> Accuracy:
    named = scores.argmax(1)
    per_class = [float((named[truth == label] == label).float().mean()) for label in truth.unique().tolist()]
    answers = torch.bincount(named, minlength=scores.shape[1]).tolist()
    sure = float(scores.softmax(1).amax(1).mean())
    return Accuracy(sum(per_class) / len(per_class), len(truth), tuple(answers), sure)


def reasons(
    request: AuditRequest, network: nn.Module, way: Way, data: TrackData, found: Accuracy
) -> Iterator[tuple[str, float]]:
    """Other readings that are far better, and the accuracy with each."""
    labels = data.private_train()[1]
    chosen = np.sort(sample(labels, ASKED))
    picked, truth = _chosen(*data.private_train())
    scores = logits(network, way, len(request.classes), picked)
    tried = _tries(request, network, way, picked, truth, scores)
    readers = _readers(request, network, way, data, chosen[:TRIED], truth[:TRIED])
    for words, value in [*tried, *readers]:
        if value is not None and value > max(found.value, found.chance) + FAR:
            yield words, value


def _tries(
    request: AuditRequest, network: nn.Module, way: Way, images: Tensor, truth: Tensor, scores: Tensor
) -> Iterator[tuple[str, float | None]]:
    """Each reading and its accuracy; None where the network does not answer when it is read so."""
    names = request.classes
    for order in ("natural", "lexicographic"):
        theirs = ordered(names, order)
        if theirs != names:
            place = torch.tensor([theirs.index(name) for name in names])
            yield f"--class-order {order}", measure(scores[:, place], truth).value
    yield "classes in another order (--class-order FILE)", _in_some_order(scores, truth)
    yield "scores that are smallest, not largest, for the class (distances or energies)", measure(-scores, truth).value
    few, known = images[:TRIED], truth[:TRIED]

    def ask(other: Way) -> float | None:
        try:
            return measure(logits(network, other, len(names), few), known).value
        except Exception:  # somebody's network, asked what it may not take: whatever it raises, it is not read so
            return None

    for name, (mean, std) in NORMALISATIONS.items():
        if name != request.normalise and {len(mean), len(std)} <= {1, images.shape[1]}:
            yield f"--normalise {name}", ask(replace(way, mean=mean, std=std))
    if images.shape[1] == 3:
        yield "--no-bgr" if way.bgr else "--bgr", ask(replace(way, bgr=not way.bgr))
    for side in (32, 64, 96, 128, 224, 299):
        if side != (way.side or images.shape[-1]):
            yield f"--network-resolution {side}", ask(replace(way, side=side))
    yield (
        "batch statistics, as in training (its running ones have not settled: train on)",
        _of_batches(network, way, few, known),
    )
    if isinstance(transforms := getattr(network, "transform_input", None), bool):
        changed: Any = network
        changed.transform_input = not transforms
        value = ask(way)
        changed.transform_input = transforms
        yield "--no-transform-input" if transforms else "--transform-input", value


@torch.no_grad()
def _of_batches(network: nn.Module, way: Way, images: Tensor, truth: Tensor) -> float | None:
    """The accuracy with each batch normalised by itself, None if it cannot be; the network stays as it is."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    net = Foreign(network, int(truth.max()) + 1, replace(way, head="")).eval()
    kept = [
        (norm, norm.momentum, None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone())
        for norm in norms
    ]
    for norm in norms:
        norm.momentum = 0.0
        norm.training = True
    try:
        return measure(net(images).logits, truth).value
    except Exception:  # somebody's network, as in ``ask``
        return None
    finally:
        for norm, momentum, seen in kept:
            norm.momentum, norm.training = momentum, False
            if norm.num_batches_tracked is not None and seen is not None:
                norm.num_batches_tracked.copy_(seen)


def _in_some_order(scores: Tensor, truth: Tensor) -> float:
    """The accuracy in the best order of classes, found on one half of the images and measured on the other."""
    classes, named = scores.shape[1], scores.argmax(1)
    halves = torch.arange(len(truth)) // classes % 2 == 0  # all classes in turn: both halves have all
    table = np.zeros((classes, classes))
    np.add.at(table, (truth[halves].numpy(), named[halves].numpy()), 1)
    _, best = linear_sum_assignment(-table)
    rest = ~halves
    return float((torch.from_numpy(best)[truth[rest]] == named[rest]).float().mean()) if bool(rest.any()) else 0.0


def _readers(
    request: AuditRequest, network: nn.Module, way: Way, data: TrackData, chosen: np.ndarray, truth: Tensor
) -> Iterator[tuple[str, float]]:
    """The same files, decoded as other programs do."""
    names = cache.open_array(data.folder, "private_train_files")[chosen]
    side, mode = request.resolution, "RGB" if request.channels == 3 else "L"
    for reader in imaging.READERS:
        if reader != request.decode:
            pixels = [_read(request.data / str(name), mode, reader, side) for name in names]
            images = _floats(np.stack(pixels))
            yield f"--decode {reader}", measure(logits(network, way, len(request.classes), images), truth).value


def _read(path: Path, mode: str, reader: str, side: int) -> np.ndarray:
    try:
        image = imaging.decode(path.read_bytes(), mode, reader != "imagefolder", reader)
    except (imaging.DamagedImage, OSError):
        return np.zeros((3 if mode == "RGB" else 1, side, side), np.uint8)
    return imaging.apply(image, (("shorter", side), ("centre", side)))


def _floats(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(images)).float() / 255


def _sentence(request: AuditRequest, found: Accuracy, better: Sequence[tuple[str, float]]) -> str:
    where = "--val" if request.val is not None and request.expect_accuracy is not None else "--data"
    stated = "" if request.expect_accuracy is None else f", {request.expect_accuracy:.0%} was stated"
    most = max(range(len(found.answers)), key=lambda label: found.answers[label])
    share = found.answers[most] / found.n
    single = f" It names {request.classes[most]} for {share:.0%} of them." if share > 0.5 else ""
    known = "".join(f"\n  {words}: {value:.0%}" for words, value in sorted(better, key=lambda each: -each[1])[:5])
    tried = f"It would be right more often with:{known}\n" if better else ""
    return (
        f"The network names the class of {found.value:.0%} of {found.n} images of {where} (chance {found.chance:.0%}"
        f"{stated}).{single} Nothing was attacked: an audit of a network that is not its owner's would find no leak.\n"
        f"{tried}Likely reasons: the weights are not trained or are another network's; classes in another order "
        f"(--class-order); pixels prepared in another way (--normalise, --bgr, --decode, --network-resolution, "
        f"--transform-input); images of others. If its accuracy is no higher, say so: --expect-accuracy "
        f"{found.value:.2f}"
    )
