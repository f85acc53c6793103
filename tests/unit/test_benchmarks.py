"""The engine and the plain implementations of the published loops give the same; the page has the numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import page  # noqa: E402
from benchmarks.measure import close  # noqa: E402


def test_both_give_the_same(tmp_path: Path) -> None:
    """All cases in small; each compares its two results."""
    out = tmp_path / "quick.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--out", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert len(found["cases"]) == 13 and all(case["floor_s"] > 0 for case in found["cases"].values())
    assert found["grid"]["stages_shared"] < found["grid"]["stages_alone"]


def test_a_difference_stops_the_comparison() -> None:
    assert close(1e-3)(torch.ones(2), torch.ones(2)) == "0e+00 apart"
    with pytest.raises(AssertionError, match="apart, more than"):
        close(1e-3)(torch.ones(2), torch.tensor([1.0, 1.01]))


def test_the_page_has_the_numbers() -> None:
    found = json.loads(page.RESULTS.read_text())
    assert page.BEGIN + page.table(found) + page.END in page.PAGE.read_text()
    assert page.PLOT.read_text() == page.draw(found)
    assert all(case["pairs"] >= 5 for case in found["cases"].values())
