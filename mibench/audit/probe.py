"""Is it a function that an attack can follow? What a foreign network answers to made-up images: twice, alone and among
others, with its gradients beside its differences. What is wrong and cannot be put right is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from mibench.audit.foreign import Answer, Foreign, Way, fingerprint
from mibench.boundary import sentences
from mibench.errors import UserError

COUNT = 6
STEPS = (0.5 / 255, 0.02 / 255)  # of finite differences: the first for flat networks, whose differences rounding hides
FOLLOWED = 0.8  # correlation of gradients and differences below which gradients are not those of the function
_AGREE = 1e-3  # relative to the spread of the scores


def examine(network: nn.Module, classes: int, way: Way, channels: int, side: int) -> tuple[Way, list[str]]:
    """``way`` with the head and what of the answer is logits, and what the report must say. Raises UserError."""
    network.eval()
    notes = []
    if restless := [name or type(module).__name__ for name, module in network.named_modules() if module.training]:
        notes.append(
            f"Layers that stay in training mode when the network is told to evaluate were set to: {restless[0]}."
        )
    net = Foreign(network, classes, replace(way, head="", answer="logits")).eval().requires_grad_(False)
    images = made_up(channels, side)
    with _unchanged(network):
        scores, heads = _ask(net, images)
        if tuple(scores.shape) != (COUNT, classes):
            raise UserError(_other_count(scores, classes))
        _same_answers(net, images, scores)
    head, kind = _head(scores, heads, classes)
    answer, note = _reading(scores, kind)
    notes += [note] if note else []
    found = replace(way, head=head, answer=answer)
    if not head:
        notes.append("No linear layer gives the answer: attacks on features see the logits.")
    follow(Foreign(network, classes, found).eval().requires_grad_(False), images)
    return found, notes


def made_up(channels: int, side: int) -> Tensor:
    """(COUNT, channels, side, side) in [0, 1]: smooth patches with some noise, always the same."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(COUNT, channels, 5, 5, generator=generator)
    smooth = functional.interpolate(coarse, (side, side), mode="bilinear")
    return (smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)


def _ask(net: Foreign, images: Tensor) -> tuple[Tensor, list[tuple[str, Tensor]]]:
    """The scores, and what each linear layer that was asked gave, by name."""
    given: list[tuple[str, Tensor]] = []

    def watch(name: str) -> Callable[..., None]:
        return lambda module, args, out: given.append((name, out.detach())) if isinstance(out, Tensor) else None

    layers = [(name, module) for name, module in net.network.named_modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_hook(watch(name)) for name, module in layers]
    what = f"The network does not take images of {images.shape[-1]}x{images.shape[-1]} in {images.shape[1]} channel(s)"
    try:
        with (
            sentences(what, "Say what it takes with --resolution, --channels or --network-resolution."),
            torch.no_grad(),
        ):
            scores = net(images).logits
    finally:
        for hook in hooks:
            hook.remove()
    if not scores.is_floating_point():
        raise UserError(f"The network returns {scores.dtype} numbers: decisions, where logits were expected.")
    if not bool(torch.isfinite(scores).all()):
        raise UserError("The network's answers contain numbers that are not finite.")
    return scores, given


def _same_answers(net: Foreign, images: Tensor, scores: Tensor) -> None:
    """Raises UserError unless the same image gets the same answer, another image another one."""
    scale = _spread(scores)
    if scale == 0 or _spread(scores - scores[:1]) <= 1e-6 * float(scores.abs().max()):
        raise UserError("The network gives the same answer to every image. Its weights, or its forward, are not whole.")

    def differs(part: Tensor, expected: Tensor) -> bool:
        what = f"The network does not take {len(part)} image(s), after it took {len(images)}"
        with sentences(what, "Return a network that takes any number of images."), torch.no_grad():
            try:
                again = net(part).logits
            except ValueError as error:
                if "more than 1 value per channel" in str(error):  # batch norm of one image, in training mode
                    return True
                raise
        return float((again[: len(expected)] - expected).abs().max()) > _AGREE * scale

    if differs(images, scores):
        raise UserError(
            "The network answers the same images differently when it is asked again: dropout or noise is on in its "
            "forward (functional.dropout needs training=self.training), or it keeps state. Return a network that is "
            "the same function every time."
        )
    others = torch.cat([images[:1], images[1:].flip(3)])
    if differs(others, scores[:1]) or differs(images[:1], scores[:1]):
        raise UserError(
            "What the network answers to an image depends on the images beside it: batch normalisation in training "
            "mode, or without running statistics. Return a network whose layers use what they learned."
        )


@contextmanager
def _unchanged(network: nn.Module) -> Iterator[None]:
    """Raises UserError at the end if asking changed the network."""
    before = fingerprint(network)
    yield
    if fingerprint(network) != before:
        raise UserError("The network changes its own tensors when it is asked. Return one that is only read.")


def _head(scores: Tensor, heads: list[tuple[str, Tensor]], classes: int) -> tuple[str, str]:
    """The linear layer from whose output the scores follow, and how: '' if they are it, or softmax, log_softmax,
    sigmoid, scaled. Two empty names if there is none."""
    own = [(name, out) for name, out in reversed(heads) if out.shape == scores.shape and name]
    calls = [name for name, _ in heads]
    for kind, function in _KINDS.items():
        for name, out in own:
            if calls.count(name) == 1 and _close(function(out), scores):
                return name, kind
    for name, out in own:
        if calls.count(name) == 1 and _proportional(out, scores):
            return name, "scaled"
    return "", ""


_KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda out: out,
    "softmax": lambda out: out.softmax(1),
    "log_softmax": lambda out: out.log_softmax(1),
    "sigmoid": lambda out: out.sigmoid(),
}


def _reading(scores: Tensor, kind: str) -> tuple[Answer, str]:
    """What of the answer is taken for logits, and what to say of it."""
    if kind in ("softmax", "log_softmax", "sigmoid"):
        return "head", f"The network ends in {kind}; its logits are what its last linear layer gives before."
    low, high, sums = float(scores.min()), float(scores.max()), scores.sum(1)
    if low >= 0 and bool((sums - sums.mean()).abs().max() < 1e-2 * sums.mean()):
        if bool(((scores == 0) | (scores == high)).all()):
            raise UserError(
                "The network returns decisions, one for one class and zero for the others: expected logits."
            )
        return "log", "The network's answers are shares of a whole: their logarithms are taken for its logits."
    if low >= 0 and high <= 1 and not kind and not _free(scores):
        return "odds", "The network's answers lie between 0 and 1: their log-odds are taken for its logits."
    return "logits", ""


def _free(scores: Tensor) -> bool:
    """Whether scores in [0, 1] may be logits all the same: they leave most of the range out."""
    return float(scores.max() - scores.min()) < 0.2


def follow(net: Foreign, images: Tensor) -> float:
    """How far gradients follow the function: their correlation with finite differences. Raises UserError if they do not
    reach the pixels, vanish for half of the images, or are those of another function."""
    weights = torch.randn(net.classes, generator=torch.Generator().manual_seed(1)).to(images)
    weights = weights - weights.mean()
    with torch.enable_grad():
        asked = images.clone().requires_grad_(True)
        try:
            logits = net(asked).logits
        except Exception as error:
            raise UserError(f"The network cannot be differentiated: {_first_line(error)}") from None
        if not torch.is_grad_enabled():
            raise UserError("The network's forward switches gradients off for the whole program. Remove that.")
        wrong = "no_grad, inference_mode, detach, numpy or an argmax in its forward, or quantised layers"
        if not logits.requires_grad:
            raise UserError(
                f"Gradients do not reach the images: {wrong}. Attacks that follow them would look harmless."
            )
        try:
            (gradient,) = torch.autograd.grad((logits * weights).sum(), asked, allow_unused=True)
        except Exception as error:
            raise UserError(f"The network cannot be differentiated: {_first_line(error)}") from None
    if gradient is None:
        raise UserError(f"Gradients do not reach the images: {wrong}. Attacks that follow them would look harmless.")
    if not bool(torch.isfinite(gradient).all()):
        raise UserError("The network's gradients contain numbers that are not finite.")
    flat = int((gradient.flatten(1).abs().amax(1) == 0).sum())
    if 2 * flat >= len(images):
        raise UserError(
            f"The gradients at {flat} of {len(images)} images are zero: something rounds, clips or saturates (an "
            f"argmax, a quantisation, a softmax at its end), and attacks that follow them would look harmless. Return "
            f"a network whose logits are differentiable in the image."
        )
    if logits.dtype not in (torch.float32, torch.float64):
        return 1.0  # differences of half a grey level are lost in its rounding
    followed = max(_followed(net, images, gradient, weights, step) for step in STEPS)
    if followed < FOLLOWED:
        raise UserError(
            f"The network's gradients are not those of its answers (correlation with differences: {followed:.2f}): "
            f"part of its forward is cut off from them, by detach or no_grad. Attacks that follow them would look "
            f"harmless."
        )
    return followed


@torch.no_grad()
def _followed(net: Foreign, images: Tensor, gradient: Tensor, weights: Tensor, step: float) -> float:
    generator = torch.Generator().manual_seed(2)
    slopes, differences = [], []
    for _ in range(4):
        sign = torch.randint(0, 2, images.shape, generator=generator).to(images) * 2 - 1
        there, back = ((net(images + way * sign).logits * weights).sum(1) for way in (step, -step))
        differences.append((there - back) / (2 * step))
        slopes.append((gradient * sign).flatten(1).sum(1))
    a, b = torch.stack(slopes).double(), torch.stack(differences).double()
    length = b.norm(dim=0).clamp_min(1e-30)  # each image counts the same
    a, b = a / length, b / length
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-30))


def _close(one: Tensor, other: Tensor) -> bool:
    return bool(torch.allclose(one.double(), other.double(), rtol=1e-3, atol=1e-5))


def _proportional(one: Tensor, other: Tensor) -> bool:
    """Whether ``other`` is ``one`` times a positive number, plus a constant for each image."""
    a, b = (each.double() - each.double().mean(1, keepdim=True) for each in (one, other))
    size = a.norm() * b.norm()
    return bool(size > 0 and (a * b).sum() / size > 1 - 1e-6)


def _spread(scores: Tensor) -> float:
    return float((scores - scores.mean(1, keepdim=True)).abs().max()) if scores.shape[1] > 1 else 0.0


def _first_line(error: Exception) -> str:
    return f"{(str(error).strip().splitlines() or [type(error).__name__])[0].rstrip('.')}."


def _other_count(scores: Tensor, classes: int) -> str:
    single = (
        " One score tells two classes apart by its sign: return torch.cat([-z, z], 1)." if scores.shape[1] == 1 else ""
    )
    return (
        f"The network gives {scores.shape[1]} scores for {classes} class folders. Are the folders of --data the "
        f"classes that it was trained on?{single}"
    )
