"""The flows primitive against brute force: Jacobians by autograd, torch's own distributions, flows one at a time; and
what the attack that fits them makes of a generator with several layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from mibench.contracts import AttackContext, Generator, Oracle, PriorModel, Reconstruction, Rows, TrackInfo
from mibench.errors import StageFailed
from mibench.nets.base import Classifier
from mibench.primitives.flows import Density, Gaussians, Glow, layered_noise
from mibench.random import RowStreams, Stream
from mibench.registry import Registry


def streams(*rows: int, purpose: str = "flow") -> RowStreams:
    return RowStreams([(0, row, 0) for row in rows], purpose)


def shaken(q: Density, scale: float = 0.05) -> Density:
    """Away from its start, where the couplings and splits are zero; double precision. Hidden layers, which an ActNorm
    fitted to their small weights amplifies, move less."""
    rng = Stream(5)
    with torch.no_grad():
        for name, p in q.named_parameters():
            p.add_(scale * rng.normal(*p.shape) * (0.02 if ".one." in name or ".two." in name else 1))
    return q.double()


def small(dim: int = 7, levels: int = 3, rows: tuple[int, ...] = (0, 1), layers: int = 1) -> Glow:
    return Glow(streams(*rows), len(rows), layers, dim, steps=2, levels=levels, hidden=5)


def gaussians(dim: int = 7, full: bool = True) -> Gaussians:
    return Gaussians(2, dim, full)


FAMILIES = pytest.mark.parametrize(
    "make",
    [small, lambda: small(8, 2), lambda: small(5, 1), gaussians, lambda: gaussians(full=False)],
    ids=["odd glow", "glow", "one level", "full gaussian", "diagonal gaussian"],
)


# --- densities -----------------------------------------------------------------------------------------------------


@FAMILIES
def test_log_density_is_the_change_of_variables(make: Callable[[], Density]) -> None:
    """Conformance 10: log q(z) = log N(noise) - log |det dz / dnoise|, the Jacobian by autograd, point by point."""
    q = shaken(make())
    noise = Stream(1).normal(2, 3, q.dim).double()
    z, log_q = q.sample(noise)
    base = torch.distributions.Normal(0, 1).log_prob(noise).sum(-1)
    for s in range(2):
        for b in range(3):

            def point(eps: Tensor, s: int = s, b: int = b) -> Tensor:
                return q.sample(torch.cat([noise[s, :b], eps[None], noise[s, b + 1 :]])[None].expand(2, -1, -1))[0][
                    s, b
                ]

            jacobian = torch.autograd.functional.jacobian(point, noise[s, b])
            assert isinstance(jacobian, Tensor)
            log_det = torch.linalg.slogdet(jacobian).logabsdet
            assert float(log_det.abs()) > 1e-3, "a determinant of 1 would show nothing"
            torch.testing.assert_close(log_q[s, b], base[s, b] - log_det)
    assert torch.isfinite(z).all()


@pytest.mark.parametrize(("dim", "levels"), [(7, 3), (8, 2), (5, 1), (100, 3)])
def test_encoding_is_the_inverse_of_sampling(dim: int, levels: int) -> None:
    """Uneven halves included: 100 -> 50 -> 25 channels, couplings of 12 and 13. And a second pass through the flow
    scores a point as the pass that drew it did."""
    q = small(dim, levels)
    shaken(q)
    noise = Stream(2).normal(2, 4, dim).double()
    z, log_q = q.sample(noise)
    back, again = q.encode(z)
    torch.testing.assert_close(back, noise)
    torch.testing.assert_close(again, log_q)
    assert not torch.allclose(z, noise, atol=0.1)
    point = Stream(3).normal(2, 4, dim).double()
    torch.testing.assert_close(q.sample(q.encode(point)[0])[0], point)


def test_a_density_integrates_to_one() -> None:
    q = shaken(small(2, 1))
    side = torch.linspace(-12, 12, 601).double()
    grid = torch.cartesian_prod(side, side).expand(2, -1, -1)
    assert isinstance(q, Glow)
    mass = q.encode(grid)[1].exp().sum(1) * (side[1] - side[0]) ** 2
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=1e-3, atol=0)


def test_glow_starts_near_the_standard_normal() -> None:
    """Conformance 10: a few nats at 512 dimensions, because ActNorm saw 100 vectors; not hundreds, and not 0. Measured
    in the single precision of the attack, which must agree with double."""
    q = Glow(streams(3), 1, 2, 512)
    noise = layered_noise(streams(3, purpose="noise"), 1, 2, 1000, 512, q.shared)
    single = q.kl(noise).detach()
    assert ((single > 1) & (single < 12)).all(), single
    torch.testing.assert_close(q.double().kl(noise.double()).detach().float(), single, rtol=0, atol=0.01)
    assert q.channels == [512, 256, 128]


def test_actnorms_are_fitted_everywhere() -> None:
    """On the data of the start, which the flow draws last, the inside of every step has mean 0 and deviation 1."""
    seen: dict[str, Tensor] = {}
    drawn: list[Tensor] = []

    class Recorded(RowStreams):
        def normal(self, n: int, *shape: int) -> Tensor:
            drawn.append(super().normal(n, *shape))
            return drawn[-1]

    q = Glow(Recorded([(0, 1, 0)], "flow"), 1, 1, 12, steps=2, levels=2, hidden=6)
    for name, module in q.named_modules():
        if name.endswith("norm"):
            module.register_forward_hook(lambda m, x, y, name=name: seen.update({name: y.detach()}))
    assert drawn[-1].shape == (1, 1, 100, 12)
    q.encode(drawn[-1][0])
    assert len(seen) == 2 * 2 * 3
    for y in seen.values():
        assert float(y.mean(1).abs().max()) < 1e-4
        assert float((y.std(1, correction=0) - 1).abs().max()) < 1e-3


def test_gradients_reach_every_parameter() -> None:
    """Conformance 10. The last layers start at zero, so what is before them learns from the second step on."""
    q = small(16, 3)
    pull = Stream(9).normal(2, 1, 16)

    def gradients() -> None:
        z, log_q = q.sample(Stream(4).normal(2, 32, 16))
        q.zero_grad()
        (((z - pull) ** 2).sum() + log_q.sum()).backward()

    gradients()
    for name, p in q.named_parameters():
        if name.endswith("t.out.linear.weight"):
            assert p.grad is not None and (p.grad.abs().amax((1, 2)) > 0).all(), name
    torch.optim.SGD(q.parameters(), lr=1e-4).step()
    gradients()
    for name, p in q.named_parameters():
        assert p.grad is not None, name
        assert (p.grad.flatten(1).abs().amax(1) > 0).all(), name


# --- the stack -----------------------------------------------------------------------------------------------------


def trained(rows: list[int], layers: int = 2) -> tuple[Tensor, Tensor]:
    """Points and KL after some steps, of the flows of these rows."""
    q = Glow(streams(*rows), len(rows), layers, 9, steps=2, levels=2, hidden=6)
    centres = torch.stack([Stream(row).normal(1, 9) for row in rows for _ in range(layers)])
    optimiser, rng = torch.optim.Adam(q.parameters(), lr=0.01), streams(*rows, purpose="noise")
    for _ in range(20):
        z, log_q = q.sample(layered_noise(rng, len(rows), layers, 8, 9, q.shared))
        optimiser.zero_grad()
        ((z - centres).square().sum(-1) + log_q).mean(1).sum().backward()
        optimiser.step()
    noise = layered_noise(rng, len(rows), layers, 8, 9, q.shared)
    z = q.sample(noise)[0].detach().unflatten(0, (len(rows), layers))
    return z, q.kl(noise).detach().unflatten(0, (len(rows), layers))


def test_stacked_flows_are_flows_one_by_one() -> None:
    together = trained([4, 5, 6])
    for index, row in enumerate([4, 5, 6]):
        for all_of_them, alone in zip(together, trained([row]), strict=True):
            torch.testing.assert_close(alone[0], all_of_them[index], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0][0], together[0][1], atol=0.1)


def test_flows_of_a_stack_differ() -> None:
    q = small(16, 2, rows=(0, 1), layers=2)
    orders = {tuple(order.tolist()) for order in q.steps[0][0].order}
    assert len(orders) == 4
    assert all(sorted(order) == list(range(16)) for order in orders)
    weights = q.steps[0][0].t.one.weight
    assert len({float(w[0, 0]) for w in weights.detach()}) == 4


def test_a_stack_equals_plain_layers() -> None:
    """One coupling of the stack written with nn.Linear."""
    q = small(8, 1)
    shaken(q)
    step = q.steps[0][0]
    x = Stream(7).normal(2, 6, 8).double()
    for s in range(2):

        def linear(part: nn.Module, s: int = s) -> nn.Linear:
            weight, bias = part.weight[s], part.bias[s, 0]  # type: ignore[index]
            net = nn.Linear(*weight.shape).double()
            net.load_state_dict({"weight": weight.T, "bias": bias})
            return net

        def norm(part: nn.Module, y: Tensor, s: int = s) -> Tensor:
            return (y + part.b[s, 0]) * part.s[s, 0].exp()  # type: ignore[index]

        y = norm(step.norm, x[s])[:, step.order[s]]
        h = nn.functional.elu(norm(step.t.one_norm, linear(step.t.one)(y[:, :4])))
        h = nn.functional.elu(norm(step.t.two_norm, linear(step.t.two)(h)))
        t = linear(step.t.out.linear)(h) * (3 * step.t.out.s[s, 0]).exp()
        torch.testing.assert_close(step(x)[s], torch.cat([y[:, :4], y[:, 4:] + t], 1))


def test_layers_share_the_base_and_nothing_else() -> None:
    noise = layered_noise(streams(0, 1, purpose="noise"), 2, 3, 5, 8, shared=2).unflatten(0, (2, 3))
    assert torch.equal(noise[:, 0, :, :2], noise[:, 2, :, :2])
    assert not torch.isclose(noise[:, 0, :, 2:], noise[:, 2, :, 2:]).any()
    assert not torch.isclose(noise[0], noise[1]).any()
    assert len(noise.unique()) == 2 * 5 * (2 + 3 * 6)


def test_latents_too_small_for_the_levels_are_refused() -> None:
    small(5, 3)
    with pytest.raises(StageFailed, match="at least 5 numbers; found 4"):
        small(4, 3)


# --- Gaussians -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [True, False])
def test_gaussians_are_those_of_torch(full: bool) -> None:
    q = Gaussians(2, 4, full)
    shaken(q, 0.5)
    noise = Stream(1).normal(2, 20_000, 4).double()
    z, log_q = q.sample(noise)
    for s in range(2):
        lower = q.lower[s].tril(-1) if q.lower is not None else torch.zeros(4, 4).double()
        factor = lower + torch.diag(q.log_diagonal[s, 0].exp())
        other = torch.distributions.MultivariateNormal(q.mu[s, 0], scale_tril=factor)
        torch.testing.assert_close(log_q[s], other.log_prob(z[s]))
        normal = torch.distributions.MultivariateNormal(torch.zeros(4).double(), torch.eye(4).double())
        kl = torch.distributions.kl_divergence(other, normal)
        torch.testing.assert_close(q.exact_kl()[s], kl)
        torch.testing.assert_close(q.kl(noise)[s], kl, rtol=0.05, atol=0)
        torch.testing.assert_close(torch.cov(z[s].T), factor @ factor.T, rtol=0.1, atol=0.1)


def test_gaussians_start_as_the_standard_normal() -> None:
    noise = Stream(1).normal(2, 5, 7)
    assert torch.equal(gaussians().sample(noise)[0], noise)
    assert torch.equal(gaussians().exact_kl(), torch.zeros(2))


def test_a_flow_has_no_exact_kl() -> None:
    with pytest.raises(NotImplementedError):
        small().exact_kl()


@pytest.mark.parametrize("family", ["glow", "gaussian"])
def test_a_density_finds_its_target(family: str) -> None:
    """E_q of -log N(z; c, 0.5^2) - entropy is least at N(c, 0.5^2)."""
    rows = Rows([0, 1], 1, 0, "cpu")
    q: Density = Glow(rows.streams("flow"), 2, 1, 6, 2, 2, 8) if family == "glow" else Gaussians(2, 6, True)
    c, noise = 2 * Stream(3).normal(2, 1, 6), rows.streams("noise")
    optimiser = torch.optim.Adam(q.parameters(), lr=0.01)
    for _ in range(600):
        z, log_q = q.sample(noise.normal(2, 64, 6))
        optimiser.zero_grad()
        (((z - c) / 0.5).square().sum(-1) / 2 + log_q).mean(1).sum().backward()
        optimiser.step()
    z = q.sample(noise.normal(2, 4000, 6))[0].detach()
    assert float((z.mean(1, keepdim=True) - c).abs().max()) < 0.15
    assert float((z.std(1) - 0.5).abs().max()) < 0.15


# --- the attack ----------------------------------------------------------------------------------------------------

TRACK = TrackInfo("tiny", "faces", 6, 1, 3, (0.5,))
DIM, LAYERS = 6, 3
SCALES = torch.tensor([0.02, 0.03, 0.05])


class Stripes(Generator):
    """A mapping network that scales z for each layer; row l of the image shows layer l of w."""

    latent_dim, num_ws = DIM, LAYERS

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def map(self, latents: Tensor, truncation: float = 1.0, cutoff: int | None = None) -> Tensor:
        return latents[:, None] * SCALES[:, None]

    def synthesis(self, w: Tensor, start: int = 0, features: Tensor | None = None) -> Tensor:
        self.seen.append(w.detach())
        return 0.5 + w[:, None]


class Columns(Classifier):
    """Logits: sums of the image's first three columns."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Identity()

    def forward(self, images: Tensor, rng: Any = None) -> Any:
        return type("Output", (), {"logits": images[:, 0, :, :3].sum(1) * 4})


