"""The Markdown table of results, against figures worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner
from factories import make_run

from mibench.cli import cli
from mibench.errors import UserError
from mibench.publish.markdown import results_table
from mibench.records import MetricValue, RunRecord, StageInfo


def run_of(attack: str, seed: int, att1: float, seconds: float) -> RunRecord:
    metrics = {name: MetricValue(value, n=4) for name, value in (("att1", att1), ("att5", 0.9), ("conf", 0.25))}
    metrics["att1_step0"] = MetricValue(None, reason="not measured")
    stages = [
        StageInfo("target", "a" * 64, "none", 1, {}, seed, 1000.0, 9999),
        StageInfo("prior", "b" * 64, "dcgan", 1, {}, 0, 60.0, 700),
        StageInfo("prepare", "c" * 64, attack, 1, {}, seed, 1.0, 300),
        StageInfo("invert", "d" * 64, attack, 1, {}, seed, seconds, 400 + seed),
    ]
    images = [{"label": label, "index": index} for label in (0, 1) for index in (0, 1)]
    queries = {
        "shared": {"search": {"forward": 10, "gradient": 0, "label": 0}},
        "0": {"optimisation": {"forward": 1, "gradient": 2, "label": 0}},
        "1": {"optimisation": {"forward": 3, "gradient": 4, "label": 0}},
    }
    record = make_run(attack=attack, defense="none", seed=seed)
    return replace(
        record,
        attack_label=attack,
        defense_label="none",
        metrics=metrics,
        stages=stages,
        images=images,
        queries=queries,
    )


def test_the_strongest_attack_comes_first_with_means_over_seeds() -> None:
    runs = [run_of("weak", 0, 0.25, 3.0), run_of("strong", 0, 0.5, 3.0), run_of("strong", 1, 0.7, 5.0)]
    text = results_table([run.public() for run in runs])
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows] == ["| `strong`", "| `weak`"]
    # mean of 50 and 70; t interval 60 +- 12.706 * 14.142 / sqrt(2), cut to 0 and 100
    assert rows[0][1:] == [
        "60.0 [0.0\u2013100.0]",
        "90.0 [90.0\u201390.0]",
        "\u2013",
        "25.0 [25.0\u201325.0]",
        "2",
        "2",
        "1.0 min",
        "5.0 s",
        "7 forward, 3 gradient",
        "700 MiB |",
    ]
    assert rows[1][1] == "25.0" and rows[1][6] == "1"


def test_with_a_panel_the_majority_comes_first_and_decides_the_order() -> None:
    def judged(attack: str, majority: float, att1: float) -> RunRecord:
        run = run_of(attack, 0, att1, 3.0)
        more = {"att_maj": majority, "att1_e2": 0.125, "att1_e3": 0.0625}
        return replace(run, metrics=run.metrics | {name: MetricValue(value, n=4) for name, value in more.items()})

    text = results_table([judged("weak", 0.1, 0.9).public(), judged("strong", 0.3, 0.5).public()])
    head, _, *rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert head[:6] == ["attack", "majority %", "E1 %", "E2 %", "E3 %", "top-5 %"]
    assert [row[:6] for row in rows] == [
        ["`strong`", "30.0", "50.0", "12.5", "6.2", "90.0"],
        ["`weak`", "10.0", "90.0", "12.5", "6.2", "90.0"],
    ]
    assert len({len(row) for row in (head, *rows)}) == 1


def test_a_recorded_file_gives_the_same_table(tmp_path: Path) -> None:
    objects = [run_of("weak", 0, 0.25, 3.0).public()]
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"schema": 1, "runs": objects}))
    arguments = ["export", "--format", "markdown", "--from", str(path)]
    done = CliRunner().invoke(cli, arguments, env={"MIBENCH_HOME": str(tmp_path / "home")})
    assert done.exit_code == 0 and done.output == results_table(objects)


def test_the_documentation_shows_the_recorded_table() -> None:
    root = Path(__file__).parents[2]
    recorded = json.loads((root / "results" / "orl32.json").read_text())["runs"]
    shown = (root / "docs" / "attacks.md").read_text(encoding="utf-8")
    assert results_table(recorded) in shown, "type the commands that stand above the table in docs/attacks.md"


def test_rubbish_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for text in ("", "[]", '{"runs": []}', '{"schema": 2, "runs": []}', '{"schema": 1, "runs": [{"track": "x"}]}'):
        path.write_text(text)
        done = CliRunner().invoke(
            cli, ["export", "--format", "markdown", "--from", str(path)], env={"MIBENCH_HOME": str(tmp_path / "home")}
        )
        assert isinstance(done.exception, UserError) and "is not what" in str(done.exception), text
    done = CliRunner().invoke(cli, ["export", "--from", str(path)], env={"MIBENCH_HOME": str(tmp_path / "home")})
    assert done.exit_code == 2 and "--format markdown" in done.output
