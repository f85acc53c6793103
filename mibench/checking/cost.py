"""What a method costs on the smallest track: seconds and memory of its own stage."""

from __future__ import annotations

from collections.abc import Iterator

from mibench.checking.bench import Bench
from mibench.checking.lines import Line
from mibench.planning.plan import Stage

MOST_SECONDS = 30.0
MOST_MIB = 4096


def cost_checks(bench: Bench, stage: Stage) -> Iterator[Line]:
    """Of the method's own stage."""
    own = bench.result(stage)[1]
    advice = f"At most {MOST_SECONDS:.0f} s here: a real track takes thousands of times as long."
    yield Line("time", own.seconds <= MOST_SECONDS, f"{own.seconds:.1f} s for {stage.kind}", advice)
    peak = own.environment.get("peak_memory_mib")
    used = "not known on this system" if peak is None else f"{peak} MiB, with torch and all"
    advice = f"At most {MOST_MIB} MiB here: do not keep what grows with the number of images."
    yield Line("memory", None if peak is None else peak <= MOST_MIB, used, advice)
