"""Train a generative prior of the small face tracks offline, on public images only, as long as it pays.

    python scripts/train_priors.py dcgan --steps 22500 --work FOLDER

Half of the images are moved copies of the public people's photos, half are chosen and lit samples of the DigiFace
generator (``mibench.data.digiface``). The recipe is the prior's own (``mibench/priors/NAME.py``) with the parameters
below; with --steps 0 a generator stays as it was taught, and there is no critic. At 64 pixels the DCGAN grows out of
the carried one of 32 pixels (progressive growing, Karras et al., ICLR 2018). Training saves its state in FOLDER and
goes on from there; the result is
``mibench/data/weights/facesRESOLUTION-NAME.safetensors``, in float16, with the recipe and the SHA-256 of all images it
was trained on in its header, and listed in ``carried.json`` beside it. FOLDER/images.json lists these images' sources;
no private photo is opened.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import adaptive_avg_pool2d

from mibench.contracts import Generator, ImageSet, Loop, Prior, PriorContext, PriorModel
from mibench.data import digiface, framing, orl
from mibench.data.copies import augmented
from mibench.images.pixels import Pixels
from mibench.keys import stream_seed
from mibench.primitives.training import descend
from mibench.random import Stream
from mibench.registry import Registry
from mibench.registry.loading import track_info
from mibench.resources import resource_root
from mibench.weights.carried import FOLDER, INDEX, load_carried

COPIES = 200  # of each public photo
FACES = 4  # of each chosen sample
# An hour of adversarial training gave the other generators artefacts that the teacher does not have (MTCNN finds a face
# in 93 % before, 78 % after), so they stay as they were taught: critic_steps keeps the generator as it is.
PARAMS: dict[str, dict[str, Any]] = {
    "dcgan": {"lr": 2e-4, "ema": 0.999},
    "wgan_gp": {"lr": 1e-4, "critic_steps": 10**9},
    "tacgan": {},  # of one class, from which those of many can start
}
# The DCGAN of 64 pixels is that of 32 with one stage more, so its last stage has half the width.
WIDTHS = {"dcgan": {32: 48, 64: 24}, "wgan_gp": {32: 32, 64: 16}, "tacgan": {32: 24, 64: 16}}
# Before its own training a generator learns, for so many steps, to draw what another carried one draws.
TAUGHT = {"wgan_gp": 6000, "tacgan": 5000}
GROWN = 1500
TEACHER, TEACHING_LR = "dcgan", 1e-3
CLASSES = {
    "dcgan": "mibench.priors.dcgan:Dcgan",
    "wgan_gp": "mibench.priors.wgan_gp:WganGp",
    "tacgan": "mibench.priors.tacgan:Tacgan",
}


def public_images(resolution: int) -> tuple[np.ndarray, list[str]]:
    """uint8 (N, 1, S, S), and where they come from: the SHA-256 of each photo, and the list of chosen samples."""
    _, people = orl.split(Registry(resource_root()).track("orl32"))
    names = [(person.folder, photo) for person in people for photo in person.train]
    crops = [orl.crop(*name) for name in names]
    copies = [augmented(crops[i % len(crops)], i, resolution) for i in range(COPIES * len(crops))]
    images = np.concatenate([np.stack(copies)[:, None], digiface.chosen_faces(FACES, resolution)])
    hashes = orl.expected_hashes()
    sources = [hashes[f"s{folder}/{photo}.pgm"] for folder, photo in names]
    return images, [*sources, hashlib.sha256(framing.CHOSEN.read_bytes()).hexdigest()]


class _NoTarget:
    """In the place of an oracle that is never asked."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class _Context(PriorContext):
    def __init__(self, name: str, track: Any, images: np.ndarray, scratch: Path) -> None:
        self.device, self.track, self.oracle = torch.device("cpu"), track, cast(Any, _NoTarget())
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


def built(name: str, info: Any, steps: int) -> tuple[Prior, PriorModel]:
    """A prior with the parameters above, and its untrained model."""
    module, kind_name = CLASSES[name].split(":")
    kind = getattr(import_module(module), kind_name)
    prior: Prior = kind(kind.Params(**PARAMS[name], width=WIDTHS[name][info.resolution], steps=steps), info)
    torch.manual_seed(stream_seed("offline", name, "weights"))
    return prior, prior.build()


