"""MI-FACE, IF-GMI and MIRROR: their primitives against brute force, the attacks against loops written out by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mibench.contracts import Attack, AttackContext, Oracle, PriorModel, Reconstruction
from mibench.errors import StageFailed, UserError
from mibench.images.augment import nl_means, sharpen
from mibench.nets.base import Classifier
from mibench.nets.gan import DcganGenerator
from mibench.nets.generator import Generator
from mibench.nets.stylegan2 import StyleGAN2
from mibench.primitives.evolution import crossover, evolve, mutate
from mibench.primitives.latents import BestStep, PBox, descend_pixels, l1_ball, ramps
from mibench.primitives.losses import improbability, mean_square, poincare, total_variation
from mibench.primitives.selection import top5_consistent
from mibench.protocol.params import resolve
from mibench.random import RowStreams, Stream
from mibench.registry import Registry

CLASSES = 6

# --- losses and filters ------------------------------------------------------------------------------------


def test_pixel_losses_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(9.0), 0.0]])
    assert improbability(logits, torch.tensor([1, 1])).tolist() == pytest.approx([0.25, 0.9])
    x = torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]])
    assert total_variation(x).tolist() == pytest.approx([(0.5 + 0.5) / 2 + (1.0 + 0.0) / 2])
    assert mean_square(x).tolist() == pytest.approx([1.5 / 4])


def test_non_local_means_is_the_weighted_mean_over_the_window() -> None:
    x, strength = Stream(0).uniform(2, 3, 6, 7), 0.3
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    expected = np.zeros(x.shape)
    for n, i, j in itertools.product(range(2), range(6), range(7)):
        values, weights = [], []
        for dy, dx in itertools.product(range(-2, 3), repeat=2):
            distance = []
            for a, b in itertools.product(range(-1, 2), repeat=2):
                u, v = min(max(i + a, 0), 5), min(max(j + b, 0), 6)  # patches beyond the border repeat its pixels
                other = padded[n, :, u + dy + 2, v + dx + 2]
                distance.append(np.mean((other - padded[n, :, u + 2, v + 2]) ** 2))
            values.append(padded[n, :, i + dy + 2, j + dx + 2])
            weights.append(math.exp(-np.mean(distance) / strength**2))
        expected[n, :, i, j] = np.average(values, axis=0, weights=weights)
    assert np.allclose(nl_means(x, strength).numpy(), expected, atol=1e-5)


def test_non_local_means_removes_noise_and_keeps_edges() -> None:
    clean = torch.zeros(1, 1, 16, 16)
    clean[..., 8:] = 1
    noisy = clean + 0.05 * Stream(1).normal(1, 1, 16, 16)
    cleaned = nl_means(noisy, 0.2)
    assert float((cleaned - clean).square().mean()) < 0.3 * float((noisy - clean).square().mean())
    assert float((cleaned[..., 8] - cleaned[..., 7]).min()) > 0.8


def test_sharpening_by_hand_and_without_overshoot() -> None:
    """The blur of 0 0 1 3 is 0, 1/4, 5/4, 5/2; a pixel never leaves the range of its neighbours."""
    x = torch.tensor([0.0, 0.0, 1.0, 3.0]).expand(1, 2, 4, 4)
    assert sharpen(x, 0.5)[0, 1, 2].tolist() == pytest.approx([0.0, 0.0, 0.875, 3.0])
    board = 0.5 + 0.01 * (-1.0) ** (torch.arange(8)[:, None] + torch.arange(8)).expand(1, 1, 8, 8)
    for _ in range(50):
        board = sharpen(board, 1.0)
    assert float((board - 0.5).abs().max()) < 0.0101
    assert torch.equal(sharpen(torch.full((1, 1, 5, 5), 0.3), 2.0), torch.full((1, 1, 5, 5), 0.3))


# --- MI-FACE -----------------------------------------------------------------------------------------------

WEIGHTS = Stream(5).normal(CLASSES, 16)


def _costs(x: Tensor, labels: Tensor) -> Tensor:
    return improbability(x.flatten(1) @ WEIGHTS.T, labels)


def _written_out(label: int, lr: float, steps: int, patience: int, threshold: float) -> tuple[Tensor, int]:
    """The paper's loop for one identity."""
    x, costs, iterates = torch.zeros(1, 1, 4, 4), [], []
    for _ in range(steps):
        x = x.requires_grad_(True)
        c = _costs(x, torch.tensor([label]))
        iterates.append(x.detach())
        costs.append(c.item())
        if costs[-1] <= threshold or (len(costs) > patience and costs[-1] >= max(costs[-1 - patience : -1])):
            break
        c.backward()
        assert x.grad is not None
        x = (x.detach() - lr * x.grad).clamp(0, 1)
    return iterates[int(np.argmin(costs))], len(costs)


