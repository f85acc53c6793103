"""Published checkpoints: their tensors have names of their own, which each network translates to its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mibench.boundary import sentences
from mibench.errors import UserError

# BatchNorm's step counter: newer than some checkpoints, and unused here.
_COUNTER = "num_batches_tracked"
# What training scripts wrap a state dict in, and what they call the network that they train.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "generator", "netG", "discriminator")
_PREFIXES = ("model.", "net.", "network.", "generator.")
# What DataParallel, AveragedModel, torch.compile, Opacus, FSDP and checkpointing put around a network or a part of it.
_AROUND = {"module", "_module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# What training keeps beside the layers: losses, metrics, counters of averages.
_BESIDE = re.compile(
    r"(?:\w+_)?(?:criterion|criteria|loss|losses|loss_fn|loss_func|metric|metrics|acc|accuracy|f1|auroc|confmat)(?:_\w+)?"
    r"|n_averaged|num_updates|global_step"
)
_NUMBERS = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
_NUMBERS |= {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def tensors_in(content: Any) -> dict[str, Tensor]:
    """The state dict in the content of a checkpoint, without wrappers ({"state_dict": ...}) and without what
    DataParallel (``module.``), torch.compile and the like put before every name. Raises UserError if there is none."""
    return next(readings(content))


def readings(content: Any) -> Iterator[dict[str, Tensor]]:
    """The state dicts that the content of a checkpoint may hold, the likeliest first: all of it (``tensors_in``), and
    what is below a wrapper's or a network's name where other things, a counter or a loss, lie beside that. Raises
    UserError if there is none."""
    yield from _below(_table(content))


def _below(table: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    tensors = _unwrapped(table)
    yield tensors
    starts = [f"{name}." for name in _AROUND] + list(_PREFIXES)
    for prefix in starts:
        inner = _part(table, prefix)
        if 0 < len(inner) < len(table):
            yield from _below(inner)


def _table(content: Any) -> dict[str, Tensor]:
    table = content
    while isinstance(table, Mapping):
        inner = next((table[key] for key in _WRAPPERS if isinstance(table.get(key), Mapping)), None)
        if inner is None or inner is table:
            break
        table = inner
    if not isinstance(table, Mapping):
        kind = "one tensor" if isinstance(table, Tensor) else type(table).__name__
        raise UserError(f"Expected a state dict, tensors by name; found {kind}.")
    other = [str(name) for name, value in table.items() if not isinstance(value, Tensor) or not isinstance(name, str)]
    if other:
        raise UserError(f"Expected a state dict, tensors by name; found no tensor at {_listing(other)}.")
    for name, value in table.items():
        if odd := odd_kind(value):
            raise UserError(f"The tensor {name} is {odd}. Expected plain numbers: save the network as it was trained.")
    return dict(table)


def odd_kind(value: Tensor) -> str | None:
    """What a tensor is that is not plain numbers in memory, or None."""
    if nn.parameter.is_lazy(value):
        return "lazy: it has no shape before the network has seen an image"
    if value.is_quantized:
        return "quantised"
    if value.layout != torch.strided or value.is_nested:
        return f"sparse or nested ({value.layout})"
    if value.device.type == "meta":
        return "on the meta device: it has a shape and no numbers"
    return None if value.dtype in _NUMBERS else f"of type {str(value.dtype).removeprefix('torch.')}"


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what is around the whole or around parts of it, and without a network's name before every tensor."""
    plain = {_plain(name): value for name, value in tensors.items()}
    tensors = plain if len(plain) == len(tensors) else tensors
    while tensors and (prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), None)):
        tensors = _part(tensors, prefix)
    return tensors


def _plain(name: str) -> str:
    *parts, last = name.split(".")
    return ".".join([*(part for part in parts if part not in _AROUND), last])


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def load_published(net: nn.Module, state: Mapping[str, Any]) -> list[str]:
    """Load a published state dict into ``net``, in place; what was left aside, by published names.

    ``state`` may be wrapped and prefixed (see ``readings``), and training may have kept losses, metrics and counters
    beside the network. ``net.published_names``, if there is one, maps the published name of a part (``fc_layer``) to
    ours (``head``); ``net.published_unused`` names parts of the file that the network does without. Raises UserError,
    and changes nothing, if a tensor is missing, unexpected or of the wrong shape; the message has the published names.
    """
    names, unused = getattr(net, "published_names", {}), getattr(net, "published_unused", ())
    table = _table(state)
    fits = [_fit(net, reading, names, unused) for reading in (*_below(table), *_elsewhere(net, table, names))]
    whole = [fit for fit in fits if not fit.problems]
    if not whole:
        raise _does_not_fit(net, min(fits, key=lambda fit: fit.count).problems)
    if any(not _same(whole[0].ours, fit.ours) for fit in whole[1:]):
        raise UserError(
            "The checkpoint holds such a network more than once, with different numbers, as EMA weights or a teacher "
            f"are: its names begin with {_listing(sorted({name.partition('.')[0] for name in table}))}. Save the state "
            "dict of the one that is meant."
        )
    _copy(net, whole[0].ours)
    kept = {id(value) for value in whole[0].ours.values()}
    return [name for name, value in table.items() if id(value) not in kept and not name.endswith(_COUNTER)]