def taught(generator: Generator, teacher: Generator, steps: int, ctx: _Context) -> None:
    """Fit ``generator`` to the images of ``teacher``, mean absolute error at the teacher's resolution, latents being
    the teacher's and, where it takes more numbers, noise."""
    optimiser = torch.optim.Adam(generator.parameters(), lr=TEACHING_LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    state = {"generator": generator, "optimiser": optimiser, "schedule": schedule}
    loop = ctx.loop("taught", steps, state)
    for step in loop:
        z = ctx.stream(f"taught.{step}").normal(64, generator.latent_dim)
        labels = [torch.zeros(64, dtype=torch.long)] if generator.conditional else []
        with torch.no_grad():
            lesson = teacher(z[:, : teacher.latent_dim])
        drawn = generator(z, *labels)
        loss = (adaptive_avg_pool2d(drawn, lesson.shape[-1]) - lesson).abs().mean()
        descend(optimiser, loss)
        schedule.step()
        loop.report(loss=loss)


def grown(network: torch.nn.Module, smaller: torch.nn.Module, from_end: bool) -> None:
    """Give ``network`` the layers of ``smaller``, which has one stage less: at the beginning, or ``from_end``, but the
    one beside the images, which has another shape."""
    ours, theirs = [list(cast(Any, net).layers.children()) for net in (network, smaller)]
    pairs = zip(ours[::-1], theirs[::-1], strict=False) if from_end else zip(ours, theirs, strict=False)
    for mine, its in list(pairs)[:-1]:
        mine.load_state_dict(its.state_dict())


def prepared(model: PriorModel, info: Any, name: str, ctx: _Context) -> dict[str, Any]:
    """What happens before the prior's own training, as the recipe tells it: taught by another, or grown, or nothing."""
    if name in TAUGHT:
        _, teacher = built(TEACHER, info, 1)
        teacher.load_state_dict(load_carried(f"faces{info.resolution}-{TEACHER}"))
        taught(model.generator, teacher.generator.eval(), TAUGHT[name], ctx)
        return {"by": TEACHER, "steps": TAUGHT[name]}
    if info.resolution == 32:
        return {"by": None, "steps": 0}
    _, smaller = built(name, replace(info, resolution=32), 1)
    smaller.load_state_dict(load_carried(f"faces32-{name}"))
    assert model.critic is not None and smaller.critic is not None
    grown(model.generator, smaller.generator, from_end=False)
    grown(model.critic, smaller.critic, from_end=True)
    taught(model.generator, smaller.generator.eval(), GROWN, ctx)
    return {"by": f"faces32-{name}", "steps": GROWN}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prior", choices=PARAMS)
    parser.add_argument("--resolution", type=int, choices=(32, 64), default=32)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()

    info = replace(track_info(Registry(resource_root()).track(f"orl{options.resolution}")), num_classes=1)
    images, sources = public_images(options.resolution)
    options.work.mkdir(parents=True, exist_ok=True)
    (options.work / "images.json").write_text(json.dumps(sources, indent=0) + "\n")
    ctx = _Context(options.prior, info, images, options.work)
    prior, model = built(options.prior, info, max(options.steps, 1))
    lessons = prepared(model, info, options.prior, ctx)
    if options.steps:
        prior.train(ctx, model)
    out = FOLDER / f"faces{options.resolution}-{options.prior}.safetensors"
    recipe = {
        "prior": options.prior,
        "params": json.dumps(cast(Any, prior.params).model_dump(mode="json", exclude_unset=True)),
        "taught": json.dumps(lessons),
        "images": hashlib.sha256(images.tobytes()).hexdigest(),
        "licence": "trained on the public people of the AT&T/ORL faces (credit: AT&T Laboratories Cambridge) and on "
        "samples of the DigiFace generator, see LICENSE.digiface-dcgan",
    }
    trained = model.state_dict() if options.steps else model.generator.state_dict(prefix="generator.")
    tensors = {key: value.half() if value.is_floating_point() else value for key, value in trained.items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, out, metadata=recipe)
    out.chmod(0o644)
    hashes = json.loads(INDEX.read_text()) | {out.stem: hashlib.sha256(out.read_bytes()).hexdigest()}
    INDEX.write_text(json.dumps(dict(sorted(hashes.items())), indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