@pytest.mark.parametrize(("lr", "patience"), [(0.1, 100), (0.5, 1), (60.0, 3), (60.0, 5)])
def test_pixel_descent_is_the_papers_loop_row_by_row(lr: float, patience: int) -> None:
    """Small steps end at the threshold or by the number of steps, steps that are too long for want of progress."""
    labels, asked = torch.arange(CLASSES), []

    def objective(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(index.tolist())
        c = _costs(x, labels[index])
        return c, c <= 0.05

    best, judged = descend_pixels(torch.zeros(CLASSES, 1, 4, 4), objective, range(40), lr, lambda x: x, patience)
    expected = [_written_out(label, lr, 40, patience, 0.05) for label in range(CLASSES)]
    assert judged.tolist() == [count for _, count in expected]
    assert torch.allclose(best, torch.cat([x for x, _ in expected]), atol=1e-5)
    for label in range(CLASSES):  # a finished row is asked about no more
        assert sum(label in index for index in asked) == int(judged[label])
    assert len(set(judged.tolist())) > 1, "rows that end at different times, or nothing is shown"


def test_pixel_descent_without_a_gradient_gives_up_after_its_patience() -> None:
    start = torch.full((2, 1, 2, 2), 0.25)

    def objective(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return 0 * x.sum((1, 2, 3)) + 1, torch.zeros(len(index), dtype=torch.bool)

    best, judged = descend_pixels(start, objective, range(50), 1.0, lambda x: x, 7)
    assert judged.tolist() == [8, 8]
    assert torch.equal(best, start)


def test_pixel_descent_processes_then_clips() -> None:
    seen = []

    def objective(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(x.detach().clone())
        return -x.sum((1, 2, 3)), torch.zeros(len(index), dtype=torch.bool)

    descend_pixels(torch.zeros(1, 1, 2, 2), objective, range(4), 0.2, lambda x: 2 * x, 9)
    assert [float(x.amax()) for x in seen] == pytest.approx([0.0, 0.4, 1.0, 1.0])  # 2 (x + 0.2), at most 1


def test_pixel_descent_refuses_a_cost_that_is_no_number() -> None:
    def objective(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return x.sum((1, 2, 3)) / 0, torch.zeros(len(index), dtype=torch.bool)

    with pytest.raises(StageFailed, match="row 0"):
        descend_pixels(torch.zeros(2, 1, 2, 2), objective, range(4), 0.2, lambda x: x, 9)


# --- projections, schedules, best steps --------------------------------------------------------------------


def test_l1_ball_is_the_nearest_point_found_by_bisection() -> None:
    x, anchor, radius = 3 * Stream(0).normal(6, 3, 2, 4), Stream(1).normal(6, 3, 2, 4), 20.0
    x[0] = anchor[0] + 0.1
    out = l1_ball(x, anchor, radius)
    for row in range(6):
        deviation = (x[row] - anchor[row]).double().numpy()
        low, high = 0.0, float(np.abs(deviation).max())
        for _ in range(80):
            middle = (low + high) / 2
            inside = np.maximum(np.abs(deviation) - middle, 0).sum() <= radius
            low, high = (low, middle) if inside else (middle, high)
        expected = anchor[row].numpy() + np.sign(deviation) * np.maximum(np.abs(deviation) - high, 0)
        assert np.allclose(out[row].numpy(), expected, atol=1e-5), row


def test_l1_ball_leaves_the_inside_alone_and_is_idempotent() -> None:
    """Conformance 9. Row 0 lies inside, the others outside; each row is projected by itself."""
    anchor = Stream(2).normal(4, 50)
    x = anchor + torch.tensor([0.1, 2.0, 5.0, 100.0])[:, None] * Stream(3).normal(4, 50)
    out = l1_ball(x, anchor, 12.0)
    assert torch.equal(out[0], x[0])
    assert (out[1:] - anchor[1:]).abs().sum(1).tolist() == pytest.approx([12.0] * 3, rel=1e-4)
    assert torch.allclose(l1_ball(out, anchor, 12.0), out, atol=1e-5)
    assert torch.allclose(torch.cat([l1_ball(x[i : i + 1], anchor[i : i + 1], 12.0) for i in range(4)]), out)
    assert l1_ball(x[:, :0], anchor[:, :0], 12.0).shape == (4, 0)


def test_p_box_uses_both_bounds_in_the_space_before_the_activation() -> None:
    """Conformance 11: w within one population standard deviation of the pool's mean, in P; numpy's words."""
    pool = Stream(4).normal(400, 5) * torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0]) + torch.tensor(
        [0.0, 1.0, -1.0, 3.0, -3.0]
    )
    box = PBox.of(pool, 0.2)
    w = pool.double().numpy()
    p = np.where(w > 0, w, 5 * w)
    low, high = p.mean(0) - p.std(0), p.mean(0) + p.std(0)
    low, high = np.where(low > 0, low, 0.2 * low), np.where(high > 0, high, 0.2 * high)
    assert np.allclose(box.low, low, atol=1e-4) and np.allclose(box.high, high, atol=1e-4)
    assert np.allclose(box.spread, p.std(0), atol=1e-4)
    assert np.allclose(box.clip(pool), np.clip(w, low, high), atol=1e-4)
    assert torch.allclose(box.clip(torch.full((1, 5), 99.0)), box.high)
    assert torch.allclose(box.clip(torch.full((1, 5), -99.0)), box.low)
    assert torch.allclose(box.to_w(box.to_p(pool)), pool, rtol=1e-6), "LeakyReLU(5), then LeakyReLU(0.2)"
    assert not torch.allclose(box.to_p(pool), pool)
    plain = PBox.of(pool, 1.0)
    assert torch.allclose(plain.high - plain.low, 2 * pool.std(0, correction=0)) and torch.equal(plain.to_p(pool), pool)


def test_ramps_warm_up_hold_and_come_down() -> None:
    """Conformance 11, the first step being number 1 of 20,000: a thousandth of 0.25 at it and nothing at the last, 0.25
    from 5 % to 75 %; half-way down at 87.5 %."""
    lr = [ramps(0.25, 20_000, first=1)(step) for step in range(20_000)]
    assert lr[0] == pytest.approx(0.25 / 1000) and lr[-1] == 0
    assert set(lr[999:15_000]) == {0.25} and lr[998] < 0.25 > lr[15_000]
    assert lr[499] == pytest.approx(0.125) and lr[17_499] == pytest.approx(0.125)
    assert all(one > other for one, other in pairwise(lr[15_000:]))


def test_best_step_is_the_groups_own() -> None:
    losses, latents = Stream(6).uniform(7, 6), Stream(7).normal(7, 6, 3)
    best = BestStep(latents[0], group=2)
    for loss, z in zip(losses, latents, strict=True):
        best(loss, z)
    winners = losses.reshape(7, 3, 2).mean(2).argmin(0)
    assert len(set(winners.tolist())) > 1
    for group, step in enumerate(winners.tolist()):
        assert torch.equal(best.latents[2 * group : 2 * group + 2], latents[step, 2 * group : 2 * group + 2])


# --- MIRROR's final pick -----------------------------------------------------------------------------------


def _pick_by_search(logits: Tensor, label: int) -> int:
    """Every set of candidates, the largest first; sets that agree equally well count as one."""
    tops = [logits[i].argsort(descending=True)[:5].tolist() for i in range(len(logits))]
    first = [i for i, top in enumerate(tops) if top[0] == label]
    for shared in (2, 1):
        for size in range(len(first), 1, -1):
            sets = [
                s
                for s in itertools.combinations(first, size)
                if len(set.intersection(*(set(tops[i]) - {label} for i in s))) >= shared
            ]
            if sets:
                return max({i for s in sets for i in s}, key=lambda i: float(logits[i, label]))
    return max(range(len(logits)), key=lambda i: float(logits[i, label]))


def test_final_pick_is_that_of_a_search_over_all_sets() -> None:
    rng, outcomes = np.random.default_rng(0), set()
    for case in range(300):
        classes, candidates = int(rng.integers(6, 40)), int(rng.integers(1, 9))
        logits = torch.tensor(rng.normal(size=(candidates, classes)), dtype=torch.float32)
        logits[:, 2] += float(rng.choice([0.0, 1.0, 3.0]))
        pick = top5_consistent(logits, 2)
        assert pick == _pick_by_search(logits, 2), case
        outcomes.add(pick == int(logits[:, 2].argmax()))
    assert outcomes == {True, False}, "the rule must sometimes pass over the largest logit"


def test_final_pick_with_few_classes() -> None:
    assert top5_consistent(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 9.0]]), 0) == 1
    assert top5_consistent(torch.tensor([[0.0, 1.0], [0.5, 9.0]]), 0) == 1  # nobody's first label: all candidates


