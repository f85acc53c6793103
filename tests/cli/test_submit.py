"""From finished runs to a row on the leaderboard: packed, verified, accepted and computed again, as users do it."""

from __future__ import annotations

import getpass
import json
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from factories import make_run
from tiny import Cli

from mibench.publish.results import load_results
from mibench.records import MetricValue, RunRecord
from mibench.submission.compare import compare, outcome


def copy_of(finished: Cli, folder: Path) -> Cli:
    """The finished home, and a root in which results may be written."""
    shutil.copytree(finished.root, folder / "root", symlinks=True)
    return Cli(finished.copy(folder).home, folder / "root")


def run_of(finished: Cli, defense: str) -> str:
    runs = json.loads(finished.first.stdout)["runs"]
    return str(next(run["run"] for run in runs if run["defense"] == defense))


def row_badges(cli: Cli, defense: str) -> str:
    """The badges beside a defense on the track's page."""
    page = (cli.home / "site" / "index.html").read_text().partition('class="results matrix')[2]
    return page.split(f"defense/{defense}.html", 1)[1].split("</th>", 1)[0]


def test_pack_shows_asks_and_says_nothing_of_this_machine(finished: Cli, tmp_path: Path) -> None:
    run, out = run_of(finished, "re"), tmp_path / "out"
    shown = finished("submit", "pack", run, "--out", str(out), code=2)
    assert "nobody is here to confirm" in shown.stderr and not out.exists()
    for text in ("defense re: ", "TMLR 2025", "plugins/defenses/re.py", "weights/", "No private image"):
        assert text in shown.stdout, text
    finished("submit", "pack", run, "--out", str(out), "--yes")
    words = [str(finished.home), str(Path.home()), str(finished.root), socket.gethostname(), getpass.getuser()]
    for path in filter(Path.is_file, out.rglob("*")):
        text = path.read_bytes().decode(errors="replace")
        assert not [word for word in words if len(word) > 4 and word in text], path
    assert not list(out.rglob("*.png"))
    assert json.loads(finished("submit", "verify", str(out), "--json").stdout)["ok"] is True
    archive = shutil.make_archive(str(tmp_path / "sent"), "zip", out)
    lines = finished("submit", "verify", archive).stdout.splitlines()
    assert lines and all(line.startswith(("ok ", "note ")) for line in lines)
    again = finished("submit", "pack", run, "--out", str(tmp_path), "--yes", code=2)
    assert "exists and is no submission" in again.stderr


