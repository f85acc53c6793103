"""Write the site into a fresh folder beside the old one, then swap the two."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic_core import from_json

import mibench
from mibench.errors import UserError
from mibench.publish import text
from mibench.publish.aggregate import boards, current_runs
from mibench.publish.cells import page_view
from mibench.publish.claims import outcomes
from mibench.publish.claims_page import claims_view
from mibench.publish.compare import compare_view
from mibench.publish.downloads import (
    LATEX_FORMS,
    as_bibtex,
    as_csv,
    as_json,
    as_latex,
    as_parquet,
    bibtex,
    masking,
    net_protection,
    own_bibtex,
    standings_csv,
)
from mibench.publish.features import feature_view
from mibench.publish.leaderboard import leaderboard_view
from mibench.publish.legend import Legend
from mibench.publish.links import (
    CLAIMS,
    attack_page,
    board_page,
    cell_page,
    claims_page,
    compare_page,
    defense_page,
    run_page,
    track_page,
)
from mibench.publish.methods import method_view, methods, protocol_view, track_view, tracks
from mibench.publish.model import Catalogue, SiteOptions
from mibench.publish.parallel import on_all_cores
from mibench.publish.reported import reported_view
from mibench.publish.rows import Board, Row
from mibench.publish.runs import run_view
from mibench.publish.study import study_view
from mibench.publish.tradeoff import Tradeoff, tradeoff, tradeoff_view
from mibench.records import RunRecord
from mibench.resources import resource_root
from mibench.store import atomic, locks

MARK = "leaderboard.json"  # a folder without it was not written by build_site and is never replaced


def build_site(runs: list[RunRecord], catalogue: Catalogue, out: Path, options: SiteOptions) -> Path:
    """Write the leaderboard to the folder ``out`` and return its ``index.html``.

    The same input gives the same bytes, in whatever order the runs come. ``out`` is replaced as a whole
    once the new site is complete; on an error the old one stays. Raises UserError when ``out`` holds
    something else than a site, MissingError when the disk is full or read-only."""
    out = Path(out).resolve()
    shown = current_runs(runs, catalogue)
    _check(shown)
    with atomic.writing(out), _replacing(out) as folder:
        _write(Folder(folder, out), shown, catalogue, options)
    return out / "index.html"


class Folder:
    """The new site's folder. A file that the old site already has is linked from there: with thousands of
    images that is what makes a rebuild fast. Nothing is ever linked to the store."""

    def __init__(self, path: Path, old: Path) -> None:
        self.path, self.old = path, old

    def write(self, name: str, content: str) -> None:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8", newline="\n")

    def write_bytes(self, name: str, content: bytes) -> None:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def copy(self, source: Path, name: str) -> None:
        target, before = self.path / name, self.old / name
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if _same(source, before):
            try:
                os.link(before, target)
                return
            except FileExistsError:  # another process was faster
                return
            except OSError:  # a file system without hard links
                pass
        shutil.copyfile(source, target)
        stamp = source.stat()
        os.utime(target, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def _same(source: Path, copy: Path) -> bool:
    """Whether ``copy`` was made from ``source`` as it is now: same size and time of change, to the
    nanosecond."""
    try:
        one, two = source.stat(), copy.lstat()
    except OSError:
        return False
    return stat.S_ISREG(two.st_mode) and (one.st_size, one.st_mtime_ns) == (two.st_size, two.st_mtime_ns)


def _write(folder: Folder, runs: list[RunRecord], catalogue: Catalogue, options: SiteOptions) -> None:
    site = resource_root() / "site"
    for source in sorted((site / "static").rglob("*")):
        if source.is_file():
            folder.copy(source, source.relative_to(site).as_posix())
    if options.docs is not None:
        _docs(folder, options.docs)
    day = max((run.created[:10] for run in runs), default=None)
    own = own_bibtex(day, options.commit) if day else None
    render = _renderer(site / "templates", options, day=day, own_bibtex=own)

    def page(name: str, template: str, **view: Any) -> None:
        folder.write(name, render(template, **view, root="../" * name.count("/")))

    shown = boards(runs, catalogue.tracks, catalogue.controls, catalogue.bounds, catalogue.baselines)
    pictures = _run_pages(shown, folder, page, catalogue, options)
    legend = Legend(shown)
    tradeoffs = {}
    for board in shown:
        found = tradeoff(board, catalogue.baselines)
        tradeoffs[text.anchor("results", board.key)] = tradeoff_view(board, found, catalogue)
        downloads = _downloads(board, folder, catalogue, found, own or "")
        view = leaderboard_view(board, shown, catalogue, legend) | {"downloads": downloads}
        view["tradeoff"] = tradeoffs[text.anchor("results", board.key)]
        view["island"] |= {"dominated": found.dominated}
        page(board_page(board, shown), "leaderboard.html", board=view, compare_href=compare_page(board))
        page(compare_page(board), "compare.html", board=compare_view(board, catalogue, pictures))
    _claims(shown, page, catalogue)
    if not shown:
        page("index.html", "empty.html")
    for kind, place in (("defense", defense_page), ("attack", attack_page)):
        for name in methods(kind, shown, catalogue):
            view = method_view(kind, name, shown, catalogue)
            page(place(name), "method.html", method=view | {"bibtex": bibtex(name, view["facts"])}, tradeoffs=tradeoffs)
    for name in tracks(shown, catalogue):
        page(track_page(name), "track.html", track=track_view(name, shown, catalogue))
    page("protocol.html", "protocol.html", **protocol_view(shown, catalogue))
    page("reported.html", "reported.html", **reported_view(options.reported, shown, catalogue))
    page("download.html", "download.html", boards=[_download_links(board, catalogue) for board in shown])
    page("about.html", "about.html")
    page("submit.html", "submit.html")
    folder.write("leaderboard.csv", as_csv(runs))
    folder.write(MARK, as_json(runs))


def _claims(shown: Sequence[Board], page: Callable[..., None], catalogue: Catalogue) -> None:
    """A page for each track's current version, the index's first; where nothing is claimed, one that says so."""
    current = [board for board in shown if board.current] if catalogue.claims else []
    pages = [(catalogue.board_title(board), claims_page(board, shown)) for board in current]
    for board in current:
        assert catalogue.claims is not None
        title = catalogue.board_title(board)
        view = claims_view(board, title, catalogue.claims, outcomes(board, catalogue.claims))
        page(claims_page(board, shown), "claims.html", claims=view, pages=pages)
    if all(href != CLAIMS for _, href in pages):
        page(CLAIMS, "claims.html", claims=None, pages=pages)


def _docs(folder: Folder, docs: Path) -> None:
    """Copy the built documentation to ``docs/``. Raises UserError when the folder does not hold it."""
    if not (docs / "index.html").is_file():
        raise UserError(f"{docs} holds no index.html. Build the documentation: mkdocs build --site-dir {docs}")
    for source in sorted(docs.rglob("*")):
        if source.is_file() and not source.is_symlink():
            name = f"docs/{source.relative_to(docs).as_posix()}"
            if source.suffix == ".html":
                folder.write(name, _with_way_back(source.read_text(encoding="utf-8"), "../" * name.count("/")))
            else:
                folder.copy(source, name)


def _with_way_back(page: str, root: str) -> str:
    """A page of the documentation with a link to the leaderboard that it is a part of."""
    link = f'<p style="margin: .4rem 1.2rem"><a href="{root}index.html">Leaderboard</a></p>'
    return re.sub(r"<body[^>]*>", lambda match: match.group() + link, page, count=1)


def _run_pages(
    shown: Sequence[Board], folder: Folder, page: Callable[..., None], catalogue: Catalogue, options: SiteOptions
) -> dict[str, dict[int, int]]:
    """Write the page of every cell and of its runs; for each run the index of each identity's first picture."""

    def write(cell: tuple[Board, Row]) -> dict[str, dict[int, int]]:
        board, row = cell
        view = page_view(row, board, catalogue)
        page(cell_page(row), "cell.html", cell=view, board_href=board_page(board, shown))
        first = {}
        for run in row.runs:
            picture = _pictures(folder, run, options, catalogue)
            view = run_view(run, catalogue, picture, row.runs, options.identities_shown)
            view["features"] = feature_view(run.features, _points(run, options))
            view["cell_href"] = cell_page(row)
            page(run_page(run), "run.html", **view, studies=study_view(options.studies.get(run.run, ())))
            pictured = ((p["label"], [i["index"] for i in p["images"] if i["src"]]) for p in view["gallery"])
            first[run.run] = {label: indices[0] for label, indices in pictured if indices}
        return first

    written = on_all_cores(write, [(board, row) for board in shown for row in board.rows])
    return {run: pictures for part in written for run, pictures in part.items()}


