"""The generator in a published StyleGAN2-ADA ``.pkl``: its tensors, its settings, and whether it is the one we build.

The files carry the source code of their layers. It is not run, so what the layers do is known by their class and
attributes alone: every attribute must be one that is known here, and those that change the image must have the value
that ``mibench.nets.stylegan2`` computes with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mibench.errors import UserError
from mibench.nets.stylegan2 import Affine, Block, StyledConv, StyleGAN2, ToRgb, resample_filter
from mibench.weights.pickles import Module, tensor

_FILTER = "resample_filter"
_KEYS = ("G_ema", "G")  # the averaged generator, which papers use; else the raw one

# Read from shapes, of training only, or about speed and precision.
_IRRELEVANT = {
    *("training", "z_dim", "w_dim", "img_resolution", "img_resolution_log2", "img_channels", "num_ws", "num_layers"),
    *("w_avg_beta", "block_resolutions", "in_channels", "out_channels", "resolution", "is_last", "num_fp16_res"),
    *("use_fp16", "channels_last", "fp16_channels_last", "fused_modconv_default"),
}
_ARGUMENTS = {
    *("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs", "synthesis_kwargs"),
    *("num_layers", "embed_features", "layer_features", "activation", "lr_multiplier", "w_avg_beta", "num_ws"),
    *("channel_base", "channel_max", "num_fp16_res", "architecture", _FILTER, "conv_clamp", "use_noise"),
    *("use_fp16", "fp16_channels_last", "fused_modconv_default"),
}


def generator_in(content: Any) -> tuple[str, Module]:
    """The generator in a published pickle and the key it stands under. Raises UserError if there is none."""
    if not isinstance(content, Mapping):
        raise UserError(f"Expected the networks G, D and G_ema; found {type(content).__name__}.")
    for key in _KEYS:
        if isinstance(content.get(key), Module):
            _refuse_other_designs(content[key])
            return key, content[key]
    raise UserError(f"Expected a generator under the key G_ema; found the keys {', '.join(map(str, content))[:200]}.")


def _refuse_other_designs(generator: Module) -> None:
    """What would otherwise only show as tensors that are missing or too many."""
    if generator.attributes.get("c_dim"):
        raise UserError(
            f"It is a conditional generator (c_dim {generator.attributes['c_dim']}). Only unconditional ones are read."
        )
    arguments = generator.attributes.get("_init_kwargs")
    synthesis = arguments.get("synthesis_kwargs") if isinstance(arguments, Mapping) else None
    design = synthesis.get("architecture", "skip") if isinstance(synthesis, Mapping) else "skip"
    if design != "skip":
        raise UserError(f"Its architecture is {design!r}; only 'skip' is built here.")


def state_of(module: Module) -> dict[str, Tensor]:
    """The tensors of a module in the file by their names in a state dict."""
    return dict(_tensors(module, ""))


def _tensors(module: Module, path: str) -> Iterator[tuple[str, Tensor]]:
    if path.count(".") > 8:
        raise UserError("Its layers contain each other.")
    for kind in ("_parameters", "_buffers"):
        for name, value in module.table(kind).items():
            unwrapped = tensor(value)
            if unwrapped is not None:
                yield f"{path}{name}", unwrapped
    for name, part in module.table("_modules").items():
        if isinstance(part, Module):
            yield from _tensors(part, f"{path}{name}.")


def without_filters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` without the copies of the low-pass filter. Raises UserError if one is another filter."""
    for name, value in tensors.items():
        if name.endswith(_FILTER) and not (
            value.shape == (4, 4) and torch.allclose(value.float().cpu(), resample_filter(), atol=1e-6)
        ):
            raise UserError(f"{name} is not the filter [1, 3, 3, 1], the only one that is known here.")
    return {name: value for name, value in tensors.items() if not name.endswith(_FILTER)}


