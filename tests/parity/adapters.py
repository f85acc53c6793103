"""Which of the project's functions computes each parity case.

Adapters only call what the methods themselves call.

MATH: case name -> f(inputs by name, parameters) -> outputs by name.
NETWORKS: network name -> f(json entry, published state dict) -> g(*inputs) -> outputs by name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import softplus

from mibench.contracts import Batch, Defense, Output, Progress, TrackInfo
from mibench.metrics.distributions import frechet_distance, prdc
from mibench.nets.base import Classifier
from mibench.nets.conditional import ConditionalGenerator, ProjectionDiscriminator
from mibench.nets.faces import IR152, VGG16, FaceNet64, FaceNet112
from mibench.nets.gan import GmiCritic, GmiGenerator, KedmiDiscriminator
from mibench.nets.stylegan2 import StyleGAN2
from mibench.primitives.adversarial import pgd
from mibench.primitives.alignment import View, averaged, perturbed
from mibench.primitives.evolution import one_plus_one
from mibench.primitives.experts import class_weights, surrogate_loss
from mibench.primitives.latents import descend_adam, descend_nesterov, fit_gaussians, ramps
from mibench.primitives.losses import (
    critic_prior,
    cross_entropy,
    ensemble_logit_loss,
    k_plus_one_prior,
    max_margin,
    poincare,
)
from mibench.primitives.training import mixed
from mibench.primitives.tuning import DISTANCES, find_pivots, noise_scales, tune
from mibench.primitives.wgan import gradient_penalty
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

    return {"penalty": gradient_penalty(critic, arrays["real"], arrays["fake"], arrays["alpha"])}


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

# --- newer defenses ----------------------------------------------------------------------------------------


def _mixed_loss(arrays: Arrays, share: float) -> Tensor:
    """What the training loop makes of the default loss of a batch that was mixed."""
    labels, output = arrays["label"], Output(arrays["logits"], arrays["logits"], {})
    batch = Batch(arrays["images"], labels, None, labels[arrays["permutation"]], share)
    return mixed(Defense(None, TRACK).loss, batch, output, Progress(0, 1, 0, 1))


def _mixup(arrays: Arrays, case: Case) -> Arrays:
    images = _module("defense", "mixup").mixture(arrays["images"], arrays["permutation"], case["lam"])
    return {"images": images, "loss": _mixed_loss(arrays, case["lam"])}


def _cutmix(arrays: Arrays, case: Case) -> Arrays:
    place = (case["lam"], case["row"], case["column"])
    images, stayed = _module("defense", "cutmix").pasted(arrays["images"], arrays["permutation"], *place)
    losses = {"loss_drawn": _mixed_loss(arrays, case["lam"]), "loss_exact": _mixed_loss(arrays, stayed)}
    return {"images": images, "kept_share": torch.tensor(stayed, dtype=torch.float64)} | losses


def _cutout(arrays: Arrays, case: Case, literal: bool = False) -> Arrays:
    images, place = arrays["images"], (arrays["row"], arrays["column"])
    mask = _module("defense", "cutout").squares(images.shape[-1], *place, case["length"], literal)
    return {"images": torch.where(mask, case["fill"], images)}


def _ssd_water_filling(arrays: Arrays, case: Case) -> Arrays:
    return {"scores": _module("defense", "ssd").water_filling(arrays["scores"], arrays["reference"], arrays["budget"])}


def _ssd_output(arrays: Arrays, case: Case) -> Arrays:
    ssd, f = _module("defense", "ssd"), arrays["scores"]
    return {
        "probability": ssd.class_probability(f, case["temperature"]),
        "entropy": ssd.entropy(f),
        "scores": ssd.shielded(f, arrays["class_means"], arrays["drawn"], case["epsilon"]),
    }


def _dcd_noisy_copy(arrays: Arrays, case: Case) -> Arrays:
    return {"images": _module("defense", "dcd").noisy_copy(arrays["images"], arrays["noise"], case["sigma"])}


def _dcd_training_set(arrays: Arrays, case: Case) -> Arrays:
    labels = (arrays["label"], arrays["surrogate_label"], case["protected"])
    changes = (arrays["flipped"], arrays["flipped_to"], arrays["copies_to"])
    source, label = _module("defense", "dcd").training_set(*labels, *changes)
    return {"source": source, "label": label}


def _sca_code(arrays: Arrays, case: Case) -> Arrays:
    assert case["stride"] == 1
    settings = (case["threshold"], case["tau"], case["iterations"])
    return {"code": _module("defense", "sca").sparse_code(arrays["images"], arrays["dictionary"], *settings)}


def _loft_head(arrays: Arrays, case: Case) -> Arrays:
    features, classes = arrays["features"].shape[1], len(arrays["up_bias"])
    head: nn.Sequential = _module("defense", "loft").low_rank_head(features, case["rank"], classes, case["activation"])
    names = ("norm_weight", "norm_bias", "running_mean", "running_var")
    keys = ("0.weight", "0.bias", "0.running_mean", "0.running_var")
    state = {key: arrays[name] for key, name in zip(keys, names, strict=True)}
    state |= {
        f"{i}.{part}": arrays[f"{way}_{part}"] for i, way in ((1, "down"), (3, "up")) for part in ("weight", "bias")
    }
    head.load_state_dict(state, strict=False)
    with torch.no_grad():
        return {"logits_eval": head.eval()(arrays["features"]), "logits_train": head.train()(arrays["features"])}


def _loft_confidence_loss(arrays: Arrays, case: Case) -> Arrays:
    logits = arrays["logits"].requires_grad_()
    loss = _module("defense", "loft").confidence_loss(logits, arrays["label"], case["gamma"], case["alpha"])
    return {"loss": loss, "gradient": torch.autograd.grad(loss, logits)[0]}


def _atat_targets(arrays: Arrays, case: Case) -> Arrays:
    return {"target": _module("defense", "atat").wrong_classes(arrays["label"], arrays["draw"], case["classes"])}


def _atat_pgd(arrays: Arrays, case: Case) -> Arrays:
    def loss(x: Tensor) -> Tensor:
        logits = torch.tanh((2 * x - 1).flatten(1) @ arrays["t1"]) @ arrays["t2"]
        return functional.cross_entropy(logits, arrays["target"])

    images, settings = arrays["images"], (case["epsilon"], case["step"], case["iterations"])
    return {"change": pgd(images, arrays["start"], loss, *settings) - images}


def _atat_loss(arrays: Arrays, case: Case) -> Arrays:
    assert case["clean_weight"] == 1
    logits, labels = (arrays["clean_logits"], arrays["adversarial_logits"]), (arrays["label"], arrays["target"])
    return {"loss": _module("defense", "atat").anti_adversarial_loss(*logits, *labels, case["adversarial_weight"])}


DEFENSES: dict[str, MathAdapter] = {
    "mixup": _mixup,
    "cutmix": _cutmix,
    "cutout": _cutout,
    "cutout_literal": partial(_cutout, literal=True),
    "atat_targets": _atat_targets,
    "atat_pgd": _atat_pgd,
    "atat_loss": _atat_loss,
    "ssd_water_filling": _ssd_water_filling,
    "ssd_output": _ssd_output,
    "dcd_noisy_copy_surrogate": _dcd_noisy_copy,
    "dcd_noisy_copy_target": _dcd_noisy_copy,
    "dcd_training_set": _dcd_training_set,
    "sca_code": _sca_code,
    "loft_head": _loft_head,
    "loft_confidence_loss": _loft_confidence_loss,
}

# --- attacks on scores -------------------------------------------------------------------------------------


def _class_weights(arrays: Arrays, case: Case) -> Arrays:
    return {"weight": class_weights(arrays["log_scores"], case["beta"], case["top"])}


def _surrogate_loss(arrays: Arrays, case: Case) -> Arrays:
    experts = arrays["experts"].requires_grad_()
    outputs: Arrays = surrogate_loss(
        experts,
        arrays["target_log_scores"],
        arrays["weight"],
        case["temperature"],
        case["ce_weight"],
        case["diversity_weight"],
        case["weighting"].startswith("literal"),
        case["clamp"],
    )
    (gradient,) = torch.autograd.grad(outputs["loss"], experts)
    return outputs | {"gradient": gradient}


def _one_plus_one(arrays: Arrays, case: Case) -> Arrays:
    noise = iter(arrays["noise"][1:])
    said: list[tuple[Tensor, Tensor]] = []

    def judge(w: Tensor) -> Tensor:
        return ((w @ arrays["generator"]).tanh() @ arrays["target"]).log_softmax(1)[:, case["label"]]

    best, _ = one_plus_one(
        arrays["start"][None],
        judge,
        lambda: next(noise)[None],
        lambda w: w.clamp(arrays["low"], arrays["high"]),
        case["budget"],
        case["sigma"],
        lambda f, s: said.append((f, s)),
    )
    fitness, sigma = (torch.cat(values) for values in zip(*said, strict=True))
    return {"best": best[0], "fitness": fitness, "sigma": sigma}


def _aligned_ensemble(arrays: Arrays, case: Case) -> Arrays:
    p2i = _module("attack", "p2i")
    assert case["ceiling"] == 1 - case["raise"]
    log_scores, weight = p2i.raised(arrays["scores"], case["label"], case["raise"])
    [[latent]] = p2i.ensemble(arrays["latents"][:, None, None], weight[:, None])
    return {"log_scores": log_scores, "weight": weight, "latent": latent}


SCORES: dict[str, MathAdapter] = {
    "smile_class_weights": _class_weights,
    "smile_surrogate_loss": _surrogate_loss,
    "smile_surrogate_loss_per_sample": _surrogate_loss,
    "smile_one_plus_one": _one_plus_one,
    "p2i_aligned_ensemble": _aligned_ensemble,
}

# --- white-box attacks -------------------------------------------------------------------------------------


class Drawn:
    """A random stream whose numbers are given."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers: Iterator[Tensor] = iter(numbers)

    def normal(self, n: int, *shape: int) -> Tensor:
        numbers = next(self.numbers)
        assert numbers.shape == (n, *shape)
        return numbers

    uniform = normal


