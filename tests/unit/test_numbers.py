"""Every number of the leaderboard's pages, made again from the files in ``results/`` with numpy and scipy alone, for
all cells; with what a newcomer measured merged in, and without."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from once import Once
from pages import Node, lines, read

from mibench.cli.site_data import catalogue
from mibench.publish import SiteOptions, build_site
from mibench.publish.results import load_results, merged
from mibench.records import RunRecord
from mibench.registry import Registry

RESULTS = Path(__file__).resolve().parents[2] / "results"
Raw = dict[str, Any]
Cells = dict[tuple[str, str, str], list[Raw]]  # board, defense, attack


# --- what should be there ------------------------------------------------------------------------------------------


def published() -> list[Raw]:
    """As the files have them: of a track several versions."""
    return [run["record"] for file in sorted(RESULTS.glob("*.json")) for run in json.loads(file.read_text())["runs"]]


def board_of(run: Raw, runs: Sequence[Raw]) -> str:
    newest = max(other["track_version"] for other in runs if other["track"] == run["track"])
    return run["track"] if run["track_version"] == newest else f"{run['track']}-v{run['track_version']}"


def cells_of(runs: Sequence[Raw]) -> Cells:
    cells: Cells = defaultdict(list)
    for run in sorted(runs, key=lambda run: run["seed"]):
        cells[(board_of(run, runs), run["defense_label"], run["attack_label"])].append(run)
    return dict(cells)


def varied(run: Raw, id: str, **changes: Any) -> Raw:
    """A run that somebody else measured later, with other figures and a parameter that the method gained since."""
    made = json.loads(json.dumps(run)) | {"run": id, "created": "2030-01-01T00:00:00+00:00"} | changes
    made["defense_params"] = {"gained": None} | made["defense_params"]
    for stage in made["stages"]:
        stage["seed"] = made["seed"] if stage["seed"] == run["seed"] else stage["seed"]
        if stage["kind"] in ("target", "utility"):
            stage["params"] = made["defense_params"]
    for name, metric in made["metrics"].items():
        if name != "nat1" and metric["value"] is not None and metric["per_identity"]:
            metric["per_identity"] = {label: value / 2 for label, value in metric["per_identity"].items()}
            metric["value"] = float(np.mean(list(metric["per_identity"].values())))
            metric["ci_low"], metric["ci_high"] = 0.0, metric["value"]
    return made


def newcomer(runs: Sequence[Raw], cells: Cells) -> tuple[list[Raw], Cells]:
    """A store of four runs, and the cells with it: a published seed of the undefended model again, with its id; a seed
    that nobody published; another strength under a published name; another version of an attack."""
    board, defense, attack = next(
        key
        for key, own in sorted(cells.items())
        if key[:2] == ("orl32", "none") and len(own) >= 3 and "[" not in key[2] and key[2] != "photos"
    )
    strong = next(own for key, own in sorted(cells.items()) if key[:2] == ("orl32", "re[strong]") and len(own) >= 3)
    again = varied(cells[board, defense, attack][0], cells[board, defense, attack][0]["run"])
    further = varied(cells[board, defense, attack][1], "a" * 12, seed=len(cells[board, defense, attack]))
    weaker = varied(strong[0], "b" * 12, defense_params=strong[0]["defense_params"] | {"area": [0.1, 0.33]})
    bumped = varied(cells[board, defense, attack][2], "c" * 12)
    for stage in bumped["stages"]:
        stage["version"] += 7 if stage["kind"] == "invert" else 0
    now = bumped["stages"][[s["kind"] for s in bumped["stages"]].index("invert")]["version"] % 1000
    whole = dict(cells)
    whole[board, defense, attack] = [again, *cells[board, defense, attack][1:], further]
    whole[board, "re[strong] (area=0.1:0.33)", strong[0]["attack_label"]] = [weaker]
    whole[board, defense, f"{attack} (version {now})"] = [bumped]
    return [again, further, weaker, bumped], whole


@pytest.fixture(scope="module", params=["published", "with a newcomer's store"])
def case(request: pytest.FixtureRequest, once: Once) -> tuple[Path, Cells]:
    runs = published()
    cells, own = cells_of(runs), []
    if request.param != "published":
        own, cells = newcomer(runs, cells)

    def make(folder: Path) -> None:
        shown = merged([RunRecord.from_json(run) for run in own], load_results(RESULTS))
        build_site(shown, catalogue(Registry()), folder, SiteOptions())

    return once(f"numbers {request.param}", make), cells


# --- arithmetic ----------------------------------------------------------------------------------------------------


def values(runs: Sequence[Raw], metric: str) -> list[float]:
    found = [run["metrics"].get(metric, {}).get("value") for run in runs]
    return [value for value in found if value is not None]


def t_interval(numbers: Sequence[float]) -> tuple[float, float]:
    low, high = stats.t.interval(0.95, len(numbers) - 1, np.mean(numbers), stats.sem(numbers))
    return float(low), float(high)


def bounds(metric: str) -> tuple[float, float]:
    if metric.startswith(("nat", "att", "conf", "ver_", "face_rate")):
        return 0.0, 1.0
    return 0.0 if metric.startswith(("d_", "knn_", "lpips", "fid")) else -np.inf, np.inf


def agrees(shown: str, number: float, factor: float = 100.0) -> bool:
    """Whether a number as written is this one, rounded."""
    text = shown.replace("−", "-").replace("+", "").replace(",", "").rstrip("%").strip()
    decimals = len(text.partition(".")[2]) if factor == 100.0 else None
    if decimals is not None:
        return abs(float(text) - factor * number) <= 0.5 * 10.0**-decimals + 1e-9
    return abs(float(text) - number) <= 6e-4 * abs(number) + 1e-9


def check_value(runs: Sequence[Raw], metric: str, shown: str, interval: str, factor: float) -> None:
    """A mean over seeds with its interval, as a page writes them."""
    numbers = values(runs, metric)
    assert agrees(shown, float(np.mean(numbers)), factor)
    if len(numbers) == 1:
        (own,) = [run["metrics"][metric] for run in runs if run["metrics"].get(metric, {}).get("value") is not None]
        expected = of_people(own, metric)
    elif np.ptp(numbers) == 0:  # over people: that it holds the mean is all that can be said without its bootstrap
        if interval:
            low, high = (float(end) for end in interval.split("–"))
            assert low - 1e-9 <= float(shown) <= high + 1e-9
        return
    else:
        least, most = bounds(metric)
        low, high = t_interval(numbers)
        expected = (max(low, least), min(high, most))
    if expected[0] is None:
        assert interval in ("", "–")
        return
    ends = re.fullmatch(r"([^–]+)–([^–]+)", interval)
    assert ends and all(agrees(end, number, factor) for end, number in zip(ends.groups(), expected, strict=True))


def of_people(metric: Raw, name: str) -> tuple[float | None, float | None]:
    """The interval of one run: as it says; where all people gave one answer, what so many allow (Clopper, Pearson)."""
    low, high, answers = metric["ci_low"], metric["ci_high"], list(metric["per_identity"].values())
    if low is None or low != high or not answers:
        return low, high
    if bounds(name) != (0.0, 1.0):
        return None, None
    n, k = len(answers), answers[0] * len(answers)
    assert np.ptp(answers) == 0
    return (
        0.0 if k == 0 else float(stats.beta.ppf(0.025, k, n - k + 1)),
        1.0 if k == n else float(stats.beta.ppf(0.975, k + 1, n - k)),
    )


def leakage(board: str, cells: Cells) -> str:
    own = [run for key, runs in cells.items() if key[0] == board for run in runs]
    return "att_maj" if any("att_maj" in run["metrics"] for run in own) else "att1"


def people(run: Raw, metric: str) -> dict[str, float]:
    found: dict[str, float] = run["metrics"].get(metric, {}).get("per_identity", {})
    return found


def trainings(runs: Sequence[Raw], metric: str) -> dict[int, float]:
    return {run["seed"]: run["metrics"][metric]["value"] for run in runs if values([run], metric)}


def prefix(seeds: Any) -> int:
    return next(n for n in range(len(seeds) + 1) if n not in seeds)


# --- pages ---------------------------------------------------------------------------------------------------------


def boards(site: Path) -> Iterator[tuple[str, Path, Node]]:
    for file in [site / "index.html", *sorted((site / "leaderboard").glob("*.html"))]:
        page = read(file)
        section = next(node for node in page.all("section") if "data-board" in node.attrs)
        yield section.attrs["data-board"], file, section


def linked(file: Path, cell: Node) -> list[Path]:
    return [(file.parent / a.attrs["href"]).resolve() for a in cell.all("a") if "/cell/" in f"/{a.attrs['href']}"]


def prior(run: Raw) -> str | None:
    return next(
        (json.dumps([s["plugin"], s["params"]], sort_keys=True) for s in run["stages"] if s["kind"] == "prior"), None
    )


def judged(run: Raw) -> int:
    """The seed of the judges."""
    return next((stage["seed"] for stage in run["stages"] if stage["kind"] == "evaluator"), 0)


def way_of(runs: Sequence[Raw], key: tuple[str, str, str], metric: str, cells: Cells) -> float | None:
    board, defense, _ = key
    ceilings: dict[Any, list[float]] = defaultdict(list)
    floors: dict[Any, float] = {}
    for (b, d, a), own in cells.items():
        for run in own:
            if b == board and a.split("[")[0] == "ceiling":
                ceilings[prior(run), judged(run)] += values([run], metric)
            if b == board and d == defense and a.split("[")[0] == "floor":
                floors[prior(run), run["seed"]] = run["metrics"][metric]["value"]
    shares = [
        (run["metrics"][metric]["value"] - low) / (np.mean(high) - low)
        for run in runs
        if (low := floors.get((prior(run), run["seed"]))) is not None
        and (high := ceilings.get((prior(run), judged(run))))
        and np.mean(high) > low
    ]
    return float(np.mean(shares)) if shares else None


def test_the_leaderboards(case: tuple[Path, Cells]) -> None:
    """Natural accuracy, the worst attack, the primary test and every cell, with E1 and the way."""
    site, cells = case
    seen = set()
    for board, file, section in boards(site):
        table = next(section.all("table", "matrix"))
        metric, controls = leakage(board, cells), {"floor", "ceiling", "photos", "deranged"}
        mine = {key[1:]: runs for key, runs in cells.items() if key[0] == board}
        faced = {a for (_, a), runs in mine.items() if prefix(trainings(runs, metric)) >= 3}
        required = sorted(a for a in faced - controls if "[" not in a and "(" not in a)
        worst, tests = {}, {}
        for defense in {defense for defense, _ in mine}:
            met = {a: trainings(mine[defense, a], metric) for a in required if (defense, a) in mine}
            count = min((prefix(seeds) for seeds in met.values()), default=0)
            if len(met) == len(required) and count >= 3:
                grid = np.array([[met[a][s] for s in range(count)] for a in required])
                chosen = [int(np.argmax(np.delete(grid, s, 1).mean(1).round(12))) for s in range(count)]
                worst[defense] = grid[chosen, range(count)], grid
        for defense, (own, _) in worst.items():
            if defense != "none" and "none" in worst and defense not in controls:
                n = min(len(own), len(worst["none"][0]))
                tests[defense] = own[:n] - worst["none"][0][:n]
        p = {defense: stats.ttest_1samp(d, 0).pvalue for defense, d in tests.items() if np.ptp(d) > 0}
        holm, so_far = {}, 0.0
        for place, defense in enumerate(sorted(p, key=lambda d: p[d])):
            so_far = max(so_far, min(1.0, p[defense] * (len(p) - place)))
            holm[defense] = so_far
        for line in lines(table):
            label = line["Defense"].attrs["data-order"]
            targets = {run["seed"]: run for (d, _), runs in mine.items() if d == label for run in runs}
            natural = line["Natural accuracy"]
            if len(targets) > 1 or len({r["metrics"]["nat1"]["ci_low"] for r in targets.values()}) == 1:
                interval = natural.first("span", "ci")
                check_value(list(targets.values()), "nat1", natural.own, interval.text if interval else "", 100.0)
            if label in worst:
                own, grid = worst[label]
                cell = line["Worst attack"]
                assert agrees(cell.own, float(own.mean()))
                low, high = cell.first("span", "ci").text.split("–")  # type: ignore[union-attr]
                if not (np.ptp(grid, 1) == 0).any():
                    t = stats.t.ppf(1 - 0.025 / len(grid), grid.shape[1] - 1)
                    assert agrees(high, min(1.0, float((grid.mean(1) + t * stats.sem(grid, axis=1)).max())))
                    assert agrees(low, min(max(0.0, t_interval(own)[0]), float(own.mean())))
            against = next(cell for name, cell in line.items() if name.startswith("Against"))
            assert bool(against.first("span", "ci")) == (label in holm)
            if label in holm:
                text = against.text
                assert agrees(re.findall(r"[+−]?[\d.]+", text)[0], float(tests[label].mean()))
                ends = against.first("span", "ci").text.split(" to ")  # type: ignore[union-attr]
                assert all(agrees(end, number) for end, number in zip(ends, t_interval(tests[label]), strict=True))
                told = holm[label] < 0.05
                word = ("leaks less" if tests[label].mean() < 0 else "leaks more") if told else "not told apart"
                assert word in text
            for cell in line.values():
                if "heat" not in cell.attrs.get("class", "") or not linked(file, cell):
                    continue
                key, runs = found(site, linked(file, cell)[0], cells)
                assert key[:2] == (board, label)
                seen.add(key)
                link, interval = cell.first("a"), cell.first("span", "ci")
                check_value(runs, metric, link.text, interval.text if interval else "", 100.0)  # type: ignore[union-attr]
                notes = "; ".join(note.text for note in cell.all("span", "note"))
                if e1 := re.search(r"E1 ([\d.]+)", notes):
                    assert agrees(e1[1], float(np.mean(values(runs, "att1"))))
                way = re.search(r"way ([-−\d.]+) %", notes)
                expected = way_of(runs, key, metric, cells)
                assert agrees(way[1], expected) if way and expected is not None else way is None and expected is None
                few = re.search(r"(\d+) of (\d+) seeds", notes)
                counts = len(values(runs, metric)), len(targets)
                assert (few is None and counts[0] == counts[1]) or (few and (int(few[1]), int(few[2])) == counts)
    assert seen == set(cells)


def found(site: Path, file: Path, cells: Cells) -> tuple[tuple[str, str, str], list[Raw]]:
    """The cell that a page is of, by its title's labels and the folder that it lies in."""
    heading = read(file).first("h1")
    assert heading is not None
    defense, attack = (link.text for link in heading.all("a"))
    board = re.sub(r"_([0-9a-f]+)_", lambda m: chr(int(m[1], 16)), file.relative_to(site.resolve()).parts[1])
    return (board, defense, attack), cells[board, defense, attack]


