"""The site in Chromium, opened from disk as a reader does."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from factories import make_catalogue, make_claims, make_run
from once import Once
from studies import TEMPLATES, make_key, make_study

from mibench.audit.findings import Judge, Models, findings
from mibench.audit.report import gallery, page
from mibench.publish import Catalogue, SiteOptions, build_site
from mibench.publish.aggregate import boards, current_runs
from mibench.publish.figures_file import load_reported
from mibench.publish.standings import standings
from mibench.records import MetricValue, RunRecord, StageInfo
from mibench.study.key import read_sheets
from mibench.study.page import render

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

HOSTILE = "<b>re</b>[</script><script>window.pwned=1</script>,x='\"&]"
PAPER = {"title": "A & B", "venue": "ICML", "year": 2020, "url": "https://example.org", "authors": ("A B", "C D")}
ATTACKS = {"gmi": 0.5, "kedmi": 0.9, "plgmi": 1.0}
DEFENSES = {"none": (0.93, 0.8), "re": (0.9, 0.4), "bido": (0.85, 0.5), HOSTILE: (0.88, 0.2)}


def make_runs() -> list[RunRecord]:
    runs = [
        make_run(
            defense=d.split("[")[0],
            defense_label=d,
            attack=a,
            seed=s,
            nat1=x + s / 100,
            att1=y * share + s / 50,
        )
        for d, (x, y) in DEFENSES.items()
        for a, share in ATTACKS.items()
        for s in (0, 1, 2)
    ]
    runs.append(make_run(defense="partial", attack="gmi", nat1=0.95, att1=0.01))
    runs.append(make_run(defense="partial", attack="kedmi", nat1=0.95, att1=None))
    runs.append(
        make_run(
            defense="partial",
            attack="gmi",
            seed=1,
            status="failed",
            metrics={},
            images=[],
            reason="The loss became nan.",
        )
    )
    runs += [make_run(track="mnist", defense=d, nat1=0.98, seed=s) for d in ("none", "re") for s in range(3)]
    return runs


def write_png(path: Path) -> Path:
    """A grey image of 8 x 8 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"".join(b"\0" + bytes(range(0, 256, 32)) for _ in range(8)))
    head = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