def _elsewhere(net: nn.Module, table: dict[str, Tensor], names: Mapping[str, str]) -> Iterator[dict[str, Tensor]]:
    """What lies below the name of any part that holds all of the network: ``backbone.fc.weight``."""
    backwards = {mine: published for published, mine in names.items()}
    expected = [_plain(_rename(key, backwards)) for key in net.state_dict() if not key.endswith(_COUNTER)]
    if not expected:
        return
    tensors = _unwrapped(table)
    for name in tensors:
        prefix = name.removesuffix(expected[0])
        if prefix != name and prefix.endswith(".") and all(prefix + other in tensors for other in expected):
            yield _part(tensors, prefix)


def load_parts(
    net: nn.Module,
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    unused: Sequence[str] = (),
    fresh: Sequence[str] = (),
    optional: bool = False,
) -> None:
    """Load tensors with published names into ``net``, in place; see ``load_published``. Parts of ``net`` called
    ``fresh`` may be missing; if ``optional``, they are loaded where all their shapes fit and else stay as they are."""
    fit = _fit(net, tensors, names, unused, fresh, optional)
    if fit.problems:
        raise _does_not_fit(net, fit.problems)
    _copy(net, fit.ours)


@dataclass(frozen=True)
class _Fit:
    """Tensors under our names, and what is wrong with them, in sentences; ``count``: with how many."""

    ours: dict[str, Tensor]
    problems: list[str] = field(default_factory=list)
    count: int = 0


def _fit(
    net: nn.Module,
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    unused: Sequence[str] = (),
    fresh: Sequence[str] = (),
    optional: bool = False,
) -> _Fit:
    expected = net.state_dict()
    own = {key: _plain(key) for key in expected}
    of_plain = {plain: key for key, plain in own.items()} if len(set(own.values())) == len(own) else {}
    theirs = {name: value for name, value in tensors.items() if not _is_part(name, unused)}
    ours = {of_plain.get(key := _rename(name, names), key): value for name, value in theirs.items()}
    ours = {k: v for k, v in ours.items() if k in expected or not _BESIDE.fullmatch(k.partition(".")[0])}
    if optional:
        for part in fresh:
            named = [key for key in {**ours, **expected} if _is_part(key, (part,))]
            if any(key not in ours or key not in expected or ours[key].shape != expected[key].shape for key in named):
                ours = {key: value for key, value in ours.items() if key not in named}
    backwards = {mine: published for published, mine in names.items()}

    def published(keys: Iterable[str]) -> list[str]:
        return [_rename(key, backwards) for key in keys]

    missing = published(
        key for key in expected if key not in ours and not key.endswith(_COUNTER) and not _is_part(key, fresh)
    )
    unexpected = published(key for key in ours if key not in expected)
    mis_shaped = [
        f"{_rename(key, backwards)} {tuple(value.shape)} instead of {tuple(expected[key].shape)}"
        for key, value in ours.items()
        if key in expected and value.shape != expected[key].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("wrong shape", mis_shaped))
    problems = [f"{kind}: {_listing(entries)}" for kind, entries in kinds if entries]
    return _Fit(ours, problems, len(missing) + len(unexpected) + len(mis_shaped))


def _does_not_fit(net: nn.Module, problems: Sequence[str]) -> UserError:
    return UserError(
        f"This checkpoint does not fit {type(net).__name__}. {'; '.join(problems)}. Expected the "
        "published state dict of this very architecture and number of classes."
    )


def _copy(net: nn.Module, ours: Mapping[str, Tensor]) -> None:
    expected = net.state_dict()
    with torch.no_grad():
        for key, value in ours.items():
            with sentences(f"The tensor {key} cannot be copied into {type(net).__name__}"):
                expected[key].copy_(value)


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    equal = (value is other[key] or torch.equal(value, other[key]) for key, value in one.items() if key in other)
    return one.keys() == other.keys() and all(equal)


def _is_part(name: str, parts: Sequence[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _rename(key: str, names: Mapping[str, str]) -> str:
    """``key`` with the longest of its leading parts that ``names`` knows translated."""
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        head = ".".join(parts[:end])
        if head in names:
            return ".".join([names[head], *parts[end:]])
    return key


def _listing(entries: list[str], limit: int = 5) -> str:
    more = f" and {len(entries) - limit} more" if len(entries) > limit else ""
    return ", ".join(entries[:limit]) + more
