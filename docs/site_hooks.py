"""Hooks of the documentation site (mkdocs.yml): files of the repository that pages link to become pages of the site.

On a code host ``../mibench/keys.py`` in a page leads to the file. A site holds only ``docs/``, so each such file gets a
page ``source/mibench/keys.py.html``: a Markdown file as itself, any other as a listing. Folders that are linked to are
a list of their files. Nothing has to be maintained: what is linked is found.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ALWAYS = ("CONTRIBUTING.md", "CHANGELOG.md")  # the navigation names them
LINK = re.compile(r"(?<=\]\()(?!https?://|#|mailto:)([^)\s#]+)(#[^)\s]*)?(?=\))")
CODE = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".cff": "yaml", ".toml": "toml"}


def _target(link: str, folder: Path) -> Path | None:
    """The file that ``link``, in a page in ``folder``, leads to, if it lies in the repository and not in docs/."""
    path = (folder / link).resolve()
    inside = path.is_relative_to(ROOT) and path.exists()
    return path.relative_to(ROOT) if inside and not path.is_relative_to(DOCS) else None


def _page(target: Path) -> str:
    """Where the page of a file of the repository lies, below docs/."""
    return f"source/{target}" if target.suffix == ".md" else f"source/{target}.md"


def _rewritten(text: str, folder: Path, page: str) -> str:
    """``text`` of a file in ``folder`` with its links as they must be on ``page``."""

    def link(found: re.Match[str]) -> str:
        target = _target(found[1], folder)
        if target is None:
            own = (folder / found[1]).resolve()
            place = own.relative_to(DOCS).as_posix() if own.is_relative_to(DOCS) else None
        else:
            place = _page(target)
        return found[0] if place is None else os.path.relpath(place, Path(page).parent) + (found[2] or "")

    return LINK.sub(link, text)


def _linked(text: str, folder: Path) -> set[Path]:
    return {target for found in LINK.finditer(text) if (target := _target(found[1], folder))}


def _content(target: Path) -> str:
    path = ROOT / target
    if path.is_dir():
        names = sorted(p.name for p in path.iterdir() if not p.name.startswith((".", "_")))
        return f"# {target}\n\n" + "".join(f"- `{name}`\n" for name in names)
    text = path.read_text(encoding="utf-8")
    if target.suffix == ".md":
        return _rewritten(text, path.parent, _page(target))
    return f"# {target}\n\n````{CODE.get(target.suffix, 'text')}\n{text.rstrip()}\n````\n"


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of everything that pages link to, and that these link to in turn."""
    open_ = {Path(name) for name in ALWAYS}
    for page in DOCS.glob("*.md"):
        open_ |= _linked(page.read_text(encoding="utf-8"), DOCS)
    done: set[Path] = set()
    while open_:
        target = open_.pop()
        done.add(target)
        files.append(File.generated(config, _page(target), content=_content(target)))
        if target.suffix == ".md":
            path = ROOT / target
            open_ |= _linked(path.read_text(encoding="utf-8"), path.parent) - done
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links out of docs/ lead to the pages made above; those were rewritten when they were made."""
    return markdown if page.file.src_uri.startswith("source/") else _rewritten(markdown, DOCS, page.file.src_uri)