@pytest.fixture(scope="module")
def site(once: Once) -> Path:
    def make(folder: Path) -> None:
        folder.mkdir()
        picture = write_png(folder / "picture.png")
        reported = tuple(load_reported(Path(__file__).resolve().parents[2] / "results" / "reported.csv"))
        options = SiteOptions(images="all", image_source=lambda run, image: picture, reported=reported)
        catalogue = make_catalogue(mnist={"title": "MNIST", "sensitive": False, "version": 1})
        catalogue.defenses["re"]["reference"] = catalogue.attacks["gmi"]["reference"] = PAPER
        build_site(make_runs(), replace(catalogue, claims=make_claims()), folder / "the site", options)

    return once("browser", make) / "the site"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Open a page. Console errors and warnings, page errors and requests that leave the disk fail a test."""
    contexts, trouble = [], []

    def open_page(path: Path, hash: str = "", **options: Any) -> Any:
        context = chromium.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: trouble.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "request",
            lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else trouble.append(r.url),
        )
        page.on(
            "requestfailed",  # what a reload or a click on a link interrupts has not failed
            lambda r: None if r.failure == "net::ERR_ABORTED" else trouble.append(f"failed: {r.url}, {r.failure}"),
        )
        page.goto(path.as_uri() + hash)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


def board(page: Any) -> Any:
    return page.locator("[data-board]")


def rows(page: Any) -> list[str]:
    """Labels of the visible defenses, in order."""
    read = "rows => rows.map(row => row.children[1].dataset.order)"
    return list(board(page).locator("tbody tr[data-row]").evaluate_all(read))


def columns(page: Any) -> list[str]:
    """The attacks whose columns are visible."""
    return list(board(page).locator("thead th[data-attack] .head").all_inner_texts())


def island(page: Any) -> Any:
    return json.loads(page.locator("[data-island]").text_content())


def drawn(page: Any) -> list[list[float]]:
    read = "all => all.map(point => [Number(point.dataset.x), Number(point.dataset.y)])"
    return list(board(page).locator(".plot a.point").evaluate_all(read))


def front(page: Any) -> list[str]:
    return list(json.loads(board(page).locator(".plot").get_attribute("data-front")))


def toggle(page: Any, group: str, name: str) -> None:
    found = board(page).locator(f'[data-filter="{group}"]')
    found.evaluate_all("(all, name) => all.find(input => input.value === name).click()", name)


def shown_boards(runs: list[RunRecord]) -> Any:
    catalogue = make_catalogue()
    every = boards(current_runs(runs), controls=catalogue.controls, baselines=catalogue.baselines)
    (found,) = [b for b in every if b.key == "orl32"]
    return standings(found, catalogue), found


def test_one_point_for_every_row(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html")
    found, _ = shown_boards(make_runs())
    assert rows(page) == [s.label for s in found]
    points = [[s.natural.mean, s.case.value.mean] for s in found if s.worst and s.natural.mean is not None]
    assert sorted(drawn(page)) == sorted(points) and len(points) == len(found)
    assert board(page).locator(".point .mark").count() == len(points)
    assert "not drawn" not in board(page).locator("figcaption").inner_text()
    board(page).locator("[data-axis]").select_option("kedmi")  # one row has no figure there
    assert len(drawn(page)) == len(found) - 1
    assert "1 without one of the two values are not drawn" in board(page).locator("figcaption").inner_text()


def test_browser_and_python_draw_the_same_front(site: Path, visit: Callable[..., Any]) -> None:
    for name in ("index.html", "leaderboard/mnist.html"):
        page = visit(site / name)
        assert front(page) == island(page)["front"] and front(page)
    assert "partial" not in front(visit(site / "index.html"))


def test_front_and_worst_attack_follow_the_filters(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html")
    toggle(page, "defense", "none")
    toggle(page, "attack", "plgmi")
    runs = [r for r in make_runs() if r.track == "orl32" and r.defense != "none" and r.attack != "plgmi"]
    found, whole = shown_boards(runs)
    assert front(page) == whole.front
    assert columns(page) == ["kedmi", "gmi"]
    worst = {s.label: s.worst.values["att1"].mean for s in found}
    cells = (
        board(page)
        .locator("tbody tr[data-row]")
        .evaluate_all(
            """rows => rows.map(row => [row.children[1].dataset.order,
                                        Number(row.querySelector('[data-worst]').dataset.order)])"""
        )
    )
    assert dict(cells) == pytest.approx(worst)
    board(page).locator("thead th", has_text="Worst attack").click()
    page.wait_for_url(re.compile("sort=2-asc"))
    assert rows(page) == sorted(worst, key=lambda label: worst[label])


def test_filters_by_kind_and_family(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html")
    assert len(columns(page)) == 3
    toggle(page, "family", "GAN latents")
    assert columns(page) == ["plgmi", "kedmi"]
    toggle(page, "kind", "baseline")
    assert "none" not in rows(page)
    board(page).get_by_label("Search").fill("BID")
    assert rows(page) == ["bido"] and len(drawn(page)) == 1
    board(page).get_by_label("Search").fill("no such")
    assert rows(page) == [] and "Everything is filtered out" in board(page).inner_text()


def test_sorting_by_click_and_by_key_sets_aria_sort(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html")
    header = board(page).locator("thead th", has_text="kedmi")
    assert board(page).locator("thead th").first.get_attribute("aria-sort") == "ascending"
    header.locator(".note").click()
    page.wait_for_url(re.compile("sort=6-asc"))
    assert header.get_attribute("aria-sort") == "ascending"
    read = "rows => rows.map(row => row.children[6].dataset.order)"
    values = board(page).locator("tbody tr[data-row]").evaluate_all(read)
    numbers = [float(v) for v in values if v]
    assert numbers == sorted(numbers) and values[-1] == ""  # what is missing stays last
    header.locator("[role=button]").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("sort=6-desc"))
    assert header.get_attribute("aria-sort") == "descending"
    values = board(page).locator("tbody tr[data-row]").evaluate_all(read)
    assert [float(v) for v in values if v] == sorted(numbers, reverse=True) and values[-1] == ""
    assert board(page).locator("thead th[aria-sort]").count() == 1


def test_view_survives_reload_copied_link_and_back(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html")
    everything, all_columns, first_points = rows(page), columns(page), drawn(page)
    toggle(page, "defense", "bido")
    toggle(page, "attack", "plgmi")
    kept = [row for row in everything if row != "bido"]
    assert rows(page) == kept and len(drawn(page)) == len(kept)
    board(page).locator("thead th", has_text="Defense").click()
    page.wait_for_url(re.compile("sort=1-asc"))
    board(page).locator("[data-axis]").select_option("gmi")
    ordered, points = rows(page), drawn(page)
    assert ordered != kept and sorted(ordered) == sorted(kept)
    link = page.url
    page.reload()
    assert (rows(page), drawn(page)) == (ordered, points)
    again = visit(site / "index.html", "#" + link.split("#")[1])
    assert (rows(again), columns(again), drawn(again)) == (ordered, ["kedmi", "gmi"], points)
    again.close()
    page.go_back()
    page.go_back()
    assert rows(page) == kept
    page.go_back()
    page.go_back()
    assert (rows(page), columns(page), drawn(page)) == (everything, all_columns, first_points)
    page.go_forward()
    assert "bido" not in rows(page)
    board(page).get_by_role("button", name="Show all").click()
    assert rows(page) == everything and "#" not in page.url


def test_copied_link_names_the_view(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html", permissions=["clipboard-read", "clipboard-write"])
    toggle(page, "defense", HOSTILE)
    board(page).get_by_role("button", name="Copy link").click()
    board(page).locator(".said", has_text="Cop").wait_for()
    said = board(page).locator(".said").inner_text()
    link = said.removeprefix("Copy this: ") if ":" in said else page.evaluate("navigator.clipboard.readText()")
    other = visit(site / "index.html", "#" + link.split("#")[1])
    assert rows(other) == rows(page) and HOSTILE not in rows(other)


def test_nonsense_in_the_hash_is_ignored(site: Path, visit: Callable[..., Any]) -> None:
    plain = rows(visit(site / "index.html"))
    bad = visit(site / "index.html", "#sort=99-asc&theme=%3Cscript%3E&nothing=1&attack=gmi&attack=no-such&y=x")
    assert rows(bad) == plain and columns(bad) == ["gmi"]


def test_what_is_shown_can_be_saved(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html")
    toggle(page, "defense", "bido")
    toggle(page, "attack", "plgmi")

    def saved(kind: str) -> str:
        with page.expect_download() as download:
            board(page).get_by_role("button", name=kind, exact=True).click()
        return Path(download.value.path()).read_text(encoding="utf-8")

    table = list(csv.DictReader(io.StringIO(saved("CSV"))))
    assert [line["defense"] for line in table] == rows(page)
    assert "kedmi" in table[0] and "plgmi" not in table[0]
    points = {(float(line["nat1"]), float(line["worst"])) for line in table}
    assert points == {(x, y) for x, y in drawn(page)}
    data = json.loads(saved("JSON"))
    assert [line["defense"] for line in data["defenses"]] == rows(page)
    latex = saved("LaTeX")
    assert latex.count(r"\\") == 1 + len(rows(page)) and latex.startswith(r"\begin{tabular}{lrrrr}")
    assert HOSTILE not in latex and r"\&" in latex
    assert set(re.findall(r"@inproceedings\{(\w+),", saved("BibTeX"))) == {"re2020", "gmi2020"}


def test_a_point_leads_to_its_cell(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html")
    board(page).locator(".point").first.click()
    page.wait_for_url(re.compile(r"/cell/orl32/[^/]+/[^/]+\.html"))


def test_compare_agrees_with_python(site: Path, visit: Callable[..., Any]) -> None:
    """The table that the browser makes of every run's figures per identity, and the one that is in the page."""
    page = visit(site / "compare/orl32.html", "#a.defense=re&b.defense=none")
    read = "rows => rows.map(row => [row.dataset.attack, ...[...row.children].map(cell => cell.textContent)])"
    lines = page.locator("[data-attacks] tr").evaluate_all(read)
    assert lines[0][1] == "Natural accuracy" and lines[0][3:6] == ["91.0", "94.0", "−3.0"]
    made = {line[0]: line[3:] for line in lines[1:]}
    written = {}
    for row in page.locator("table[data-sortable] tbody tr").all():
        cells = row.locator("th, td").all_inner_texts()
        if cells[0] == "re":
            written[cells[1]] = cells[2:6] + cells[7:]
    assert set(made) == set(written) == set(ATTACKS) and made == written
    page.locator('select[data-side="b"][data-part="defense"]').select_option("bido")
    assert "b.defense=bido" in page.url
    text = page.locator("[data-verdict]").inner_text()
    page.reload()
    assert page.locator("[data-verdict]").inner_text() == text and "minus bido" in text


