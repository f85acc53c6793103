"""Published checkpoints: their tensors have names of their own, which each network translates to its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mibench.errors import UserError

# BatchNorm's step counter: newer than some checkpoints, and unused here.
_COUNTER = "num_batches_tracked"
# What training scripts wrap a state dict in, and what wrappers of networks put before every name.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "generator", "netG", "discriminator")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "generator.")


def tensors_in(content: Any) -> dict[str, Tensor]:
    """The state dict in the content of a checkpoint, without wrappers ({"state_dict": ...}) and without what
    DataParallel (``module.``), torch.compile and the like put before every name. Raises UserError if there is none."""
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
    tensors = dict(table)
    while tensors and (prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), None)):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def load_published(net: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a published state dict into ``net``, in place.

    ``state`` may be wrapped and prefixed (see ``tensors_in``). ``net.published_names``, if there is one, maps the
    published name of a part (``fc_layer``) to ours (``head``); ``net.published_unused`` names parts of the file that
    the network does without. Raises UserError, and changes nothing, if a tensor is missing, unexpected or of the wrong
    shape; the message gives the published names.
    """
    load_parts(net, tensors_in(state), getattr(net, "published_names", {}), getattr(net, "published_unused", ()))


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
    theirs = {name: value for name, value in tensors.items() if not _is_part(name, unused)}
    ours = {_rename(name, names): value for name, value in theirs.items()}
    expected = net.state_dict()
    if optional:
        for part in fresh:
            own = [key for key in {**ours, **expected} if _is_part(key, (part,))]
            if any(key not in ours or key not in expected or ours[key].shape != expected[key].shape for key in own):
                ours = {key: value for key, value in ours.items() if key not in own}
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
    problems = [
        f"{kind}: {_listing(entries)}"
        for kind, entries in (("missing", missing), ("unexpected", unexpected), ("wrong shape", mis_shaped))
        if entries
    ]
    if problems:
        raise UserError(
            f"This checkpoint does not fit {type(net).__name__}. {'; '.join(problems)}. Expected the "
            "published state dict of this very architecture and number of classes."
        )
    with torch.no_grad():
        for key, value in ours.items():
            expected[key].copy_(value)


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
