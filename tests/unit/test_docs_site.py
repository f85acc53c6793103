"""The documentation as a site: it builds strictly, opens from disk, and the leaderboard links to it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from factories import make_catalogue, make_run
from once import Once

from mibench.errors import UserError
from mibench.protocol.stage_kinds import STAGE_KINDS
from mibench.publish import SiteOptions, build_site

ROOT = Path(__file__).parents[2]
LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """What a page loads, where it leads, and the anchors in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.ids |= {values["id"]} if "id" in values else set()
        if tag in LOADS and (found := values.get(LOADS[tag])):
            self.loads.append(found)
        if tag == "a" and "href" in values:
            self.leads.append(values["href"])


@pytest.fixture(scope="module")
def built(once: Once) -> Path:
    pytest.importorskip("material", reason="the site needs: pip install -e '.[docs]'")

    def make(out: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
            cwd=ROOT,
            env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    return once("docs-site", make)


def test_every_page_is_built(built: Path) -> None:
    pages = [page.stem for page in (ROOT / "docs").glob("*.md")]
    assert [name for name in pages if not (built / f"{name}.html").is_file()] == []


def test_pages_load_nothing_from_elsewhere(built: Path) -> None:
    elsewhere = {
        load
        for path in built.rglob("*.html")
        for load in Page(path).loads
        if load.startswith(("http:", "https:", "//", "/")) and path.name != "404.html"
    }
    assert elsewhere == set()
    styles = "".join(path.read_text(encoding="utf-8") for path in built.rglob("*.css"))
    assert not re.search(r"url\(['\"]?(https?:)?//|@import", styles)


def test_links_lead_to_files_and_anchors(built: Path) -> None:
    pages = {path: Page(path) for path in built.rglob("*.html") if path.name != "404.html"}
    broken = []
    for path, page in pages.items():
        for link in page.leads:
            name, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            target = (path.parent / name).resolve() if name else path
            known = pages.get(target)
            if not target.is_file() or (anchor and known and anchor not in known.ids):
                broken.append((str(path.relative_to(built)), link))
    assert broken == []


def test_files_of_the_repository_are_pages(built: Path) -> None:
    text = (built / "source" / "mibench" / "contracts" / "__init__.py.html").read_text(encoding="utf-8")
    assert "Everything a plugin author needs" in text


def test_the_picture_is_what_the_script_draws() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from figures import stages  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    drawn = (ROOT / "docs" / "stages.svg").read_text(encoding="utf-8")
    assert drawn == stages(), "type: python docs/figures.py"
    assert [name for name in STAGE_KINDS if name not in drawn] == []


# --- on the leaderboard --------------------------------------------------------------------------------------------


def test_the_leaderboard_links_to_the_documentation(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    (docs / "deep").mkdir(parents=True)
    (docs / "index.html").write_text("<p>start here")
    (docs / "deep" / "page.html").write_text("<body class=x><p>deep")
    (docs / "link.html").symlink_to(tmp_path)
    site = build_site([make_run()], make_catalogue(), tmp_path / "site", SiteOptions(docs=docs)).parent
    assert (site / "docs" / "deep" / "page.html").read_text().endswith("<p>deep")
    back = [site / "docs" / "deep" / link for link in Page(site / "docs" / "deep" / "page.html").leads]
    assert [path.resolve() for path in back] == [site / "index.html"]
    for page, count in (("about.html", 1), ("submit.html", 5)):
        assert sum(link.startswith("docs/") for link in Page(site / page).leads) >= count
    assert not (site / "docs" / "link.html").exists()
    own = [path for path in site.rglob("*.html") if not path.is_relative_to(site / "docs")]
    assert len(own) > 5
    for path in own:
        assert any((path.parent / link).resolve() == site / "docs" / "index.html" for link in Page(path).leads), path


def test_without_documentation_no_page_links_to_it(tmp_path: Path) -> None:
    site = build_site([make_run()], make_catalogue(), tmp_path / "site", SiteOptions()).parent
    assert not any("docs/" in link for path in site.rglob("*.html") for link in Page(path).leads)
    assert "mibench site build --docs" in (site / "about.html").read_text()


def test_a_folder_that_is_no_documentation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    with pytest.raises(UserError, match="mkdocs build"):
        build_site([make_run()], make_catalogue(), tmp_path / "site", SiteOptions(docs=tmp_path / "docs"))
    assert not (tmp_path / "site").exists()
