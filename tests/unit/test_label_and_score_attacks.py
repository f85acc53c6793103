"""BREP-MI and C2FMI against artificial targets, differential evolution, and the inverse map: conformance 12 and 15 of
the attacks' specification, and numbers of questions worked out by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from mibench.contracts import (
    AttackContext,
    ImageSet,
    Loop,
    Oracle,
    PriorModel,
    Reconstruction,
    RowStreams,
    Stream,
    TrackInfo,
)
from mibench.contracts.oracle import AccessDenied
from mibench.errors import StageFailed, UserError
from mibench.keys import stream_seed
from mibench.nets.base import Output
from mibench.primitives import embedding, evolution
from mibench.primitives.embedding import InverseMap, fit_inverse_map, full_confidence, people_embedding, visible
from mibench.primitives.evolution import confidence, differential_evolution, settling
from mibench.primitives.training import unpack
from mibench.registry import Registry
from mibench.weights.kinds import fit

DIM, SIDE, CLASSES, POINTS = 16, 4, 3, 32
TRACK = TrackInfo("unit", "faces", SIDE, 1, CLASSES, (0.5,), public_labelled=True)


class Target(nn.Module):
    """A target whose logits are any function of the images, which it keeps. A call of fewer than ``POINTS`` images is
    about one, the centre; the oracle may have filled it up with copies."""

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.answer, self.asked, self.head = logits, [], nn.Identity()

    def forward(self, images: Tensor, rng: Any = None) -> Output:
        self.asked.append(images.clone())
        logits = self.answer(images)
        return Output(logits, logits, {})


def always(label: int) -> Callable[[Tensor], Tensor]:
    return lambda images: one_hot(torch.full((len(images),), label), CLASSES).float()


class Unit(AttackContext):
    """Public images are noise; their labels are 0, 1, 2, -1 in turn."""

    def __init__(
        self, identities: Sequence[int] = range(CLASSES), seed: int = 7, public: int = 24, images: int = 1
    ) -> None:
        self.device, self.track, self.seed = torch.device("cpu"), TRACK, seed
        self.images_per_identity, self.identities = images, list(identities)
        labels = torch.arange(public) % 4
        self.public = ImageSet(Stream(5).uniform(public, 1, SIDE, SIDE), torch.where(labels < 3, labels, -1), CLASSES)
        self.artifact: dict[str, Tensor] = {}

    def stream(self, name: str) -> Stream:
        return Stream(stream_seed(name, self.seed))

    def steps(self, name: str, count: int) -> Iterator[int]:
        return iter(range(count))

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Loop:
        return Loop(name, steps, state, None, None, self.seed)


def pixels() -> PriorModel:
    """A generator whose images are the latents themselves."""
    return PriorModel(nn.Unflatten(1, (1, SIDE, SIDE)), DIM).eval()


def plugin(name: str, **params: Any) -> Any:
    cls = Registry().plugin("attack", name)
    return cls(cls.Params(**params), TRACK)


def brep(
    target: Target, start: Tensor, labels: Sequence[int] = (1,), **params: Any
) -> tuple[dict[int, Reconstruction], dict[str, Any]]:
    """Run from the latents ``start`` (K, d) of the classes; reconstructions and counts by label."""
    ctx, oracle = Unit(), Oracle(target, "labels", CLASSES)
    ctx.artifact = {"start": start[:, None], "reached": torch.ones(CLASSES, dtype=torch.long)}
    found = {item.label: item for item in plugin("brepmi", **params).invert(oracle, pixels(), list(labels), ctx)}
    return found, oracle.counts()


def labels_asked(counts: dict[str, Any], label: int = 1) -> int:
    assert set(counts[str(label)]) == {"optimisation"}
    kinds = counts[str(label)]["optimisation"]
    assert kinds["forward"] == kinds["gradient"] == 0
    return kinds["label"]


START = Stream(3).uniform(CLASSES, DIM).mul(0.6).add(0.2)  # inside [0, 1], so that clamped images are the latents

# --- BREP-MI --------------------------------------------------------------------------------------------------------


def test_always_inside_grows_until_the_cap() -> None:
    """R times 1.3 in every round, z fixed, the counter still: 33 labels per round, until the growth cap."""
    target = Target(always(1))
    found, counts = brep(target, START, max_growths=7)
    notes = found[1].notes
    assert notes["radius"] == pytest.approx(2 * 1.3**7) and notes["rounds"] == notes["grew"] == 7
    assert notes["finished"] == 0, "patience must not have ended it"
    assert torch.equal(found[1].images.flatten(), START[1]) and torch.equal(found[1].initial, found[1].images)
    assert labels_asked(counts) == 7 * 33
    radii = [(x.flatten(1) - START[1]).norm(dim=1) for x in target.asked if len(x) == POINTS]
    for k, radius in enumerate(radii):
        assert torch.allclose(radius, torch.full((32,), 2 * 1.3**k), rtol=1e-4)


def test_rounds_are_capped() -> None:
    found, counts = brep(Target(always(1)), START, max_rounds=4)
    assert found[1].notes["rounds"] == 4 and found[1].notes["finished"] == 0
    assert labels_asked(counts) == 4 * 33


def test_never_inside_is_rejected_until_the_cap() -> None:
    found, counts = brep(Target(always(0)), START, max_rejections=9)
    assert found[1].notes == {"reached": 1, "grew": 0, "radius": 2, "rounds": 9, "finished": 0}
    assert torch.equal(found[1].images, found[1].initial)
    assert labels_asked(counts) == 9 * 33


def scripted(inside: int, centre: bool = True) -> Target:
    """Class 1 for so many of 32 points, the first ones, and for single images if ``centre``."""

    def logits(images: Tensor) -> Tensor:
        yes = torch.arange(POINTS) < inside if len(images) == POINTS else torch.tensor([centre] * len(images))
        return one_hot(yes.long(), CLASSES).float()

    return Target(logits)


@pytest.mark.parametrize("R", [2.0, 12.0])
@pytest.mark.parametrize(("inside", "grows"), [(28, False), (29, True), (0, False), (32, True)])
def test_29_of_32_points_grow_the_radius_and_28_do_not(inside: int, grows: bool, R: float) -> None:
    """And the step: only points outside repel; their mean at the old radius is divided by the new one."""
    target = scripted(inside)
    found, counts = brep(target, START, patience=1, max_growths=1, radius=R)
    radius = 1.3 * R if grows else R
    assert found[1].notes["radius"] == pytest.approx(radius) and found[1].notes["grew"] == grows
    assert labels_asked(counts) == 33
    points, proposal = (x.flatten(1) for x in target.asked)
    outside = points[inside:] - START[1]
    step = {2.0: 2 / 3, 12.0: 3.0}[R]
    moved = (START[1] - step * outside.sum(0) / 32 / radius).clamp(-1.5, 1.5)
    assert torch.allclose(proposal[0], moved, atol=1e-6)
    assert torch.allclose(found[1].images.flatten(), moved.clamp(0, 1), atol=1e-6)
    assert (inside == 32) == torch.equal(proposal[0], START[1])


def test_a_rejected_growth_enlarges_the_radius_and_is_no_result() -> None:
    found, _ = brep(scripted(32, centre=False), START, max_rejections=3)
    assert found[1].notes["radius"] == pytest.approx(2 * 1.3**3)
    assert found[1].notes["grew"] == 0 and torch.equal(found[1].images, found[1].initial)


def test_patience_counts_accepted_steps_without_growth() -> None:
    found, counts = brep(scripted(20), START, patience=6)
    assert found[1].notes["rounds"] == 6 and found[1].notes["finished"] == 1
    assert labels_asked(counts) == 6 * 33


@pytest.mark.parametrize(
    ("points", "centres", "rounds"),
    [
        ([20], [True, False], 5),  # rejections do not count: steps 1, 3 and 5 do
        ([29, 20, 20, 20], [True], 4),  # nor does growth
        ([20, 20, 29, 20, 20, 20], [True], 6),  # which starts the count again
    ],
)
def test_what_does_not_advance_the_counter(points: list[int], centres: list[bool], rounds: int) -> None:
    asked = 0

    def logits(images: Tensor) -> Tensor:
        nonlocal asked
        turn, asked = asked // 2, asked + 1
        many, centre = points[turn % len(points)], centres[turn % len(centres)]
        yes = torch.arange(POINTS) < many if len(images) == POINTS else torch.tensor([centre] * len(images))
        return one_hot(yes.long(), CLASSES).float()

    target = Target(logits)
    found, counts = brep(target, START, patience=3)
    assert found[1].notes["rounds"] == rounds and found[1].notes["finished"] == 1
    assert labels_asked(counts) == rounds * 33
    visited = [x[0] for x in target.asked if len(x) < POINTS]
    result = visited[points.index(29)] if 29 in points else visited[-1]  # z when R last grew, if it ever did
    assert torch.equal(found[1].images[0], result.clamp(0, 1)) and not torch.equal(result, visited[-2])


def half_space(images: Tensor) -> Tensor:
    """Class 1 where the mean of the latent is above 0.4, class 0 elsewhere."""
    margin = images.flatten(1).mean(1) - 0.4
    return torch.stack([torch.zeros_like(margin), margin, torch.full_like(margin, -9.0)], 1)


def literally(z: Tensor, streams: RowStreams, inside: Callable[[Tensor], bool], patience: int) -> tuple[Tensor, float]:
    """The published loop, point by point."""
    R, it, last, result = 2.0, 0, 0, z
    while it - last < patience:
        points = [R * u / u.norm() for u in streams.normal(1, 32, DIM)[0]]
        q = [1 if inside(z + point) else -1 for point in points]
        step, new = min(R / 3, 3.0), R
        grow = sum(q) > 0.75 * 32
        if grow:
            new, last = 1.3 * R, it
        d = sum((qi - 1) / 2 * point for qi, point in zip(q, points, strict=True)) / 32 / new
        proposal, R = (z + step * d).clamp(-1.5, 1.5), new
        if not inside(proposal):
            continue
        z = proposal
        if grow:
            result = z
        else:
            it += 1
    return result, R


def test_half_space_equals_the_published_loop_and_goes_deeper() -> None:
    start = torch.full((CLASSES, DIM), 0.45)
    target = Target(half_space)
    found, counts = brep(target, start, patience=25)
    streams = RowStreams([(7, 1, 0)], "sphere")
    expected, radius = literally(start[1], streams, lambda z: bool(z.mean() > 0.4), 25)
    assert found[1].notes["radius"] == pytest.approx(radius) and found[1].notes["grew"] >= 3
    assert torch.allclose(found[1].images.flatten(), expected.clamp(0, 1), atol=1e-4)
    assert float(found[1].images.mean()) > float(found[1].initial.mean()) + 0.1
    assert labels_asked(counts) == 33 * found[1].notes["rounds"]
    centres = torch.cat([x.flatten(1) for x in target.asked if len(x) < POINTS])
    assert float(centres.abs().max()) <= 1.5, "the centre is clamped"
    points = torch.cat([x.flatten(1) for x in target.asked if len(x) == POINTS])
    assert float(points.abs().max()) > 1.5, "the points around it are not"


def test_identities_alone_equal_identities_together() -> None:
    def thirds(images: Tensor) -> Tensor:
        x = images.flatten(1)
        return torch.stack([x[:, :5].mean(1), x[:, 5:10].mean(1), x[:, 10:].mean(1)], 1)

    together, counts = brep(Target(thirds), START, [2, 0, 1], patience=10, max_rejections=20)
    for label in range(CLASSES):
        alone, own = brep(Target(thirds), START, [label], patience=10, max_rejections=20)
        assert torch.equal(alone[label].images, together[label].images)
        assert alone[label].notes == together[label].notes and own[str(label)] == counts[str(label)]


def hunt(identities: Sequence[int], **params: Any) -> tuple[dict[str, Tensor], dict[str, Any], Target]:
    """Class 1 for about half of all latents, 0 for the others, 2 for none."""
    target = Target(lambda images: half_space(images + 0.4))
    oracle = Oracle(target, "labels", CLASSES)
    return plugin("brepmi", **params).prepare(oracle, pixels(), Unit(identities)), oracle.counts(), target


def shared(labels: int) -> dict[str, Any]:
    return {"shared": {"search": {"forward": 0, "gradient": 0, "label": labels}}}


def test_label_hunt_keeps_the_first_latent_of_each_class() -> None:
    artifact, counts, target = hunt([0, 1])
    assert counts == shared(256), "one batch has both classes"
    assert artifact["reached"].tolist() == [1, 1, 0]
    seen = target.asked[0].flatten(1)
    assert float(seen.abs().max()) == 1.5, "clamped normal numbers"
    for label, inside in ((0, False), (1, True)):
        first = ((seen.mean(1) > 0) == inside).nonzero()[0, 0]
        assert torch.equal(artifact["start"][label, 0], seen[first])


def test_label_hunt_gives_up_and_says_so() -> None:
    artifact, counts, _ = hunt([0, 1, 2], max_hunt=5)
    assert counts == shared(5 * 256)
    ctx, oracle = Unit(), Oracle(Target(half_space), "labels", CLASSES)
    ctx.artifact = artifact
    attack = plugin("brepmi", max_rejections=3, patience=3)
    found = {item.label: item for item in attack.invert(oracle, pixels(), [1, 2], ctx)}
    assert found[1].notes["reached"] == 1 and found[2].notes["reached"] == found[2].notes["grew"] == 0
    assert found[2].images.shape == found[2].initial.shape == (1, 1, SIDE, SIDE)
    assert oracle.counts()["2"]["optimisation"]["label"] == 3 * 33, "it starts outside and is rejected until the cap"


def test_several_runs_start_from_the_first_latents_of_their_class() -> None:
    """Three for each image; of a class that the hunt seldom hits, the same again; each run has a sphere of its own."""
    target = Target(lambda images: half_space(images + 0.4))
    ctx, oracle, attack = Unit([0, 1, 2], images=3), Oracle(target, "labels", CLASSES), plugin("brepmi", max_hunt=2)
    ctx.artifact = attack.prepare(oracle, pixels(), ctx)
    assert ctx.artifact["reached"].tolist() == [3, 3, 0]
    seen = torch.cat([x.flatten(1) for x in target.asked])
    assert torch.equal(ctx.artifact["start"][1], seen[(seen.mean(1) > 0).nonzero()[:3, 0]])
    oracle = Oracle(Target(lambda images: half_space(images + 0.4)), "labels", CLASSES)
    short = plugin("brepmi", patience=2, max_rejections=2)
    found = {item.label: item for item in short.invert(oracle, pixels(), [1, 2], ctx)}
    assert [len(item.images) for item in found.values()] == [3, 3]
    assert torch.equal(found[1].initial.flatten(1), ctx.artifact["start"][1].clamp(0, 1))
    assert len({tuple(image.flatten().tolist()) for image in found[2].initial}) == 3, (
        "outside, each from its own stream"
    )
    (alone,) = short.invert(oracle, pixels(), [2], ctx)
    assert torch.equal(alone.images, found[2].images) and alone.notes == found[2].notes


def test_label_attack_passes_with_labels_only_and_refuses_broken_generators() -> None:
    artifact, _, _ = hunt([0, 1])
    ctx, oracle = Unit(), Oracle(Target(half_space), "labels", CLASSES)
    ctx.artifact = artifact
    with pytest.raises(AccessDenied):
        oracle.scores(torch.zeros(1, 1, SIDE, SIDE))
    assert list(plugin("brepmi", patience=2, max_rejections=2).invert(oracle, pixels(), [0], ctx))
    artifact["start"] = torch.full_like(artifact["start"], torch.nan)
    with pytest.raises(StageFailed, match="finite"):
        list(plugin("brepmi", patience=2, max_rejections=2).invert(oracle, pixels(), [0], ctx))


# --- differential evolution -----------------------------------------------------------------------------------------


def test_settling() -> None:
    """Conformance 15: 0.1 at generation 469, 0.06 at 470."""
    assert [settling(g, 500) for g in (0, 469)] == [0.1, 0.1]
    assert settling(470, 500) == pytest.approx(0.06) and settling(499, 500) == pytest.approx(0.002)


def sphere(x: Tensor) -> Tensor:
    return -(x - 0.3).square().sum(1)


def test_evolution_never_loses_and_asks_once_per_individual_and_generation() -> None:
    """Conformance 15: no individual's fitness ever decreases; parents are not judged again."""
    seen, asked = [], []

    def judge(x: Tensor) -> Tensor:
        asked.append(len(x))
        return sphere(x)

    start = Stream(1).normal(12, 5)
    x, f = differential_evolution(start, judge, 80, RowStreams([(0, 1, 0)], "x"), watch=lambda f: seen.append(f))
    history = torch.stack([sphere(start), *seen])
    assert bool((history[1:] >= history[:-1]).all()) and bool((history[-1] > history[0]).all())
    assert asked == [12] * 81
    assert torch.equal(f, history[-1]) and torch.equal(sphere(x), f)
    assert float(f.max()) > 0.2 * float(history[0].max())


