"""The oracle: what access allows, what is counted, and a target that nothing changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from mibench.contracts import Access, Attack, AttackContext, ImageSet, Oracle, PriorModel, Reconstruction, Rows
from mibench.contracts.oracle import AccessDenied, BudgetSpent
from mibench.errors import StageFailed
from mibench.nets.base import Output
from mibench.nets.small import ConvNet
from mibench.random import Stream
from mibench.registry import Registry

CLASSES = 4


def _target(num_classes: int = CLASSES) -> ConvNet:
    torch.manual_seed(0)
    net = ConvNet(num_classes, channels=1, resolution=32)
    net(Stream(0).uniform(16, 1, 32, 32))  # batch norm has seen something; still in training mode
    return net


@pytest.fixture
def images() -> Tensor:
    return Stream(1).uniform(6, 1, 32, 32)


def _rows(labels: Sequence[int] = (2, 0), restarts: int = 3) -> Rows:
    return Rows(labels, restarts, seed=0, device="cpu")


QUESTIONS = {
    "output": lambda oracle, images: oracle.output(images),
    "logits": lambda oracle, images: oracle.logits(images),
    "scores": lambda oracle, images: oracle.scores(images),
    "labels": lambda oracle, images: oracle.labels(images),
}


@pytest.mark.parametrize(
    ("access", "allowed"),
    [
        (Access.WHITE_BOX, {"output", "logits", "scores", "labels"}),
        (Access.SCORES, {"scores", "labels"}),
        (Access.LABELS, {"labels"}),
    ],
)
def test_access(access: Access, allowed: set[str], images: Tensor) -> None:
    for name, ask in QUESTIONS.items():
        oracle = Oracle(_target(), access, CLASSES)
        if name in allowed:
            ask(oracle, images)
            continue
        with pytest.raises(AccessDenied, match=f"{access!s}.*asked for"):
            ask(oracle, images)
        assert oracle.counts() == {}, "a refused question is not counted"
    assert issubclass(AccessDenied, StageFailed)


def test_answers_are_the_networks(images: Tensor) -> None:
    net = _target()
    oracle = Oracle(net, "white_box", CLASSES)
    expected = net(images)
    assert torch.equal(oracle.logits(images), expected.logits)
    assert torch.equal(oracle.output(images).features, expected.features)
    assert torch.allclose(oracle.scores(images), expected.logits.softmax(1))
    assert torch.equal(oracle.labels(images), expected.logits.argmax(1))


def test_only_logits_carry_gradients(images: Tensor) -> None:
    oracle = Oracle(_target(), "white_box", CLASSES)
    images.requires_grad_(True)
    (gradient,) = torch.autograd.grad(oracle.logits(images).sum(), images)
    assert gradient.abs().sum() > 0
    assert not oracle.scores(images).requires_grad
    assert not oracle.labels(images).requires_grad


def test_counts_by_identity_phase_and_kind(images: Tensor) -> None:
    oracle = Oracle(_target(), "white_box", CLASSES)
    rows = _rows()
    oracle.logits(images.clone().requires_grad_(True), rows)
    oracle.logits(images, rows)
    with torch.no_grad():
        oracle.logits(images.clone().requires_grad_(True), rows)
    with oracle.phase("search"):
        oracle.scores(images[:5])
        with oracle.phase("selection"):
            oracle.labels(images, rows)
        oracle.scores(images[:2])
    oracle.scores(images[:3], _rows([1]))
    own = {
        "optimisation": {"forward": 6, "gradient": 3, "label": 0},
        "selection": {"forward": 0, "gradient": 0, "label": 3},
    }
    assert oracle.counts() == {
        "2": own,
        "0": own,
        "shared": {"search": {"forward": 7, "gradient": 0, "label": 0}},
        "1": {"optimisation": {"forward": 3, "gradient": 0, "label": 0}},
    }


def test_a_phase_ends_when_it_fails(images: Tensor) -> None:
    oracle = Oracle(_target(), "labels", CLASSES)
    with pytest.raises(AccessDenied), oracle.phase("search"):
        oracle.scores(images)
    oracle.labels(images)
    assert list(oracle.counts()["shared"]) == ["optimisation"]


def test_the_wrong_number_of_images_is_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="5 images were asked about for 6 rows"):
        Oracle(_target(), "white_box", CLASSES).logits(images[:5], _rows())


class _Noisy(ConvNet):
    """Logits plus noise of the rng it is given."""

    def forward(self, images: Tensor, rng=None) -> Output:  # type: ignore[no-untyped-def]
        logits, features, hidden = super().forward(images)
        return Output(logits + rng.normal(*logits.shape), features, hidden)


def test_a_stochastic_target_answers_a_row_the_same_whatever_else_is_asked(images: Tensor) -> None:
    torch.manual_seed(0)
    oracle = Oracle(_Noisy(CLASSES), "white_box", CLASSES)
    together, alone = _rows([2, 0]), _rows([0])
    first, second = oracle.logits(images, together), oracle.logits(images, together)
    assert not torch.isclose(first, second).any(), "every question draws its own noise"
    assert torch.allclose(oracle.logits(images[3:], alone), first[3:], atol=1e-5)
    assert torch.allclose(oracle.logits(images[3:], alone), second[3:], atol=1e-5)


# --- state -------------------------------------------------------------------------------------------------


class _Generator(nn.Module):
    """(N, 8) latents -> (N, 1, 32, 32), row by row but for batch norm, which eval mode must keep still."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 256), nn.BatchNorm1d(256), nn.Linear(256, 32 * 32), nn.Sigmoid())

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents).unflatten(1, (1, 32, 32))


