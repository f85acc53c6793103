"""Which of the sets of weights in a checkpoint is meant: training keeps averages (EMA, SWA), teachers and earlier bests
beside the network, and all of them fit it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mibench.errors import UserError
from mibench.weights.fit import tensors_in

DEPTH = 3


def choose(content: Any, network: nn.Module, entry: str | None) -> Any:
    """The part of a checkpoint's content that ``network`` is loaded from: what ``entry`` names, or else the only set of
    weights that fits it; all of it where none does, for whoever says why. Raises UserError where several that differ
    fit, or nothing is called ``entry``."""
    entries = dict(_entries(content))
    if entry is not None:
        if entry not in entries:
            raise UserError(f"It has no entry {entry!r}. It has: {', '.join(filter(None, entries)) or 'none by name'}.")
        return entries[entry]
    fitting: dict[str, dict[str, Tensor]] = {}
    for name, part in entries.items():
        tensors = _fitting(part, network)
        if tensors is not None and not any(_equal(tensors, other) for other in fitting.values()):
            fitting[name] = tensors
    if len(fitting) > 1:
        raise UserError(
            f"It holds {len(fitting)} sets of weights that fit and differ: {', '.join(fitting)}. Say which of them "
            f"your network runs with, such as --entry {next(reversed(fitting))}."
        )
    return next(iter(fitting.values()), content)


def _entries(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Everything in a checkpoint that holds tensors by name, parents first: dictionaries by their path, and the parts
    of a flat one by the first word of their names."""
    if not isinstance(content, Mapping):
        return
    own = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if own:
        yield name, own
        firsts = dict.fromkeys(key.partition(".")[0] for key in own if "." in key)
        for first in firsts if len(firsts) > 1 else ():
            part = {key.partition(".")[2]: value for key, value in own.items() if key.startswith(f"{first}.")}
            yield f"{name}.{first}".lstrip("."), part
    for key, value in content.items() if depth < DEPTH else ():
        if isinstance(key, str):
            yield from _entries(value, f"{name}.{key}".lstrip("."), depth + 1)


def _fitting(part: Any, network: nn.Module) -> dict[str, Tensor] | None:
    """The tensors under the network's names, if it is whole with them."""
    try:
        tensors = tensors_in(part)
    except UserError:
        return None
    expected = {
        key: value.shape for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")
    }
    if any(key not in tensors or tensors[key].shape != shape for key, shape in expected.items()):
        return None
    return {key: tensors[key] for key in network.state_dict() if key in tensors}


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        value is other[key] or torch.equal(value, other[key]) for key, value in one.items()
    )
