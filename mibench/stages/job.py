"""What a stage works with: its folder, its parents' artefacts, the track's data, the device and random streams."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mibench.contracts import Defense, ImageSet, Loop, Recipe, Rng, TrackInfo
from mibench.data import TrackData, View, load, no_public_images, private_places
from mibench.errors import MissingError, StageFailed, UserError
from mibench.images.pixels import Pixels, Shown
from mibench.keys import stream_seed
from mibench.nets import build_classifier
from mibench.nets.base import Classifier
from mibench.nets.frozen import frozen
from mibench.planning.plan import Stage
from mibench.protocol.stage_kinds import STAGE_KINDS, is_shared
from mibench.protocol.tracks import Track
from mibench.random import Stream
from mibench.registry import Registry
from mibench.registry.guard import closed, undisturbed
from mibench.registry.loading import track_info
from mibench.stages.events import Emit, Note, Progress
from mibench.store.artifacts import STATE, Manifest, Store
from mibench.weights.carried import carried, load_carried
from mibench.weights.fit import load_published
from mibench.weights.imported import load_imported
from mibench.weights.starting import weights_folder


@dataclass(frozen=True)
class Tools:
    """What a plugin's context may hold of its job: random streams, resumable loops, progress. Unlike the job it leads
    to no private image, no evaluator and no other artefact."""

    track: str
    role: str
    seed: int
    device: torch.device
    scratch: Path
    emit: Emit
    imported: Path  # folder of published weights

    def load_weights(self, net: nn.Module, weights: str, part: str = "") -> None:
        tensors = load_carried(weights) if weights in carried() else load_imported(self.imported, weights)[0]
        if part:
            start = f"{part}."
            tensors = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
        try:
            load_published(net, tensors)
        except UserError as error:
            raise UserError(
                f"The weights {weights} do not fit the images, classes or sizes of track {self.track!r} with "
                f"these parameters. {error} `mibench import-checkpoint --list` shows what they are for."
            ) from None

    def stream(self, name: str) -> Stream:
        return Stream(stream_seed(self.track, self.role, self.seed, name), self.device)

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Loop:
        return Loop(name, steps, state, self.scratch, self.progress, stream_seed(self.track, self.role, self.seed))

    def progress(self, step: int, steps: int, loss: float | None, name: str) -> None:
        self.emit(Progress(name=name, step=step, steps=steps, loss=loss))


@dataclass
class Job:
    """One stage being computed in this process."""

    stage: Stage
    store: Store
    registry: Registry
    workdir: Path
    device: torch.device
    emit: Emit

    @cached_property
    def track(self) -> Track:
        return self.registry.track(self.stage.track)

    @cached_property
    def info(self) -> TrackInfo:
        info: TrackInfo = track_info(self.track)
        return info

    @cached_property
    def data(self) -> TrackData:
        return load(self.track, self.store.home)

    @cached_property
    def tools(self) -> Tools:
        role = STAGE_KINDS[self.stage.kind].streams or self.stage.kind
        return Tools(
            self.protocol,
            role,
            self.stage.seed,
            self.device,
            self.workdir / STATE,
            self.emit,
            weights_folder(self.store.home),
        )

    @property
    def protocol(self) -> str:
        """What random streams are named after: the track, or its family where the stage is the family's."""
        shared = is_shared(self.stage.kind, self.stage.inputs)
        return (self.track.family if shared else None) or self.stage.track

    def stream(self, name: str) -> Stream:
        return self.tools.stream(name)

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Loop:
        return self.tools.loop(name, steps, state)

    def progress(self, step: int, steps: int, loss: float | None, name: str) -> None:
        self.tools.progress(step, steps, loss, name)

    def seed_weights(self, name: str = "weights") -> None:
        """Make the weights of networks built from here on a function of the run's seed alone."""
        torch.manual_seed(stream_seed(self.protocol, self.stage.kind, self.stage.seed, name))

    # --- parents ---------------------------------------------------------------------------------------------------

    def parent(self, role: str) -> tuple[Path, Manifest]:
        """The folder and manifest of a parent artefact, its files verified by their hashes."""
        kind, key = self.stage.inputs[role]
        manifest = self.store.manifest(kind, key, verify=True)
        if manifest is None:
            raise StageFailed(f"The {kind} {key[:12]} that this stage needs is not in the store.")
        return self.store.path(kind, key), manifest

    def target(self) -> Classifier:
        """The trained target, as it is served, frozen."""
        folder, manifest = self.parent("target")
        defense = self.defense()
        tensors = load_file(folder / "model.safetensors")
        with undisturbed() as changed, self.closed():  # what comes next in this process is another method
            net = defense.build(self.network(self.track.target.arch))
            load_tensors(net, tensors)
            served: Classifier = frozen(defense.deploy(net.to(self.device).eval()))
        if changed:
            note = f"{manifest.plugin} replaced {', '.join(sorted(changed))}; this was undone."
            self.emit(Note(message=note))
        return served

    def defense(self) -> Defense:
        """The defense that trained the target, with the parameters that it is served with."""
        _, manifest = self.parent("target")
        params = self._served() or manifest.params
        defense: Defense = self.registry.build("defense", manifest.plugin, params, self.track)
        return defense

    def _served(self) -> dict[str, Any] | None:
        """The defense's parameters where some of them are no part of the target: those of the stage that serves it."""
        if self.stage.kind == "serve":
            return self.stage.params
        return self.parent("serve")[1].params if "serve" in self.stage.inputs else None

    def network(self, arch: str, num_classes: int | None = None) -> Classifier:
        """A fresh network for the track's images."""
        track, count = self.track, num_classes or self.track.private.identities
        return build_classifier(arch, count, track.channels, track.resolution, track.normalisation)

    def closed(self) -> AbstractContextManager[None]:
        """While a method computes: it cannot open the stored images, networks and results, nor the sources of data."""
        return closed([*private_places(self.track, self.store.home), self.store.root])

    # --- data ------------------------------------------------------------------------------------------------------

    def images(self, images: np.ndarray, labels: np.ndarray, num_classes: int) -> ImageSet:
        """uint8 arrays -> images and labels on the device."""
        return image_set(images, labels, num_classes, self.device)

    @cached_property
    def public(self) -> ImageSet | None:
        """The track's public images; None if it has none."""
        if not self.data.has_public:
            return None
        return self.images(*self.data.public(), self.track.private.identities)

    def private_train(self, view: View = "target") -> ImageSet:
        return self.images(*self.data.private_train(view), self.track.private.identities)

    def evaluator(self) -> Classifier:
        """A fresh network of the evaluator's architecture, for images of its own resolution, to be trained."""
        recipe, track = self.track.evaluator, self.track
        side, known = recipe.resolution or track.resolution, recipe.classes or track.private.identities
        return build_classifier(recipe.arch, known, track.channels, side, track.normalisation)

    def judging(self, evaluator: Classifier) -> Classifier:
        """The trained evaluator as the track lets it judge."""
        return evaluator.without_input_transform() if self.track.evaluator.transform_input == "dropped" else evaluator

    def evaluator_inputs(self, images: Pixels) -> Pixels:
        """Images of any side as the evaluator takes them."""
        recipe = self.track.evaluator
        return images.resized(recipe.resolution, recipe.resize) if recipe.resolution else images

    @property
    def recipe(self) -> Recipe:
        return self.track.target


