"""Which of the project's functions computes each parity case.

Adapters only call what the methods themselves call.

MATH: case name -> f(inputs by name, parameters) -> outputs by name.
NETWORKS: network name -> f(json entry, published state dict) -> g(*inputs) -> outputs by name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mibench.contracts import Defense, TrackInfo
from mibench.metrics.distributions import frechet_distance, prdc
from mibench.nets.base import Classifier
from mibench.nets.conditional import ConditionalGenerator, ProjectionDiscriminator
from mibench.nets.faces import IR152, VGG16, FaceNet64, FaceNet112
from mibench.nets.gan import GmiCritic, GmiGenerator, KedmiDiscriminator
from mibench.nets.stylegan2 import StyleGAN2
from mibench.primitives.latents import descend_nesterov, fit_gaussians
from mibench.primitives.losses import (
    critic_prior,
    cross_entropy,
    ensemble_logit_loss,
    k_plus_one_prior,
    max_margin,
    poincare,
)
from mibench.protocol.methods import Kind
from mibench.registry import Registry
from mibench.weights.fit import load_published

MathAdapter = Callable[[dict[str, Tensor], dict[str, Any]], dict[str, Tensor]]
Network = Callable[..., dict[str, Tensor]]
NetworkAdapter = Callable[[dict[str, Any], dict[str, Tensor]], Network]

# --- losses, trajectories and metrics ----------------------------------------------------------------------

Arrays = dict[str, Tensor]
Case = dict[str, Any]

TRACK = TrackInfo("parity", "faces", resolution=2, channels=3, num_classes=7, fill=(0.5,))


def _module(kind: Kind, name: str) -> ModuleType:
    """The file of a plugin, for the formulas that stand beside its class."""
    return sys.modules[Registry().plugin(kind, name).__module__]


def _defense(name: str, **params: Any) -> Any:
    cls: type[Defense] = Registry().plugin("defense", name)
    return cls(cls.Params(**params), TRACK)


def _kedmi_prior_loss(arrays: Arrays, case: Case) -> Arrays:
    return {"loss": k_plus_one_prior(arrays["discriminator_logits"]).mean()}


def _kedmi_discriminator_loss(arrays: Arrays, case: Case) -> Arrays:
    names = ("labelled_logits", "target_model_logits", "unlabelled_logits", "fake_logits")
    return {"loss": _module("prior", "k_plus_one").discriminator_loss(*(arrays[name] for name in names))}


def _kedmi_generator_loss(arrays: Arrays, case: Case) -> Arrays:
    given = (arrays["fake_features"], arrays["real_features"], arrays["fake_logits"])
    return {"loss": _module("prior", "k_plus_one").generator_loss(*given, case["entropy_weight"])}


def _gmi_gradient_penalty(arrays: Arrays, case: Case) -> Arrays:
    def critic(x: Tensor) -> Tensor:
        return torch.tanh(x.flatten(1) @ arrays["critic_w1"]) @ arrays["critic_w2"]

    penalty = _module("prior", "wgan_gp").gradient_penalty
    return {"penalty": penalty(critic, arrays["real"], arrays["fake"], arrays["alpha"])}


def _gmi_latent_trajectory(arrays: Arrays, case: Case) -> Arrays:
    def objective(z: Tensor) -> Tensor:
        x = torch.sigmoid(z @ arrays["generator"])
        identity = cross_entropy(x @ arrays["target"], arrays["labels"])
        return case["identity_weight"] * identity + critic_prior(x @ arrays["critic"])

    def after(iterations: int) -> Tensor:
        settings = (case["lr"], case["momentum"], case["clip"])
        rows = len(arrays["z0"])
        return descend_nesterov(arrays["z0"], objective, range(iterations), *settings, reference_batch=rows)

    return {"z_after_1": after(1), "z_after_10": after(10), "z_final": after(case["iterations"])}


def _kedmi_latent_trajectory(arrays: Arrays, case: Case) -> Arrays:
    def objective(z: Tensor) -> Tensor:
        x = torch.sigmoid(z @ arrays["generator"])
        identity = cross_entropy(x @ arrays["target"], arrays["labels"])
        return case["identity_weight"] * identity + k_plus_one_prior(x @ arrays["discriminator"])

    steps, rows, dim = arrays["noise"].shape
    draws = iter(arrays["noise"])
    settings = (range(steps), case["lr"])
    mu, log_var = fit_gaussians(rows, dim, objective, lambda: next(draws), *settings, reference_batch=rows)
    return {"mu": mu, "log_var": log_var}


def _plgmi_max_margin_loss(arrays: Arrays, case: Case) -> Arrays:
    return {"loss": max_margin(arrays["logits"], arrays["labels"]).mean()}


def _ppa_poincare_loss(arrays: Arrays, case: Case) -> Arrays:
    return {"loss": poincare(arrays["logits"], arrays["labels"], case["xi"]).mean()}


def _lomma_identity_loss(arrays: Arrays, case: Case) -> Arrays:
    given = (arrays["logits"].unbind(0), arrays["labels"], arrays["target_features"], arrays["feature_mean"])
    return {"loss": ensemble_logit_loss(*given, case["feature_weight"]).mean()}


def _negative_label_smoothing_loss(arrays: Arrays, case: Case) -> Arrays:
    loss = _module("defense", "ls").smoothed_cross_entropy
    return {"loss": loss(arrays["logits"], arrays["labels"], case["smoothing"])}


def _bido(measure: str) -> MathAdapter:
    def adapter(arrays: Arrays, case: Case) -> Arrays:
        bido = _defense("bido", measure=measure, sigma=case["sigma"], label_kernel=case["label_kernel"])
        ((to_data, to_label),) = bido.dependences([arrays["hidden"]], arrays["data"], arrays["one_hot"])
        return {"hidden_data": to_data, "hidden_label": to_label}

    return adapter


def _mid_information_loss(arrays: Arrays, case: Case) -> Arrays:
    return {"loss": _module("defense", "mid").information(arrays["mu"], arrays["std"])}


def _prdc(arrays: Arrays, case: Case) -> Arrays:
    shares = prdc(arrays["real"], arrays["fake"], case["nearest_k"])
    return {name: torch.tensor(share, dtype=torch.float64) for name, share in shares.items()}


def _frechet_distance(arrays: Arrays, case: Case) -> Arrays:
    distance = frechet_distance(arrays["real"], arrays["fake"])
    return {"distance": torch.tensor(distance, dtype=torch.float64)}


MATH: dict[str, MathAdapter] = {
    "kedmi_prior_loss": _kedmi_prior_loss,
    "kedmi_discriminator_loss": _kedmi_discriminator_loss,
    "kedmi_generator_loss": _kedmi_generator_loss,
    "gmi_gradient_penalty": _gmi_gradient_penalty,
    "gmi_latent_trajectory": _gmi_latent_trajectory,
    "kedmi_latent_trajectory": _kedmi_latent_trajectory,
    "plgmi_max_margin_loss": _plgmi_max_margin_loss,
    "ppa_poincare_loss": _ppa_poincare_loss,
    "lomma_identity_loss": _lomma_identity_loss,
    "negative_label_smoothing_loss": _negative_label_smoothing_loss,
    "bido_hsic_linear": _bido("hsic"),
    "bido_coco_linear": _bido("coco"),
    "bido_hsic_gaussian": _bido("hsic"),
    "bido_coco_gaussian": _bido("coco"),
    "mid_information_loss": _mid_information_loss,
    "prdc": _prdc,
    "frechet_distance": _frechet_distance,
}

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


def _plgmi_generator(entry: dict[str, Any], state: dict[str, Tensor]) -> Network:
    net = _loaded(ConditionalGenerator(entry["num_classes"], resolution=64, channels=3), state)

    @torch.no_grad()
    def run(latents: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"image": net(latents, labels)}

    return run


def _plgmi_discriminator(entry: dict[str, Any], state: dict[str, Tensor]) -> Network:
    net = ProjectionDiscriminator(entry["num_classes"], resolution=64, channels=3)
    load_published(net, state)

    @torch.no_grad()
    def run(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"score": net.train()(images, labels)[:, None]}

    return run


def _stylegan2_generator(entry: dict[str, Any], state: dict[str, Tensor]) -> Network:
    config = {name: value for name, value in entry["config"].items() if name not in ("c_dim", "num_fp16_res")}
    net: Any = _loaded(StyleGAN2(**config), state)

    @torch.no_grad()
    def run(latents: Tensor) -> dict[str, Tensor]:
        w, near = net.map(latents), net.map(latents, 0.5, 8)
        return {
            "w": w,
            "w_truncated_0.5_cutoff_8": near,
            "image_const_noise": 2 * net.synthesis(w) - 1,  # ours are nominally in [0, 1]
            "image_truncated_no_noise": 2 * net.synthesis(near, noise="none") - 1,
        }

    return run


NETWORKS: dict[str, NetworkAdapter] = {
    "kedmi_generator": _kedmi_generator,
    "gmi_critic": _gmi_critic,
    "kedmi_discriminator": _kedmi_discriminator,
    "plgmi_generator": _plgmi_generator,
    "plgmi_discriminator": _plgmi_discriminator,
    "stylegan2_generator": _stylegan2_generator,
    "vgg16": _classifier(VGG16),
    "ir152": _classifier(IR152),
    "facenet64": _classifier(FaceNet64),
    "facenet112": _classifier(FaceNet112),
}