def _points(run: RunRecord, options: SiteOptions) -> dict[str, Any] | None:
    """The points of the run's feature space, None where they are not here."""
    path = options.feature_source(run) if options.feature_source and run.features else None
    points: dict[str, Any] | None = from_json(path.read_bytes()) if path else None  # several times faster than json
    return points


TABLES = {f"{form}.tex".lstrip("."): form for form in LATEX_FORMS}
FORMATS = ("csv", "json", "parquet", *TABLES, "bib", "defenses.csv", "masking.csv", "net.csv")


def _downloads(board: Board, folder: Folder, catalogue: Catalogue, found: Tradeoff, own: str) -> list[dict[str, str]]:
    runs = sorted((run for row in board.rows for run in row.runs), key=lambda run: run.run)
    texts = {
        "csv": as_csv(runs),
        "json": as_json(runs),
        "bib": as_bibtex(board, catalogue, own),
        "defenses.csv": standings_csv(board, found),
        "masking.csv": masking(board, catalogue),
        "net.csv": net_protection(board, catalogue),
    }
    texts |= {suffix: as_latex(board, catalogue, form) for suffix, form in TABLES.items()}
    for suffix, content in texts.items():
        folder.write(_download(board, suffix), content)
    folder.write_bytes(_download(board, "parquet"), as_parquet(runs))
    return [{"format": suffix, "href": _download(board, suffix)} for suffix in FORMATS]


