"""What commands print fits where it is read: on 80 columns, in a file, and after a slip."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import RenderableType

from mibench.cli import tables
from mibench.errors import unknown
from tests.factories import make_run

LONG = "tl+re[area=0.1:0.4,fill=image_mean,p=0.75]"


def printed(items: list[RenderableType], width: int, terminal: bool) -> str:
    stream = io.StringIO()
    out = tables.Out(file=stream, force_terminal=terminal, width=width, highlight=False, color_system=None)
    for item in items:
        out.show(item)
    return stream.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_identifier_and_no_number_is_cut_on_a_terminal(width: int) -> None:
    runs = [make_run(defense="re", defense_label=LONG, seed=seed, run=f"{seed:x}" * 12) for seed in range(2)]
    shown = printed([*tables.results(runs), tables.seconds(runs), tables.metrics(runs[0])], width, True)
    whole = printed([*tables.results(runs), tables.seconds(runs), tables.metrics(runs[0])], 10**4, False)
    assert "…" not in shown and shown.count(LONG) == whole.count(LONG) == 4
    assert all(run.run in shown for run in runs)
    numbers = re.compile(r"\d+\.\d+(?: \[[^]]*\])?")
    assert sorted(numbers.findall(shown)) == sorted(numbers.findall(whole))
    assert max(len(line) for line in shown.splitlines() if line.startswith(" ")) <= width


def test_a_narrow_table_stays_a_table() -> None:
    table = tables.metrics(make_run())
    assert "┃ metric" in printed([table], 200, True)


def test_a_slip_lists_the_nearest_few() -> None:
    known = [f"vit_base_patch{i}_clip_{i * 7}" for i in range(1300)] + ["resnet18", "resnet34"]
    said = str(unknown("architecture", "resnt18", known))
    assert "Did you mean 'resnet18'" in said and "and 1294 more" in said.replace(",", "") and len(said) < 400
    assert len(str(unknown("run", "x" * 100_000, known))) < 500
    assert str(unknown("track", "x", [])) == "Unknown track 'x'. There is none."
    assert str(unknown("kind", "b", ["a"])).endswith("Known: a.")
