"""The Markdown table of results, against figures worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from factories import make_run

from mibench.cli import cli
from mibench.errors import UserError
from mibench.publish.markdown import defenses_table, results_table
from mibench.records import MetricValue, RunRecord, StageInfo
from mibench.registry import Registry


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


def defended(defense: str, attack: str, seed: int, nat1: float, att1: float) -> dict[str, Any]:
    run = run_of(attack, seed, att1, 1.0)
    kind = defense.partition("[")[0]
    run = replace(run, defense=kind, defense_label=defense, metrics=run.metrics | {"nat1": MetricValue(nat1, n=4)})
    return run.public()


def test_a_table_by_defense_has_the_attacks_that_several_met() -> None:
    runs = [defended("none", attack, 0, 0.9, att1) for attack, att1 in (("ppa", 0.5), ("gmi", 0.2), ("vmi", 0.9))]
    runs += [defended("re[strong]", "ppa", seed, nat1, att1) for seed, nat1, att1 in ((0, 0.7, 0.1), (1, 0.8, 0.3))]
    runs += [defended("mid", "gmi", 0, 0.6, 0.95), defended("control", "vmi", 0, 0.0, 0.0)]
    runs += [defended("none", "control", 0, 0.9, 1.0), defended("mid", "control", 0, 0.6, 1.0)]
    title, _, head, _, *rows = defenses_table(runs, {"control"}).splitlines()
    assert title == "Track `orl32`, leakage is top-1:"
    assert head == "| defense | natural % | `gmi` % | `ppa` % | seeds | training |"
    assert rows == [  # the largest leak first: 95, 90 (of an attack that no other met), 20, 0
        "| `mid` | 60.0 | 95.0 | \u2013 | 1 | 16.7 min |",
        "| `none` | 90.0 | 20.0 | 50.0 | 1 | 16.7 min |",
        "| `re[strong]` | 75.0 [11.5\u2013100.0] | \u2013 | 20.0 [0.0\u2013100.0] | 2 | 16.7 min |",  # 75 +- 12.706 * 5
        "| `control` | 0.0 | \u2013 | \u2013 | 1 | 16.7 min |",
    ]


def test_a_table_is_put_between_the_marks_of_a_page(tmp_path: Path) -> None:
    results, page = tmp_path / "results.json", tmp_path / "page.md"
    runs = [defended("none", "ppa", 0, 0.9, 0.5)]
    results.write_text(json.dumps({"schema": 1, "runs": runs}))
    page.write_text("before\n<!-- result:begin -->\nold\n<!-- result:end -->\nafter\n")
    wanted = ["export", "--format", "markdown", "--rows", "defenses", "--from", str(results), "--into", str(page)]
    done = CliRunner().invoke(cli, wanted, env={"MIBENCH_HOME": str(tmp_path / "home")})
    table = defenses_table(runs, ())
    assert done.exit_code == 0, done.output
    assert page.read_text() == f"before\n<!-- result:begin -->\n{table}<!-- result:end -->\nafter\n"
    page.write_text("no marks\n")
    done = CliRunner().invoke(cli, wanted, env={"MIBENCH_HOME": str(tmp_path / "home")})
    assert isinstance(done.exception, UserError) and page.read_text() == "no marks\n"


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
    tables = {"attacks": results_table(recorded), "defenses": defenses_table(recorded, Registry().control_ids)}
    for name, table in tables.items():
        shown = (root / "docs" / f"{name}.md").read_text(encoding="utf-8")
        assert f"begin -->\n{table}<!-- result:end" in shown, f"type the commands above the table in docs/{name}.md"


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