def test_one_generation_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Individual by individual and coordinate by coordinate, with the rng's own numbers."""
    monkeypatch.setattr(evolution, "settling", lambda g, n: 0.1)
    start, rng = Stream(2).normal(6, 3), RowStreams([(4, 2, 0)], "de")
    a, b = (rng.uniform(1, 2, 4, 6)[0] * 6).long().tolist()
    coin = rng.uniform(1, 6, 3)[0]
    fitness, best = sphere(start), start[int(sphere(start).argmax())]
    expected = start.clone()
    for i in range(6):
        v = start[i] + 0.02 * (best - start[i])
        for k in range(4):
            v = v + 0.1 * (start[a[k][i]] - start[b[k][i]])
        u = torch.tensor([v[j] if coin[i, j] < 0.5 else start[i, j] for j in range(3)])
        if sphere(u[None])[0] > fitness[i]:
            expected[i] = u
    x, f = differential_evolution(start, sphere, 1, RowStreams([(4, 2, 0)], "de"))
    assert torch.allclose(x, expected, atol=1e-6) and torch.allclose(f, sphere(expected), atol=1e-6)
    assert 0 < int((x != start).any(1).sum()) < 6, "some trials won and some lost"


def test_confidence_from_all_scores_and_from_the_largest() -> None:
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 1.0]])
    assert torch.allclose(confidence(p, 1), torch.tensor([0.3, 0.2, 0.0]))
    assert torch.allclose(confidence(p, 1, top=2), torch.tensor([0.3, -0.7, -1.0]))