# --- genetic search ----------------------------------------------------------------------------------------


def _rng(row: int = 0) -> RowStreams:
    return RowStreams([(0, row, 0)], "evolution")


def test_parents_are_drawn_and_mixed_in_proportion_to_their_probability() -> None:
    """Three parents with their own number in every coordinate. E[share of i] is a sum over pairs, written out."""
    p, d, n = torch.tensor([0.6, 0.3, 0.1]), 50, 4000
    population = torch.arange(3.0)[:, None].expand(3, d)
    children = crossover(population, p.log(), n, _rng())
    assert children.shape == (n, d)
    pure = np.array([float((children == i).all(1).float().mean()) for i in range(3)])
    assert np.allclose(pure, (p**2).numpy(), atol=0.03), "both parents the same"
    both = [(children == i).any(1) & (children == j).any(1) for i, j in ((0, 1), (0, 2))]
    for chosen, other in zip(both, (0.3, 0.1), strict=True):
        assert float((children[chosen] == 0).float().mean()) == pytest.approx(0.6 / (0.6 + other), abs=0.02)


def test_literal_crossover_favours_the_worse_parent() -> None:
    population = torch.arange(2.0)[:, None].expand(2, 40)
    f = torch.tensor([-1.0, -1.5])
    children = crossover(population, f, 4000, _rng(), literal=True)
    mixed = children[(children.amin(1) != children.amax(1))]
    assert float((mixed == 0).float().mean()) == pytest.approx(1 / 2.5, abs=0.02)
    sure = crossover(population, torch.tensor([0.0, -69.0]), 100, _rng())
    assert torch.equal(sure, torch.zeros(100, 40)), "a hopeless parent leaves nothing"