class _Critic(nn.Module):
    """GMI's critic with ``outputs`` None, KEDMI's discriminator otherwise."""

    def __init__(self, outputs: int | None) -> None:
        super().__init__()
        self.outputs = outputs
        self.layer = nn.Linear(32 * 32, outputs or 1)

    def forward(self, images: Tensor, group: int | None = None):  # type: ignore[no-untyped-def]
        score = self.layer(images.flatten(1))
        return Output(score, score, {}) if self.outputs else score[:, 0]


class _Context(AttackContext):
    def __init__(self, attack: Attack, identities: Sequence[int] = range(CLASSES)) -> None:
        self.device, self.track, self.seed = torch.device("cpu"), attack.track, 7
        self.images_per_identity, self.identities = 2, list(identities)
        self.public = ImageSet(Stream(5).uniform(10, 1, 32, 32), torch.full((10,), -1), CLASSES)
        self.artifact: dict[str, Tensor] = {}

    def stream(self, name: str) -> Stream:
        return Stream(sum(name.encode()))

    def steps(self, name: str, count: int) -> Iterator[int]:
        return iter(range(count))


SMALL = {
    "gmi": {"iterations": 8},
    "kedmi": {"iterations": 8},
    "ppa": {"pool": 20, "candidates": 4, "keep": 4, "iterations": 5, "lr": 0.05, "selection_views": 3},
}


