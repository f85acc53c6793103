"""Train a generative prior of the small face tracks offline, on public images only, as long as it pays.

    python scripts/train_priors.py dcgan --steps 20000 --work FOLDER

Half of the images are moved copies of the public people's photos, half are chosen and lit samples of the DigiFace
generator (``mibench.data.digiface``). The recipe is the prior's own (``mibench/priors/NAME.py``) with the parameters
below. Training saves its state in FOLDER and goes on from there; the result is
``mibench/data/weights/NAME_RESOLUTION.safetensors``, in float16, with the recipe and the SHA-256 of all images it was
trained on in its header. FOLDER/images.json lists these images' sources; no private photo is opened.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from mibench.contracts import ImageSet, Loop, PriorContext
from mibench.data import digiface, orl
from mibench.data.copies import augmented
from mibench.images.pixels import Pixels
from mibench.keys import stream_seed
from mibench.random import Stream
from mibench.registry import Registry
from mibench.registry.loading import track_info
from mibench.resources import resource_root

COPIES = 200  # of each public photo
FACES = 4  # of each chosen sample
PARAMS: dict[str, dict[str, Any]] = {
    "dcgan": {"width": 48, "lr": 2e-4, "ema": 0.999},
    "wgan_gp": {"width": 32},
}
CLASSES = {"dcgan": "mibench.priors.dcgan:Dcgan", "wgan_gp": "mibench.priors.wgan_gp:WganGp"}


def public_images(resolution: int) -> tuple[np.ndarray, list[str]]:
    """uint8 (N, 1, S, S), and where they come from: the SHA-256 of each photo, and the list of chosen samples."""
    _, people = orl.split(Registry(resource_root()).track("orl32"))
    names = [(person.folder, photo) for person in people for photo in person.train]
    crops = [orl.crop(*name) for name in names]
    copies = [augmented(crops[i % len(crops)], i, resolution) for i in range(COPIES * len(crops))]
    images = np.concatenate([np.stack(copies)[:, None], digiface.chosen_faces(FACES, resolution)])
    hashes = orl.expected_hashes()
    sources = [hashes[f"s{folder}/{photo}.pgm"] for folder, photo in names]
    return images, [*sources, hashlib.sha256(digiface.CHOSEN.read_bytes()).hexdigest()]


class _Context(PriorContext):
    def __init__(self, name: str, track: Any, images: np.ndarray, scratch: Path) -> None:
        self.device, self.track, self.oracle = torch.device("cpu"), track, None
        self.public = ImageSet(Pixels.of(images, self.device), torch.zeros(len(images), dtype=torch.long), 1)
        self._name, self._scratch, self._told = name, scratch, time.monotonic()

    def stream(self, name: str) -> Stream:  # type: ignore[override]
        return Stream(stream_seed("offline", self._name, name), self.device)

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Loop:
        return Loop(name, steps, state, self._scratch, self._said, stream_seed("offline", self._name))

    def _said(self, step: int, steps: int, loss: float | None, name: str) -> None:
        if (now := time.monotonic()) - self._told > 10:
            self._told = now
            print(f"{name} {step} of {steps}, loss {loss}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prior", choices=PARAMS)
    parser.add_argument("--resolution", type=int, choices=(32, 64), default=32)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()

    info = track_info(Registry(resource_root()).track(f"orl{options.resolution}"))
    images, sources = public_images(options.resolution)
    options.work.mkdir(parents=True, exist_ok=True)
    (options.work / "images.json").write_text(json.dumps(sources, indent=0) + "\n")
    module, name = CLASSES[options.prior].split(":")
    kind = getattr(import_module(module), name)
    prior = kind(kind.Params(**PARAMS[options.prior], steps=options.steps), info)
    torch.manual_seed(stream_seed("offline", options.prior, "weights"))
    model = prior.build()
    prior.train(_Context(options.prior, info, images, options.work), model)
    out = digiface.WEIGHTS.with_name(f"{options.prior}_{options.resolution}.safetensors")
    recipe = {
        "prior": options.prior,
        "params": json.dumps(PARAMS[options.prior] | {"steps": options.steps}),
        "images": hashlib.sha256(images.tobytes()).hexdigest(),
        "licence": "trained on the public people of the AT&T/ORL faces (credit: AT&T Laboratories Cambridge) and on "
        "samples of the DigiFace generator, see LICENSE.digiface-dcgan",
    }
    tensors = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, out, metadata=recipe)
    print(out)


if __name__ == "__main__":
    main()
