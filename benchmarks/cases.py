"""What is measured: work of the shapes that the papers have, on made-up images and networks that were not trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from benchmarks import published
from benchmarks.measure import Case, close
from mibench.contracts import (
    AttackContext,
    ImageSet,
    Loop,
    Oracle,
    PriorContext,
    PriorModel,
    Recipe,
    Rows,
    TrackInfo,
)
from mibench.images.augment import mirror, resized_crop
from mibench.images.pixels import Pixels
from mibench.keys import stream_seed
from mibench.nets import build_classifier
from mibench.nets.frozen import frozen
from mibench.nets.gan import GmiCritic, GmiGenerator, KedmiDiscriminator
from mibench.nets.recogniser import Recogniser, as_its_input, describe
from mibench.primitives.pool import score_pool, top_of_pool
from mibench.primitives.training import fit_classifier
from mibench.random import Stream
from mibench.registry import Registry
from mibench.stages.invert import rounded
from mibench.stages.job import predict

Device = torch.device


class Size:
    """How much work a case is: on a CPU enough for seconds, on a GPU what a paper has, ``quick`` next to nothing."""

    def __init__(self, device: Device, quick: bool) -> None:
        self.device, self.quick = device, quick
        self.gpu = device.type == "cuda" and not quick

    def of(self, quick: int, cpu: int, gpu: int) -> int:
        return quick if self.quick else gpu if self.gpu else cpu


class Bench(AttackContext, PriorContext):
    """The context of an attack or a prior, on made-up public images; a stage has one of the two."""

    def __init__(self, size: Size, track: TrackInfo, public: Tensor, labels: Sequence[int], images: int = 1) -> None:
        self.device, self.track, self.seed = size.device, track, 0
        self.identities, self.images_per_identity, self.artifact = list(labels), images, {}
        marks = torch.arange(len(public), device=size.device) % track.num_classes
        self.public = ImageSet(Pixels.of((public.cpu() * 255).byte().numpy(), size.device), marks, track.num_classes)

    def stream(self, name: str) -> Stream:
        return Stream(stream_seed("benchmark", name), self.device)

    def steps(self, name: str, count: int) -> Iterator[int]:
        return iter(range(count))

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Loop:
        return Loop(name, steps, state, None, None, self.seed)


def lived_in(net: nn.Module, device: Device) -> Any:
    """With batch norm that has statistics, so that it has work to do. Weights keep their gradients, as published."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return net.to(device).eval()


class Setting:
    """A target of many classes with GMI's or KED-MI's GAN, as it was built and frozen."""

    def __init__(self, size: Size, arch: str = "vgg16", side: int = 64, classes: int = 1000, width: int = 64) -> None:
        torch.manual_seed(0)
        self.size, device = size, size.device
        channels = 1 if arch == "convnet" else 3
        self.track = TrackInfo("benchmark", "faces", side, channels, classes, (0.5,) * channels)
        self.T = lived_in(build_classifier(arch, classes, channels, side), device)
        self.G = lived_in(GmiGenerator(side, channels, width), device)
        self.ready = frozen(copy.deepcopy(self.T))
        self.public = torch.rand(512, channels, side, side, device=device)

    def prior(self, critic: nn.Module | None = None, generator: nn.Module | None = None) -> PriorModel:
        G = self.G if generator is None else generator
        return frozen(copy.deepcopy(PriorModel(G, 100, critic)))

    def context(self, labels: Sequence[int], images: int = 1) -> Bench:
        return Bench(self.size, self.track, self.public, labels, images)

    def oracle(self, access: str = "white_box") -> Oracle:
        return Oracle(self.ready, access, self.track.num_classes)


def attack(name: str, track: TrackInfo, **params: Any) -> Any:
    cls = Registry().plugin("attack", name)
    return cls(cls.Params(**params), track)


def all_images(found: Any) -> Tensor:
    return torch.cat([item.images for item in found])


def reduced(make: Callable[[Size], Case], size: Size, goal: tuple[float | None, float | None]) -> Case:
    """The same with an engine that computes in bfloat16 (``--precision bf16``)."""
    case = make(size)

    def engine() -> Any:
        with rounded("bf16", size.device):
            return case.engine().float()

    def same(one: Tensor, other: Tensor) -> str:
        return f"pixels {float((one - other).abs().mean()):.0e} apart on average: rows of their own"

    return replace(case, name=f"{case.name}, bfloat16", engine=engine, same=same, goal=goal)


