"""What is audited is the function that its owner has: networks whose shape is right and whose answers are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from mibench.audit.foreign import Foreign, Way
from mibench.audit.probe import examine, follow, made_up
from mibench.errors import UserError
from mibench.weights.entries import choose
from mibench.weights.fit import tensors_in

K = 4


class Net(nn.Module):
    """A small network; ``end`` is applied to its logits, ``start`` to its images."""

    def __init__(
        self, end: Callable[[Tensor], Any] = lambda z: z, start: Callable[[Tensor], Tensor] = lambda x: x
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(3))
        self.fc = nn.Linear(72, K)
        self.end, self.start = end, start

    def features(self, x: Tensor) -> Tensor:
        return self.body(self.start(x)).flatten(1)

    def forward(self, x: Tensor) -> Any:
        return self.end(self.fc(self.features(x)))


def tried(network: nn.Module) -> tuple[Way, list[str]]:
    return examine(network, K, Way(), 3, 16)


def logits(network: nn.Module, way: Way, images: Tensor) -> Tensor:
    return Foreign(network, K, way).eval()(images).logits


class NoGrad(Net):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)


class Inference(Net):
    @torch.inference_mode()
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)


class Global(Net):
    def forward(self, x: Tensor) -> Any:
        torch.set_grad_enabled(False)
        return super().forward(x)


class Counting(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        self.seen += len(x)
        return super().forward(x)


class Batchwise(Net):
    def forward(self, x: Tensor) -> Any:
        self.body.train()
        return super().forward(x)


class Tracking(Net):
    def __init__(self) -> None:
        super().__init__()
        self.body[1] = nn.BatchNorm2d(8, track_running_stats=False)


class Half(Net):
    """Only a part of the answer is cut off."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x) + 3 * super().forward(x.flip(2)).detach()


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (NoGrad(), "do not reach the images"),
        (Inference(), "do not reach the images"),
        (Net(start=lambda x: x.detach()), "do not reach the images"),
        (Net(start=lambda x: torch.from_numpy(x.detach().numpy().copy())), "do not reach the images"),
        (Net(start=lambda x: (x * 255).round() / 255), "are zero"),
        (Net(end=lambda z: (z * 100).round() / 100), "are zero"),
        (Net(end=lambda z: functional.one_hot(z.argmax(1), K).float()), "decisions|same answer"),
        (Net(end=lambda z: functional.one_hot(z.argmax(1), K)), "decisions"),
        (Net(start=lambda x: torch.from_numpy(x.numpy() * 2)), "cannot be differentiated"),
        (Net(end=lambda z: z * 0), "same answer to every image"),
        (Net(end=lambda z: z * 0 + torch.arange(K)), "same answer to every image"),
        (Net(end=lambda z: z * torch.nan), "not finite"),
        (Net(end=lambda z: functional.dropout(z, 0.5)), "differently when it is asked again"),
        (Net(end=lambda z: z + torch.randn_like(z)), "differently when it is asked again"),
        (Net(end=lambda z: z - z.mean(0)), "depends on the images beside it"),
        (Tracking(), "depends on the images beside it"),
        (Batchwise(), "depends on the images beside it|changes its own tensors"),
        (Net(start=lambda x: x.unflatten(0, (2, -1)).flatten(0, 1)), r"does not take 1 image.*any number of images"),
        (Half(), "not those of its answers"),
        (Counting(), "changes its own tensors"),
        (Global(), "switches gradients off"),
        (Net(end=lambda z: z[:, :3]), "3 scores for 4 class folders"),
        (Net(end=lambda z: z[:, :1]), "by its sign"),
        (Net(end=lambda z: (z, z)), "returns tuple"),
        (Net(end=lambda z: z[:, :, None]), "a tensor of shape"),
    ],
)
def test_what_no_attack_could_follow_is_refused(network: nn.Module, said: str) -> None:
    with pytest.raises(UserError, match=said):
        tried(network)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("end", "answer"),
    [
        (lambda z: z.softmax(1), "head"),
        (lambda z: (50 * z).softmax(1), "log"),
        (lambda z: functional.log_softmax(z, 1), "head"),
        (lambda z: z.sigmoid(), "head"),
        (lambda z: 3 * z + 1, "logits"),
        (lambda z: z, "logits"),
    ],
)
def test_logits_are_what_is_attacked(end: Callable[[Tensor], Tensor], answer: str) -> None:
    """Whatever the network ends in, softmax of what is attacked is softmax of logits, with gradients."""
    network, images = Net(end), made_up(3, 16)
    way, notes = tried(network)
    assert (way.head, way.answer) == ("fc", answer) or (not way.head and way.answer == "log")
    assert bool(notes) is (answer != "logits")
    plain = network.fc(network.features(images))
    scale = {"log": 50.0}.get(answer, 3.0 if answer == "logits" and not torch.equal(end(plain), plain) else 1.0)
    torch.testing.assert_close(
        logits(network, way, images).softmax(1), (scale * plain).softmax(1), rtol=1e-3, atol=1e-5
    )
    assert follow(Foreign(network, K, way).eval(), images) > 0.99