# --- C2FMI ----------------------------------------------------------------------------------------------------------


def test_what_the_inverse_map_sees() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.7, 0.2, 0.1, 1e-30]])
    v = torch.tensor([[p.log()[0, 0] + 1000, p.log()[0, 1] + 1000, p.log()[0, 2] + 1000, 0.0], [0.0] * 4])
    v[1] = p[1].log() + 50 + 19.0775527898  # log 1e-30 = -69.08
    assert torch.allclose(visible(p, None), normalize(v), atol=1e-5)
    top = visible(p, 2)[1]
    assert torch.allclose(top, normalize(torch.tensor([[50 - 0.3567, 50 - 1.6094, 0, 0]]))[0], atol=1e-4)
    assert torch.allclose(visible(p, None).norm(dim=1), torch.ones(2))


def test_full_confidence_is_a_one_hot_vector_with_a_breath_of_noise() -> None:
    noise = torch.tensor([[-1.0, 2.0, 0.5]])
    assert torch.allclose(full_confidence(noise.clone(), 1), torch.tensor([[0.0, 1.0, 0.0]]))
    assert full_confidence(noise.clone(), 1)[0, 0] == pytest.approx(1e-18)


def test_inverse_map_learns_a_map() -> None:
    torch.manual_seed(0)
    seen = normalize(Stream(1).normal(600, CLASSES))
    wanted = 3 * seen[:, :2] - 1
    net = fit_inverse_map(Unit(), InverseMap(CLASSES, 64, 2), seen, wanted, epochs=10, batch=20)
    assert float((net(seen) - wanted).square().mean()) < 0.1 * float(wanted.var(0).mean())
    assert not net.training and not any(p.requires_grad for p in net.parameters())


