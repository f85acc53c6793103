"""The page that raters open: one file with its images, its script and its style inside, and no answer."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mibench.study.design import ImageRef, Study
from mibench.study.key import NEITHER, SAME_ANSWERS, SCHEMA


def render(folder: Path, study: str, content: Study, png: Callable[[ImageRef], bytes]) -> str:
    """The page of a study from the template, script and style in ``folder`` (``site/study``).

    Its content-security policy allows exactly this script and this style, by their hashes, and images inside the
    page; nothing can be loaded or sent."""
    data = {
        "schema": SCHEMA,
        "study": study,
        "items": content.items,
        "order": content.order,
        "answers": {"same": SAME_ANSWERS, "neither": NEITHER},
        "images": {
            name: "data:image/png;base64," + base64.b64encode(png(source)).decode()
            for name, source in sorted(content.files.items())
        },
    }
    script = (folder / "study.js").read_text(encoding="utf-8")
    style = (folder / "study.css").read_text(encoding="utf-8")
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("study.html").render(
        study=study,
        raters=list(content.order),
        tasks={item["task"] for item in content.items.values()},
        nouns=sorted({item["noun"] for item in content.items.values()}),
        data=Markup(_inert(json.dumps(data, sort_keys=True))),
        script=Markup(script),
        script_hash=_hash(script),
        style=Markup(style),
        style_hash=_hash(style),
    )


def _inert(text: str) -> str:
    """JSON that no HTML parser can read as markup."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
