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

from mibench.audit.report import Models, findings, gallery, page
from mibench.publish import SiteOptions, build_site
from mibench.publish.aggregate import boards, current_runs
from mibench.publish.figures_file import load_reported
from mibench.publish.standings import standings
from mibench.records import MetricValue, RunRecord
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
    read = """plot => {
        const points = plot.data.find(trace => trace.name === "rows");
        return points.x.map((x, i) => [x, points.y[i]]);
    }"""
    return list(board(page).locator(".plot").evaluate(read))


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
    assert board(page).locator(".scatterlayer .trace .points path").count() == len(points)
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
    page.wait_for_url(re.compile("sort=3-asc"))
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
    header.click()
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
    board(page).locator(".plot").evaluate(
        """plot => {
            const trace = plot.data.find(t => t.name === "rows");
            plot.emit("plotly_click", { points: [{ customdata: trace.customdata[0] }] });
        }"""
    )
    page.wait_for_url(re.compile(r"/cell/orl32/[^/]+/[^/]+\.html"))


def test_compare_agrees_with_python(site: Path, visit: Callable[..., Any]) -> None:
    """The table that the browser makes of every run's figures per identity, and the one that is in the page."""
    page = visit(site / "compare/orl32.html", "#a.defense=re&b.defense=none")
    made = {}
    for row in page.locator("[data-attacks] tr").all():
        cells = row.locator("th, td").all_inner_texts()
        made[cells[0]] = cells[1:]
    written = {}
    for row in page.locator("table[data-sortable] tbody tr").all():
        cells = row.locator("th, td").all_inner_texts()
        if cells[0] == "re":
            written[cells[1]] = [cells[4], cells[5], cells[7]]
    assert set(made) == set(written) == set(ATTACKS)
    assert {name: [cells[2], cells[3], cells[4]] for name, cells in made.items()} == written
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
    texts = board(page).locator(".plot").evaluate("plot => plot.data.find(t => t.name === 'rows').text")
    assert not [t for t in texts if "<script" in t or "<b>re</b>[" in t]


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


def test_with_a_panel_the_majority_is_drawn_and_compared(visit: Callable[..., Any], tmp_path: Path) -> None:
    shares = {("none", "gmi"): 0.5, ("none", "kedmi"): 0.25, ("re", "gmi"): 0.125, ("re", "kedmi"): 0.0625}
    top = {"value": 0.1, "ci_low": 0.05, "ci_high": 0.15}
    knows = {"n": 40, "top1": top, "top5": top, "look_alikes": 0.5, "calibration_error": 0.1}
    runs = []
    for (defense, attack), share in shares.items():
        run = make_run(defense=defense, attack=attack, nat1=0.9, att1=1.0)
        people = {str(label): share for label in run.identities}
        more = {"att_maj": MetricValue(share, 40, per_identity=people), "att1_e2": MetricValue(share, 40)}
        judges = {"e1": knows, "e2": knows, "e3": {"reason": "it knows faces only"}}
        images = [image | {"e2": 0} for image in run.images]
        runs.append(replace(run, metrics=run.metrics | more, judges=judges, images=images))
    picture = write_png(tmp_path / "picture.png")
    options = SiteOptions(images="all", image_source=lambda run, image: picture)
    build_site(runs, make_catalogue(), tmp_path / "site", options)

    opened = visit(tmp_path / "site" / "index.html", bypass_csp=True)
    assert "majority" in opened.locator(".plot .ytitle").text_content()
    worst = opened.locator("td.lead-cell")
    assert [text.split()[0] for text in worst.all_inner_texts()] == ["12.5", "50.0"]
    assert opened.locator("td.heat", has_text="E1 100.0").count() == 4
    assert opened.locator(".badge", has_text="saturated").count() == 2 and axe_problems(opened) == []
    opened.goto((tmp_path / "site" / "compare/orl32.html").as_uri())
    assert "−37.5 percentage points" in opened.locator("[data-verdict]").inner_text()
    opened.goto((tmp_path / "site" / "run" / f"{runs[0].run}.html").as_uri())
    assert opened.locator("figcaption", has_text="E2: ").count() == 40 and axe_problems(opened) == []
    opened.set_viewport_size({"width": 375, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 375


def test_without_scripts_the_tables_are_there(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html", java_script_enabled=False)
    assert len(rows(page)) == 5 and len(columns(page)) == 3
    assert board(page).locator("td.lead-cell").first.is_visible()
    assert not page.locator(".filters, .plot, [data-theme-toggle]").first.is_visible()
    page.goto((site / "compare/orl32.html").as_uri())
    assert page.locator("table[data-sortable] tbody tr").count() >= 9
    assert not page.locator("[data-compare]").is_visible()


def every_kind_of_page(site: Path) -> list[Path]:
    """One page of each template."""
    run = make_run(defense="<b>re</b>", defense_label=HOSTILE, attack="gmi", seed=0)
    names = ["index", "claims", "protocol", "reported", "download", "about", "submit", "compare/orl32", "track/orl32"]
    return [site / f"{name}.html" for name in (*names, "defense/re", "attack/gmi", f"run/{run.run}")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 768])
def test_narrow_pages_do_not_scroll_sideways(site: Path, visit: Callable[..., Any], width: int, scheme: str) -> None:
    for path in every_kind_of_page(site):
        page = visit(path, viewport={"width": width, "height": 800}, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path


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
    for path in every_kind_of_page(site):
        page = visit(path, color_scheme=scheme, bypass_csp=True)
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
    found = findings(HOSTILE, names, runs, models, {"vmi": "it needs public images"}, ["A note."])
    assert [row["attack"] for row in found["attacks"]] == ["gmi", "ppa"] and found["attacks"][1]["defended"] is None
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