def scores(images: Tensor) -> Tensor:
    """Class y is the more probable the brighter the y-th part of the image is than the others."""
    x = images.flatten(1)
    return 6 * torch.stack([x[:, :5].mean(1), x[:, 5:10].mean(1), x[:, 10:].mean(1)], 1)


class Sigmoid(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z).unflatten(1, (1, SIDE, SIDE))


SMALL = {"embedding": "public", "embedding_steps": 5, "width": 8, "epochs": 2, "coarse_steps": 3, "coarse_lr": 0.1}


def c2fmi(
    labels: Sequence[int], monkeypatch: pytest.MonkeyPatch, target: Target | None = None, **params: Any
) -> tuple[Any, Any, Any]:
    """Reconstructions by label, counts of the preparation, counts of the inversion; ``target`` answers the latter."""

    class Linear(nn.Module):
        """The embedding: a linear classifier, since images of 4 pixels are too small for the usual one."""

        def __init__(self, people: int) -> None:
            super().__init__()
            self.head = nn.Linear(DIM, people)

        def forward(self, images: Tensor) -> Output:
            logits = self.head(images.flatten(1))
            return Output(logits, logits, {})

    monkeypatch.setattr(
        "mibench.primitives.embedding.build_classifier", lambda arch, people, channels, side: Linear(people)
    )
    torch.manual_seed(0)
    ctx, attack, prior = Unit(), plugin("c2fmi", **SMALL | params), PriorModel(Sigmoid(), DIM).eval()
    before = Oracle(Target(scores), "scores", CLASSES)
    ctx.artifact = attack.prepare(before, prior, ctx)
    oracle = Oracle(target or Target(scores), "scores", CLASSES)
    found = {item.label: item for item in attack.invert(oracle, prior, list(labels), ctx)}
    return found, before.counts(), oracle.counts()


