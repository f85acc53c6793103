"""The numbers of ``python -m benchmarks`` as a table and a picture of docs/performance.md.

python -m benchmarks.page
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "published-cpu.json"
PAGE, PLOT = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance.svg"
BEGIN, END = "<!-- measured:begin -->\n", "<!-- measured:end -->"


def table(found: dict[str, Any]) -> str:
    """One row for each case."""
    head = ("work", "unit", "published", "engine", "ratio (of pairs)", "goal", "floor", "peak memory")
    rows = [_row(*head, "the engine's time goes into", "results"), _row(*["---"] * 10)]
    for name, case in found["cases"].items():
        low, high = case["ratio_low"], case["ratio_high"]
        rows.append(
            _row(
                name,
                case["unit"],
                _time(case["published_s"]),
                _time(case["engine_s"]),
                f"**{case['ratio']:.2f}** ({low:.2f} to {high:.2f})",
                f"{case['goal']:g}" if case["goal"] else "-",
                f"{_time(case['floor_s'])} ({case['floor_by']})",
                "{published} and {engine} MiB".format(**case["peak_mib"]),
                ", ".join(f"{what} {100 * share:.0f} %" for what, share in case["spent_on"].items()),
                case["same"],
            )
        )
    grid = found["grid"]
    alone, shared = grid["alone_s"], grid["shared_s"]
    rows.append(
        _row(
            f"the default grid, {grid['runs']} runs, cold",
            "grid",
            _time(alone),
            _time(shared),
            f"**{alone / shared:.2f}**",
            "3",
            f"{_time(grid['chain_s'])} (the longest chain)",
            "-",
            f"{grid['stages_shared']} stages; each run on its own has {grid['stages_alone']}",
            "seconds of published runs, added up",
        )
    )
    return "\n".join(rows) + "\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _time(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 1:
        return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.0f} s"
    return f"{1000 * seconds:.1f} ms"


def draw(found: dict[str, Any]) -> str:
    """Milliseconds of a step against identities, restarts and pixels, all axes logarithmic."""
    wide, high, left, top, gap = 720, 240, 56, 24, 34
    panels = found["growth"]
    values = [ms for line in panels.values() for ms in line.values()]
    low, up = math.log10(min(values)) - 0.1, math.log10(max(values)) + 0.1
    each = (wide - left - gap * len(panels)) / len(panels)
    style = "font: 12px sans-serif; fill: #333"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" role="img" style="background: #fff">',
        "<title>Milliseconds of a step of GMI against identities, restarts and pixels of a side</title>",
    ]
    for index, (name, line) in enumerate(panels.items()):
        x0 = left + index * (each + gap)
        sizes = [math.log2(int(n)) for n in line]

        def place(size: float, ms: float, x0: float = x0, sizes: list[float] = sizes) -> tuple[float, float]:
            x = x0 + each * (size - sizes[0]) / (sizes[-1] - sizes[0] or 1)
            return x, top + (high - top - 52) * (up - math.log10(ms)) / (up - low)

        points = [place(math.log2(int(n)), ms) for n, ms in line.items()]
        along = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{along}" fill="none" stroke="#0072b2" stroke-width="1.8"/>')
        for (x, y), (n, ms) in zip(points, line.items(), strict=True):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#0072b2"/>')
            parts.append(f'<text x="{x:.1f}" y="{y - 7:.1f}" text-anchor="middle" style="{style}">{ms:.0f}</text>')
            parts.append(f'<text x="{x:.1f}" y="{high - 30}" text-anchor="middle" style="{style}">{n}</text>')
        parts.append(
            f'<text x="{x0 + each / 2:.1f}" y="{high - 10}" text-anchor="middle" style="{style}">{name}</text>'
        )
    parts.append(f'<text x="6" y="14" style="{style}">ms per step</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    found = json.loads(RESULTS.read_text())
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + table(found) + END + rest.split(END)[1])
    PLOT.write_text(draw(found))


if __name__ == "__main__":
    main()