def test_the_pages_of_cells_and_of_their_runs(case: tuple[Path, Cells]) -> None:
    site, cells = case
    seen = set()
    for file in sorted((site / "cell").rglob("*.html")):
        key, runs = found(site, file.resolve(), cells)
        seen.add(key)
        table = read(file).first("table")
        assert table is not None
        for row in next(table.all("tbody")).all("tr"):
            metric = row.attrs["data-metric"]
            head, mean, interval, *each = (child for child in row.children if isinstance(child, Node))
            factor = 100.0 if head.first("span", "unit") and head.first("span", "unit").text == "%" else 1.0  # type: ignore[union-attr]
            if values(runs, metric):
                check_value(runs, metric, mean.first("strong").text, interval.text, factor)  # type: ignore[union-attr]
            else:
                assert mean.text == "–"
            for run, cell in zip(runs, each, strict=True):
                own = values([run], metric)
                assert agrees(cell.text, own[0], factor) if own else cell.text == "–"
        for run in runs:
            check_run(read(site / "run" / f"{run['run']}.html"), run)
    assert seen == set(cells)


def check_run(page: Node, run: Raw) -> None:
    for line in lines(next(page.all("table"))):
        metric = line["Metric"].first("span", "note").text  # type: ignore[union-attr]
        own = run["metrics"][metric]
        if own["value"] is None:
            assert line["Value"].text == "–" and own["reason"] in line["95 % interval"].text
            continue
        factor = 100.0 if line["Value"].text.endswith("%") else 1.0
        assert agrees(line["Value"].text.split()[0], own["value"], factor) and line["n"].text == str(own["n"])
        ends = of_people(own, metric)
        if ends[0] is not None and ends[1] is not None:
            low, high = line["95 % interval"].text.split("–")
            assert agrees(low, ends[0], factor) and agrees(high, ends[1], factor)