def test_reported_figures_are_searched_and_filtered(site: Path, visit: Callable[..., Any]) -> None:
    """Against the table itself; a copied link shows the same."""
    lines = load_reported(Path(__file__).resolve().parents[2] / "results" / "reported.csv")
    figures = [one for one in lines if one.defense != "not stated"]
    figures = [one for one in figures if (one.natural_acc, one.attack_acc_top1, one.attack_acc_top5) != (None,) * 3]
    bido = [one for one in figures if one.defense == "BiDO" and one.attack == "PPA"]
    page = visit(site / "reported.html")
    shown = page.locator("[data-source] tbody tr:visible")
    assert shown.count() == len(figures)
    page.locator('select[name="defense"]').select_option("BiDO")
    page.locator('select[name="attack"]').select_option("PPA")
    assert shown.count() == len(bido) > 0
    assert page.locator("[data-source]:visible").count() == len({one.source for one in bido})
    page.locator('input[name="search"]').fill("rolss bido")
    narrow = shown.count()
    assert 0 < narrow <= len(bido)
    page.reload()
    assert shown.count() == narrow and page.locator('select[name="attack"]').input_value() == "PPA"
    assert page.locator("td.prose details[open]").count() == 0


def test_hostile_names_stay_text(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html")
    assert page.evaluate("window.pwned") is None
    assert board(page).locator(f'th[data-order="{HOSTILE.replace(chr(34), chr(92) + chr(34))}"]').count() == 1
    assert HOSTILE in board(page).locator("tbody").text_content()
    assert board(page).locator(".plot :is(b, script)").count() == 0
    assert "<b>re</b>" in board(page).locator(".plot").text_content()


def test_every_link_and_image_resolves(site: Path, visit: Callable[..., Any]) -> None:
    pages = sorted(site.rglob("*.html"))
    ids: dict[Path, set[str]] = {}
    targets: list[tuple[Path, Path, str]] = []
    page = visit(pages[0], java_script_enabled=False)
    for path in pages:
        page.goto(path.as_uri())
        ids[path] = set(page.locator("[id]").evaluate_all("all => all.map(e => e.id)"))
        assert len(ids[path]) == page.locator("[id]").count(), f"an id twice on {path}"
        read = "all => all.map(e => e.href || e.src).filter(Boolean)"
        for url in page.locator("a[href], img[src], link[href], script[src]").evaluate_all(read):
            parts = urlsplit(url)
            if parts.scheme == "file":
                targets.append((path, Path(unquote(parts.path)), unquote(parts.fragment)))
    assert len(targets) > 100
    for origin, path, fragment in targets:
        assert path.is_file() and site in path.parents, f"{origin} links to {path}"
        assert not fragment or fragment in ids[path], f"{origin} links to {path}#{fragment}"


def test_images_load(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(next(p for p in sorted((site / "run").iterdir()) if "<img" in p.read_text()))
    images = page.locator(".thumbs img")
    assert images.count() == 40
    images.evaluate_all("all => all.forEach(image => (image.loading = 'eager'))")
    page.wait_for_load_state("networkidle")
    assert images.evaluate_all("all => all.every(image => image.complete && image.naturalWidth === 8)")


def test_faces_are_blurred_until_asked_for_even_without_scripts(site: Path, visit: Callable[..., Any]) -> None:
    run = make_run(defense="bido", attack="gmi", seed=0)
    for script in (True, False):
        page = visit(site / "run" / f"{run.run}.html", java_script_enabled=script)
        image = page.locator(".thumbs img").first
        assert "blur" in image.evaluate("image => getComputedStyle(image).filter")
        page.get_by_label("Show images").check()
        assert image.evaluate("image => getComputedStyle(image).filter") == "none"
    digits = make_run(track="mnist", defense="re", nat1=0.98)
    page = visit(site / "run" / f"{digits.run}.html")
    assert page.locator(".thumbs img").first.evaluate("image => getComputedStyle(image).filter") == "none"


# --- what a first look finds, on a track with three judges and controls ---------------------------------------------

LEAKED = {  # what the majority takes for the person on seed 0; each further seed 0.01 more, defended 0.02
    ("none", "gmi"): 0.5,
    ("none", "kedmi"): 0.75,
    ("none", "floor"): 0.25,
    ("none", "ceiling"): 0.85,
    ("none", "photos"): 0.95,
    ("re", "gmi"): 0.25,
    ("re", "kedmi"): 0.4,
    ("re", "floor"): 0.25,
}


def seen_by_three(defense: str, attack: str, seed: int) -> RunRecord:
    """A run whose every image E2 takes for identity 0; in those of identity 1 no face is found."""
    run = make_run(defense=defense, attack=attack, seed=seed, nat1=(0.9 if defense == "none" else 0.88) + seed / 200)
    leaked = LEAKED[defense, attack] + seed / (100 if defense == "none" else 50)
    people = {str(label): leaked for label in run.identities}
    faces = {str(label): float(label != 1) for label in run.identities}
    top = {"value": 0.95, "ci_low": 0.9, "ci_high": 0.975}
    knows = {"n": 40, "top1": top, "top5": top, "look_alikes": 0.5, "calibration_error": 0.1}
    more = {
        "att1": MetricValue(1.0, 40, per_identity=people),
        "att_maj": MetricValue(leaked, 40, per_identity=people),
        "att1_e2": MetricValue(leaked / 2, 40),
        "face_rate": MetricValue(0.9, 40, per_identity=faces),
    }
    prior = StageInfo("prior", "9c" * 8, "dcgan", 1001, {"steps": 0}, seed, 1.0)
    return replace(
        run,
        metrics=run.metrics | more,
        judges={"e1": knows, "e2": knows, "e3": {"reason": "it knows faces only"}},
        images=[image | {"e2": 0} for image in run.images],
        stages=[*run.stages, *([] if attack == "photos" else [prior])],
    )


@pytest.fixture(scope="module")
def judged(once: Once) -> Path:
    def make(folder: Path) -> None:
        folder.mkdir()
        picture = write_png(folder / "picture.png")
        known = make_catalogue()
        controls = {name: {"title": f"{name.title()} (control)", "family": "control"} for name in ("floor", "ceiling")}
        controls["photos"] = {
            "title": "Real photos (control)",
            "family": "control",
            "summary": "Photos in their place.",
        }
        catalogue = Catalogue(
            known.tracks, known.defenses, known.attacks | controls, known.metrics, bounds=("floor", "ceiling")
        )
        runs = [seen_by_three(*cell, seed) for cell in LEAKED for seed in range(3)]
        options = SiteOptions(images="sample", image_source=lambda run, image: picture)
        build_site(runs, catalogue, folder / "the site", options)

    return once("browser-judged", make) / "the site"


def bottom(locator: Any) -> float:
    box = locator.bounding_box()
    return float(box["y"] + box["height"])


def test_the_first_screen_says_who_protects_best_against_what_and_at_what_cost(
    judged: Path, visit: Callable[..., Any]
) -> None:
    page = visit(judged / "index.html", viewport={"width": 1400, "height": 900})
    said = page.locator(".answer").inner_text()
    assert said.startswith("Random Erasing protects best: its worst attack, kedmi, recovers 42.0 % instead of 76.0 %")
    assert "at an accuracy of 88.5 % instead of 90.5 %" in said
    item = " ".join(page.locator(".verdicts li").inner_text().split())
    assert item.startswith("Random Erasing re leaks less worst attack 76.0 → 42.0 (−34.0; −36.5 to −31.5)")
    assert "accuracy 90.5 → 88.5 (−2.0, not told apart); clearly less leakage against 2 of 2 attacks" in item
    for shown in (page.locator(".answer"), page.locator(".verdicts li").first, page.locator(".plot")):
        assert bottom(shown) <= 900
    page.set_viewport_size({"width": 1400, "height": 1000})
    assert bottom(page.locator("[data-table] tbody tr").first) <= 1000
    assert page.locator("tbody th.stick").first.inner_text().startswith("Random Erasing")
    assert (
        page.locator("tr", has=page.locator("code", has_text="none")).locator(".badge", has_text="front").count() == 0
    )


def test_the_figure_shows_controls_as_lines_and_its_points_are_links(judged: Path, visit: Callable[..., Any]) -> None:
    page = visit(judged / "index.html")
    levels = page.locator(".level text").all_text_contents()
    assert levels == ["guessing 10.0 %", "Floor 26.0 %", "Ceiling 86.0 %", "Real photos 96.0 %"]
    assert page.locator(".beaten").count() == 1 and page.locator(".point text").count() == 2
    colour = "all => all.map(one => getComputedStyle(one).stroke + getComputedStyle(one).color)"
    (front_colour,) = page.locator("path.front").evaluate_all("all => all.map(one => getComputedStyle(one).stroke)")
    assert not [c for c in page.locator(".point").evaluate_all(colour) if front_colour in c]
    title = page.locator(".ytitle").bounding_box()
    ticks = page.locator(".axes text:not(.title)").all()
    boxes = [tick.bounding_box() for tick in ticks]
    assert len(boxes) > 6 and all(box["x"] >= title["x"] + title["width"] or box["y"] > title["y"] for box in boxes)
    point = page.locator(".point[data-label=re]")
    page.locator("[data-save]").focus()
    for _ in range(3):  # by keyboard alone
        page.keyboard.press("Tab")
        if point.evaluate("point => point === document.activeElement"):
            break
    assert "95 % interval" in page.locator(".tip").inner_text() and page.locator(".tip").is_visible()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/cell/orl32/[^/]+/[^/]+\.html"))


def test_differences_and_what_is_not_above_the_floor(judged: Path, visit: Callable[..., Any]) -> None:
    for script in (True, False):
        page = visit(judged / "index.html", java_script_enabled=script)
        row = board(page).locator("tbody tr", has=page.locator('th[data-order="re"]'))
        cell = row.locator("td.attack").nth(0)
        assert cell.inner_text().startswith("42.0")
        page.get_by_label("Difference to none").check()
        assert cell.inner_text().startswith("−34.0")
        grey = "rows => rows.map(row => row.querySelectorAll('.at-floor').length)"
        assert board(page).locator("tbody tr[data-row]").evaluate_all(grey) == [1, 0]
        assert "its prior's floor, 27.0 %" in row.locator(".at-floor").get_attribute("title")
    page = visit(judged / "index.html", "#differences=yes")
    assert row_texts(page, 0)[5].startswith("−34.0")
    link = page.locator("thead th[data-attack] a.head").first
    assert link.get_attribute("href") == "attack/kedmi.html"


def row_texts(page: Any, index: int) -> list[str]:
    return list(board(page).locator("tbody tr[data-row]").nth(index).locator("> *").all_inner_texts())


def test_searching_for_an_attack_filters_columns(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html")
    everything = rows(page)
    board(page).get_by_label("Search").fill("kedmi")
    assert columns(page) == ["kedmi"] and rows(page) == everything
    board(page).get_by_label("Search").fill("kedmi bid")
    assert columns(page) == ["kedmi"] and rows(page) == ["bido"]


def test_the_first_columns_stay_and_shared_ranks_are_told(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html", viewport={"width": 1000, "height": 900})
    first = board(page).locator("tbody tr").first.locator("> *")
    page.locator(".matrix-scroll").evaluate("scroll => (scroll.scrollLeft = 200)")
    left = [cell.bounding_box()["x"] for cell in first.all()[:4]]
    assert left == sorted(left) and left[0] >= 0 and len(set(left)) == 4
    ranks = [text.split()[0] for text in board(page).locator("td.rank").all_inner_texts()]
    found, _ = shown_boards(make_runs())
    of = [s.case.rank for s in found]
    assert ranks == ["–" if rank is None else f"{rank}{'=' * (of.count(rank) > 1)}" for rank in of]


def test_on_a_phone_a_row_is_defense_worst_and_difference_and_attacks_come_by_tap(
    judged: Path, visit: Callable[..., Any]
) -> None:
    for script in (True, False):
        page = visit(judged / "index.html", viewport={"width": 375, "height": 800}, java_script_enabled=script)
        row = board(page).locator("tbody tr").first
        shown = row.locator("> :visible")
        assert [name.split()[0] for name in shown.all_inner_texts()] == ["Random", "42.0", "−34.0"]
        row.get_by_label("attacks").check()
        assert row.locator("td.attack:visible").count() == 3  # what it never faced stays away
        assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_a_defense_page_shows_each_attack_without_and_with_it(judged: Path, visit: Callable[..., Any]) -> None:
    page = visit(judged / "defense/re.html", bypass_csp=True)
    lines = page.locator(".forest tbody tr")
    read = "rows => rows.map(row => [...row.children].map(cell => cell.textContent.trim().replace(/\\s+/g, ' ')))"
    told = {line[0]: line[2] for line in lines.evaluate_all(read)}
    assert told == {"kedmi": "76.0 → 42.0", "GMI": "51.0 → 27.0"}
    ends = lines.first.locator("circle").evaluate_all("all => all.map(one => one.getAttribute('cx'))")
    assert ends == ["76.0%", "42.0%"]
    heads = page.locator(".results thead th").all_text_contents()
    assert not [head for head in heads if "Natural" in head or "Time" in head]  # told once, above
    assert "accuracy 90.5 → 88.5" in page.locator(".setting p").inner_text()
    assert axe_problems(page) == []


def test_the_comparison_opens_on_the_worst_attack_with_its_people_folded(
    judged: Path, visit: Callable[..., Any]
) -> None:
    page = visit(judged / "compare/orl32.html", bypass_csp=True)
    chosen = page.locator("select").evaluate_all("all => all.map(one => one.value)")
    assert chosen[:2] == ["re", "kedmi"] and chosen[3:5] == ["none", "kedmi"]
    assert "−34.0 percentage points" in page.locator("[data-verdict]").inner_text()
    names = page.locator("[data-attacks] th").all_text_contents()
    assert names == ["Natural accuracy", "kedmi", "GMI"]
    assert not page.locator("[data-people] tr").first.is_visible() and axe_problems(page) == []


def test_the_page_of_the_controls(judged: Path, visit: Callable[..., Any]) -> None:
    page = visit(judged / "index.html", bypass_csp=True)
    page.get_by_role("link", name="Controls and judges").click()
    page.wait_for_url("**/controls/orl32.html*")
    assert (
        page.locator("section", has_text="Photos in their place").locator("tbody tr td").nth(1).inner_text()[:4]
        == "96.0"
    )
    judges = page.locator("section").first.locator("tbody tr")
    assert [text.split()[0] for text in judges.all_inner_texts()] == ["E1", "E2", "E3"]
    assert "95.0" in judges.first.inner_text() and "it knows faces only" in judges.last.inner_text()
    assert axe_problems(page) == []


def test_a_gallery_says_what_the_judges_said_and_never_praises_noise(judged: Path, visit: Callable[..., Any]) -> None:
    run = make_run(defense="re", attack="gmi", seed=0)
    page = visit(judged / "run" / f"{run.run}.html", bypass_csp=True)
    told = page.locator("section.gallery .facts-line").inner_text()
    assert "E1 100.0 %, E2 12.5 %, majority 25.0 %" in told and "a face is found in 90.0 %" in told
    assert "the prior by itself gets 25.0 %" in told
    noise = page.locator(".person", has_text="no face found")
    assert noise.count() == 1 and "Identity 1" in noise.inner_text()
    assert noise.locator(".badge", has_text="match").count() == 0
    assert page.locator("figcaption", has_text="E2: ").count() == 24 and axe_problems(page) == []
    assert page.locator(".selected").count() == 6  # something was not
    page.set_viewport_size({"width": 375, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_without_scripts_the_tables_are_there(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html", java_script_enabled=False)
    assert len(rows(page)) == 5 and len(columns(page)) == 3
    assert board(page).locator("td.lead-cell").first.is_visible()
    assert not page.locator("[data-search], .plot, [data-theme-toggle]").first.is_visible()
    page.goto((site / "compare/orl32.html").as_uri())
    assert page.locator("table[data-sortable] tbody tr").count() >= 9
    assert not page.locator("[data-compare]").is_visible()


def every_kind_of_page(site: Path) -> list[Path]:
    """One page of each template."""
    run = make_run(defense="<b>re</b>", defense_label=HOSTILE, attack="gmi", seed=0)
    names = ["index", "claims", "protocol", "reported", "download", "about", "submit", "compare/orl32", "track/orl32"]
    return [site / f"{name}.html" for name in (*names, "defense/re", "attack/gmi", f"run/{run.run}")]


@pytest.mark.parametrize("width", [375, 768])
def test_narrow_pages_do_not_scroll_sideways_and_targets_are_large(
    site: Path, judged: Path, visit: Callable[..., Any], width: int
) -> None:
    """On a phone what a finger touches is 24 px or more, what is folded too."""
    page = visit(judged / "index.html", viewport={"width": width, "height": 800})
    for path in [judged / "index.html", judged / "controls/orl32.html", *every_kind_of_page(site)]:
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        page.evaluate("document.querySelectorAll('details').forEach(part => (part.open = true))")
        small = page.locator("a[href]:not(.skip), button, summary, select, input").evaluate_all(
            """all => all.filter(one => one.checkVisibility()).filter(one => {
                const box = (one.closest("label") ?? one).getBoundingClientRect();
                return box.width && Math.min(box.width, box.height) < 24;
            }).map(one => one.outerHTML)"""
        )
        assert width > 375 or small == [], path


def test_endless_and_reversed_names_do_not_break_pages(tmp_path: Path, visit: Callable[..., Any]) -> None:
    endless, other = "\u202e" + "x" * 10_000, "a" * 10_000
    cells = [(endless, "gmi"), ("none", "gmi"), ("none", other), ("none", other[:-1])]
    runs = [make_run(defense=defense, attack=attack) for defense, attack in cells]
    folder = build_site(runs, make_catalogue(), tmp_path / "site", SiteOptions()).parent
    paths = sorted(folder.rglob("*.html"))
    assert len({path.name for path in paths if path.parent.name == "attack"}) == 3
    for path in paths:
        page = visit(path, viewport={"width": 375, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, path
        page.context.close()


def test_dark_theme_follows_the_system_and_the_button(site: Path, visit: Callable[..., Any]) -> None:
    def dark(page: Any) -> bool:
        channels = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).map(Number)")
        return sum(channels[:3]) < 3 * 128

    assert dark(visit(site / "index.html", color_scheme="dark"))
    page = visit(site / "index.html", color_scheme="light")
    assert not dark(page)
    page.get_by_role("button", name="Dark theme").click()
    assert dark(page) and "theme=dark" in page.url
    page.reload()
    assert dark(page)
    page.get_by_role("link", name="Protocol").click()  # the choice goes along
    page.wait_for_url("**/protocol.html*")
    page.wait_for_load_state()
    assert dark(page)
    page.get_by_role("button", name="Light theme").click()
    assert not dark(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(site: Path, visit: Callable[..., Any], scheme: str) -> None:
    axe = (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")
    page = visit(site / "index.html", color_scheme=scheme, bypass_csp=True)
    for path in every_kind_of_page(site):
        page.goto(path.as_uri())
        page.evaluate(axe)
        found = page.evaluate(
            "axe.run({ preload: false }).then(r => r.violations.map(v => [v.impact, v.id, v.nodes.map(n => n.html)]))"
        )
        assert [v for v in found if v[0] in ("serious", "critical")] == [], path


# --- the page of a human study ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two made-up runs; each image's bytes are those of one small picture."""
    folder = tmp_path_factory.mktemp("study")
    png = write_png(folder / "picture.png").read_bytes()
    page = folder / "study.html"
    page.write_text(render(TEMPLATES, "0" * 12, make_study(), lambda source: png), encoding="utf-8")
    return page


@pytest.mark.parametrize(("width", "scheme", "checked"), [(1280, "light", False), (375, "dark", True)])
def test_a_rater_answers_goes_back_reloads_and_saves(
    chromium: Any, study_page: Path, tmp_path: Path, width: int, scheme: str, checked: bool
) -> None:
    axe = (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")
    # axe is added to the page, which the page's own policy forbids; the other time the policy holds
    context = chromium.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, accept_downloads=True, bypass_csp=checked
    )
    page = context.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: heard.append(request.url) if request.url.startswith("http") else None)

    def start() -> None:
        page.goto(study_page.as_uri())
        page.select_option("#rater", "rater-0")
        page.get_by_role("button", name="Start").click()
        if checked:
            page.evaluate(axe)

    start()
    kinds: dict[str, str] = {}
    answered = 0
    while page.is_visible("#ask"):
        question = page.text_content("#question")
        if question not in kinds:
            kinds[question] = page.text_content("#count")
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert not checked or page.evaluate("axe.run()")["violations"] == []
        if answered == 3:
            page.click("#back")
            assert page.locator('#stage [aria-pressed="true"]').count() == 1
            page.locator("#stage [data-answer]").first.click()
        page.keyboard.press("2")
        answered += 1
        if answered == 10:
            start()  # comes back to where it was
            assert page.text_content("#count").startswith("11 of ")
    assert len(kinds) == 3
    with page.expect_download() as download:
        page.click("#save")
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    key = make_key(make_study())
    (sheet,) = read_sheets([saved], key)
    assert set(sheet.answers) == set(key.raters["rater-0"])
    assert heard == []
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_audit_report_reads_well(visit: Callable[..., Any], tmp_path: Path, scheme: str) -> None:
    """With names that are markup, a missing run, and an attack that did not run; 375 pixels wide."""
    picture = write_png(tmp_path / "picture.png")
    runs = [
        make_run(defense=defense, attack=attack, att1=value)
        for attack in ("gmi", "ppa")
        for defense, value in (("own_model", 0.9), ("none", 0.8), ("re", 0.4))
        if (attack, defense) != ("ppa", "re")
    ]
    labels = runs[0].identities
    names = [HOSTILE, "a" * 300, *(f"class {n}" for n in range(max(labels)))]
    models = Models("own_model", "none", "re", "Random erasing")
    found = findings(HOSTILE, names, runs, models, Judge(0.95, 40), {"vmi": "it needs public images"}, ["A note."])
    assert [row["attack"] for row in found["attacks"]] == ["gmi", "ppa"] and found["attacks"][1]["defended"] is None
    found |= {"unfinished": None, "next": ["Look at <b>it</b>."]}
    own = [run for run in runs if run.defense == "own_model"]
    shown = gallery(found, own, "own_model", lambda *_: picture, lambda *_: picture)
    path = tmp_path / "audit.html"
    path.write_text(page(found, shown, TEMPLATES.parent / "audit"))
    opened = visit(path, viewport={"width": 375, "height": 800}, color_scheme=scheme, bypass_csp=True)
    assert opened.evaluate("document.documentElement.scrollWidth") <= 375
    assert opened.evaluate("window.pwned") is None and opened.locator("figure img").count() > 2
    assert axe_problems(opened) == []


def axe_problems(opened: Any) -> list[str]:
    """What axe calls serious or critical."""
    opened.evaluate((Path(__file__).parent / "vendor" / "axe.min.js").read_text())
    found = opened.evaluate("axe.run({ preload: false })")["violations"]
    return [problem["id"] for problem in found if problem["impact"] in ("serious", "critical")]