def test_probabilities_without_a_head() -> None:
    """A functional or a convolutional head: logarithms and log-odds of what the network returns."""
    weight = torch.randn(K, 72, generator=torch.Generator().manual_seed(0))

    class Functional(Net):
        def forward(self, x: Tensor) -> Any:
            return self.end(functional.linear(self.features(x), weight))

    images = made_up(3, 16)
    assert tried(Functional(lambda z: 100 * z.softmax(1)))[0].answer == "log", "percentages"
    for end, answer in ((lambda z: z.softmax(1), "log"), (lambda z: z.sigmoid(), "odds"), (lambda z: z, "logits")):
        network = Functional(end)
        way, notes = tried(network)
        assert (way.head, way.answer) == ("", answer) and "No linear layer" in notes[-1]
        plain = functional.linear(network.features(images), weight)
        torch.testing.assert_close(logits(network, way, images).softmax(1), plain.softmax(1), rtol=1e-3, atol=1e-4)


def test_the_head_is_the_layer_that_answers() -> None:
    """Not the last one that is defined, nor one that is never asked, and by whatever way it is called."""

    class Odd(Net):
        def __init__(self) -> None:
            super().__init__()
            self.aux, self.unused = nn.Linear(72, K), nn.Linear(72, K)

        def forward(self, x: Tensor) -> Any:
            features = self.features(x)
            self.aux(features)
            return self.fc(input=features)

    network, images = Odd(), made_up(3, 16)
    way, notes = tried(network)
    assert (way.head, way.answer, notes) == ("fc", "logits", [])
    output = Foreign(network, K, way).eval()(images)
    torch.testing.assert_close(output.features, network.features(images))
    torch.testing.assert_close(network.fc(output.features), output.logits)


def test_layers_that_would_not_evaluate_are_made_to() -> None:
    class Stubborn(nn.Dropout):
        def train(self, mode: bool = True) -> Stubborn:
            self.training = True
            return self

    network = Net()
    network.body.append(Stubborn(0.5))
    way, notes = tried(network)
    assert "body.4" in notes[0]
    images = made_up(3, 16)
    assert torch.equal(logits(network, way, images), logits(network, way, images))


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "densenet121"])
def test_torchvisions_networks_pass(arch: str) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model(arch, weights=None, num_classes=K)
    way, _ = examine(network, K, Way((0.5,), (0.5,), 48), 3, 32)
    assert way.answer == "logits" and bool(way.head) is (arch != "squeezenet1_1")


# --- which weights of a file ----------------------------------------------------------------------------------------


def _states(count: int) -> tuple[nn.Module, list[dict[str, Tensor]]]:
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)) for _ in range(count)]
    return nets[0], [net.state_dict() for net in nets]


def _around(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def test_weights_beside_others_must_be_named() -> None:
    net, (plain, average) = _states(2)
    for content, names in (
        (
            {"state_dict": plain, "state_dict_ema": average, "epoch": 3},
            {"state_dict": plain, "state_dict_ema": average},
        ),
        ({"model": plain, "ema": {"decay": 0.9, "shadow": average}}, {"model": plain, "ema.shadow": average}),
        ({"model": plain, "model_ema": _around(average, "module.")}, {"model": plain, "model_ema": average}),
        (_around(plain, "student.") | _around(average, "teacher."), {"student": plain, "teacher": average}),
    ):
        with pytest.raises(UserError, match="2 sets of weights that fit and differ"):
            choose(content, net, None)
        for name, expected in names.items():
            found = tensors_in(choose(content, net, name))
            assert all(torch.equal(found[key], value) for key, value in expected.items()), name
    with pytest.raises(UserError, match=r"no entry .swa.\. It has: model, "):
        choose({"model": plain}, net, "swa")


def test_one_set_of_weights_needs_no_name() -> None:
    net, (plain, _) = _states(2)
    copy = {key: value.clone() for key, value in plain.items()}
    optimiser = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1.0}]}
    for content in (plain, {"a": {"b": plain}}, {"model": plain, "best": copy, "optimizer": optimiser}):
        found = choose(content, net, None)
        assert all(torch.equal(found[key], value) for key, value in plain.items())
    assert choose({"x": 1}, net, None) == {"x": 1}
