"""Fill a state dict with values that depend only on each tensor's name and shape."""

import zlib

import numpy as np
import torch


def values(key: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    noise = rng.standard_normal(shape)
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "running_var":
        return 1 + 0.1 * np.abs(noise)
    if leaf == "running_mean" or (len(shape) <= 1 and leaf != "weight"):
        return 0.1 * noise
    if len(shape) <= 1:
        return 1 + 0.1 * noise
    return noise / np.sqrt(np.prod(shape[1:]))


def fill(module: torch.nn.Module, keep=()) -> dict[str, list[int]]:
    state = module.state_dict()
    spec = {}
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked") or key.rsplit(".", 1)[-1] in keep:
            continue
        spec[key] = list(tensor.shape)
        state[key] = torch.from_numpy(np.asarray(values(key, tuple(tensor.shape)))).to(tensor.dtype)
    module.load_state_dict(state)
    return spec


def inputs(name: str, shape, kind="normal"):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    a = rng.standard_normal(shape) if kind == "normal" else rng.random(shape)
    return torch.from_numpy(a.astype(np.float32))
