"""The default track on real faces, as README's first command runs it. One seed here; three are recorded in results/.

``MIBENCH_TEST_HOME`` may name a store in which that command has already been run (CI does so); else it is computed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from once import Once

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def home(once: Once) -> Path:
    """Two workers may fill it together: what one computes, the other waits for."""
    given = os.environ.get("MIBENCH_TEST_HOME")
    return Path(given) if given else once("default-track", Path.mkdir)


def _object(home: Path, *arguments: str) -> list[dict[str, Any]]:
    """The runs, those that were asked for first."""
    command = [sys.executable, "-m", "mibench", "run", "--json", "--quiet", "--device", "cpu", *arguments]
    done = subprocess.run(command, env=os.environ | {"MIBENCH_HOME": str(home)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    runs: list[dict[str, Any]] = json.loads(done.stdout)["runs"]
    return runs


def _run(home: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    """The runs by attack, and in these by defense; controls run by themselves."""
    found: dict[str, dict[str, Any]] = {}
    for run in _object(home, *arguments):
        found.setdefault(run["attack"], {})[run["defense_label"]] = run
    return found


def _value(run: dict[str, Any], metric: str) -> float:
    return float(run["metrics"][metric]["value"])


def test_kedmi_reads_faces_out_of_the_undefended_target(home: Path) -> None:
    everything = _run(home, "--defense", "re", "--attack", "kedmi")
    runs = everything["kedmi"]
    assert {attack: list(by_defense) for attack, by_defense in everything.items()} == {
        "kedmi": ["none", "re", "matched[like=re]"],
        "floor": ["none", "re", "matched[like=re]"],
        "ceiling": ["none"],
        "photos": ["none"],
    }
    for run in runs.values():
        assert _value(run, "nat1") > 0.93
        assert run["metrics"]["nat1"]["n"] == 180
    assert _value(runs["none"], "att1") >= 10 / 30
    assert _value(runs["none"], "att1_step0") < 5 / 30
    again = _run(home, "--defense", "re", "--attack", "kedmi")["kedmi"]
    assert all(run["cached"] for run in again.values())
    assert {k: v["metrics"] for k, v in again.items()} == {k: v["metrics"] for k, v in runs.items()}


def test_ppa_reads_the_undefended_target_and_strong_random_erasing_hides_some_of_it(home: Path) -> None:
    everything = _run(home, "--defense", "re[strong]", "--attack", "ppa")
    runs = everything["ppa"]
    assert _value(runs["none"], "att1") > 0.75
    assert _value(runs["none"], "att1") - _value(runs["re[strong]"], "att1") >= 0.15
    assert _value(runs["none"], "att1") > _value(runs["none"], "att1_step0")
    majority = [_value(everything[name]["none"], "att_maj") for name in ("floor", "ppa", "ceiling", "photos")]
    assert majority == sorted(majority) and majority[1] > 2 * majority[0]


def test_another_persons_photos_convince_no_judge(home: Path) -> None:
    """Real photos as reconstructions give what the judges know of them; under other people's names, nothing."""
    run = _object(home, "--attack", "photos[others]")[0]
    assert run["attack"] == "photos" and run["attack_params"] == {"shift": 1}
    assert _value(run, "att_maj") == 0
    for judge in ("att1", "att1_e2", "att1_e3"):
        assert _value(run, judge) <= 1 / 30, judge
