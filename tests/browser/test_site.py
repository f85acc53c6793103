"""The site in Chromium, opened from disk as a reader does."""

from __future__ import annotations

import json
import re
import shutil
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from factories import make_catalogue, make_run

from mibench.publish import SiteOptions, build_site
from mibench.publish.aggregate import boards, current_runs
from mibench.records import RunRecord

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

HOSTILE = "<b>re</b>[</script><script>window.pwned=1</script>,x='\"&]"
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
        for s in (0, 1)
    ]
    runs.append(make_run(defense="partial", attack="gmi", nat1=0.95, att1=0.01))
    runs.append(make_run(defense="partial", attack="kedmi", nat1=0.95, att1=None))
    runs.append(make_run(defense="re", attack="gmi", seed=2, status="failed", metrics={}, images=[]))
    runs += [make_run(track="mnist", defense=d, nat1=0.98) for d in ("none", "re")]
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
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    picture = write_png(folder / "picture.png")
    options = SiteOptions(images="all", image_source=lambda run, image: picture)
    catalogue = make_catalogue(mnist={"title": "MNIST", "sensitive": False, "version": 1})
    return build_site(make_runs(), catalogue, folder / "the site", options).parent


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
        page.on("requestfailed", lambda request: trouble.append(f"failed: {request.url}"))
        page.goto(path.as_uri() + hash)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


def board(page: Any, key: str = "orl32") -> Any:
    return page.locator(f'[data-board="{key}"]')


def rows(page: Any, key: str = "orl32") -> list[tuple[str, str]]:
    """Defense and attack of the visible rows, in order."""
    return [
        tuple(pair)
        for pair in board(page, key)
        .locator("tbody tr[data-row]")
        .evaluate_all("rows => rows.map(row => [1, 2].map(i => row.children[i].dataset.order))")
    ]


def drawn(page: Any, key: str = "orl32") -> list[list[float]]:
    return (
        board(page, key)
        .locator(".plot")
        .evaluate(
            """plot => {
        const points = plot.data.find(trace => trace.name === "rows");
        return points.x.map((x, i) => [x, points.y[i]]);
    }"""
        )
    )


def chip(page: Any, kind: str, name: str) -> Any:
    return board(page).locator(f'[data-filter="{kind}"]').and_(page.get_by_role("checkbox", name=name, exact=True))


def toggle(page: Any, kind: str, name: str) -> None:
    chip(page, kind, name).evaluate("input => input.click()")