def gmi(size: Size) -> Case:
    steps, labels = size.of(2, 2, 20), range(size.of(6, 60, 300))
    restarts = size.of(1, 1, 5)
    at = Setting(size, *(("convnet", 32, 10, 8) if size.quick else ()))
    D = lived_in(GmiCritic(at.track.resolution, at.track.channels, 8 if size.quick else 64), size.device)
    rows = Rows(labels, restarts, 0, size.device)
    start, method, prior = (
        rows.streams("latent").normal(len(rows), 100),
        attack("gmi", at.track, iterations=steps, restarts=restarts),
        at.prior(D),
    )

    def engine() -> Tensor:
        return all_images(method.invert(at.oracle(), prior, labels, at.context(labels, restarts)))

    def plain() -> Tensor:
        return published.gmi(at.G, D, at.T, rows.label, start, steps, 60)

    def same(one: Tensor, other: Tensor) -> str:
        return close(1e-3)(one, other) if restarts == 1 else "the best of the restarts is kept, all are made"

    return Case("GMI, VGG16 at 64 px", "step of 60 rows", steps * len(rows) / 60, plain, engine, same, (2, 15))


def kedmi(size: Size) -> Case:
    steps, labels = size.of(2, 2, 20), range(size.of(6, 60, 300))
    at = Setting(size, *(("convnet", 32, 10, 8) if size.quick else ()))
    classes, side, channels = at.track.num_classes, at.track.resolution, at.track.channels
    D = lived_in(KedmiDiscriminator(classes, side, channels, 8 if size.quick else 64), size.device)
    method, prior = attack("kedmi", at.track, iterations=steps), at.prior(D)

    def engine() -> Tensor:
        found = method.invert(at.oracle(), prior, labels, at.context(labels))
        return all_images(found)

    def plain() -> Tensor:
        parts = (Rows(list(labels)[i : i + 60], 1, 0, size.device) for i in range(0, len(labels), 60))
        return torch.cat([published.kedmi(at.G, D, at.T, rows, 100, steps) for rows in parts])

    return Case(
        "KED-MI, VGG16 at 64 px", "step of 60 rows", steps * len(labels) / 60, plain, engine, close(1e-3), (2, 15)
    )


def search(size: Size) -> Case:
    """Of a pool for many classes."""
    at, pool = Setting(size, *(("convnet", 32, 10, 8) if size.quick else ())), size.of(40, 250, 5000)
    labels = range(at.track.num_classes)
    z = Stream(1, size.device).normal(pool, 100)
    generator = at.prior().generator

    def engine() -> Tensor:
        return top_of_pool(score_pool(at.oracle(), z, generator, mirrored=True), labels, 20)

    def plain() -> Tensor:
        return published.candidates(at.G, at.T, z, labels, 20)

    def same(one: Tensor, other: Tensor) -> str:
        share = float((one == other).float().mean())
        assert share > 0.9, f"only {share:.1%} of the candidates are the same"
        return f"{share:.1%} of the candidates the same"

    return Case("PPA, candidate search, VGG16 at 64 px", "1,000 of the pool", pool / 1000, plain, engine, same, (2, 5))


def selection(size: Size) -> Case:
    """Twenty results of each identity, over transformed copies."""
    at = Setting(size, *(("convnet", 32, 10, 8) if size.quick else ()))
    labels, views = list(range(size.of(3, 10, 100))), size.of(2, 4, 100)
    rows = Rows(labels, 20, 0, size.device)
    x = Stream(2, size.device).uniform(len(rows), at.track.channels, at.track.resolution, at.track.resolution)
    method = attack("ppa", at.track, selection_views=views)

    def engine() -> Tensor:
        return method._robustness(at.oracle(), x, rows)

    def changed(images: Tensor) -> Iterator[Tensor]:
        for view in range(views):
            rng = Stream(view, size.device)
            yield mirror(resized_crop(images, rng, (0.5, 0.9), (0.8, 1.2)), rng)

    def plain() -> Tensor:
        return published.selection(at.T, x, labels, changed) / views

    def same(one: Tensor, other: Tensor) -> str:
        return f"other views; means {float(one.mean()):.2e} and {float(other.mean()):.2e}"

    count = len(rows) * views / 1000
    return Case("PPA, final selection, VGG16 at 64 px", "1,000 views", count, plain, engine, same, (2, 5))


def brepmi(size: Size) -> Case:
    at = Setting(size, *(("convnet", 32, 10, 8) if size.quick else ()))
    labels, rounds = list(range(size.of(3, 8, 300))), size.of(2, 3, 20)
    rows = Rows(labels, 1, 0, size.device)
    start = Stream(3, size.device).normal(len(rows), 100).clamp(-1.5, 1.5)
    method = attack("brepmi", at.track, max_rounds=rounds, restarts=1, patience=rounds + 1, max_rejections=rounds + 1)
    prior, context = at.prior(), at.context(labels)
    everyone = torch.zeros(at.track.num_classes, 1, 100, device=size.device)
    everyone[labels, 0] = start
    context.artifact = {
        "start": everyone,
        "reached": torch.ones(at.track.num_classes, dtype=torch.long, device=size.device),
    }

    def engine() -> Tensor:
        return all_images(method.invert(at.oracle("labels"), prior, labels, context))

    @torch.no_grad()
    def plain() -> Tensor:
        return at.G(published.brepmi(at.G, at.T, rows, start, rounds)).clamp(0, 1)

    count = len(labels) * rounds * 33 / 1000
    return Case("BREP-MI, VGG16 at 64 px", "1,000 queries", count, plain, engine, close(1e-3), (3, 10))