def _download(board: Board, suffix: str) -> str:
    return f"download/{text.file_name(board.key)}.{suffix}"


def _download_links(board: Board, catalogue: Catalogue) -> dict[str, Any]:
    return {
        "title": catalogue.board_title(board),
        "key": board.key,
        "files": [{"format": suffix, "href": _download(board, suffix)} for suffix in FORMATS],
    }


def _renderer(templates: Path, options: SiteOptions, **known: Any) -> Callable[..., str]:
    environment = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"duration": text.duration, "safe_url": text.safe_url, "plain": text.plain}
    environment.globals |= {"anchor": text.anchor, "version": mibench.__version__, "options": options} | known

    def render(template: str, **values: Any) -> str:
        return environment.get_template(template).render(**values)

    return render


def _pictures(
    folder: Folder, run: RunRecord, options: SiteOptions, catalogue: Catalogue
) -> Callable[[dict[str, Any]], Any]:
    """What the gallery shows of an image; copies the files it names. Names come from numbers, never from a
    record."""

    def copied(source: Path | None, name: str) -> str | None:
        if source is None or not source.is_file():
            return None
        folder.copy(source, name)
        return name

    def picture(image: dict[str, Any]) -> dict[str, Any] | None:
        allowed = options.private_images or catalogue.may_show_private(run.track)
        made_of_private = catalogue.attacks.get(run.attack, {}).get("access") == "private"
        if options.images == "none" or options.image_source is None or (made_of_private and not allowed):
            return None
        label, index = int(image["label"]), int(image["index"])
        shown = {
            "src": copied(options.image_source(run, image), f"img/{run.run}/{label}-{index}.png"),
            "nearest": None,
        }
        if allowed and options.private_source and image.get("nearest") is not None:
            nearest = int(image["nearest"])
            track = text.anchor(run.track)
            source = options.private_source(run.track, label, nearest)
            shown["nearest"] = copied(source, f"private/{track}/{label}-{nearest}.png")
        return shown

    return picture


def _check(runs: Sequence[RunRecord]) -> None:
    for run in runs:
        if not re.fullmatch(r"[0-9a-f]{12}", run.run):
            raise UserError(f"Run {run.run!r}: expected an id of 12 hexadecimal characters.")
        for name, metric in run.metrics.items():
            numbers = (metric.value, metric.ci_low, metric.ci_high, *metric.per_identity.values())
            if not all(math.isfinite(number) for number in numbers if number is not None):
                raise UserError(f"Run {run.run}: metric {name} is not finite; a missing value is null with a reason.")
    seen = [run.run for run in runs]
    if len(set(seen)) != len(seen):
        twice = sorted({run for run in seen if seen.count(run) > 1})
        raise UserError(f"Two different cells have the run id {', '.join(twice)}.")


@contextlib.contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A fresh folder that takes the place of ``out`` when the block ends well; one builder at a time."""
    if out.exists() and not (out / MARK).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not a site that mibench wrote. Name a new or an empty folder.")
    with locks.exclusive(out.with_name(f".{out.name}.lock")):
        _recover(out)
        with atomic.write_folder(out, durable=False) as folder:
            yield folder


def _recover(out: Path) -> None:
    """Clear what a killed builder left; if it died between the two renames, put a whole site back."""
    for left in atomic.leftovers(out):
        if not out.exists() and (left / MARK).is_file():
            left.rename(out)
        else:
            shutil.rmtree(left, ignore_errors=True)
