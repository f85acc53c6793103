"""No context of an attack or a prior leads to anything private."""

from __future__ import annotations

import gc
import inspect
import itertools
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from assaults import assault
from plugins import ATTACKS, PRIORS, PROBE, Bench
from torch import Tensor

from mibench.contracts import Classifier, ImageSet
from mibench.data import TrackData
from mibench.planning.plan import Plan
from mibench.registry import Registry
from mibench.stages import prior
from mibench.stages.job import Job
from mibench.store.artifacts import Store
from mibench.weights.starting import weights_folder

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")


def test_prior_context_leads_to_nothing_private(bench: Bench, tmp_path: Path) -> None:
    stage = bench.compute(bench.plan(prior_id=PRIORS[0]), "prior")["prior"]
    job = bench.job(stage, tmp_path)
    assert_no_way_to_private(prior._Context(job, None), job)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_told_nothing_private(bench: Bench, name: str, tmp_path: Path) -> None:
    case = assault(bench, name, tmp_path)
    assert_no_way_to_private(case.ctx, case.job)


def test_a_planted_private_image_is_found(bench: Bench, tmp_path: Path) -> None:
    case = assault(bench, PROBE, tmp_path)
    images = torch.from_numpy(np.array(case.job.data.private_train()[0]))
    for secret in (images, images.float() / 255, images[2:3], case.job, case.job.data, case.job.private_train):
        case.ctx.where = {"deep": [lambda secret=secret: secret]}  # type: ignore[attr-defined]
        with pytest.raises(AssertionError, match="leads to"):
            assert_no_way_to_private(case.ctx, case.job)


def assert_no_way_to_private(ctx: Any, job: Job) -> None:
    """Follow every attribute, container, bound method and closure from ``ctx``."""
    data = job.data
    secret = [np.array(part()[0]).astype(np.float32) / 255 for part in (data.private_train, data.private_test)]
    private = {image.tobytes() for part in secret for image in part}
    seen: set[int] = set()
    stack: list[tuple[str, Any]] = [("ctx", ctx)]
    while stack:
        way, item = stack.pop()
        if id(item) in seen or isinstance(item, str | int | float | type | types.ModuleType | None):
            continue
        seen.add(id(item))
        assert not isinstance(item, Job | Store | Registry | TrackData | Classifier | Plan), f"{way} leads to {item!r}"
        if isinstance(item, Path):
            allowed = (job.workdir, weights_folder(job.store.home))
            assert any(item.is_relative_to(folder) for folder in allowed), f"{way} leads to {item}"
        if isinstance(item, ImageSet):
            assert item.images.shape[0] == job.track.public.images, f"{way} leads to other images"
        if isinstance(item, Tensor | np.ndarray):
            array = np.asarray(item)
            array = array.astype(np.float32) / 255 if array.dtype == np.uint8 else array
            if array.ndim >= 3:
                rows = array.reshape(-1, *array.shape[-3:])
                assert not any(np.ascontiguousarray(row).tobytes() in private for row in rows), f"{way} leads to faces"
            continue
        stack += [(f"{way}{name}", value) for name, value in steps(item)]


def steps(item: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(item, dict):
        yield from ((f"[{key!r}]", value) for key, value in item.items())
    elif isinstance(item, list | tuple | set | frozenset):
        yield from ((f"[{index}]", value) for index, value in enumerate(item))
    if inspect.ismethod(item):
        yield ".__self__", item.__self__
        item = item.__func__
    if inspect.isfunction(item):
        cells = zip(item.__code__.co_freevars, item.__closure__ or (), strict=True)
        yield from ((f".<{name}>", cell.cell_contents) for name, cell in cells)
        defaults = itertools.chain(item.__defaults__ or (), (item.__kwdefaults__ or {}).values())
        yield from ((f".<default {index}>", value) for index, value in enumerate(defaults))
    elif hasattr(item, "__dict__"):
        yield from ((f".{name}", value) for name, value in vars(item).items())
    elif isinstance(item, types.GeneratorType | types.BuiltinMethodType):
        yield from (("<inside>", value) for value in gc.get_referents(item))