def rlbmi(size: Size) -> Case:
    """An agent for each identity, side by side and one after another."""
    at = Setting(size, *(("convnet", 32, 10, 8) if size.quick else ()))
    labels, episodes = list(range(size.of(2, 8, 300))), size.of(4, 20, 40)
    method, prior = attack("rlbmi", at.track, episodes=episodes, batch=2, memory=100, restarts=1), at.prior()

    def engine() -> Tensor:
        return all_images(method.invert(at.oracle("scores"), prior, labels, at.context(labels)))

    def plain() -> Tensor:
        whole = PriorModel(at.G, 100)
        oracle = Oracle(copy.deepcopy(at.T), "scores", at.track.num_classes)
        return torch.cat([all_images(method.invert(oracle, whole, [y], at.context([y]))) for y in labels])

    count = len(labels) * episodes * 2 / 1000
    return Case("RLB-MI, VGG16 at 64 px", "1,000 queries", count, plain, engine, close(2e-2), (3, 10))


def gan(size: Size, name: str, goal: float) -> Case:
    """Public images decoded one by one in every epoch, as the released loaders do, or bytes that lie in memory."""
    steps, width = size.of(2, 6, 200), size.of(8, 64, 64)
    track = TrackInfo("benchmark", "faces", 64, 3, 1000, (0.5,) * 3)
    rng = np.random.default_rng(0)
    originals = rng.integers(0, 255, (size.of(8, 256, 2048), 218, 178, 3), dtype=np.uint8)
    files = published.encoded(originals, "JPEG")
    public = torch.stack([published.celeba_transform()(_image(file)) for file in files])
    cls = Registry().plugin("prior", name)
    prior = cls(cls.Params(steps=steps, width=width, batch=size.of(4, 64, 64)), track)
    oracle = Setting(size).oracle("scores") if prior.scope == "target" else None

    def run(images: Callable[[], ImageSet | None]) -> Tensor:
        torch.manual_seed(0)
        context = Bench(size, track, public, [0])
        context.oracle = oracle
        if (replaced := images()) is not None:
            context.public = replaced
        model = prior.build().to(size.device).train()
        prior.train(context, model)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    def decoded() -> ImageSet:
        return ImageSet(_Decoded(files, size.device), torch.zeros(len(files), dtype=torch.long), 1000)

    def same(one: Tensor, other: Tensor) -> str:
        assert bool(one.isfinite().all() and other.isfinite().all()), "a generator broke"
        return f"the same draws, other mirrors: weights {float((one - other).abs().mean()):.0e} apart on average"

    count = steps * prior.params.batch
    return Case(
        f"{'WGAN-GP' if name == 'wgan_gp' else 'K+1 GAN'} at 64 px",
        "image",
        count,
        partial(run, decoded),
        partial(run, lambda: None),
        same,
        (1.3, goal),
    )


def _image(file: bytes) -> Any:
    from io import BytesIO

    from PIL import Image

    return Image.open(BytesIO(file))


class _Decoded:
    """Images that are decoded when they are asked for, one by one."""

    def __init__(self, files: Sequence[bytes], device: Device) -> None:
        self._files, self._device, self._transform = files, device, published.celeba_transform()

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Tensor) -> Tensor:
        return torch.stack([self._transform(_image(self._files[i])) for i in index.tolist()]).to(self._device)

    def split(self, size: int) -> Iterator[Tensor]:
        for part in torch.arange(len(self)).split(size):
            yield self[part]