def _aligned_gradient(arrays: Arrays, case: Case, view: View, numbers: Tensor) -> Arrays:
    w = arrays["w"].requires_grad_(True)
    (gradient,) = torch.autograd.grad(_aligned(arrays, case, view, numbers)(w).sum(), w)
    return {"gradient": gradient}


def _aligned_trajectory(arrays: Arrays, case: Case, view: View, numbers: Tensor) -> Arrays:
    objective = _aligned(arrays, case, view, numbers.flatten(0, 1))
    return {"w": descend_adam(arrays["w"], objective, range(case["iterations"]), case["lr"], tuple(case["betas"]))}


def _aligned(arrays: Arrays, case: Case, view: View, numbers: Tensor) -> Callable[[Tensor], Tensor]:
    def identity(x: Tensor) -> Tensor:
        return poincare(torch.tanh(x.flatten(1) @ arrays["t1"]) @ arrays["t2"], arrays["label"])

    mean = averaged(identity, view, case["samples"], Drawn(numbers))
    return lambda w: mean(torch.sigmoid(w @ arrays["generator"]).unflatten(1, case["shape"]))


def _permuted(images: Tensor, rng: Any) -> Tensor:
    return images.flatten(1)[:, next(rng.numbers)].view_as(images)


def _distance(arrays: Arrays, name: str) -> Arrays:
    source = arrays["source"].requires_grad_(True)
    loss = DISTANCES[name](source, arrays["target"])
    (gradient,) = torch.autograd.grad(loss, source)
    return {"loss": loss, "gradient": gradient}


