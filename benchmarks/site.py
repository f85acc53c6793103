"""How long a site of 2,000 runs takes to build, what its index weighs and when it is interactive.

    python benchmarks/site.py

Made-up runs with the points of their feature spaces (30 identities of 48 points), no pictures. Interactive: the figure
and the table stand, measured in Chromium from disk. Prints JSON.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from made_up import make_catalogue, make_run

from mibench.publish import SiteOptions, build_site
from mibench.records import RunRecord
from mibench.stages.features import AREA, DRAWS, identity, summary


def made_up(features: dict[str, Any]) -> list[RunRecord]:
    """1,980 runs: 22 defenses, the undefended model one of them, 15 attacks, 3 seeds, 2 tracks."""
    cells = [(f"d{d}" if d else "none", f"a{a}", t) for d in range(22) for a in range(15) for t in ("orl32", "other")]
    return [make_run(defense=d, attack=a, track=t, seed=s, features=features) for d, a, t in cells for s in range(3)]


def points(path: Path) -> dict[str, Any]:
    """Write one ``features.json`` as the stage does; the summary that goes with it."""
    rng = np.random.default_rng(0)
    sets = [[rng.normal(size=(count, 64)) for count in (4, 40, 4)] for _ in range(30)]
    rows = [{"label": label} | identity(*three) for label, three in enumerate(sets)]
    facts = {"draws": DRAWS, "area": list(AREA), "fill": [0.4]}
    path.write_text(json.dumps({"schema": 1, **facts, "identities": rows}))
    return facts | summary(rows)


def interactive(index: Path) -> float | None:
    """Seconds from opening the page to a drawn figure; None without Chromium."""
    program = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if program is None:
        return None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        start = time.perf_counter()
        page.goto(index.as_uri())
        page.wait_for_selector(".plot .mark", state="attached")
        seconds = time.perf_counter() - start
        browser.close()
    return seconds


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        feature_space = Path(folder) / "features.json"
        runs = made_up(points(feature_space))
        options = SiteOptions(feature_source=lambda run: feature_space)
        start, used = time.perf_counter(), sum(os.times()[:4])
        index = build_site(runs, make_catalogue(), Path(folder) / "site", options)
        seconds, cpu = time.perf_counter() - start, sum(os.times()[:4]) - used  # children's too
        loaded = [index, *(index.parent / "static").glob("*.*")]
        loaded += [p for p in (index.parent / "static/vendor").iterdir() if p.suffix in (".js", ".css")]
        result: dict[str, Any] = {
            "runs": len(runs),
            "build_seconds": round(seconds, 2),
            "build_cpu_seconds": round(cpu, 2),
            "index_bytes": index.stat().st_size,
            "index_with_scripts_and_styles_bytes": sum(path.stat().st_size for path in loaded),
            "interactive_seconds": (found := interactive(index)) and round(found, 2),
            "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
