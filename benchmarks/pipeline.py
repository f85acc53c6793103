"""Training on a prepared set of CelebA's shape against a loader as the released code has it.

    python benchmarks/pipeline.py [--device cuda] [--steps 30]

Makes 60,027 JPEG files of 178x218 (27,018 train a target of 1,000 classes), prepares them with `mibench data prepare`'s
code, and times, with the same VGG16 at 64 pixels, SGD and batch 64:

  ours        bytes from the prepared arrays, mirrored on the device
  reference   PIL decode, crop 108, resize 64, flip and tensor for every image in every epoch, a DataLoader of 2 workers

``input_per_second``: images a second without the network. ``epoch_per_second``: with it. Steps are sampled from the
middle of an epoch, after a warm-up; an epoch is so many times one. ``input_share``: what reading, moving and augmenting
take of our epoch, measured inside it. Prints JSON. The floor is the network alone (``network_per_second``).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from made_up import celeba, celeba_counts
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mibench.data.cache import open_array
from mibench.data.sets import data_set
from mibench.data.sets.build import build
from mibench.images.pixels import Pixels
from mibench.nets import build_classifier
from mibench.primitives.training import make_optimiser, shuffled, standard_augmentation
from mibench.random import Stream
from mibench.registry import Registry

WARM_UP = 5


class Files(Dataset[tuple[Tensor, int]]):
    """The released preprocessing, image by image."""

    def __init__(self, root: Path) -> None:
        self.lines = [line.split() for line in (root / "trainset.txt").read_text().splitlines()]
        self.root = root / "img_align_celeba"
        self.transform = transforms.Compose(
            [
                transforms.ToTensor(),
                transforms.Lambda(crop),
                transforms.ToPILImage(),
                transforms.Resize((64, 64)),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        name, label = self.lines[index]
        with Image.open(self.root / name) as image:
            return self.transform(image.convert("RGB")), int(label)


def crop(image: Tensor) -> Tensor:
    return image[:, 55:163, 35:143]


def per_second(
    batches: Iterator[Any], step: Callable[[Any], None], steps: int, batch: int, sync: Callable[[], None]
) -> float:
    for _ in range(WARM_UP):
        step(next(batches))
    sync()
    start = time.perf_counter()
    for _ in range(steps):
        step(next(batches))
    sync()
    return steps * batch / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=30)
    asked = parser.parse_args()
    device = torch.device(asked.device)
    sync = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    recipe = Registry().track("celeba64-vgg16").target
    with tempfile.TemporaryDirectory() as folder:
        root, home = Path(folder) / "celeba", Path(folder) / "home"
        celeba(root, celeba_counts(), private=1000, at_least=30, public_after=1000, public=30_000, only_listed=True)
        start = time.perf_counter()
        prepared, _ = build(data_set("celeba64-gmi"), root, home, jobs=os.cpu_count() or 1)
        seconds = time.perf_counter() - start
        images = Pixels.of(open_array(prepared, "private_train_images"), device)
        labels = torch.from_numpy(open_array(prepared, "private_train_labels").copy()).to(device)
        net = build_classifier("vgg16", 1000, 3, 64).to(device).train()
        optimiser, _ = make_optimiser(net, recipe, 1000)
        spent = 0.0

        def learn(batch: tuple[Tensor, Tensor]) -> None:
            x, y = batch
            optimiser.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(net(x.to(device)).logits, y.to(device)).backward()
            optimiser.step()

        def ours() -> Iterator[tuple[Tensor, Tensor]]:
            nonlocal spent
            for epoch in range(10**6):
                for index in shuffled(len(images), recipe.batch, Stream(epoch, device), recipe.batch):
                    start = time.perf_counter()
                    batch = standard_augmentation(images[index], Stream(epoch, device), recipe), labels[index]
                    sync()
                    spent += time.perf_counter() - start
                    yield batch

        def reference() -> Iterator[tuple[Tensor, Tensor]]:
            loader = DataLoader(Files(root), recipe.batch, shuffle=True, num_workers=2, drop_last=True)
            while True:
                yield from loader

        def ignore(batch: tuple[Tensor, Tensor]) -> None:
            batch[0].to(device)

        size, fixed = recipe.batch, next(ours())
        rates: dict[str, dict[str, float]] = {"input_per_second": {}, "epoch_per_second": {}}
        for name, make in (("ours", ours), ("reference", reference)):
            rates["input_per_second"][name] = per_second(make(), ignore, 4 * asked.steps, size, sync)
            spent, begun = 0.0, time.perf_counter()
            rates["epoch_per_second"][name] = per_second(make(), learn, asked.steps, size, sync)
            if name == "ours":
                share = spent / (time.perf_counter() - begun)
        network = per_second(iter(lambda: fixed, None), learn, asked.steps, size, sync)
    result = {
        "images": len(labels),
        "prepare_seconds": round(seconds, 1),
        **{kind: {name: round(rate, 1) for name, rate in pair.items()} for kind, pair in rates.items()},
        "network_per_second": round(network, 1),
        "ratio_input": round(rates["input_per_second"]["ours"] / rates["input_per_second"]["reference"], 1),
        "ratio_epoch": round(rates["epoch_per_second"]["ours"] / rates["epoch_per_second"]["reference"], 2),
        "input_share": round(share, 4),
        "environment": {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