def test_a_changed_submission_is_refused_with_exit_code_1(finished: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    finished("submit", "pack", run_of(finished, "none"), "--out", str(out), "--yes")
    path = next(out.glob("stages/evaluate-*.json"))
    path.write_text(path.read_text().replace("0.", "1.", 1))
    done = finished("submit", "verify", str(out), code=1)
    assert done.stdout.splitlines()[-1].startswith("REFUSED  hashes")
    answer = json.loads(finished("submit", "verify", str(out), "--json", code=1).stdout)
    assert answer["ok"] is False and [check["check"] for check in answer["checks"]] == ["files", "index", "hashes"]
    assert "Expected a folder or archive" in finished("submit", "verify", str(tmp_path / "no"), code=3).stderr


def test_accepted_runs_are_on_the_leaderboard(finished: Cli, tmp_path: Path) -> None:
    cli, out = copy_of(finished, tmp_path), tmp_path / "mine"
    runs = [run_of(finished, "none"), run_of(finished, "re")]
    cli("submit", "pack", *runs, "--out", str(out), "--yes")
    cli("submit", "accept", str(out))
    records = load_results(cli.root / "results")
    assert [(run.run, run.origin) for run in records] == [(run, "submitted") for run in runs]
    assert "published already" in cli("submit", "accept", str(out), "--name", "again", code=2).stderr
    elsewhere = Cli(tmp_path / "empty", cli.root)
    elsewhere("site", "build")
    assert ">submitted</span>" in row_badges(elsewhere, "re")


@pytest.mark.slow
def test_a_run_is_reproduced_and_then_differs(finished: Cli, tmp_path: Path) -> None:
    cli, run = copy_of(finished, tmp_path), run_of(finished, "none")
    done = cli("reproduce", run[:8], "--device", "cpu")
    assert "none+ppa.tiny.s0: reproduced" in done.stdout and "differs" not in done.stdout
    folder = cli.home / "reproductions" / run
    assert len(list(folder.glob("store/target/*/*/model.safetensors"))) == 1  # it was computed, not looked up
    stored = next(cli.home.glob("store/evaluator/*/*/model.safetensors"))
    again = next(folder.glob("store/evaluator/*/*/model.safetensors"))
    assert stored.read_bytes() == again.read_bytes() and not stored.samefile(again)
    assert ">reproduced</span>" in row_badges(cli, "none") and ">measured</span>" in row_badges(cli, "re")
    cli("db", "rebuild")
    cli("db", "check")
    cli("gc", "--days", "0")
    cli.run("--attack", "ppa")
    assert ">reproduced</span>" in row_badges(cli, "none")
    page = (cli.home / "site" / "run" / f"{run}.html").read_text()
    assert "Run again: reproduced" in page and page.count(">agrees</span>") == 11

    text = cli("export", "--format", "results").stdout
    data: dict[str, Any] = json.loads(text)
    data["runs"] = [item for item in data["runs"] if item["run"] == run]
    data["runs"][0]["record"] |= {"origin": "measured", "reproduced": None}
    data["runs"][0]["record"]["metrics"]["att1"]["value"] += 0.001
    results = cli.root / "results"
    results.mkdir()
    (results / "tiny.json").write_text(json.dumps(data))
    answer = json.loads(cli("reproduce", run, "--device", "cpu", "--json", code=1).stdout)
    assert answer["verdict"] == "differs"
    assert [item["metric"] for item in answer["metrics"] if not item["within"]] == ["att1"]
    assert [item.origin for item in load_results(results)] == ["differs"]
    elsewhere = Cli(tmp_path / "empty", cli.root)
    elsewhere("site", "build")
    assert ">differs</span>" in row_badges(elsewhere, "none")
    page = (elsewhere.home / "site" / "run" / f"{run}.html").read_text()
    assert "Run again: differs" in page and page.count(">differs</span>") == 2  # the run and top-1

    data["runs"][0]["record"]["metrics"]["att1"]["value"] -= 0.001  # other figures: the outcome was not about them
    (results / "tiny.json").write_text(json.dumps(data))
    assert [item.origin for item in load_results(results)] == ["measured"]
    assert "is no run" in cli("reproduce", "ffff", code=2).stderr


def test_a_run_that_would_be_another_today(finished: Cli, tmp_path: Path) -> None:
    cli = copy_of(finished, tmp_path)
    plugin = cli.root / "defenses" / "re.py"
    plugin.write_text(plugin.read_text().replace("    class Params", "    version = 2\n\n    class Params", 1))
    said = cli("reproduce", run_of(finished, "re"), "--device", "cpu", code=2).stderr
    assert re.search(r"its target changed \(version (\d)\.1 then, \1\.2 now\)", said)


# --- the tolerance ---------------------------------------------------------------------------------------------------


def made(
    value: float | None, metric: str, environment: dict[str, Any], interval: tuple[float, float] | None = None
) -> RunRecord:
    low, high = interval or (None, None)
    reason = "not measured" if value is None else None
    metrics = {metric: MetricValue(value, 10, low, high, reason)}
    return make_run(metrics=metrics, environment=environment)


HERE, THERE = {"packages": {"torch": "2.15"}, "threads": 1}, {"packages": {"torch": "2.14"}, "threads": 1}


@pytest.mark.parametrize(
    ("metric", "stored", "again", "environment", "within"),
    [
        ("att1", 0.5, 0.5 + 9e-7, HERE, True),
        ("att1", 0.5, 0.5 + 2e-6, HERE, False),
        ("knn_eval", 1000.0, 1000.0009, HERE, True),
        ("knn_eval", 1000.0, 1000.01, HERE, False),
        ("att1", 0.5, 0.54, THERE, True),
        ("att1", 0.5, 0.56, THERE, False),
        ("knn_eval", 1000.0, 1040.0, THERE, True),
        ("knn_eval", 1000.0, 1060.0, THERE, False),
        ("fid", None, None, THERE, True),
        ("fid", None, 3.0, THERE, False),
    ],
)
def test_the_tolerance(metric: str, stored: float | None, again: float | None, environment: Any, within: bool) -> None:
    first, second = made(stored, metric, HERE), made(again, metric, environment)
    [found] = compare(first, second)
    assert found.within is within
    assert outcome(first, second)["verdict"] == ("reproduced" if within else "differs")


def test_the_stored_interval_counts_elsewhere_only() -> None:
    stored = made(0.5, "att1", HERE, (0.3, 0.7))
    assert compare(stored, made(0.65, "att1", THERE))[0].within
    assert not compare(stored, made(0.65, "att1", HERE))[0].within
    assert not compare(stored, made(0.71, "att1", THERE))[0].within