def test_mutation_hits_coordinates_at_the_rate_and_each_child_by_itself() -> None:
    scale = torch.tensor([0.1, 1.0, 10.0, 0.0])
    moved = mutate(torch.zeros(5000, 4), 0.1, scale, _rng())
    assert (moved[:, :3] != 0).float().mean(0).tolist() == pytest.approx([0.1] * 3, abs=0.015)
    hit = moved[moved[:, 1] != 0, 1]
    assert float(hit.abs().max()) <= 1 and float(hit.mean()) == pytest.approx(0, abs=0.08)
    assert float(hit.std()) == pytest.approx(1 / math.sqrt(3), abs=0.04)
    assert len(hit.unique()) > 0.99 * len(hit), "one noise vector for all children"
    assert not bool(moved[:, 3].any())


@pytest.mark.parametrize(("enough", "bred"), [(0.0, 0), (1.5, 2), (99.0, 6)])
def test_evolution_keeps_its_elite_and_stops_when_it_is_good_enough(enough: float, bred: int) -> None:
    """Two children per generation, worse and worse but for one of generation 2: worth 2."""
    worth = iter([[-1.0, -2.0], [2.0, -3.0], [-4.0, -4.0], [-5.0, -5.0], [-6.0, -6.0], [-7.0, -7.0]])
    calls = []

    def breed(w: Tensor, f: Tensor) -> Tensor:
        assert w.shape == (3, 1) and torch.equal(w[0], torch.full((1,), float(f[0])))
        return torch.tensor(next(worth))[:, None]

    def judge(w: Tensor) -> Tensor:
        calls.append(len(w))
        return w[:, 0]

    start = torch.tensor([1.0, 0.5, 0.0])
    best, fitness, generations = evolve(start[:, None], start, breed, judge, 6, enough)
    assert (generations, len(calls)) == (bred, bred)
    assert float(best) == float(fitness) == (2.0 if bred >= 2 else 1.0)