@pytest.mark.parametrize("kind", ["defense", "attack"])
def test_the_pages_of_methods(case: tuple[Path, Cells], kind: str) -> None:
    site, cells = case
    seen = set()
    for file in sorted((site / kind).glob("*.html")):
        page = read(file)
        for section in page.all("section"):
            title = section.attrs.get("aria-labelledby", "")
            if not title.startswith("results-"):
                continue
            board = re.sub(r"_([0-9a-f]+)_", lambda m: chr(int(m[1], 16)), title.removeprefix("results-"))
            table = next(section.all("table", "results"))
            for row in next(table.all("tbody")).all("tr"):
                runs_shown = {Path(a.attrs["href"]).stem for a in next(row.all("td", "seeds")).all("a")}
                (key,) = [k for k in cells if k[0] == board and {run["run"] for run in cells[k]} == runs_shown]
                assert text_file(key[1 if kind == "defense" else 2]) == file.stem
                seen.add(key)
                check_row(table, row, cells[key], kind)
    assert seen == set(cells)


def text_file(label: str) -> str:
    return re.split(r"[\[ ]", label)[0].replace("_", "_5f_")


def check_row(table: Node, row: Node, runs: Sequence[Raw], kind: str) -> None:
    own = {"defense": {"target"}, "attack": {"prepare", "invert"}}[kind]
    names = [(th.first("span", "head") or th).text for th in next(table.all("thead")).all("th")]
    cells = dict(zip(names, [c for c in row.children if isinstance(c, Node)], strict=True))
    leak = "att_maj" if "Majority of judges ↓" in cells else "att1"
    known = {
        "Natural accuracy ↑": "nat1",
        "Majority of judges ↓": "att_maj",
        "Confidence ↓": "conf",
        "Face rate ↓": "face_rate",
    }
    known |= {
        "Attack top‑1 (E1) ↓" if leak == "att_maj" else "Attack top‑1 ↓": "att1",
        "KNN distance ↑": "knn_eval",
        "δ eval ↑": "d_eval",
    }
    known |= {
        "Top‑1 (E2) ↓": "att1_e2",
        "Attack top‑5 ↓": "att5",
        "Attack top‑5 (E1) ↓": "att5",
        "Top‑1, selected ↓": "att1_selected",
    }
    assert len(known.keys() & cells.keys()) >= 6
    for name, metric in known.items():
        if name in cells and values(runs, metric):
            interval = cells[name].first("span", "ci")
            factor = 100.0 if bounds(metric) == (0.0, 1.0) else 1.0
            check_value(runs, metric, cells[name].own, interval.text if interval else "", factor)
    assert kind == "defense" or "Time" in cells
    if "Time" in cells:  # of a defense told once, not for each attack
        seconds = np.mean([sum(s["seconds"] for s in run["stages"] if s["kind"] in own) for run in runs])
        amount, unit = cells["Time"].text.split()
        half = 0.5 if "." not in amount else 0.05
        assert abs(float(amount) - seconds / {"s": 1, "min": 60, "h": 3600}[unit]) <= half + 1e-6
    asked = np.mean([
        sum(n for phases in run["queries"].values() for kinds in phases.values() for n in kinds.values())
        / len(run["metrics"]["att1"]["per_identity"])
        for run in runs
    ])  # fmt: skip
    assert abs(float(cells["Queries per identity"].text.replace(",", "")) - asked) <= 0.5 + 1e-6
    peak = max((s["peak_memory_mib"] or 0) for run in runs for s in run["stages"])
    assert cells["Peak memory"].text == f"{peak:,} MiB"