class Context(AttackContext):
    def __init__(self) -> None:
        self.device, self.track, self.seed = torch.device("cpu"), TRACK, 0
        self.images_per_identity, self.identities = 2, [0, 1, 2]

    def steps(self, name: str, count: int) -> Any:
        return range(count)


def attack(labels: list[int], **params: Any) -> tuple[list[Reconstruction], dict[str, Any], Stripes]:
    """Reconstructions, queries and the generator, which saw every w."""
    cls, generator, oracle = Registry().plugin("attack", "vmi"), Stripes(), Oracle(Columns(), "white_box", 3)
    params = {"flow_levels": 2, "flow_steps": 2, "flow_width": 5, "iterations": 2, "batch": 4} | params
    found = cls(cls.Params(**params), TRACK).invert(oracle, PriorModel(generator, DIM), labels, Context())
    return list(found), oracle.counts(), generator


def test_layer_l_of_w_comes_from_density_l(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    usual = Glow.sample

    def sample(self: Glow, noise: Tensor) -> tuple[Tensor, Tensor]:
        z, log_q = usual(self, noise)
        drawn.append(z.detach())
        return z, log_q

    monkeypatch.setattr(Glow, "sample", sample)
    _, _, generator = attack([0, 2], samples=5, iterations=0)
    z = drawn[0].unflatten(0, (2, LAYERS))  # identity, layer, sample
    for identity in range(2):
        for layer in range(LAYERS):
            w = generator.seen[0].unflatten(0, (2, 5))[identity, :, layer]
            torch.testing.assert_close(w, SCALES[layer] * z[identity, layer])


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_gaussian_fit_is_plain_sgd_on_each_identity(covariance: str) -> None:
    """Three steps written out for one identity: the mean over its 4 draws, the mean KL of its 3 layers, SGD with
    momentum on its parameters alone."""
    steps, batch, weight = 3, 4, 0.3
    params = {"family": "gaussian", "covariance": covariance, "kl": "exact", "kl_weight": weight}
    found, _, _ = attack([0, 2], **params, iterations=steps, batch=batch, lr=0.5, samples=5)
    for item in found:
        rows = Rows([item.label], 1, 0, "cpu")
        mu = torch.zeros(LAYERS, DIM, requires_grad=True)
        log_diagonal, lower = torch.zeros(LAYERS, DIM, requires_grad=True), torch.zeros(LAYERS, DIM, DIM)
        lower.requires_grad_(covariance == "full")
        optimiser = torch.optim.SGD([mu, log_diagonal, *([lower] if lower.requires_grad else [])], 0.5, 0.9)
        draws = rows.streams("noise")

        def images(streams: RowStreams, n: int) -> Tensor:
            eps = layered_noise(streams, 1, LAYERS, n, DIM, DIM)
            factor = torch.diag_embed(log_diagonal.exp()) + lower.tril(-1)  # noqa: B023
            z = mu[:, None] + torch.einsum("lij,lbj->lbi", factor, eps)  # noqa: B023
            return (0.5 + SCALES[:, None, None] * z).movedim(0, 1)[:, None].clamp(0, 1)

        for _ in range(steps):
            loss = nn.functional.cross_entropy(Columns()(images(draws, batch)).logits, rows.label.expand(batch))
            for layer in range(LAYERS):
                scale = torch.diag(log_diagonal[layer].exp()) + lower[layer].tril(-1)
                q = torch.distributions.MultivariateNormal(mu[layer], scale_tril=scale)
                p = torch.distributions.MultivariateNormal(torch.zeros(DIM), torch.eye(DIM))
                loss = loss + weight / LAYERS * torch.distributions.kl_divergence(q, p)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            expected = images(rows.streams("draws"), 5)
        torch.testing.assert_close(item.images, expected, rtol=1e-4, atol=1e-5)
        assert float((item.images - item.initial).abs().max()) > 1e-3


@pytest.mark.parametrize("params", [{}, {"family": "gaussian"}], ids=["flow", "gaussian"])
def test_queries_and_images_are_counted_by_hand(params: dict[str, Any]) -> None:
    """3 steps of 4 draws; the final samples are not asked about."""
    found, counts, _ = attack([0, 2], iterations=3, **params)
    expected = {"optimisation": {"forward": 0, "gradient": 12, "label": 0}}
    assert counts == {"0": expected, "2": expected}
    assert [len(item.images) for item in found] == [2, 2], "as many as the track asks for"
    assert len(attack([1], samples=7)[0][0].images) == 7


def test_samples_are_rendered_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _, once = attack([0, 2], samples=7)
    monkeypatch.setitem(Registry().plugin("attack", "vmi").invert.__globals__, "CHUNK", 6)
    parts, _, often = attack([0, 2], samples=7)
    assert all(torch.equal(a.images, b.images) for a, b in zip(whole, parts, strict=True))
    assert [len(w) for w in once.seen] == [14, 8, 8, 14]
    assert [len(w) for w in often.seen] == [6, 6, 2, 8, 8, 6, 6, 2]


@pytest.mark.parametrize("params", [{}, {"family": "gaussian"}], ids=["flow", "gaussian"])
def test_the_density_moves_to_its_class(params: dict[str, Any]) -> None:
    found, _, _ = attack([0, 1, 2], iterations=80, optimiser="adam", lr=0.02, samples=20, **params)
    for item in found:
        now, before = (Columns()(x).logits.softmax(1)[:, item.label].mean() for x in (item.images, item.initial))
        assert float(now) > float(before) + 0.05
        assert item.notes["kl"] > 0.5
        assert float(item.images.std(0).mean()) > 1e-3


def test_a_heavy_kl_holds_the_density() -> None:
    light, heavy = (
        attack([1], iterations=150, family="gaussian", optimiser="adam", lr=0.02, kl_weight=w)[0][0].notes["kl"]
        for w in (1e-3, 10.0)
    )
    assert heavy < 0.2 * light


def test_an_exact_kl_of_a_flow_is_refused() -> None:
    with pytest.raises(ValidationError, match="a flow has no exact KL"):
        attack([0], kl="exact")