def test_c2fmi_asks_16_and_16032_scores_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 starts; 32 individuals at first and in each of 500 generations; every public image once."""
    found, before, counts = c2fmi([1], monkeypatch)
    assert before == {"shared": {"search": {"forward": 24, "gradient": 0, "label": 0}}}
    assert counts == {
        "1": {
            "search": {"forward": 16, "gradient": 0, "label": 0},
            "optimisation": {"forward": 32 + 500 * 32, "gradient": 0, "label": 0},
        }
    }
    item = found[1]
    assert item.images.shape == item.initial.shape == (1, 1, SIDE, SIDE)
    answer = scores(item.images).softmax(1)[0, 1]
    assert float(item.score) == pytest.approx(float(answer)) and answer > 0.9 > scores(item.initial).softmax(1)[0, 1]
    assert answer >= item.notes["coarse"]


def test_c2fmi_alone_and_together(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"population": 12, "generations": 15}
    together, _, counts = c2fmi([2, 0, 1], monkeypatch, **small)
    for label in range(CLASSES):
        alone, _, own = c2fmi([label], monkeypatch, **small)
        assert torch.equal(alone[label].images, together[label].images)
        assert own[str(label)] == counts[str(label)]
    assert not torch.equal(together[0].images, together[1].images)


def test_c2fmi_coarse_search_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One start, no generation: the image is the coarse search's, and closer to what M makes of full confidence."""
    alone = {"starts": 1, "keep": 1, "population": 1, "generations": 0, "epochs": 40, "embedding_steps": 100}
    moved, _, counts = c2fmi([0, 1, 2], monkeypatch, **alone | {"coarse_steps": 60})
    still, _, _ = c2fmi([0, 1, 2], monkeypatch, **alone | {"coarse_steps": 0})
    for label in range(CLASSES):
        assert torch.equal(moved[label].initial, still[label].images), "the start is the mean of two draws"
        assert not torch.allclose(moved[label].images, moved[label].initial, atol=0.05)
        assert moved[label].notes["coarse"] == pytest.approx(float(moved[label].score))
        assert counts[str(label)]["search"]["forward"] == counts[str(label)]["optimisation"]["forward"] == 1