def test_table_and_scatter_show_the_same_rows(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html")
    shown = rows(page)
    (expected,) = [b for b in boards(current_runs(make_runs())) if b.key == "orl32"]
    assert shown == [(row.defense_label, row.attack_label) for row in expected.rows]
    points = [
        [row.values["nat1"].mean, row.values["att1"].mean]
        for row in expected.rows
        if row.values["att1"].mean is not None
    ]
    assert sorted(drawn(page)) == sorted(points)
    assert board(page).locator(".scatterlayer .trace .points path").count() == len(points)
    assert "1 of the rows lack" in board(page).locator("figcaption").inner_text()


def test_browser_and_python_draw_the_same_front(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html")
    for key in ("orl32", "mnist"):
        data = json.loads(board(page, key).locator("[data-island]").text_content())
        assert json.loads(board(page, key).locator(".plot").get_attribute("data-front")) == data["front"]
    assert "partial" not in data["front"]


def test_front_follows_the_filters(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html")
    toggle(page, "defense", "none")
    toggle(page, "attack", "kedmi")
    runs = [r for r in make_runs() if r.track == "orl32" and r.defense != "none" and r.attack != "kedmi"]
    (expected,) = boards(current_runs(runs))
    assert json.loads(board(page).locator(".plot").get_attribute("data-front")) == expected.front


def test_sorting_by_click_and_by_key_sets_aria_sort(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html")
    header = board(page).locator("thead th", has_text="Attack top‑1")
    assert board(page).locator("thead th").first.get_attribute("aria-sort") == "ascending"
    header.click()
    page.wait_for_url(re.compile("orl32.sort=4-asc"))
    assert header.get_attribute("aria-sort") == "ascending"
    values = board(page).locator("td.lead-cell").evaluate_all("cells => cells.map(c => c.dataset.order)")
    numbers = [float(v) for v in values if v]
    assert numbers == sorted(numbers) and values[-1] == ""  # what is missing stays last
    header.locator("[role=button]").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("orl32.sort=4-desc"))
    assert header.get_attribute("aria-sort") == "descending"
    values = board(page).locator("td.lead-cell").evaluate_all("cells => cells.map(c => c.dataset.order)")
    assert [float(v) for v in values if v] == sorted(numbers, reverse=True) and values[-1] == ""
    assert board(page).locator("thead th[aria-sort]").count() == 1
    assert board(page, "mnist").locator("thead th").first.get_attribute("aria-sort") == "ascending"


def test_filters_and_order_survive_reload_copied_link_and_back(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html")
    everything, first_points = rows(page), drawn(page)
    toggle(page, "defense", "bido")
    toggle(page, "attack", "gmi")
    kept = [row for row in everything if row[0] != "bido" and row[1] != "gmi"]
    assert rows(page) == kept
    assert len(drawn(page)) == len(kept) - 1  # one row of them has no attack accuracy
    board(page).locator("thead th", has_text="Confidence").click()
    page.wait_for_url(re.compile("orl32.sort=8-asc"))  # DataTables sorts a moment later
    ordered = rows(page)
    assert ordered != kept and sorted(ordered) == sorted(kept)
    link = page.url
    page.reload()
    assert rows(page) == ordered
    again = visit(site / "index.html", "#" + link.split("#")[1])
    assert rows(again) == ordered and not chip(again, "defense", "bido").is_checked()
    again.close()
    page.go_back()
    assert rows(page) == kept
    page.go_back()
    page.go_back()
    assert rows(page) == everything and drawn(page) == first_points
    page.go_forward()
    assert "bido" not in {row[0] for row in rows(page)}
    board(page).get_by_role("button", name="Show all").click()
    assert rows(page) == everything and "#" not in page.url
    assert rows(page, "mnist")


def test_copied_link_names_the_view_and_the_track(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html", permissions=["clipboard-read", "clipboard-write"])
    toggle(page, "defense", HOSTILE)
    board(page).get_by_role("button", name="Copy link").click()
    board(page).locator(".said", has_text="Cop").wait_for()
    said = board(page).locator(".said").inner_text()
    link = said.removeprefix("Copy this: ") if ":" in said else page.evaluate("navigator.clipboard.readText()")
    other = visit(site / "index.html", "#" + link.split("#")[1])
    assert "track=orl32" in link
    assert rows(other) == rows(page) and HOSTILE not in {row[0] for row in rows(other)}


def test_nonsense_in_the_hash_is_ignored(site: Path, visit: Callable[..., Any]) -> None:
    plain = rows(visit(site / "index.html"))
    bad = visit(site / "index.html", "#orl32.sort=99-asc&theme=%3Cscript%3E&nothing=1&orl32.a=gmi&orl32.a=no-such")
    assert rows(bad) == [row for row in plain if row[1] == "gmi"]


def test_hostile_names_stay_text(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html")
    assert page.evaluate("window.pwned") is None
    assert board(page).locator(f'th[data-order="{HOSTILE.replace(chr(34), chr(92) + chr(34))}"]').count() == len(
        ATTACKS
    )
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


def test_without_scripts_the_tables_are_there(site: Path, visit: Callable[..., Any]) -> None:
    page = visit(site / "index.html", java_script_enabled=False)
    assert len(rows(page)) == 14
    assert board(page).locator("td.lead-cell").first.is_visible()
    assert not page.locator(".filters, .plot, [data-theme-toggle]").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 768])
def test_narrow_pages_do_not_scroll_sideways(site: Path, visit: Callable[..., Any], width: int, scheme: str) -> None:
    run = make_run(defense="<b>re</b>", defense_label=HOSTILE, attack="gmi", seed=0)
    for path in (site / "index.html", site / "protocol.html", site / "run" / f"{run.run}.html"):
        page = visit(path, viewport={"width": width, "height": 800}, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path


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
    run = make_run(defense="re", attack="gmi", seed=0)
    for path in (site / "index.html", site / "protocol.html", site / "run" / f"{run.run}.html"):
        page = visit(path, color_scheme=scheme, bypass_csp=True)
        page.evaluate(axe)
        found = page.evaluate(
            "axe.run({ preload: false }).then(r => r.violations.map(v => [v.impact, v.id, v.nodes.map(n => n.html)]))"
        )
        assert [v for v in found if v[0] in ("serious", "critical")] == [], path
