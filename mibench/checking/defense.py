"""A defense at work: its hooks, a trained target, its answers; on the smallest track."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mibench.boundary import in_words
from mibench.checking.bench import Bench
from mibench.checking.cost import cost_checks
from mibench.checking.lines import Line
from mibench.contracts import Batch, Classifier, Defense, Progress, RowStreams, Stream, Visit
from mibench.errors import StageFailed, UserError

FINITE = "Return finite numbers."
MIXING = " What mixes images, with their labels or without, overrides `mix`."


def defense_checks(bench: Bench, name: str) -> Iterator[Line]:
    """Hooks first, as their advice is the most exact; then two trainings."""
    try:
        plan = bench.plan(name)
    except UserError as error:
        yield Line("runs", False, str(error), "A defense must run on small grey images, or say in `skip` why not.")
        return
    [stage] = [stage for stage in plan.stages.values() if stage.kind == "target"]
    track = bench.registry.track(stage.track)
    defense = bench.registry.build("defense", name, stage.params, track)
    for hook in ("augment", "adapt"):
        yield from _image_hook(defense, hook, track.channels, track.resolution)
    yield _mix(defense, track)
    try:
        yield _loss(bench, defense, stage, track)
        yield _sampler(defense, track)
        utility = bench.compute(plan, "utility")
        stage = bench.compute(plan, "target")
    except (UserError, StageFailed) as error:
        yield Line("runs", False, str(error), "Correct the hook that the sentence names.")
        return
    except Exception as error:
        yield Line("runs", False, in_words(error), "A hook of yours raised it, at the line that is named.")
        return
    yield from _answers(bench, stage, utility)
    again = bench.again()
    again.compute(plan, "target")
    same = bench.result(stage)[1].outputs == again.result(stage)[1].outputs
    advice = "Draw every random number from the `rng` or stream that the hook gets."
    yield Line("determinism", same, f"trained twice: {'the same' if same else 'other'} weights, bit for bit", advice)
    yield Line("access", None, "a defense gives access, it asks for none")
    yield from cost_checks(bench, stage)


def _image_hook(defense: Any, hook: str, channels: int, side: int) -> Iterator[Line]:
    """``augment`` or ``adapt``: shape, range, own argument left alone, one draw for each image, no coupling."""
    images = torch.rand(6, channels, side, side, generator=torch.Generator().manual_seed(1))
    before = images.clone()

    def call(given: Tensor, seed: int = 5) -> Any:
        return getattr(defense, hook)(
            given, Visit(Stream(seed), seed, torch.arange(6)) if hook == "augment" else Stream(seed)
        )

    def rows(index: list[int]) -> Any:
        streams = RowStreams([(0, i, 0) for i in index], "augment")
        return Visit(streams, 0, torch.tensor(index)) if hook == "augment" else streams

    try:
        out = call(images)
        if out is None and hook == "adapt":
            yield Line("adapt", None, "none: nothing for an adaptive attacker to average over")
            return
        shape = isinstance(out, Tensor) and out.shape == images.shape and out.dtype == images.dtype
        returned = f"{tuple(out.shape)} {out.dtype}" if isinstance(out, Tensor) else str(type(out))
        advice = f"Return images of the shape and type that {hook} was given."
        yield Line("shape", shape, f"{hook} gives {returned}", advice)
        if not shape:
            return
        low, high = float(out.min()), float(out.max())
        good = bool(torch.isfinite(out).all()) and low >= 0 and high <= 1
        yield Line("range", good, f"{hook}: {low:.3g} to {high:.3g}", "End with `.clamp(0, 1)`: images are in [0, 1].")
        kept = torch.equal(images, before)
        yield Line(
            "argument",
            kept,
            f"{hook} {'leaves its argument alone' if kept else 'writes into its argument'}",
            "Work on a copy: `images.clone()`.",
        )
        same = torch.equal(out, call(images))
        yield Line(
            "determinism", same, f"{hook}: same stream, {'same' if same else 'other'} images", "Draw from `rng` only."
        )
        together = getattr(defense, hook)(images, rows(list(range(6))))
        alone = [getattr(defense, hook)(images[i : i + 1], rows([i])) for i in range(6)]
        gap = max(float((together[i : i + 1] - one).abs().max()) for i, one in enumerate(alone))
        yield Line(
            "batch invariance",
            gap <= 1e-6,
            f"{hook}: an image alone differs by {gap:.2g}",
            "Treat every image by itself: no mean over the batch, one draw of `rng` for each image."
            + MIXING * (hook == "augment"),
        )
    except Exception as error:
        advice = f"Correct {hook}; it gets (N, C, H, W) in [0, 1], and `uniform` and `normal` of `rng`, rows first."
        yield Line(hook, False, in_words(error), advice + MIXING * (hook == "augment"))


def _mix(defense: Any, track: Any) -> Line:
    """Images of the same shape in [0, 1], two classes for each, a share in [0, 1], the same for the same stream."""
    if type(defense).mix is Defense.mix:
        return Line("mix", None, "none: every image has one label")
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(6, track.channels, track.resolution, track.resolution, generator=generator)
    batch, before = Batch(images, torch.tensor([0, 1, 2, 3, 4, 4]), images), images.clone()
    try:
        out, again = (defense.mix(batch, Stream(5)) for _ in range(2))
        same = torch.equal(out.images, again.images) and out.share == again.share and torch.equal(images, before)
        good = same and out.images.shape == images.shape and 0 <= out.share <= 1
        good &= bool(torch.isfinite(out.images).all()) and float(out.images.min()) >= 0 and float(out.images.max()) <= 1
        for labels in (out.labels, *([] if out.others is None else [out.others])):
            good &= labels.dtype == torch.int64 and len(labels) == 6 and set(labels.tolist()) <= {0, 1, 2, 3, 4}
    except Exception as error:
        return Line("mix", False, in_words(error), "Correct mix; it gets a Batch and a Stream.")
    return Line(
        "mix",
        bool(good),
        f"share {out.share:.3g}, {'the same' if same else 'another'} batch from the same stream",
        "Return a batch of as many images in [0, 1], labels of this batch and a share in [0, 1]; draw from `rng` only "
        "and leave the batch that you were given alone.",
    )


def _loss(bench: Bench, defense: Any, stage: Any, track: Any) -> Line:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(dir=bench.home.parent) as folder:
        net = defense.build(bench.job(stage, Path(folder)).network(track.target.arch)).train()
    batch = Batch(
        torch.rand(8, track.channels, track.resolution, track.resolution), torch.tensor([0, 0, 1, 1, 2, 2, 3, 4])
    )
    for step in (0, 9, 19):
        loss = defense.loss(batch, net(batch.images, Stream(1)), Progress(step, 20, step, 20))
        if not isinstance(loss, Tensor) or loss.shape != () or not bool(torch.isfinite(loss)):
            return Line(
                "loss", False, f"step {step} of 20 gives {loss!r:.80}", "Return one finite number, a 0-d tensor."
            )
    return Line("loss", True, f"a finite scalar ({float(loss.detach()):.3g})")


def _sampler(defense: Any, track: Any) -> Line:
    labels = torch.arange(track.private.identities).repeat_interleave(track.private.train_per_identity)
    batches = defense.sampler(labels, track.target.batch, Stream(3))
    if batches is None:
        return Line("sampler", None, "none: shuffled epochs")
    batches = list(batches)
    good = bool(batches) and all(
        b.dtype == torch.int64
        and 2 <= len(b) <= track.target.batch
        and int(b.min()) >= 0
        and int(b.max()) < len(labels)
        for b in batches
    )
    advice = "Yield int64 tensors of at least 2 and at most `batch` indices into `labels`."
    return Line("sampler", good, f"{len(batches)} batches in an epoch", advice)


def _answers(bench: Bench, stage: Any, utility: Any) -> Iterator[Line]:
    """The served target: shape, finite, frozen, image by image."""
    with tempfile.TemporaryDirectory(dir=bench.home.parent) as folder, torch.no_grad():
        job = bench.job(utility, Path(folder))
        net = job.target()
        images = job.private_train().images[:]
        names = [(0, index, 0) for index in range(len(images))]
        output = net(images, RowStreams(names, "noise"))
        alone = net(images[3:5], RowStreams(names[3:5], "noise")).logits
        repeated = net(images, RowStreams(names, "noise")).logits
    weights = load_file(bench.result(stage)[0] / "model.safetensors")
    finite = all(bool(torch.isfinite(w).all()) for w in [*weights.values(), output.logits])
    yield Line("finite", finite, f"{len(weights)} weight tensors and the logits", FINITE)
    shape = isinstance(net, Classifier) and output.logits.shape == (len(images), job.track.private.identities)
    shape &= output.features.shape == (len(images), net.feature_dim) and not net.training
    yield Line(
        "shape",
        shape,
        f"logits {tuple(output.logits.shape)}, features {tuple(output.features.shape)}",
        "`build` and `deploy` return a Classifier (mibench.nets.base) in eval mode.",
    )
    steady = torch.equal(output.logits, repeated)
    yield Line(
        "answers",
        steady,
        f"same question, {'same' if steady else 'other'} answer",
        "What a served target draws comes from the `rng` of `forward`.",
    )
    gap = float((output.logits[3:5] - alone).abs().max())
    scale = 1e-4 * (1 + float(output.logits.abs().max()))
    yield Line(
        "batch invariance",
        gap <= scale,
        f"logits of two images alone differ by {gap:.2g}",
        "In eval mode an image's answer must not depend on the others in its batch.",
    )