def test_c2fmi_population(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 10 best of 16 starts and 22 mixtures, worked out from the row's own numbers."""
    target = Target(scores)
    found, _, _ = c2fmi([1], monkeypatch, target, coarse_steps=0, generations=0)
    starts, population = (x.flatten(1).logit() for x in target.asked)
    rng = RowStreams([(7, 1, 0)], "w")
    z = rng.normal(1, 32, DIM)[0]
    assert torch.allclose(starts, (z[0::2] + z[1::2]) / 2, atol=1e-4)
    p_y = scores(torch.sigmoid(starts)).softmax(1)[:, 1]
    best = starts[p_y.sort(descending=True).indices[:10]]
    assert torch.allclose(population[:10], best, atol=1e-4)
    pick = (rng.uniform(1, 3, 22)[0] * 10).long()
    fresh = rng.normal(1, 66, DIM)[0]
    for i in range(22):
        a, b, c = (best[pick[k, i]] for k in range(3))
        mixture = 0.7 * (a / 4 + b / 4 + c / 2) + 0.3 * (fresh[3 * i] + fresh[3 * i + 1] + fresh[3 * i + 2]) / 3
        assert torch.allclose(population[10 + i], mixture, atol=1e-4)
    fittest = scores(torch.sigmoid(population)).softmax(1)[:, 1]
    assert float(found[1].score) == pytest.approx(float(fittest.max()))
    assert torch.allclose(found[1].images.flatten(), torch.sigmoid(population[fittest.argmax()]), atol=1e-4)


def test_c2fmi_coarse_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gap is the MSE to what M wants; it falls, and the learning rate by 0.95 every 20 steps."""
    gaps, rates, nets = [], [], {}
    module = sys.modules[Registry().plugin("attack", "c2fmi").__module__]
    usual, load = module.descend_adam, embedding.unpack

    def loaded(net: nn.Module, artifact: dict[str, Tensor], name: str) -> nn.Module:
        nets[name] = load(net, artifact, name)
        return net

    def watched(start: Tensor, objective: Any, steps: Any, lr: Any, **more: Any) -> Tensor:
        rates.extend(lr(step) for step in steps)
        images = torch.sigmoid(start).unflatten(1, (1, SIDE, SIDE))
        wanted = nets["M"](torch.tensor([[0.0, 0.0, 1.0]]))  # of class 2 and nothing else
        expected = (nets["e"](images) - wanted).square().sum(1) / CLASSES
        assert torch.allclose(objective(start), expected, atol=1e-5)
        return usual(start, objective, steps, lr, watch=lambda losses, w: gaps.append(losses), **more)

    monkeypatch.setattr(embedding, "unpack", loaded)
    monkeypatch.setattr(module, "descend_adam", watched)
    few = {"population": 10, "generations": 0, "epochs": 40, "embedding_steps": 200, "coarse_steps": 41}
    c2fmi([2], monkeypatch, **few | {"coarse_lr": 0.02})
    assert rates == pytest.approx([0.02] * 20 + [0.019] * 20)
    assert len(gaps) == 40 and gaps[0].shape == (16,)
    assert bool((gaps[-1] < gaps[0]).all()) and float(gaps[-1].mean()) < 0.9 * float(gaps[0].mean())


@pytest.mark.parametrize(("steps", "updates"), [(0, 0), (1, 0), (2, 1), (3, 2)])
def test_c2fmi_keeps_the_state_before_the_last_update(
    steps: int, updates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam's first step is a full learning rate in every coordinate, its second no more than that and about as much."""
    alone: dict[str, Any] = {"starts": 1, "keep": 1, "population": 1, "generations": 0, "coarse_lr": 0.01}
    item = c2fmi([1], monkeypatch, **alone | {"coarse_steps": steps})[0][1]
    moved = (item.images.double().logit() - item.initial.double().logit()).abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.01 * updates), rtol=0.1 if updates > 1 else 1e-3, atol=1e-6)


