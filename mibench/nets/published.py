"""Published checkpoints: their tensors have names of their own, which each network translates to its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mibench.errors import UserError

# BatchNorm's step counter: newer than some checkpoints, and unused here.
_COUNTER = "num_batches_tracked"


def load_published(net: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a published state dict into ``net``, in place.

    ``state`` may be wrapped as ``{"state_dict": ...}`` and its keys may carry DataParallel's ``module.``.
    ``net.published_names``, if there is one, maps the published name of a part (``fc_layer``) to ours
    (``head``). Raises UserError, and changes nothing, if a tensor is missing, unexpected or of the wrong
    shape; the message gives the published names.
    """
    names: Mapping[str, str] = getattr(net, "published_names", {})
    tensors: Mapping[str, Tensor] = state.get("state_dict", state)
    theirs = {name.removeprefix("module."): value for name, value in tensors.items()}
    ours = {_rename(name, names): value for name, value in theirs.items()}
    expected = net.state_dict()
    backwards = {mine: published for published, mine in names.items()}

    def published(keys: Iterable[str]) -> list[str]:
        return [_rename(key, backwards) for key in keys]

    missing = published(key for key in expected if key not in ours and not key.endswith(_COUNTER))
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