# --- the attacks -------------------------------------------------------------------------------------------

LAYERS: dict[str, Any] = {"z_dim": 8, "w_dim": 8, "img_resolution": 32, "mapping_layers": 2, "channel_base": 256}


class _Context(AttackContext):
    def __init__(self, attack: Attack) -> None:
        self.device, self.track, self.artifact, self.seed = torch.device("cpu"), attack.track, {}, 0
        self.images_per_identity, self.identities = 2, range(CLASSES)

    def stream(self, name: str) -> Stream:
        return Stream(len(name) + 100)

    def steps(self, name: str, count: int) -> Iterator[int]:
        return iter(range(count))


class _Target(Classifier):
    """logits = A tanh(W x), rows of W without mean. No kinks, at which rounding would decide between two gradients
    and trajectories would part."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_dim = 32
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 32, bias=False), nn.Tanh())
        self.head = nn.Linear(32, CLASSES, bias=False)
        w = 0.2 * Stream(20).normal(32, 32 * 32)
        self.load_state_dict(
            {"first.1.weight": w - w.mean(1, keepdim=True), "head.weight": 0.5 * Stream(21).normal(CLASSES, 32)}
        )

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        yield "features", self.first


def _generator(kind: str) -> Generator:
    torch.manual_seed(3)
    if kind == "stylegan2":
        return StyleGAN2(**LAYERS, img_channels=1, channel_max=16, conv_clamp=None).eval().requires_grad_(False)
    net = DcganGenerator(32, 1, 4, latent_dim=8)
    for index, module in enumerate(net.layers):
        if isinstance(module, nn.ReLU):
            net.layers[index] = nn.Softplus()
        elif isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0, 0.3)
    net(Stream(9).normal(64, 8))
    return net.eval().requires_grad_(False)


class Case:
    """An attack against a target that nobody trained, with its prior and its oracle."""

    def __init__(self, name: str, kind: str = "dcgan", **params: Any) -> None:
        registry = Registry()
        self.attack = registry.build("attack", name, params, registry.track("synthfaces"))
        self.params = self.attack.params
        self.target = _Target()
        self.oracle = Oracle(self.target, self.attack.access, CLASSES)
        self.prior = PriorModel(_generator(kind), 8) if self.attack.prior() else None
        self.context = _Context(self.attack)
        self.attack.track = type(self.attack.track)(**vars(self.attack.track) | {"num_classes": CLASSES})
        self.context.track = self.attack.track
        self.context.artifact = self.attack.prepare(self.oracle, self.prior, self.context)

    def __call__(self, labels: list[int]) -> dict[int, Reconstruction]:
        found = list(self.attack.invert(self.oracle, self.prior, labels, self.context))
        assert [item.label for item in found] == labels
        return {item.label: item for item in found}

    def asked(self, who: object) -> dict[str, dict[str, int]]:
        """What was asked, without zeros."""
        phases = self.oracle.counts().get(str(who), {})
        return {phase: {kind: n for kind, n in kinds.items() if n} for phase, kinds in phases.items()}


def test_miface_asks_only_about_rows_that_go_on() -> None:
    case = Case("miface", iterations=30, lr=0.001, confidence=0.5, loss="ce")
    found = case(list(range(CLASSES)))
    judged = {label: int(item.notes["judged"]) for label, item in found.items()}
    assert {case.asked(label)["optimisation"]["gradient"] for label in found} == set(judged.values())
    assert len(set(judged.values())) > 1 and min(judged.values()) < 31
    for label, item in found.items():
        assert case.asked(label) == {"optimisation": {"gradient": judged[label]}}
        assert float(item.initial.abs().max()) == 0 and item.images.shape == (2, 1, 32, 32)
        assert torch.equal(item.images[0], item.images[1]), "computed once: a second run would give the same"
        assert float(case.oracle.scores(item.images)[0, label]) >= 0.5 or judged[label] == 31
        assert torch.allclose(case([label])[label].images, item.images, atol=1e-5)


def test_miface_judges_with_its_auxiliary_terms_but_stops_by_confidence() -> None:
    plain, smooth = Case("miface", iterations=20, lr=5.0), Case("miface", iterations=20, lr=5.0, tv=50.0)
    rough = total_variation(plain([1])[1].images[:1])
    assert float(total_variation(smooth([1])[1].images[:1])) < 0.5 * float(rough)
    sure = Case("miface", iterations=20, tv=50.0, l2=50.0, confidence=0.01)
    assert int(sure([1])[1].notes["judged"]) == 1, "the confidence in the start is enough"
    shown = Case("miface", iterations=20, lr=5.0, denoise=True)([1])[1].images
    assert not torch.allclose(shown, plain([1])[1].images, atol=1e-2)


def _ifgmi_written_out(case: Case, label: int) -> tuple[Tensor, Tensor]:
    """The released procedure for one identity: two parameters, a fresh Adam per stage, images before the last step."""
    p, prior = case.params, case.prior
    assert prior is not None
    g = prior.generator
    with torch.no_grad():
        z = case.context.stream("pool").normal(p.pool, 8)
        ws = g.map(z, p.truncation, p.truncation_cutoff)
        x = g.synthesis(ws).clamp(0, 1)
        confidence = (case.target(x).logits.softmax(1) + case.target(x.flip(3)).logits.softmax(1))[:, label]
        w = ws[confidence.argsort(descending=True)[: p.candidates], 0]
        initial = g.synthesis(w[:, None].repeat(1, g.num_ws, 1))
    h = None
    labels = torch.full((p.candidates,), label)
    for s in range(p.stage + 1):
        w0, h0 = w.clone(), None if h is None else h.clone()
        w = w.clone().requires_grad_(True)
        parameters = [w]
        if h is not None:
            h = h.clone().requires_grad_(True)
            parameters.append(h)
        adam = torch.optim.Adam(parameters, lr=p.lr, betas=p.betas)
        for _ in range(p.iterations[s]):
            images = g.synthesis(w[:, None].repeat(1, g.num_ws, 1), s, h)
            adam.zero_grad()
            poincare(case.target(images).logits, labels).sum().backward()
            adam.step()
            with torch.no_grad():
                w.copy_(l1_ball(w, w0, p.w_radii[s]))
                if h is not None and h0 is not None:
                    h.copy_(l1_ball(h, h0, p.feature_radii[s]))
        with torch.no_grad():
            h = g.block(s, w[:, None].repeat(1, g.num_ws, 1), h) if s < p.stage else h
        w = w.detach()
    return images.detach().clamp(0, 1), initial.clamp(0, 1)


@pytest.mark.parametrize("kind", ["dcgan", "stylegan2"])
@pytest.mark.parametrize("radius", [1e9, 0.4], ids=["free", "bound"])
def test_ifgmi_is_the_released_procedure_written_out(kind: str, radius: float) -> None:
    steps, radii = (4, 3, 3), (radius,) * 3
    values = {"candidates": 3, "pool": 30, "stage": 2, "lr": 0.05, "crop": (1.0, 1.0), "truncation_cutoff": 4}
    case = Case("ifgmi", kind, iterations=steps, w_radii=radii, feature_radii=radii, **values)
    found = case([4, 1])
    for label, item in found.items():
        images, initial = _ifgmi_written_out(case, label)
        assert torch.allclose(item.initial, initial, atol=1e-5)
        moved = float((item.images - item.initial).abs().mean())
        assert moved > 0.003 and float((item.images - images).abs().mean()) < 1e-3 * moved
        assert case.asked(label) == {"optimisation": {"gradient": 3 * (4 + 3 + 2)}}  # the last update needs no answer
    assert case.asked("shared") == {"search": {"forward": 2 * 30}}
    assert float((case([1])[1].images - found[1].images).abs().mean()) < 1e-5


def test_ifgmi_says_which_stages_there_are() -> None:
    case = Case("ifgmi", candidates=2, pool=4, stage=4, iterations=(1,) * 5)
    with pytest.raises(StageFailed, match="0 to 3; stage 4"):
        case([0])
    for wrong in ({"iterations": (5, 5)}, {"w_radii": (0.0,) * 8}, {"candidates": 60, "pool": 50}):
        with pytest.raises(UserError, match="expected"):
            resolve(type(case.params), wrong, "ifgmi")


def _mirror_pool(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The pool, its box (without activation) and the target's scores of its truncated images."""
    p, prior = case.params, case.prior
    assert prior is not None
    pool = case.context.stream("pool").normal(p.pool, 8)
    scores = case.target(prior.generator(p.truncation * pool).clamp(0, 1)).logits.softmax(1)
    mean, std = pool.mean(0), pool.std(0, correction=0)
    return pool, mean - std, mean + std, scores.detach()


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_white_mirror_is_its_loop_written_out(flip: float) -> None:
    case = Case("mirror_white", restarts=1, pool=40, candidates=3, iterations=12, lr=0.2, flip=flip)
    assert case.asked("shared") == {"search": {"forward": 40}}
    found = case([5, 2])
    pool, low, high, scores = _mirror_pool(case)
    g, p = case.prior.generator, case.params  # type: ignore[union-attr]
    for label, item in found.items():
        start = pool[scores[:, label].argsort(descending=True)[:3]]
        w, least, best = start.clone().requires_grad_(True), math.inf, start
        adam = torch.optim.Adam([w])
        for step in range(12):
            t = (step + 1) / 12
            ramp = 0.5 - 0.5 * math.cos(math.pi * min(1, (1 - t) / 0.25))
            adam.param_groups[0]["lr"] = 0.2 * ramp * min(1, t / 0.05)
            x = g(p.truncation * w).clamp(0, 1)
            logits = case.target(x.flip(3) if flip else x).logits
            loss = 10 * nn.functional.cross_entropy(logits, torch.full((3,), label))
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                w.copy_(w.maximum(low).minimum(high))
            if loss.item() < least:
                least, best = loss.item(), w.detach().clone()
        images = g(p.truncation * best).clamp(0, 1)
        pick = top5_consistent(case.target(images).logits, label)
        assert torch.allclose(item.images, images[pick : pick + 1], atol=1e-4)
        assert torch.allclose(item.initial, g(p.truncation * start).clamp(0, 1)[pick : pick + 1], atol=1e-5)
        assert case.asked(label) == {"optimisation": {"gradient": 3 * 12}, "selection": {"forward": 3}}