def test_comparisons_are_of_the_same_runs(case: tuple[Path, Cells]) -> None:
    site, cells = case
    seen = 0
    for file in sorted((site / "compare").glob("*.html")):
        board = re.sub(r"_([0-9a-f]+)_", lambda m: chr(int(m[1], 16)), file.stem)
        metric = leakage(board, cells)
        for table in (t for t in read(file).all("table") if "data-sortable" in t.attrs):
            for line in lines(table):
                defense, attack = line["Defense"].text, line["Attack"].text
                one, other = cells[board, defense, attack], cells[board, "none", attack]
                pairs = [(a, b) for a in one for b in other if a["seed"] == b["seed"]]
                first, second, difference = (line[name].text for name in list(line)[2:5])
                if not pairs:
                    assert (first, second, difference) == ("–", "–", "–")
                    continue
                seen += 1
                columns = np.array([[list(people(run, metric).values()) for run in pair] for pair in pairs])
                assert agrees(first, columns[:, 0].mean()) and agrees(second, columns[:, 1].mean())
                assert agrees(difference, (columns[:, 0] - columns[:, 1]).mean())
                apart = (
                    columns[:, 0].mean(1) - columns[:, 1].mean(1) if len(pairs) > 1 else columns[0, 0] - columns[0, 1]
                )
                ends = line["95 % interval"].text.split(" to ")
                if np.ptp(apart) > 0:
                    assert all(agrees(end, number) for end, number in zip(ends, t_interval(apart), strict=True))
                assert line["Common seeds"].text == str(len(pairs))
    assert seen >= 20


