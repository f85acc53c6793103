"""Which of the project's functions computes each parity case.

Adapters only call what the methods themselves call.

MATH: case name -> f(inputs by name, parameters) -> outputs by name.
NETWORKS: network name -> f(json entry, published state dict) -> g(*inputs) -> outputs by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mibench.nets.base import Classifier
from mibench.nets.faces import IR152, VGG16, FaceNet64, FaceNet112
from mibench.nets.gan import GmiCritic, GmiGenerator, KedmiDiscriminator
from mibench.nets.published import load_published

MathAdapter = Callable[[dict[str, Tensor], dict[str, Any]], dict[str, Tensor]]
Network = Callable[..., dict[str, Tensor]]
NetworkAdapter = Callable[[dict[str, Any], dict[str, Tensor]], Network]

# --- losses, trajectories and metrics ----------------------------------------------------------------------

MATH: dict[str, MathAdapter] = {}

# --- networks with published checkpoints -------------------------------------------------------------------


def _loaded(net: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    load_published(net, state)
    return net.eval()


def _classifier(architecture: Callable[[int], Classifier]) -> NetworkAdapter:
    def build(entry: dict[str, Any], state: dict[str, Tensor]) -> Network:
        net = _loaded(architecture(entry["num_classes"]), state)

        @torch.no_grad()
        def run(images: Tensor) -> dict[str, Tensor]:
            output = net(images)
            return {"feature": output.features, "logits": output.logits}

        return run

    return build


def _kedmi_generator(entry: dict[str, Any], state: dict[str, Tensor]) -> Network:
    net = _loaded(GmiGenerator(resolution=64, channels=3), state)

    @torch.no_grad()
    def run(latents: Tensor) -> dict[str, Tensor]:
        return {"image": net(latents)}

    return run


def _gmi_critic(entry: dict[str, Any], state: dict[str, Tensor]) -> Network:
    net = _loaded(GmiCritic(resolution=64, channels=3), state)

    @torch.no_grad()
    def run(images: Tensor) -> dict[str, Tensor]:
        return {"score": net(images)}

    return run


def _kedmi_discriminator(entry: dict[str, Any], state: dict[str, Tensor]) -> Network:
    net = _loaded(KedmiDiscriminator(entry["num_classes"], resolution=64, channels=3), state)

    @torch.no_grad()
    def run(images: Tensor) -> dict[str, Tensor]:
        output = net(images)
        return {"feature": output.features, "logits": output.logits}

    return run


NETWORKS: dict[str, NetworkAdapter] = {
    "kedmi_generator": _kedmi_generator,
    "gmi_critic": _gmi_critic,
    "kedmi_discriminator": _kedmi_discriminator,
    "vgg16": _classifier(VGG16),
    "ir152": _classifier(IR152),
    "facenet64": _classifier(FaceNet64),
    "facenet112": _classifier(FaceNet112),
}