def target(size: Size) -> Case:
    """VGG16 with its input pipeline."""
    steps, batch, count = size.of(2, 3, 60), size.of(4, 64, 64), size.of(16, 256, 4096)
    rng = np.random.default_rng(0)
    files = published.encoded(rng.integers(0, 255, (count, 218, 178, 3), dtype=np.uint8), "JPEG")
    labels = torch.arange(count) % 1000
    still = torch.stack([published.celeba_transform()(_image(file)) for file in files])
    pixels = Pixels.of((still * 255).byte().numpy(), size.device)
    data = ImageSet(pixels, labels.to(size.device), 1000)
    recipe = Recipe(
        arch="vgg16",
        epochs=1,
        batch=batch,
        optimiser="sgd",
        lr=0.01,
        momentum=0.9,
        weight_decay=1e-4,
        flip=True,
        drop_last=True,
    )
    arch = "convnet" if size.quick else "vgg16"

    def fresh() -> Any:
        torch.manual_seed(0)
        return build_classifier(arch, 1000, 3, 64).to(size.device).train()

    def engine() -> Tensor:
        part = data.subset(torch.arange(steps * batch, device=size.device))
        net = fit_classifier(fresh(), part, recipe, lambda name: Stream(stream_seed(name), size.device), _loop, "bench")
        return next(net.parameters()).detach()

    def plain() -> Tensor:
        net = fresh()
        loader = DataLoader(
            published.Files(files, labels, published.celeba_transform()),
            batch,
            shuffle=True,
            drop_last=True,
            num_workers=0 if size.quick else 2,
        )
        published.train(net, loader, steps)
        return next(net.parameters()).detach()

    def same(one: Tensor, other: Tensor) -> str:
        return "another order of images, other mirrors"

    return Case("VGG16 training at 64 px, with input", "image", steps * batch, plain, engine, same, (1.5, 4))


def _loop(name: str, steps: int, state: dict[str, Any]) -> Loop:
    return Loop(name, steps, state, None, None, 0)


def bido(size: Size) -> Case:
    """The term alone, forward and backward, for VGG16's hidden layers."""
    m, classes = 64, 1000
    rng = Stream(4, size.device)
    shapes = [(64, 32), (128, 16), (256, 8), (512, 4), (512, 2)]
    hidden = [rng.normal(m, width, side, side) for width, side in shapes]
    x, labels = rng.uniform(m, 3, 64, 64), rng.integers(classes, m) // 4
    one_hot = functional.one_hot(labels, classes).float()
    cls = Registry().plugin("defense", "bido")
    method = cls(cls.Params(), TrackInfo("benchmark", "faces", 64, 3, classes, (0.5,) * 3))

    def slope(term: Callable[[list[Tensor]], Tensor]) -> Tensor:
        layers = [z.clone().requires_grad_() for z in hidden]
        term(layers).backward()
        return torch.cat([z.grad.flatten() for z in layers if z.grad is not None])

    def engine() -> Tensor:
        def term(layers: list[Tensor]) -> Tensor:
            found = method.dependences([z.flatten(1) for z in layers], x.flatten(1), one_hot)
            return torch.stack([part for pair in found for part in pair]).sum()

        return slope(term)

    def plain() -> Tensor:
        return slope(lambda layers: published.hsic_terms(layers, x, one_hot).sum())

    return Case("BiDO's term, five layers", "step", 1, plain, engine, close(1e-2), (2, 3))


def evaluation(size: Size) -> Case:
    """By the panel: FaceNet at 112 px, a classifier of another family, the recogniser at 150 px."""
    count = size.of(3, 24, 1500)
    torch.manual_seed(0)
    arch, side = ("small_resnet", 32) if size.quick else ("facenet", 112)
    e1, e2 = (
        lived_in(build_classifier(name, 1000, 3, pixels), size.device) for name, pixels in ((arch, side), ("vgg16", 64))
    )
    e3 = Recogniser().to(size.device).eval().requires_grad_(False)
    images = Stream(5, size.device).uniform(count, 3, 64, 64)
    pixels = Pixels.of((images.cpu() * 255).byte().numpy(), size.device)
    ready = [frozen(copy.deepcopy(net)) for net in (e1, e2, e3)]

    @torch.no_grad()
    def engine() -> list[Tensor]:
        first, _ = predict(ready[0], pixels.resized(side, "tensor"))
        second, _ = predict(ready[1], pixels)
        return [
            first.argmax(1),
            second.argmax(1),
            torch.cat([describe(ready[2], part) for part in pixels.split(64)]).argmax(1),
        ]

    class Framed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = e3(as_its_input(x))
            return out

    def plain() -> list[Tensor]:
        return published.judge([(e1, side), (e2, 64), (Framed(), 64)], images)

    def same(one: list[Tensor], other: list[Tensor]) -> str:
        agree = [float((a == b).float().mean()) for a, b in zip(one, other, strict=True)]
        assert min(agree[1:]) > 0.9, f"the judges agree on {agree}"
        return (
            "the same answers on "
            + ", ".join(f"{share:.0%}" for share in agree)
            + " (E1: resized by tensor, not by PIL)"
        )

    return Case("evaluation by the panel", "1,500 images", count / 1500, plain, engine, same, (5, 10))


def cases(size: Size) -> Iterator[Callable[[], Case]]:
    """In the order of their importance."""
    for make in (gmi, kedmi):
        yield partial(make, size)
        yield partial(reduced, make, size, (3.5, None))
    for make in (bido, search, selection, brepmi, target, evaluation, rlbmi):
        yield partial(make, size)
    yield partial(gan, size, "wgan_gp", 3)
    yield partial(gan, size, "k_plus_one", 3)
