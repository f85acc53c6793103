"""How many identities fit on a device at once is found once: the next run of the same attack begins with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mibench.checking.bench import Bench
from mibench.contracts import Oracle
from mibench.planning.plan import make_plan
from mibench.records import Seeds
from mibench.registry import Registry
from mibench.stages import invert

FITS = 3


class Tight(Oracle):
    """A device on which no more than ``FITS`` identities fit."""

    refused = 0

    def output(self, images: torch.Tensor, rows: Any = None) -> Any:
        if rows is not None and len(rows.label.unique()) > FITS:
            Tight.refused += 1
            raise torch.OutOfMemoryError("full")
        return super().output(images, rows)


def test_the_size_is_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(Registry(), tmp_path)
    first = bench.plan(attack="miface")
    [planned] = first.runs
    second = make_plan([replace(planned.cell, seeds=Seeds.of(1))], bench._prior)
    others = make_plan([replace(planned.cell, attack=replace(planned.cell.attack, id="other"))], bench._prior)
    plain = {path.name: path.read_bytes() for path in pictures(bench, bench.compute(first, "invert"))}
    again = bench.again()
    again.lend(bench, first, ("target",))
    monkeypatch.setattr(invert, "Oracle", Tight)
    tight = pictures(again, again.compute(first, "invert"))
    assert Tight.refused > 0
    assert {path.name: path.read_bytes() for path in tight} == plain, "the block never changes a result"
    refused, Tight.refused = Tight.refused, 0
    again.compute(second, "invert")
    assert Tight.refused == 0, f"another seed asked {refused} times again"
    known = json.loads((again.home / "cache" / "blocks.json").read_text())
    [size] = known.values()
    assert 0 < size <= FITS
    job = again.job(next(s for s in others.stages.values() if s.kind == "invert"), tmp_path)
    assert invert._BlockSize(job).size == invert.LARGEST_BLOCK, "another attack finds its own"


def pictures(bench: Bench, stage: Any) -> list[Path]:
    return sorted((bench.store.path(stage.kind, stage.key) / "images").glob("*.png"))
