"""What is said while one waits: it counts down from its first line, whatever came before."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from mibench.cli import progress
from mibench.planning.plan import Stage
from mibench.stages.events import Progress, Started

STAGE = Stage("invert", "a" * 64, "gmi", 1, {}, {}, 0, "orl32", title="invert gmi")


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def said(capsys: pytest.CaptureFixture[str]) -> list[float]:
    return [float(number) for number in re.findall(r"about (\d+) s left", capsys.readouterr().err)]


@pytest.mark.parametrize(("resumed", "before"), [(0, []), (500, []), (0, [("pool", 30, 1000)])])
def test_lines_count_down_from_the_first(
    resumed: int, before: list[tuple[str, int, int]], clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step takes 0.1 s. A slow start, another phase and steps of an earlier attempt do not matter."""
    listen = progress._lines(1)
    listen(STAGE, Started(device="cpu"))
    clock.now += 8  # torch is loaded
    for name, step, steps in before:
        listen(STAGE, Progress(name=name, step=step, steps=steps))
        clock.now += 50
    for step in range(resumed + 1, 1001):
        listen(STAGE, Progress(name="gmi", step=step, steps=1000))
        clock.now += 0.1
    seconds = said(capsys)
    first = (1000 - resumed) / 10
    assert len(seconds) >= 4 and first - 12 <= seconds[0] <= first + 1
    assert all(8 <= one - other <= 12 for one, other in pairwise(seconds))


def test_decoding_counts_down(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.decoding("mine", quiet=False) as tell:
        for done in range(400, 1001, 10):
            tell("decoding", done, 1000)
            clock.now += 1
    seconds = said(capsys)
    assert seconds[0] == pytest.approx(50, abs=2) and seconds == sorted(seconds, reverse=True)