@pytest.mark.parametrize("name", ["mirror_white", "mirror_black"])
def test_mirror_runs_for_every_image_from_its_share_of_the_pool(name: str) -> None:
    """Two runs from the latents ranked 1, 3, 5 ... and 2, 4, 6 ...; each is what it would be by itself."""
    values = {"mirror_white": {"candidates": 3, "iterations": 4}, "mirror_black": {"population": 6, "generations": 3}}
    case = Case(name, pool=40, **values[name])
    found = case([5, 2])
    _, _, _, scores = _mirror_pool(case)
    for label, item in found.items():
        ranked = scores[:, label].argsort(descending=True)
        best = case.context.artifact["best"][label]
        assert torch.equal(best, torch.stack([ranked[0 : 2 * best.shape[1] : 2], ranked[1 : 2 * best.shape[1] : 2]]))
        assert len(item.images) == 2 and not torch.equal(item.images[0], item.images[1])
        assert torch.allclose(case([label])[label].images, item.images, atol=1e-4)
        once = {"mirror_white": {"gradient": 3 * 4}, "mirror_black": {"forward": 3 * 5}}[name]
        assert case.asked(label)["optimisation"] == {kind: 2 * 2 * n for kind, n in once.items()}, "twice two runs"
    with pytest.raises(StageFailed, match=r"6 runs from .* each need a pool of"):
        Case(name, pool=10, restarts=6, **values[name])


