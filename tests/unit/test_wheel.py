"""What a wheel carries: the board of an installed package is that of a checkout."""

from __future__ import annotations

import tomllib
from pathlib import Path

from mibench.cli.site_data import catalogue
from mibench.publish.aggregate import current_runs
from mibench.publish.figures_file import load_reported
from mibench.publish.results import load_results
from mibench.registry import Registry

ROOT = Path(__file__).parents[2]


def test_an_installed_wheel_shows_the_board_of_a_checkout(tmp_path: Path) -> None:
    """From the list of what the wheel takes along, without building it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for source, place in project["force-include"].items():
        target = tmp_path / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(ROOT / source)
    bundled = tmp_path / "mibench" / "_bundled"
    here, installed = Registry(ROOT), Registry(bundled)
    runs, carried = load_results(ROOT / "results"), load_results(bundled / "results")
    known, same = catalogue(here, runs), catalogue(installed, carried)
    assert len(runs) > 200 and current_runs(carried, same) == current_runs(runs, known) and same == known
    assert load_reported(bundled / "results" / "reported.csv") == load_reported(ROOT / "results" / "reported.csv")
    read = {"site", "defenses", "attacks", "suites", "results", "registry.yaml"}
    assert {path.name for path in bundled.iterdir()} == read and "mibench" in project["packages"]
