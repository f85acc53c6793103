"""The installed program from first run to leaderboard, on the track ``tiny``."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from factories import make_run
from rich.console import Console
from tiny import SECTION, Cli

from mibench.cli import tables
from mibench.publish.results import load_results

VALUES = {"value", "ci_low", "ci_high", "n", "reason"}
REQUIRED = {"run", "track", "defense", "attack", "seed", "status", "cached", "seconds", "metrics"}
COMMANDS = [
    "run",
    "plan",
    "list",
    "show",
    "status",
    "logs",
    "grids",
    "collect",
    "gc",
    "why",
    "new",
    "check",
    "model",
    "suite",
    "claims",
    "export",
    "site",
    "study",
    "submit",
    "reproduce",
    "db",
    "data",
    "import-checkpoint",
]
COMMANDS += ["doctor", "completion"]
GROUPS = {
    "model": ["audit"],
    "site": ["build", "serve"],
    "study": ["build", "score"],
    "submit": ["pack", "verify", "accept"],
    "grids": ["forget"],
    "db": ["path", "check", "rebuild", "upgrade"],
    "data": ["prepare", "check", "show", "weights"],
}
ASK = ("--defense", "re", "--attack", "ppa")


def imported(cli: Cli, *arguments: str) -> set[str]:
    """The modules that a command imports."""
    code = (
        "import json, sys\n"
        f"sys.argv = ['mibench', *{list(arguments)!r}]\n"
        "from mibench.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "sys.stderr.write('MODULES ' + json.dumps(sorted(sys.modules)) + '\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=cli.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.rpartition("MODULES ")[2]))


def check_object(answer: dict[str, Any]) -> None:
    """Schema 1 of DESIGN.md."""
    assert answer["schema"] == 1 and set(answer) <= {"schema", "runs", "site"}
    for run in answer["runs"]:
        assert set(run) >= REQUIRED
        assert re.fullmatch("[0-9a-f]{12}", run["run"])
        assert list(run["metrics"]) == SECTION["metrics"]
        for name, metric in run["metrics"].items():
            assert set(metric) == VALUES
            assert (metric["value"] is None) == (metric["reason"] is not None), name
            if name.startswith(("att", "nat", "conf")):
                assert 0 <= metric["ci_low"] <= metric["value"] <= metric["ci_high"] <= 1


def test_first_run_and_second(finished: Cli, tmp_path: Path) -> None:
    cli, first = finished.copy(tmp_path), finished.first
    answer = json.loads(first.stdout)  # nothing else on standard output
    check_object(answer)
    assert [(run["defense"], run["attack"], run["seed"]) for run in answer["runs"]] == [
        ("none", "ppa", 0),
        ("re", "ppa", 0),
    ]
    assert {run["status"] for run in answer["runs"]} == {"done"}
    assert {run["cached"] for run in answer["runs"]} == {False}
    assert all(run["seconds"] > 0 for run in answer["runs"])
    assert Path(answer["site"]).is_file() and Path(answer["site"]).name == "index.html"
    lines = first.stderr.splitlines()
    assert all(line.startswith(("start", "done", "...")) for line in lines), first.stderr
    done = [line for line in lines if line.startswith("done")]
    assert re.search(r"in \d+\.\d s \(1 of (\d+)\)$", done[0]) and f"({len(done)} of {len(done)})" in done[-1]

    command = ["run", "--track", "tiny", "--device", "cpu", "--json", *ASK]
    second = cli(*command)
    again = json.loads(second.stdout)
    assert second.stderr == ""
    assert {run["cached"] for run in again["runs"]} == {True}
    for one, other in zip(answer["runs"], again["runs"], strict=True):
        assert {**one, "cached": None} == {**other, "cached": None}
    modules = imported(cli, *command)
    assert "mibench.running.runner" in modules and "torch" not in modules


def test_quiet_and_table(finished: Cli, tmp_path: Path) -> None:
    cli = finished.copy(tmp_path)
    done = cli("run", "--track", "tiny", "--quiet", "--device", "cpu", "--defense", "ls", "--attack", "ppa")
    assert done.stderr == ""
    for text in ("natural", "attack top-1", "chance 20.0 %", "│ none ", "│ ls ", "step 0", "seconds per stage"):
        assert text in done.stdout, text
    assert "not measured, fid: FID needs" in done.stdout
    assert f"Leaderboard: {cli.home / 'site' / 'index.html'}" in done.stdout


def test_seeds_are_aggregated(finished: Cli, tmp_path: Path) -> None:
    cli = finished.copy(tmp_path)
    first = cli.run("--attack", "ppa")["runs"]
    runs = cli.run("--attack", "ppa", "--seeds", "2")["runs"]
    assert [(run["defense"], run["seed"], run["cached"]) for run in runs] == [("none", 0, True), ("none", 1, False)]
    assert first[0]["run"] == runs[0]["run"] != runs[1]["run"]
    assert runs[0]["metrics"]["conf"] != runs[1]["metrics"]["conf"]
    table = cli("run", "--track", "tiny", "--attack", "ppa", "--seeds", "2").stdout
    assert "Seeds: 0, 1; " in table
    rows = [line for line in table.split("seconds per stage")[0].splitlines() if "│ none " in line]
    assert len(rows) == 1
    mean = 100 * sum(run["metrics"]["nat1"]["value"] for run in runs) / 2
    assert f"{mean:.1f} [" in rows[0]


def test_plan(finished: Cli) -> None:
    text = finished("plan", "--track", "tiny", *ASK).stdout
    assert "0 to do" in text and not [line for line in text.splitlines() if line.startswith("to do")]
    assert re.search(r"^evaluator +2 +1 +1 +0$", text, re.MULTILINE), text
    planned = json.loads(finished("plan", "--track", "tiny", "--defense", "mid", "--attack", "ppa", "--json").stdout)
    states: dict[tuple[str, str], set[str]] = {}
    for stage in planned["stages"]:
        states.setdefault((stage["kind"], stage["plugin"]), set()).add(stage["state"])
    assert states["target", "none"] == states["prior", "dcgan"] == {"done"}
    assert states["target", "mid"] == {"to do"} and states["invert", "ppa"] == {"done", "to do"}
    keys = {stage["key"] for stage in planned["stages"]}
    assert all(parent in keys for stage in planned["stages"] for parent in stage["inputs"].values())
    assert not list(finished.home.glob("work/*"))


def test_show_status_why(finished: Cli) -> None:
    runs = json.loads(finished("export", "--format", "json").stdout)["runs"]
    re_run = next(run for run in runs if run["defense"] == "re")
    for name in (re_run["run"], re_run["run"][:6], "re+ppa.tiny.s0"):
        shown = finished("show", name).stdout
        assert "defense re" in shown and '"area": [0.1, 0.4]' in shown and "again: mibench run" in shown
    record = json.loads(finished("show", re_run["run"], "--json").stdout)
    assert record["run"] == re_run["run"] and len(record["images"]) == 5 * 2
    status = json.loads(finished("status", "--json").stdout)
    expected = {"evaluator": 1, "target": 2, "prior": 1, "prepare": 2, "invert": 2, "utility": 2, "evaluate": 2}
    expected |= {"features": 2, "gradients": 2}
    assert status["stages"] == expected | {"run": 2}
    assert status["unfinished"] == status["damaged"] == []
    assert "evaluate" in finished("status").stdout
    why = finished("why", "none+ppa.tiny.s0", "re+ppa.tiny.s0").stdout.splitlines()
    assert why[0] == "target: plugin 'none' and 're'"
    assert not any(line.startswith(("evaluator", "prior")) for line in why)
    assert finished("why", re_run["run"], re_run["run"]).stdout == "They are the same run.\n"


def test_export(finished: Cli, tmp_path: Path) -> None:
    cli = finished.copy(tmp_path)
    exported = json.loads(cli("export", "--format", "json").stdout)
    check_object(exported)
    ran = cli.run(*ASK)["runs"]
    by_run = {run["run"]: {**run, "cached": None} for run in ran}
    assert {run["run"]: {**run, "cached": None} for run in exported["runs"]} == by_run
    (tmp_path / "results").mkdir()
    cli("export", "--format", "results", "-o", str(tmp_path / "results" / "all.json"))
    read = load_results(tmp_path / "results")
    assert {run.run: json.loads(json.dumps(run.public())) for run in read} == by_run
    assert all(run.environment and not run.images for run in read)
    published = tmp_path / "results" / "all.json"
    before = json.loads(published.read_text())["runs"]
    older = [dict(run, run=f"{i:012x}", seed=run["seed"] + 7) for i, run in enumerate(before)]
    older += [dict(before[0], run="0" * 11 + "f", status="older"), dict(before[1], status="the same")]
    published.write_text(json.dumps({"schema": 1, "runs": older}))
    cli("export", "--format", "results", "--onto", str(published), "-o", str(published))
    both = json.loads(published.read_text())["runs"]
    assert sorted(run["seed"] for run in both) == sorted([run["seed"] for run in before + older[:-2]])
    said = {run["run"]: run["status"] for run in both if run["seed"] < 7}
    assert said == {before[0]["run"]: "done", before[1]["run"]: "the same"}
    file = tmp_path / "out.csv"
    cli("export", "--format", "csv", "-o", str(file))
    assert file.read_text() == cli("export").stdout
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    spread = {(row["run"], row["metric"]): row for row in rows if row["metric"].startswith("exposure_")}
    assert len(rows) - len(spread) == 2 * len(SECTION["metrics"])
    for run in exported["runs"]:
        row = spread[run["run"], "exposure_tail10"]
        assert float(row["value"]) == run["exposure"]["tail10"] and not row["reason"]
    rows = [row for row in rows if (row["run"], row["metric"]) not in spread]
    for row in rows:
        metric = by_run[row["run"]]["metrics"][row["metric"]]
        assert (float(row["value"]) if row["value"] else None) == metric["value"]
        assert (row["reason"] or None) == metric["reason"]
    assert cli("export", "--track", "orl32").stdout.count("\n") == 1


def test_site_build(finished: Cli, tmp_path: Path) -> None:
    cli = finished.copy(tmp_path)
    out = tmp_path / "public"
    index = Path(cli("site", "build", "--public", "--out", str(out)).stdout.strip())
    assert index == out / "index.html" and index.is_file()
    assert not [path for path in out.rglob("*") if "private" in path.name]
    private = {path.read_bytes() for path in (cli.home / "cache" / "private").rglob("*.png")}
    assert private, "the local site shows private images"
    assert not private & {path.read_bytes() for path in out.rglob("*.png")}
    local = Path(cli("site", "build", "--out", str(tmp_path / "local")).stdout.strip())
    assert private & {path.read_bytes() for path in local.parent.rglob("*.png")}
    bare = tmp_path / "bare"
    cli("site", "build", "--images", "none", "--out", str(bare))
    assert not [path for path in bare.rglob("*.png") if "run" in path.parts]


def test_site_serve(finished: Cli, tmp_path: Path) -> None:
    cli = finished.copy(tmp_path)
    process = cli.start("site", "serve", "--port", "0", PYTHONUNBUFFERED="1")
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        with urllib.request.urlopen(address, timeout=20) as answer:
            page = answer.read().decode()
        assert "tiny" in page and "<html" in page
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    finally:
        process.kill()
        process.communicate()


def test_database(finished: Cli, tmp_path: Path) -> None:
    cli = finished.copy(tmp_path)
    path = Path(cli("db", "path").stdout.strip())
    assert path == cli.home / "mibench.db" and path.is_file()
    assert "agree" in cli("db", "check").stdout
    assert "Nothing to do" in cli("db", "upgrade").stdout
    before = cli("export").stdout
    path.unlink()
    assert "2 runs" in cli("db", "rebuild").stdout
    assert cli("export").stdout == before
    folder = next(cli.home.glob("store/run/*/*"))
    shutil.rmtree(folder)
    assert "the store does not" in cli("db", "check", code=1).stdout


def test_data(finished: Cli, tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home", finished.root)
    said = cli("data", "prepare", "tiny").stdout
    assert said.startswith("tiny: 15 private_train, 10 private_test, 48 public images, split ")
    assert cli("data", "check", "tiny").stdout == "tiny: as pinned\n"
    array = next((cli.home / "data").rglob("public_images.npy"))
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)
    found = cli("data", "check", "tiny", code=3).stdout
    assert str(array) in found and "damaged" in found


def test_doctor(finished: Cli) -> None:
    text = finished("doctor", code=None).stdout
    for word in ("mibench 0", "torch 2", "devices: cpu", f"home: {finished.home}", "free space", "track tiny: data as"):
        assert word in text, word
    assert "The database and the store agree." in text
    assert "metric lpips: the lpips weights" in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(finished: Cli, shell: str) -> None:
    script = finished("completion", shell).stdout
    assert "_MIBENCH_COMPLETE" in script and "mibench" in script
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True)
        assert checked.returncode == 0, checked.stderr
    words = {"COMP_WORDS": "mibench run --defense ", "COMP_CWORD": "3", "_MIBENCH_COMPLETE": f"{shell}_complete"}
    if shell == "bash":
        offered = finished(**words).stdout
        assert "plain,re" in offered.splitlines() and "plain,all" in offered.splitlines()


@pytest.mark.parametrize(
    "words", [[c] for c in COMMANDS] + [[g, s] for g, names in GROUPS.items() for s in names], ids=" ".join
)
def test_help_has_an_example(finished: Cli, words: list[str]) -> None:
    text = finished(*words, "--help").stdout
    assert f"Usage: mibench {' '.join(words)}" in text
    if words[0] in GROUPS and len(words) == 1:
        assert all(name in text for name in GROUPS[words[0]])
        return
    examples = [line.strip() for line in text.splitlines() if f"mibench {' '.join(words)}" in line][1:]
    assert examples, "no example"


def test_help_names_every_command(finished: Cli) -> None:
    text = finished("--help").stdout
    listed = re.findall(r"^  ([\w-]+) ", text.partition("Commands:")[2], re.MULTILINE)
    assert listed == COMMANDS
    for group, names in GROUPS.items():
        listed = re.findall(r"^  (\w+) ", finished(group, "--help").stdout.partition("Commands:")[2], re.MULTILINE)
        assert sorted(listed) == sorted(names), group


def test_list_needs_no_torch(finished: Cli) -> None:
    modules = imported(finished, "list")
    assert not modules & {"torch", "numpy", "sqlalchemy"}
    listed = json.loads(finished("list", "--json").stdout)
    assert set(listed) == {"defenses", "attacks", "priors", "tracks", "metrics"}
    assert {"re", "none"} <= set(listed["defenses"]) and "tiny" in listed["tracks"]


def test_labels_in_brackets_are_shown_whole() -> None:
    """They look like the markup of the library that prints the tables."""
    runs = [make_run(defense="re", defense_label="re[strong]", run=f"{i:012x}", seed=i) for i in range(2)]
    out = io.StringIO()
    for table in [*tables.results(runs), tables.seconds(runs), tables.metrics(runs[0])]:
        Console(file=out, width=200).print(table)
    assert out.getvalue().count("re[strong]") == 1 + 2 + 1


def test_a_study_from_runs_to_the_run_page(finished: Cli, tmp_path: Path) -> None:
    cli = finished.copy(tmp_path)
    names = [run["run"] for run in json.loads(finished.first.stdout)["runs"]]
    page = tmp_path / "study.html"
    ask = ("study", "build", *names, "--out", str(page), "--raters", "2")
    refused = cli(*ask, code=2)
    assert "--private-images" in refused.stderr and not page.exists()
    cli(*ask, "--private-images")
    data = json.loads(re.findall(r'id="study">(.*?)</script>', page.read_text(), re.S)[0])
    (kept,) = (cli.home / "studies" / "keys").glob("*.json")
    key = json.loads(kept.read_text())["items"]
    assert data["study"] == kept.stem and set(data["items"]) == set(key)

    files = []
    for rater in ("rater-1", "rater-2"):
        given = []
        for name, _ in data["order"][rater]:
            item = key[name]
            wanted = item["correct"] or ("yes" if item["task"] == "same" else "neither")
            answer = next(answer for answer, meaning in item["choices"].items() if meaning == wanted)
            given.append({"item": name, "answer": answer})
        files.append(tmp_path / f"{rater}.json")
        files[-1].write_text(json.dumps({"schema": 1, "study": kept.stem, "rater": rater, "answers": given}))
    scored = json.loads(cli("study", "score", *map(str, files), "--json").stdout)
    assert [run["same"]["acceptance"]["value"] for run in scored["runs"].values()] == [1, 1]
    cli("site", "build")
    html = (cli.home / "site" / "run" / f"{names[0]}.html").read_text()
    assert kept.stem in html and "Human study" in html
    assert kept.stem in cli("show", names[0]).stdout
    kept.unlink()
    assert "is not at" in cli("study", "score", *map(str, files), code=2).stderr


def test_a_run_without_its_feature_space_keeps_its_result(finished: Cli, tmp_path: Path) -> None:
    cli = finished.copy(tmp_path)
    shutil.rmtree(cli.home / "store" / "features")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(
        "import sys, types\n"
        "def run(job):\n    raise RuntimeError('no points today')\n"
        "sys.modules['mibench.stages.features'] = module = types.ModuleType('features')\n"
        "module.run = run\n"
    )
    again = ("run", "--track", "tiny", "--device", "cpu", "--json", *ASK)
    path = os.pathsep.join(filter(None, (str(tmp_path / "broken"), os.environ.get("PYTHONPATH"))))
    done = cli(*again, code=1, PYTHONPATH=path)
    assert "no points today" in done.stderr
    refused = cli(*again, code=1)
    assert "It failed before" in refused.stderr and "--retry-failed" in refused.stderr
    before, after = (json.loads(text)["runs"] for text in (finished.first.stdout, done.stdout))
    assert [run["metrics"] for run in after] == [run["metrics"] for run in before]
    assert all(run["status"] == "done" for run in after)
    whole = json.loads(cli(*again, "--retry-failed").stdout)["runs"]
    assert [run["run"] for run in whole] == [run["run"] for run in before]
    shown = json.loads(cli("show", whole[0]["run"], "--json").stdout)
    assert shown["features"] is not None
