"""Any network from images to logits as a classifier of the contract."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mibench.boundary import sentences
from mibench.errors import MissingError, UserError, unknown
from mibench.nets.base import Classifier, Output
from mibench.random import Rng
from mibench.weights.fit import odd_kind


class Foreign(Classifier):
    """``network`` maps (N, C, side, side) normalised images to (N, K) logits; features are what its last linear layer
    with K outputs is given. ``mean`` and ``std`` are one number for all channels, or one each; ``side`` is what images
    are resized to first. Raises UserError if there is no such layer."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, classes: int, mean: Sequence[float], std: Sequence[float], side: int | None = None
    ) -> None:
        super().__init__()
        self.network, self.side = network, side
        self._last = last_linear(network, classes)
        self.feature_dim = self.head.in_features
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1), persistent=False)

    @property
    def head(self) -> nn.Linear:  # type: ignore[override]  # a view: as a module its weights would be stored twice
        layer = self.network.get_submodule(self._last)
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, images: Tensor, rng: Rng | None = None) -> Output:
        x = (images - self.mean) / self.std
        if self.side is not None and x.shape[-1] != self.side:
            x = functional.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True)
        given: list[Tensor] = []

        def look(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            given.append(args[0] if args else next(iter(named.values())))

        hook = self.head.register_forward_pre_hook(look, with_kwargs=True)
        try:
            logits = self.network(x)
        finally:
            hook.remove()
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise UserError(
                f"The network returns {type(logits).__name__}, where a tensor of (N, K) logits was expected."
            )
        if not given:
            raise UserError(
                f"The network does not call its layer {self._last}, the last linear one of {logits.shape[1]} outputs, "
                "so it cannot be told what its logits are made of. Call it, or take it out if it is not used."
            )
        features = given[-1].flatten(1)
        return Output(logits, features, {"features": features})


def last_linear(network: nn.Module, classes: int) -> str:
    """The name of the last linear layer with as many outputs as there are classes."""
    layers = [(name, module.out_features) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    matching = [name for name, outputs in layers if outputs == classes]
    if not matching:
        has = ", ".join(str(outputs) for _, outputs in layers) or "no linear layer at all"
        raise UserError(
            f"The network has no linear layer with {classes} outputs, one per class folder (it has: {has}). Are the "
            f"folders of --data the classes that it was trained on?"
        )
    return matching[-1]


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
    with sentences(f"The factory {factory} failed"):
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