def test_downloads_hold_the_figures_and_what_they_are_of(case: tuple[Path, Cells]) -> None:
    site, cells = case
    shown = {run["run"]: (key, run) for key, runs in cells.items() for run in runs}
    with (site / "leaderboard.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert {line["run"] for line in table} == set(shown)
    for line in table:
        (_, defense, attack), run = shown[line["run"]]
        assert (line["defense"], line["attack"], int(line["seed"])) == (defense, attack, run["seed"])
        assert json.loads(line["defense_params"]) == run["defense_params"]
        assert json.loads(line["versions"])["invert"] == ".".join(
            str(n) for s in run["stages"] if s["kind"] == "invert" for n in divmod(s["version"], 1000)
        )
        for name, metric in run["metrics"].items():
            written = (line[name], line[f"{name}_low"], line[f"{name}_reason"])
            assert [float(x) if x else None for x in written[:2]] == [metric["value"], metric["ci_low"]]
            assert (written[2] or None) == metric["reason"]
    for run in json.loads((site / "leaderboard.json").read_text())["runs"]:
        (_, defense, attack), own = shown[run["run"]]
        assert (run["defense_label"], run["attack_label"], run["seed"]) == (defense, attack, own["seed"])
        assert {n: m["value"] for n, m in run["metrics"].items()} == {n: m["value"] for n, m in own["metrics"].items()}