def test_ppa_returns_what_it_keeps() -> None:
    case = Case("ppa", pool=40, candidates=5, iterations=3, selection_views=4)
    kept, everything = case([3])[3], Case("ppa", pool=40, candidates=5, keep=5, iterations=3, selection_views=4)([3])[3]
    assert len(kept.images) == 2 and kept.selected is None and everything.score is not None
    assert torch.equal(kept.score, everything.score.topk(2).values)  # type: ignore[arg-type]
    assert torch.equal(kept.images, everything.images[everything.score.topk(2).indices])
    with pytest.raises(StageFailed, match="2 images of 1 candidates"):
        Case("ppa", pool=40, candidates=1)([3])
    with pytest.raises(StageFailed, match="8 candidates were asked for, of a pool of 6"):
        Case("ppa", pool=6)([3])


def test_white_mirror_flips_an_identitys_candidates_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coin per identity and step, the same alone and among others. Nothing moves at so small a rate: the first two
    steps show the start, in the second step clipped to the box, or its mirror image."""
    case = Case("mirror_white", restarts=1, pool=40, candidates=3, iterations=3, lr=1e-9)
    seen: list[Tensor] = []
    ask = case.oracle.logits
    monkeypatch.setattr(case.oracle, "logits", lambda x, rows: seen.append(x.detach()) or ask(x, rows))
    pool, low, high, _ = _mirror_pool(case)

    def flips(labels: list[int]) -> list[list[bool]]:
        seen.clear()
        case(labels)
        outcomes = []
        w = pool[case.context.artifact["best"][labels].flatten()]
        for x, at in zip(seen[:2], (w, w.maximum(low).minimum(high)), strict=True):
            start = case.attack.render(case.prior, at)
            mirrored = [torch.allclose(a, b, atol=1e-5) for a, b in zip(x, start.flip(3), strict=True)]
            straight = [torch.allclose(a, b, atol=1e-5) for a, b in zip(x, start, strict=True)]
            assert [not flipped for flipped in mirrored] == straight
            groups = [mirrored[i : i + 3] for i in range(0, len(mirrored), 3)]
            assert all(len(set(group)) == 1 for group in groups)
            outcomes.append([group[0] for group in groups])
        return outcomes

    first, second = flips(list(range(CLASSES)))
    assert {True, False} == set(first + second)
    assert first != second
    assert [[first[4]], [second[4]]] == flips([4])


def test_black_mirror_asks_only_while_it_searches() -> None:
    """The pool once; then population - 1 images per generation, and nothing for whom the pool already convinces."""
    case = Case("mirror_black", restarts=1, pool=60, population=10, generations=5, confidence=0.99, mutation_scale=1.0)
    assert case.asked("shared") == {"search": {"forward": 60}}
    found = case(list(range(CLASSES)))
    *_, scores = _mirror_pool(case)
    for label, item in found.items():
        assert item.notes == {"generations": 5.0}
        assert case.asked(label) == {"optimisation": {"forward": 5 * 9}}
        best = scores[:, label].max()
        assert item.score is not None and item.images.shape == (1, 1, 32, 32)
        assert float(item.score) >= float(best) - 1e-6
        assert torch.allclose(case.oracle.scores(item.images)[0, label], item.score[0], rtol=1e-3)
    assert any(float(item.score) > 1.02 * float(scores[:, label].max()) for label, item in found.items())
    middle = float(scores.max(0).values.median())
    eager = Case("mirror_black", restarts=1, pool=60, population=10, generations=5, confidence=middle)
    done = eager(list(range(CLASSES)))
    for label, item in done.items():
        bred = int(item.notes["generations"])
        assert (bred == 0) == (float(scores[:, label].max()) >= middle)
        assert eager.asked(label) == ({"optimisation": {"forward": bred * 9}} if bred else {})
        if not bred:
            assert torch.equal(item.images, item.initial)
        assert item.score is not None and (bred == 5 or float(item.score) >= middle)
    assert {int(item.notes["generations"]) for item in done.values()} > {0}


def test_black_mirror_alone_is_itself_together_to_the_last_bit() -> None:
    case = Case("mirror_black", restarts=1, pool=60, population=10, generations=5, confidence=1.0)
    together = case([3, 0, 5])
    for label in together:
        assert torch.equal(case([label])[label].images, together[label].images)


def test_black_mirror_children_stay_in_the_box() -> None:
    values = {"mutation_scale": 50.0, "truncation": 1.0, "confidence": 1.0}
    case = Case("mirror_black", restarts=1, pool=60, population=10, generations=3, **values)
    seen: list[Tensor] = []
    assert case.prior is not None
    render = case.prior.generator.synthesis
    case.prior.generator.synthesis = lambda w: seen.append(w[:, 0]) or render(w)  # type: ignore
    case([1])
    _, low, high, _ = _mirror_pool(case)
    children = torch.cat([w for w in seen if len(w) == 9])
    assert len(children) == 27
    assert bool((children >= low - 1e-6).all()) and bool((children <= high + 1e-6).all())
    on_a_bound = torch.isclose(children, high) | torch.isclose(children, low)
    assert 0.05 < float(on_a_bound.float().mean()) < 0.95
