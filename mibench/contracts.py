"""Everything a plugin author needs: the base classes, the objects they receive, and who calls what when.

Images are (N, C, H, W) float32 in [0, 1] everywhere. A plugin imports ``mibench`` and torch, never another plugin;
it never reads a global seed, the environment, the working directory or a file: what it needs arrives in a context.

Order of calls for one run, each stage in a process of its own:
  target    Defense.build -> Defense.train (default: the track's loop, which calls sampler, augment and loss)
  prior     Prior.build -> Prior.train
  prepare   Attack.prepare, if the attack has one
  invert    Attack.invert, with the oracle its ``access`` allows, in blocks of identities
  utility, evaluate, features   engine only; ``evaluate`` imports no plugin
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mibench.errors import StageFailed
from mibench.nets.base import Classifier, Output
from mibench.nets.generator import Generator, Plain
from mibench.params import BaseParams
from mibench.pixels import Pixels
from mibench.random import Rng, RowStreams, Stream, Visit
from mibench.records import MetricValue

if TYPE_CHECKING:
    from mibench.metrics.evidence import Evidence
    from mibench.oracle import Oracle
    from mibench.training import Loop, LoopHooks, Recipe

__all__ = [
    "Access",
    "Attack",
    "AttackContext",
    "BaseParams",
    "Batch",
    "Classifier",
    "Context",
    "Defense",
    "DefenseParams",
    "Generator",
    "ImageSet",
    "Metric",
    "MetricValue",
    "Output",
    "Prior",
    "PriorContext",
    "PriorModel",
    "PriorRef",
    "Progress",
    "Reconstruction",
    "Rng",
    "RowStreams",
    "RowView",
    "Rows",
    "Stream",
    "TrackInfo",
    "TrainContext",
    "Visit",
]


@dataclass(frozen=True)
class TrackInfo:
    """What a plugin may know of a track. ``kind`` is ``faces`` or ``digits``; ``fill`` the grey value of an erased
    patch, one per channel (the track's declared mean of natural images)."""

    id: str
    kind: str
    resolution: int
    channels: int
    num_classes: int
    fill: tuple[float, ...]
    public_labelled: bool = False  # whether the public people's own photos carry identity labels
    normalisation: tuple[float, float] | None = None  # (mean, std) that the target applies to pixels, if any
    arch: str = ""  # the target's architecture (mibench.nets)
    initial: str = "scratch"  # the weights that targets start from


@dataclass(frozen=True)
class ImageSet:
    """Images (N, C, H, W) in [0, 1] on the device, and their labels (N,) int64; -1 where there is none.

    ``images`` is indexed, split or counted; ``images[:]`` is one tensor of all. It may keep bytes and make floats of
    what is looked at (``mibench.pixels.Pixels``), which for large sets is the only way."""

    images: Tensor | Pixels
    labels: Tensor
    num_classes: int

    def subset(self, index: Tensor) -> ImageSet:
        """Those at ``index``, or where a mask is true."""
        images = self.images.subset(index) if isinstance(self.images, Pixels) else self.images[index]
        return ImageSet(images, self.labels[index], self.num_classes)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Batch:
    """One training batch as the network sees it, after all augmentation, with its labels. ``standard`` holds the same
    images after the standard augmentation only, without the defense's."""

    images: Tensor
    labels: Tensor
    standard: Tensor | None = None


@dataclass(frozen=True)
class Progress:
    """Where training stands; both count from 0. Schedules published in epochs use ``epoch`` of ``epochs``."""

    epoch: int
    epochs: int
    step: int
    steps: int


class Access(StrEnum):
    """What an attack may see of the target."""

    WHITE_BOX = "white_box"  # logits and features, with gradients
    SCORES = "scores"  # softmax scores
    LABELS = "labels"  # the predicted class


class Context:
    """What every plugin hook receives: the device, random streams, progress and a resumable loop."""

    device: torch.device
    track: TrackInfo

    def stream(self, name: str) -> Stream:
        """A random stream of this stage, the same for the same run seed, whatever the device."""
        raise NotImplementedError

    def load_weights(self, net: nn.Module, weights: str) -> None:
        """Fill ``net`` with a published checkpoint that `mibench import-checkpoint` put into the store under the id
        ``weights``. Raises UserError if it is not there or does not fit."""
        raise NotImplementedError

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Loop:
        """Iterate over the steps of a training loop. ``state`` names everything that changes (networks, optimisers,
        streams: anything with ``state_dict``); it is saved now and then, so that a killed stage resumes with the
        same numbers. Report the loss with ``loop.report(loss=...)``: a loss that is not finite fails the stage."""
        raise NotImplementedError


# --- defenses ------------------------------------------------------------------------------------------------------


class TrainContext(Context):
    """What ``Defense.train`` receives. ``net`` is what ``Defense.build`` returned, on the device."""

    net: Classifier
    data: ImageSet
    recipe: Recipe

    def default_train(
        self, recipe: Recipe | None = None, inside: LoopHooks | None = None, name: str = "train"
    ) -> Classifier:
        """Train ``net`` on ``data`` with the defense's hooks and the track's recipe, or with ``recipe``. ``inside`` is
        for a defense that has to reach into the loop: see ``mibench.training.LoopHooks``. A defense that trains in
        several parts gives each a ``name``."""
        raise NotImplementedError

    def fit(self, net: Classifier, data: ImageSet, name: str) -> Classifier:
        """Train ``net`` with plain cross-entropy and the track's recipe (for example on public images)."""
        raise NotImplementedError

    def public(self) -> ImageSet:
        """The track's public images; label -1 where the person is not known."""
        raise NotImplementedError

    def public_labelled(self) -> ImageSet | None:
        """The track's public images that carry identity labels, or None if it has none."""
        raise NotImplementedError

    def new_network(self, num_classes: int) -> Classifier:
        """A fresh network of the track's target architecture."""
        raise NotImplementedError

    def note(self, **values: float | str) -> None:
        """Store numbers or words with the target's result: a privacy budget, a trapdoor's accuracy."""
        raise NotImplementedError


class DefenseParams(BaseParams):
    """Base of a defense's ``Params``."""

    recipe: dict[str, Any] | None = Field(
        None, description="fields of the track's training recipe and what this defense sets them to"
    )


class Defense:
    """A way to train a classifier so that it leaks less. Every hook has a default: no defense."""

    version: ClassVar[int] = 1
    deviations: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[dict[str, str]] = {}  # packages to import in a hook, and the extra of mibench that brings each

    class Params(DefenseParams):
        pass

    def __init__(self, params: Any, track: TrackInfo) -> None:
        self.params = params
        self.track = track

    def recipe(self, recipe: Recipe) -> Recipe:
        """How its targets are trained: the track's recipe, with the changes in ``params.recipe``. Raises UserError for
        a field that a recipe does not have, or a value that it does not take."""
        changes = getattr(self.params, "recipe", None)
        return recipe.changed(changes) if changes else recipe

    def skip(self) -> str | None:
        """A reason why this defense makes no sense on the track, or None."""
        return None

    def build(self, net: Classifier) -> Classifier:
        """Change the fresh network: a bottleneck, frozen layers, another head."""
        return net

    def augment(self, images: Tensor, rng: Visit) -> Tensor:
        """Change training images, after the standard augmentation, per image, on the device. ``rng`` is an ``Rng`` and
        has numbers that belong to an image or to the run as well, the same in every epoch."""
        return images

    def sampler(self, labels: Tensor, batch: int, rng: Stream) -> Iterator[Tensor] | None:
        """One epoch of index batches, or None for a shuffled epoch."""
        return None

    def loss(self, batch: Batch, output: Output, progress: Progress) -> Tensor:
        """The training loss, a scalar."""
        return functional.cross_entropy(output.logits, batch.labels)

    def train(self, ctx: TrainContext) -> Classifier:
        """The whole training; override only when hooks do not suffice."""
        return ctx.default_train()

    def deploy(self, net: Classifier) -> Classifier:
        """The network as it is served (noise, rounding, purification)."""
        return net

    def adapt(self, images: Tensor, rng: Rng) -> Tensor | None:
        """What an attacker who knows the defense would average gradients over, or None."""
        return None


# --- priors --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PriorRef:
    """Which generative model an attack searches; two attacks that name the same one share it."""

    id: str
    params: dict[str, Any] = field(default_factory=dict)


class PriorModel(nn.Module):
    """A trained prior. ``generator`` maps latents (N, latent_dim) to images (a module that is no ``Generator`` becomes
    one); ``critic`` is whatever the recipe trained against it, or None."""

    def __init__(self, generator: nn.Module, latent_dim: int, critic: nn.Module | None = None) -> None:
        super().__init__()
        self.generator = generator if isinstance(generator, Generator) else Plain(generator, latent_dim)
        if self.generator.latent_dim != latent_dim:
            raise ValueError(f"the generator takes latents of {self.generator.latent_dim} numbers, not {latent_dim}")
        self.latent_dim = latent_dim
        self.critic = critic

    def forward(self, latents: Tensor, *labels: Tensor) -> Tensor:
        """Images; a conditional generator takes the labels (N,) too."""
        images: Tensor = self.generator(latents, *labels)
        return images


class PriorContext(Context):
    """What ``Prior.train`` receives. ``oracle`` is None unless the prior's scope is ``target``."""

    public: ImageSet
    oracle: Oracle | None


class Prior:
    """A recipe for a generative model of what private images may look like."""

    version: ClassVar[int] = 1
    scope: ClassVar[str] = "public"  # "public" or "target"
    access: ClassVar[Access] = Access.SCORES  # what a prior with scope "target" asks of the target

    class Params(BaseParams):
        pass

    def __init__(self, params: Any, track: TrackInfo) -> None:
        self.params = params
        self.track = track

    def skip(self) -> str | None:
        """A reason why this prior cannot be had on the track (published weights that were not imported), or None."""
        return None

    def build(self) -> PriorModel:
        """The untrained model."""
        raise NotImplementedError

    def train(self, ctx: PriorContext, model: PriorModel) -> None:
        """Train ``model`` in place."""
        raise NotImplementedError


# --- metrics -------------------------------------------------------------------------------------------------------


class Metric:
    """A figure of a run that an installed package offers (entry point ``mibench.metrics``); a track asks for it by
    ``package/name``. The texts are written down plainly: they are read without importing the class."""

    title: ClassVar[str]
    direction: ClassVar[str]  # which values are more private: "low", "high" or "none"
    unit: ClassVar[str]
    help: ClassVar[str]
    version: ClassVar[int] = 1

    @staticmethod
    def compute(evidence: Evidence) -> MetricValue:
        """The value with its interval and its parts (``mibench.metrics.evidence.macro`` makes all three of one number
        for each image), or None with the reason."""
        raise NotImplementedError


# --- attacks -------------------------------------------------------------------------------------------------------


@dataclass
class Reconstruction:
    """What an attack returns for one identity.

    images: (n, C, H, W) in [0, 1], everything the attack produced. initial: the same before optimisation (step 0).
    score: (n,) the target-side score that selection used, or None. selected: (n,) bool, what the attack keeps by
    looking only at the target; None when it keeps everything. notes: further numbers to store, such as a fitted sigma.
    """

    label: int
    images: Tensor
    initial: Tensor
    score: Tensor | None = None
    selected: Tensor | None = None
    notes: dict[str, float] = field(default_factory=dict)


class Rows:
    """The rows of one batch: every (identity, restart) pair of ``labels`` x ``restarts``, identity-major.

    ``label`` (R,) on the device. ``streams(purpose)`` gives the rows' own random streams.
    """

    def __init__(self, labels: Sequence[int], restarts: int, seed: int, device: torch.device | str) -> None:
        self.identities = list(labels)
        self.restarts = restarts
        self.seed = seed
        self.device = torch.device(device)
        self.label = torch.tensor(self.identities, device=self.device).repeat_interleave(restarts)
        self.noise = self.streams("target")  # what a stochastic target draws, advancing with every query

    def __len__(self) -> int:
        return len(self.label)

    def streams(self, purpose: str) -> RowStreams:
        """Fresh streams for ``purpose`` ("latent", "noise", "crop"), one per row, all starting at their beginning."""
        names = [(self.seed, label, restart) for label in self.identities for restart in range(self.restarts)]
        return RowStreams(names, purpose, self.device)

    def split(self, values: Tensor) -> Tensor:
        """(R, ...) -> (identities, restarts, ...)."""
        return values.reshape(len(self.identities), self.restarts, *values.shape[1:])

    def take(self, index: Tensor | None = None, each: int = 1) -> RowView:
        """What to ask the oracle with when only the rows ``index`` (int64, each at most once; None: all) are asked
        about, or each of them ``each`` times in one call: a population, a sphere of points. Images are row-major."""
        label = self.label if index is None else self.label[index]
        return RowView(label.repeat_interleave(each), self.noise.take(index, each))

    @property
    def counts(self) -> dict[int, int]:
        """How many rows each identity has."""
        return dict.fromkeys(self.identities, self.restarts)


@dataclass(frozen=True)
class RowView:
    """Some rows of a batch, see ``Rows.take``: the label (n,) of each image asked about and its target noise."""

    label: Tensor
    noise: RowStreams

    def __len__(self) -> int:
        return len(self.label)

    @property
    def counts(self) -> dict[int, int]:
        """How many images of each identity are asked about."""
        labels, counts = self.label.unique(return_counts=True)
        return dict(zip(labels.tolist(), counts.tolist(), strict=True))


class AttackContext(Context):
    """What ``Attack.prepare`` and ``Attack.invert`` receive. It holds no private image and no evaluator.

    public: the track's public images. images_per_identity: how many reconstructions the track asks for.
    artifact: what ``prepare`` returned, by name.
    """

    public: ImageSet
    images_per_identity: int
    identities: Sequence[int]
    artifact: dict[str, Tensor]
    seed: int

    def rows(self, labels: Sequence[int], restarts: int) -> Rows:
        """The rows for ``labels`` x ``restarts``. Raises StageFailed unless the labels are different classes."""
        self.check_labels(labels)
        if restarts < 1:
            raise StageFailed(f"Expected at least one row per identity, found {restarts}.")
        return Rows(labels, restarts, self.seed, self.device)

    def check_labels(self, labels: Sequence[int]) -> None:
        """Raises StageFailed unless ``labels`` are different classes of the target, at least one."""
        wrong = sorted({label for label in labels if not 0 <= label < self.track.num_classes})
        if wrong:
            raise StageFailed(f"The target has the classes 0 to {self.track.num_classes - 1}; {wrong} were asked for.")
        if not labels or len(set(labels)) != len(labels):
            raise StageFailed(f"Expected different labels, at least one; found {list(labels)}.")

    def groups(self, labels: Sequence[int], size: int) -> Iterator[list[int]]:
        """The fixed groups of ``size`` attacked identities that contain ``labels``, whole: for networks that couple
        the rows of a batch, so that an identity's result does not depend on what else was asked for."""
        self.check_labels(labels)
        wanted = set(labels)
        everyone = list(self.identities)
        for start in range(0, len(everyone), size):
            group = everyone[start : start + size]
            if wanted & set(group):
                yield group

    def steps(self, name: str, count: int) -> Iterator[int]:
        """``range(count)`` with progress reporting."""
        raise NotImplementedError


class Attack:
    """A way to reconstruct what a class looks like."""

    version: ClassVar[int] = 1
    access: ClassVar[Access] = Access.WHITE_BOX
    group: ClassVar[int] = 1  # identities that must be computed together (see AttackContext.groups)
    deviations: ClassVar[tuple[str, ...]] = ()

    class Params(BaseParams):
        pass

    def __init__(self, params: Any, track: TrackInfo) -> None:
        self.params = params
        self.track = track

    def skip(self) -> str | None:
        """A reason why this attack makes no sense on the track, or None."""
        return None

    def prior(self) -> PriorRef | None:
        """The generative model this attack searches."""
        return None

    def prepare(self, oracle: Oracle, prior: PriorModel | None, ctx: AttackContext) -> dict[str, Tensor]:
        """Optional work done once per target (students, surrogates, scores of a pool): tensors by name, which
        ``invert`` finds in ``ctx.artifact``. An attack that does not override this has no such stage."""
        return {}

    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        """Yield one Reconstruction for every label."""
        raise NotImplementedError