def image_set(images: np.ndarray, labels: np.ndarray, num_classes: int, device: torch.device) -> ImageSet:
    """uint8 arrays -> images, kept as bytes, and labels, on the device."""
    return ImageSet(Pixels.of(images, device), torch.from_numpy(np.array(labels)).to(device), num_classes)


def existing(public: ImageSet | None, track: str) -> ImageSet:
    """The public images, for whoever needs them. Raises MissingError if the track has none."""
    if public is None:
        raise MissingError(no_public_images(track))
    return public


def save_weights(net: nn.Module, path: Path) -> None:
    """All parameters and buffers as safetensors."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}, path)


def load_weights(net: nn.Module, path: Path) -> None:
    """Raises StageFailed if the stored tensors are not those of ``net``."""
    load_tensors(net, load_file(path))


def load_tensors(net: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Raises StageFailed if the tensors are not those of ``net``."""
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise StageFailed(f"The stored weights do not fit {type(net).__name__}: {error}") from None


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


@torch.no_grad()
def predict(
    net: Classifier, images: Tensor | Pixels | Shown, rng: Rng | None = None, batch: int = 256
) -> tuple[Tensor, Tensor]:
    """(N, K) logits and (N, F) features of a network in eval mode."""
    outputs = [net(chunk, rng) for chunk in images.split(batch)]
    return torch.cat([o.logits for o in outputs]), torch.cat([o.features for o in outputs])