@pytest.mark.parametrize("access", ["scores", "labels"])
def test_no_derivative_without_access(access: str) -> None:
    """Neither reverse mode, nor forward mode, nor functional transforms lead through an answer."""
    oracle = Oracle(_target(), access, CLASSES)
    ask = getattr(oracle, access)
    x = Stream(0).uniform(2, 1, 32, 32)

    def total(images: Tensor) -> Tensor:
        with torch.enable_grad():
            return ask(images).float().sum()

    watched = x.clone().requires_grad_(True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(total(watched), watched)
    with pytest.raises(AccessDenied, match=f"'{access}'"):
        torch.func.jvp(total, (x,), (torch.ones_like(x),))
    with pytest.raises(AccessDenied, match=f"'{access}'"):
        torch.func.grad(total)(x)
    with forward_ad.dual_level(), pytest.raises(AccessDenied, match="derivative"):
        total(forward_ad.make_dual(x, torch.ones_like(x)))
    total(x)  # and without a derivative it answers


def _attack(name: str) -> tuple[Attack, PriorModel, _Context]:
    registry = Registry()
    attack = registry.build("attack", name, SMALL[name], registry.track("synthfaces"))
    torch.manual_seed(3)
    critic = {"gmi": _Critic(None), "kedmi": _Critic(CLASSES), "ppa": None}[name]
    prior = PriorModel(_Generator(), 8, critic)
    prior(Stream(9).normal(32, 8))
    return attack, prior.eval().requires_grad_(False), _Context(attack)


def _invert(name: str, oracle: Oracle, labels: Sequence[int]) -> dict[int, Reconstruction]:
    attack, prior, context = _attack(name)
    context.artifact = attack.prepare(oracle, prior, context)
    found = list(attack.invert(oracle, prior, labels, context))
    assert [item.label for item in found] == list(labels)
    return {item.label: item for item in found}


@pytest.mark.parametrize("name", SMALL)
def test_an_attack_leaves_target_and_prior_alone(name: str) -> None:
    """Conformance 17: in eval mode before and after, parameters and buffers bit-identical."""
    attack, prior, context = _attack(name)
    net = _target()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    before_prior = {key: value.clone() for key, value in prior.state_dict().items()}
    oracle = Oracle(net, attack.access, CLASSES)
    context.artifact = attack.prepare(oracle, prior, context)
    list(attack.invert(oracle, prior, [0, 3], context))
    for module in (*net.modules(), *prior.modules()):
        assert not module.training
    for parameter in (*net.parameters(), *prior.parameters()):
        assert not parameter.requires_grad and parameter.grad is None
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key
    for key, value in prior.state_dict().items():
        assert torch.equal(value, before_prior[key]), key


@pytest.mark.parametrize("name", ["gmi", "ppa"])
def test_an_identity_alone_is_the_identity_together(name: str) -> None:
    """Conformance 1, end to end; KEDMI's groups are always whole, so there it holds by asking for all."""
    together = _invert(name, Oracle(_target(), "white_box", CLASSES), [1, 0, 3])
    alone = _invert(name, Oracle(_target(), "white_box", CLASSES), [3])[3]
    assert torch.allclose(alone.images, together[3].images, atol=1e-4)
    assert torch.allclose(alone.initial, together[3].initial, atol=1e-5)
    if together[3].selected is not None:
        assert torch.equal(alone.selected, together[3].selected)
    assert not torch.allclose(together[0].images, together[3].images, atol=1e-2)


def test_kedmi_computes_its_group_whole() -> None:
    together = _invert("kedmi", Oracle(_target(), "white_box", CLASSES), [0, 1, 2, 3])
    oracle = Oracle(_target(), "white_box", CLASSES)
    alone = _invert("kedmi", oracle, [2])[2]
    assert torch.equal(alone.images, together[2].images)
    assert set(oracle.counts()) == {"0", "1", "2", "3"}, "the whole group is asked about, and counted"


def test_gmi_counts_and_selection() -> None:
    oracle = Oracle(_target(), "white_box", CLASSES)
    found = _invert("gmi", oracle, [1, 2])
    assert oracle.counts()["1"] == {
        "optimisation": {"forward": 0, "gradient": 8 * 2, "label": 0},
        "selection": {"forward": 2, "gradient": 0, "label": 0},
    }
    for label, item in found.items():
        assert item.images.shape == item.initial.shape == (2, 1, 32, 32)
        logits = Oracle(_target(), "white_box", CLASSES).logits(item.images)
        assert int(item.selected.sum()) == 1 and int(item.selected.nonzero()) == int(logits[:, label].argmax())


def test_ppa_pool_and_selection() -> None:
    """Conformance 8: distinct pool members per class, the most confident ones; ``keep`` of them selected by score."""
    attack, prior, context = _attack("ppa")
    oracle = Oracle(_target(), "white_box", CLASSES)
    context.artifact = attack.prepare(oracle, prior, context)
    assert oracle.counts() == {"shared": {"search": {"forward": 40, "gradient": 0, "label": 0}}}
    pool = prior.generator.synthesis(attack.pool(prior, context))
    confidence = (oracle.scores(pool) + oracle.scores(pool.flip(3))) / 2
    assert torch.allclose(context.artifact["confidence"], confidence, atol=1e-6)
    (item,) = attack.invert(oracle, prior, [2], context)
    best = confidence[:, 2].topk(4).indices
    order = [int((start.flatten() - pool[best].flatten(1)).abs().sum(1).argmin()) for start in item.initial]
    assert sorted(order) == [0, 1, 2, 3]
    assert torch.allclose(item.initial, pool[best][order], atol=1e-5)
    assert torch.equal(item.score, item.score.sort(descending=True).values) and item.selected is None
    assert oracle.counts()["2"] == {
        "optimisation": {"forward": 0, "gradient": 5 * 4, "label": 0},
        "selection": {"forward": 3 * 4, "gradient": 0, "label": 0},
    }


def test_a_budget_counts_shared_questions_in_full_and_is_dealt_out_to_rows(images: Tensor) -> None:
    rows = _rows()  # 2 identities of 3 rows
    oracle = Oracle(_target(), Access.SCORES, CLASSES, budget=15, spent=2)
    oracle.scores(images[:4])  # 15 - 2 - 4 = 9 for an identity, 3 for a row
    for _ in range(3):
        oracle.scores(images, rows)
    before = oracle.counts()
    for ask in (
        lambda: oracle.scores(images, rows),
        lambda: oracle.scores(images[:1], rows.take(torch.tensor([4]))),
        lambda: oracle.scores(images[:1]),
    ):
        with pytest.raises(BudgetSpent, match="budget of 15"):
            ask()
    assert oracle.counts() == before  # what was refused was not asked
    again = Oracle(_target(), Access.SCORES, CLASSES, budget=15, spent=2)
    again.load_state_dict(oracle.state_dict())
    with pytest.raises(BudgetSpent):
        again.labels(images[:1], rows.take(torch.tensor([0])))


def test_a_row_of_a_budget_cannot_use_what_is_another_rows(images: Tensor) -> None:
    rows = _rows()
    oracle = Oracle(_target(), Access.WHITE_BOX, CLASSES, budget=7)  # 2 for each row
    oracle.logits(images[:2].requires_grad_(), rows.take(torch.tensor([1]), each=2))
    with pytest.raises(BudgetSpent):
        oracle.logits(images[:1], rows.take(torch.tensor([1])))
    oracle.logits(images[:1], rows.take(torch.tensor([2])))
    assert sum(sum(kinds.values()) for kinds in oracle.counts()["2"].values()) == 3