def test_c2fmi_top_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Top-M: all 16 starts join; what is not among the largest scores changes nothing."""
    found, _, counts = c2fmi([1], monkeypatch, top=1, keep=16, population=16, generations=4)
    assert counts["1"]["optimisation"]["forward"] == 16 + 4 * 16
    assert -1 <= float(found[1].score) <= 1


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"keep": 17}, "expected keep <= starts"),
        ({"population": 9}, "expected keep <= starts"),
        ({"embedding": "public", "casia_weights": "x"}, "casia_weights only with embedding=casia"),
    ],
)
def test_c2fmi_refuses_what_cannot_be(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        plugin("c2fmi", **wrong)


def test_c2fmi_says_what_it_lacks() -> None:
    reason = plugin("c2fmi").skip()
    assert reason and "casia" in reason and "import-checkpoint" in reason and "embedding=public" in reason
    assert plugin("c2fmi", casia_weights="0123456789abcdef").skip() is None
    assert plugin("c2fmi", embedding="public").skip() is None
    assert "only 3 scores" in plugin("c2fmi", embedding="public", top=4).skip()
    ctx = Unit()
    ctx.public = ImageSet(ctx.public.images, torch.full((24,), -1), CLASSES)
    with pytest.raises(StageFailed, match="labels"):
        people_embedding(ctx, None)


@pytest.mark.parametrize(("name", "own"), [("c2fmi", True), ("p2i", True), ("ppdg", True), ("smile", False)])
def test_what_learns_to_tell_people_apart_is_skipped_where_none_are_known(name: str, own: bool) -> None:
    cls = Registry().plugin("attack", name)
    attack = cls(cls.Params(**({"embedding": "public"} if own else {})), replace(TRACK, public_labelled=False))
    assert "no labelled public people" in str(attack.skip())


def test_published_embedding_has_the_published_tensors_and_sees_grey_images() -> None:
    """10,575 logits of 160x160 colour images; the weights come from the store by their id."""
    casia = pytest.importorskip("mibench.nets.casia")
    ctx, loaded = Unit(), []
    ctx.load_weights = lambda net, weights: loaded.append((net, weights))  # type: ignore[method-assign]
    net = people_embedding(ctx, "some id")
    assert isinstance(net, casia.CasiaFaceNet) and loaded == [(net, "some id")] and not net.training
    state = net.state_dict()
    assert state["logits.weight"].shape == (10_575, 512) and state["conv2d_1a.conv.weight"].shape == (32, 3, 3, 3)
    with torch.no_grad():
        assert net(torch.rand(2, 1, 32, 32)).shape == (2, 10_575)
    assert fit("facenet_casia", state).settings == {}
    state["logits.weight"] = state["logits.weight"][:8631]  # as in the network of VGGFace2
    with pytest.raises(UserError, match=r"logits.weight \(8631, 512\)"):
        fit("facenet_casia", state)


# --- P2I-MI ---------------------------------------------------------------------------------------------------------


def test_raised_scores_are_probabilities_and_certain_ones_stay() -> None:
    p = torch.tensor([[0.2, 0.3, 0.5], [0.965, 0.035, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    log_p, weight = sys.modules[type(plugin("p2i")).__module__].raised(p, 0, 0.035)
    assert weight.tolist() == pytest.approx([0.235, 0.965, 1.0])
    assert log_p.exp().sum(1).tolist() == pytest.approx([1, 1, 1])
    assert log_p[0].exp().tolist() == pytest.approx([0.235, 0.3 * 0.765 / 0.8, 0.5 * 0.765 / 0.8])
    assert log_p[1:].exp().flatten().tolist() == pytest.approx(p[1:].flatten().tolist(), abs=1e-12)


def test_p2i_asks_once_for_all_and_then_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one image the ensemble is the encoder's own answer; a class's best public images are dealt out in turn."""
    small = {"embedding": "public", "pool": 30, "per_class": 1, "steps": 3, "batch": 4, "width": 8, "rise": 0.0}
    attack, ctx, prior = plugin("p2i", **small), Unit(images=2), PriorModel(Sigmoid(), DIM).eval()
    module = sys.modules[type(attack).__module__]
    monkeypatch.setattr(module, "people_embedding", lambda ctx, weights: nn.Flatten())
    monkeypatch.setattr(module, "fit_people", lambda ctx, f, steps: f)
    before, after = (Oracle(Target(scores), "scores", CLASSES) for _ in range(2))
    ctx.artifact = attack.prepare(before, prior, ctx)
    assert before.counts() == {"shared": {"search": {"forward": 24 + 30, "gradient": 0, "label": 0}}}
    found = {item.label: item for item in attack.invert(after, prior, [0, 2], ctx)}
    assert after.counts() == {}
    E = unpack(attack.encoder(prior, ctx), ctx.artifact, "E")
    p = scores(ctx.public.images[:]).softmax(1)
    for label, item in found.items():
        best = p[:, label].topk(2).indices
        torch.testing.assert_close(item.images, prior(E(p[best].log())[:, 0]))