def _pivots(arrays: Arrays, case: Case) -> Arrays:
    found = arrays["pseudo"] @ arrays["features"]
    losses = []

    def far(w: Tensor) -> Tensor:
        x = torch.tanh(w @ arrays["generator"])
        distance = DISTANCES[case["distance"]](x @ arrays["features"], found)
        return distance + case["prior_weight"] * softplus(-x @ arrays["critic"]).mean()

    steps, rng = case["steps"], Drawn(arrays["noise"])
    watch = lambda loss, w: losses.append(loss[0])  # noqa: E731
    pivots = find_pivots(arrays["w_pool"], len(arrays["pseudo"]), far, steps, rng, case["lr"], watch)
    rate = ramps(case["lr"], steps)
    lr = torch.tensor([rate(step) for step in range(steps)], dtype=torch.float64)
    scales = torch.tensor(noise_scales(arrays["w_pool"], steps, case["noise"]))
    return {"lr": lr, "noise_scale": scales, "loss": torch.stack(losses), "pivots": pivots}


def _tuning(arrays: Arrays, case: Case) -> Arrays:
    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.Parameter(arrays["generator"].clone())

    toy, found = Toy(), arrays["pseudo"] @ arrays["features"]

    def far() -> Tensor:
        return DISTANCES[case["distance"]](torch.tanh(arrays["pivots"] @ toy.weights) @ arrays["features"], found)

    losses = tune(toy, far, range(case["steps"]), case["lr"])
    return {"loss": torch.tensor(losses), "generator": toy.weights}


WHITE_BOX: dict[str, MathAdapter] = {
    "alignmi_paa_gradient": lambda a, c: _aligned_gradient(a, c, partial(perturbed, spread=c["spread"]), a["noise"]),
    "alignmi_paa_trajectory": lambda a, c: _aligned_trajectory(
        a, c, partial(perturbed, spread=c["spread"]), a["noise"]
    ),
    "alignmi_taa_gradient": lambda a, c: _aligned_gradient(a, c, _permuted, a["permutation"]),
    "alignmi_taa_trajectory": lambda a, c: _aligned_trajectory(a, c, _permuted, a["permutation"]),
    "ppdg_ct_loss": lambda a, c: _distance(a, "ct"),
    "ppdg_mmd_loss": lambda a, c: _distance(a, "mmd"),
    "ppdg_pivots": _pivots,
    "ppdg_tuning_ct": _tuning,
    "ppdg_tuning_mmd": _tuning,
}

MATH |= DEFENSES | SCORES | WHITE_BOX

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
