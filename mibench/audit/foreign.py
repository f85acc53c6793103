"""Any network from images to logits as a classifier of the contract."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from mibench.boundary import sentences
from mibench.errors import MissingError, UserError, unknown
from mibench.nets.base import Classifier, Output
from mibench.random import Rng
from mibench.weights.fit import odd_kind

Answer = Literal["logits", "head", "log", "odds"]
"""What of a network's answer is taken for logits: itself; what its head gave, before a softmax or the like; the
logarithm of probabilities; or the log-odds of independent ones."""


@dataclass(frozen=True)
class Way:
    """How pixels become logits, besides the network. ``mean`` and ``std`` are one number for all channels, or one each;
    ``side`` is what images are resized to first; ``bgr``: channels are turned round. ``head``: the name of the linear
    layer whose output is the answer, '' where there is none. ``scale`` multiplies what is taken for logits."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    side: int | None = None
    bgr: bool = False
    head: str = ""
    answer: Answer = "logits"
    scale: float = 1.0


class Foreign(Classifier):
    """``network`` maps (N, C, side, side) normalised images to (N, K) scores; features are what its head is given, and
    where there is no such layer the logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, classes: int, way: Way) -> None:
        super().__init__()
        self.network, self.way, self.classes = network, way, classes
        self.feature_dim = self.head.in_features
        self.register_buffer("mean", torch.tensor(way.mean).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(way.std).reshape(1, -1, 1, 1), persistent=False)

    @property
    def head(self) -> nn.Linear:  # type: ignore[override]  # a view: as a module its weights would be stored twice
        if self.way.head:
            layer = self.network.get_submodule(self.way.head)
            assert isinstance(layer, nn.Linear)
            return layer
        same = nn.Linear(self.classes, self.classes, bias=False)
        same.weight.data = torch.eye(self.classes)
        return same

    def train(self, mode: bool = True) -> Self:
        """All layers, those too that their owner's ``train`` leaves as they are."""
        super().train(mode)
        for module in self.network.modules():
            module.training = mode
        return self

    def forward(self, images: Tensor, rng: Rng | None = None) -> Output:
        way, given = self.way, []
        x = (images - self.mean) / self.std
        x = x.flip(1) if way.bgr else x
        if way.side is not None and x.shape[-1] != way.side:
            x = functional.interpolate(x, (way.side, way.side), mode="bilinear", antialias=True)
        if not way.head:
            scores = _scores(self.network(x))
            logits = way.scale * _LOGITS[way.answer](scores)
            return Output(logits, logits, {"features": logits})

        def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
            given.append((args[0] if args else next(iter(kwargs.values())), out))

        hook = self.head.register_forward_hook(watch, with_kwargs=True)
        try:
            scores = _scores(self.network(x))
        finally:
            hook.remove()
        features, own = given[-1]
        logits = own if way.answer == "head" else _LOGITS[way.answer](scores)
        features = features.flatten(1)
        return Output(way.scale * logits, features, {"features": features})


def _scores(answer: Any) -> Tensor:
    """A network's answer, if it is one."""
    if not isinstance(answer, Tensor) or answer.ndim != 2:
        what = f"a tensor of shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
        raise UserError(f"The network returns {what}, where a tensor of (N, K) logits was expected.")
    return answer


def _log(scores: Tensor) -> Tensor:
    return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()


_LOGITS: dict[str, Callable[[Tensor], Tensor]] = {
    "logits": lambda scores: scores,
    "log": _log,
    "odds": lambda scores: _log(scores) - _log(1 - scores),
}


def make_network(arch: str, factory: str, classes: int, transform_input: bool | None = None) -> nn.Module:
    """A network of torchvision's or timm's called ``arch``, or what ``module:function`` returns. ``transform_input``:
    for torchvision's networks that may begin with a step to ImageNet's normalisation, which no weights tell. Raises
    UserError, also where that is not said and must be, or the other way round."""
    if factory:
        return call_factory(factory)
    network: Any = _named(arch, classes)
    if hasattr(network, "transform_input") != (transform_input is not None):
        raise UserError(
            f"{arch} does not transform its input: leave --transform-input out."
            if transform_input is not None
            else f"Was {arch} trained with its input transform (transform_input: from weights of torchvision's it is, "
            f"without any it is not)? The weights do not tell: add --transform-input or --no-transform-input."
        )
    if transform_input is not None:
        network.transform_input = transform_input
    made: nn.Module = network
    return made


def call_factory(factory: str) -> nn.Module:
    """Import ``module`` and call ``function()``. Raises UserError that says what went wrong."""
    module, colon, name = factory.partition(":")
    if not (module and colon and name):
        raise UserError(f"Cannot read the factory {factory!r}. Expected module:function.")
    with sentences(f"The factory {factory} failed"), torch.enable_grad():  # as they were at its end, whatever it did
        network: Any = getattr(import_module(module), name)()
    if not isinstance(network, nn.Module):
        raise UserError(f"The factory {factory} returned {type(network).__name__}, where an nn.Module was expected.")
    return network


def _named(arch: str, classes: int) -> nn.Module:
    from torchvision import models

    names = models.list_models(module=models)
    if arch in names:
        network: nn.Module = models.get_model(arch, weights=None, num_classes=classes)
        return network
    try:
        import timm
    except ImportError:
        raise unknown("architecture (of torchvision; with the package timm, of timm too)", arch, names) from None
    if not timm.is_model(arch):
        raise unknown("architecture (of torchvision or timm)", arch, [*names, *timm.list_models()])
    made: nn.Module = timm.create_model(arch, pretrained=False, num_classes=classes)
    return made


def fingerprint(network: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all tensors."""
    digest = hashlib.sha256()
    with sentences("The network's tensors cannot be read"):
        tensors = sorted(network.state_dict().items())
    for name, tensor in tensors:
        if not isinstance(tensor, Tensor) or (kind := odd_kind(tensor)):
            what = kind if isinstance(tensor, Tensor) else f"no tensor but {type(tensor).__name__}"
            raise UserError(f"{name} of the network is {what}. Expected a network of plain numbers, as it was trained.")
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_into(network: nn.Module, tensors: dict[str, Tensor], arch: str) -> None:
    """Load a file's tensors. Raises UserError that names what is missing or does not fit."""
    from mibench.weights.fit import load_published

    try:
        load_published(network, tensors)
    except UserError as error:
        raise UserError(f"The checkpoint is not one of {arch} with these classes. {error}") from None
    if not all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values()):
        raise MissingError("The checkpoint holds numbers that are not finite; it is damaged.")