def settings_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of ``StyleGAN2`` that give tensors of these shapes. Raises UserError if they are of no such net."""
    blocks = sorted({int(name.split(".")[1][1:]) for name in tensors if _is_block(name)})
    layers = sum(1 for name in tensors if name.startswith("mapping.fc") and name.endswith(".weight"))
    try:
        first = tensors["mapping.fc0.weight"]
        widest = len(tensors["synthesis.b4.const"])
        narrowest = len(tensors[f"synthesis.b{blocks[-1]}.conv1.weight"])
        colours = len(tensors["synthesis.b4.torgb.bias"])
    except (KeyError, IndexError, TypeError):
        some = ", ".join(list(tensors)[:3]) or "nothing"
        raise UserError(f"Expected the tensors of a StyleGAN2-ADA generator (skip); found {some}, ...") from None
    return {
        "z_dim": first.shape[-1],
        "w_dim": first.shape[0],
        "img_resolution": blocks[-1],
        "img_channels": colours,
        "mapping_layers": layers,
        "channel_base": narrowest * blocks[-1],
        "channel_max": widest,
    }


def _is_block(name: str) -> bool:
    part = name.split(".")[1] if name.startswith("synthesis.b") else ""
    return part[1:].isdecimal() and len(part) < 6


def conv_clamp_of(generator: Module) -> float | None:
    """The bound on activations, which all layers must share (``check`` compares them)."""
    module: Any = generator
    for name in ("synthesis", "b4", "conv1"):
        module = module.table("_modules").get(name) if isinstance(module, Module) else None
    clamp = module.attributes.get("conv_clamp") if isinstance(module, Module) else None
    if clamp is not None and not (isinstance(clamp, int | float) and clamp > 0):
        raise UserError(f"Its conv_clamp is {clamp!r}; expected a positive number or None.")
    return None if clamp is None else float(clamp)


def check(theirs: Module, ours: StyleGAN2) -> None:
    """Compare the layers in the file with those of our network. Raises UserError naming the first difference."""
    _check_arguments(theirs.attributes.get("_init_kwargs"))
    _same(theirs, "", "Generator", {"c_dim": 0}, {"mapping", "synthesis"})
    mapping, layers = _part(theirs, "mapping"), [name for name, _ in ours.mapping.named_children()]
    _same(mapping, "mapping", "MappingNetwork", {"c_dim": 0}, set(layers))
    for name in layers:
        _same_affine(_part(mapping, name), f"mapping.{name}", ours.mapping.get_submodule(name), "lrelu")
    synthesis, blocks = _part(theirs, "synthesis"), dict(ours.body.named_children())
    _same(synthesis, "synthesis", "SynthesisNetwork", {}, set(blocks))
    for name, block in blocks.items():
        assert isinstance(block, Block)
        parts = dict(block.named_children())
        facts = {"architecture": "skip", "num_conv": len(parts) - 1, "num_torgb": 1}
        path, part = f"synthesis.{name}", _part(synthesis, name)
        _same(part, path, "SynthesisBlock", facts, set(parts))
        for inner, layer in parts.items():
            _same_layer(_part(part, inner), f"{path}.{inner}", layer)


def _check_arguments(arguments: Any) -> None:
    for name, value in arguments.items() if isinstance(arguments, Mapping) else ():
        if name not in _ARGUMENTS:
            raise UserError(f"Its generator was built with {name!r}, which is not known here.")
        if str(name).endswith("_kwargs"):
            for inner in value if isinstance(value, Mapping) else ():
                if inner not in _ARGUMENTS:
                    raise UserError(f"Its generator was built with {name}.{inner}, which is not known here.")


def _same_layer(theirs: Module, path: str, ours: nn.Module) -> None:
    if isinstance(ours, StyledConv):
        facts: dict[str, Any] = {"activation": "lrelu", "act_gain": math.sqrt(2), "use_noise": True, "padding": 1}
        facts |= {"up": 2 if ours.up else 1, "conv_clamp": ours.conv_clamp}
        _same(theirs, path, "SynthesisLayer", facts, {"affine"})
    else:
        assert isinstance(ours, ToRgb)
        facts = {"conv_clamp": ours.conv_clamp, "weight_gain": ours.weight_gain}
        _same(theirs, path, "ToRGBLayer", facts, {"affine"})
    _same_affine(_part(theirs, "affine"), f"{path}.affine", ours.affine, "linear")


def _same_affine(theirs: Module, path: str, ours: nn.Module, activation: str) -> None:
    assert isinstance(ours, Affine)
    facts = {"activation": activation, "weight_gain": ours.weight_gain, "bias_gain": ours.bias_gain}
    _same(theirs, path, "FullyConnectedLayer", facts, set())


def _part(module: Module, name: str) -> Module:
    part = module.table("_modules").get(name)
    if not isinstance(part, Module):
        raise UserError(f"Its {module.name} has no part {name!r}. Expected the generator of StyleGAN2-ADA.")
    return part


def _same(theirs: Module, path: str, name: str, facts: Mapping[str, Any], parts: set[str]) -> None:
    """Class, attributes and parts of one layer."""
    where = path or "The generator"
    if theirs.name != name:
        raise UserError(f"{where} is a {theirs.name}; expected a {name}.")
    for fact, expected in facts.items():
        value = theirs.attributes.get(fact)
        close = isinstance(value, float) and isinstance(expected, float) and math.isclose(value, expected)
        if not close and value != expected:
            raise UserError(f"{where} has {fact} {value!r}; only {expected!r} is built here.")
    for attribute in theirs.attributes:
        if not str(attribute).startswith("_") and attribute not in _IRRELEVANT and attribute not in facts:
            raise UserError(f"{where} has the setting {attribute!r}, which is not known here.")
    if extra := sorted(map(str, theirs.table("_modules").keys() - parts)):
        raise UserError(f"{where} has the further parts {', '.join(extra)}, which are not known here.")
