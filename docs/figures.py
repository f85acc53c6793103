"""``python docs/figures.py`` draws docs/stages.svg: the stages of a run and what flows between them.

Boxes carry their own ground and text colours, and lines a grey that both themes bear, so the picture needs no theme.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

WIDTH, HEIGHT = 920, 470
LETTER = 7.2  # width of a letter of the labels, in pixels, generously

# name: (centre x, centre y, what it computes, colour)
DATA, STAGE, PLUGIN, JUDGE = "#5b6770", "#2d6a9f", "#8a4b9c", "#2f7d5b"
BOXES = {
    "private images": (120, 60, "training | sealed test", DATA),
    "public images": (120, 390, "of other people", DATA),
    "target": (360, 60, "a defense trains it", PLUGIN),
    "evaluator": (360, 180, "the judge", JUDGE),
    "prior": (360, 390, "generative model", PLUGIN),
    "prepare": (590, 300, "once per target", PLUGIN),
    "invert": (590, 390, "an attack reconstructs", PLUGIN),
    "utility": (590, 60, "answers on sealed test", STAGE),
    "features": (810, 390, "where images lie", STAGE),
    "evaluate": (810, 180, "every metric", JUDGE),
    "run record": (810, 60, "database, leaderboard", DATA),
}
W, H = 176, 52
# from, to, label, points between (a bent line)
ARROWS: tuple[tuple[str, str, str], ...] = (
    ("private images", "target", ""),
    ("private images", "evaluator", ""),
    ("target", "utility", ""),
    ("evaluator", "evaluate", ""),
    ("public images", "prior", ""),
    ("prior", "invert", ""),
    ("prior", "prepare", ""),
    ("prepare", "invert", ""),
    ("target", "prepare", "oracle: counts, limits"),
    ("utility", "evaluate", ""),
    ("invert", "evaluate", "PNG images"),
    ("invert", "features", ""),
    ("evaluate", "run record", ""),
)


def edge(name: str, towards: str) -> tuple[float, float]:
    """Where the line from the middle of ``name`` to that of ``towards`` leaves the box."""
    (x, y, *_), (u, v, *_) = BOXES[name], BOXES[towards]
    dx, dy = u - x, v - y
    scale = min(W / 2 / abs(dx) if dx else 9e9, H / 2 / abs(dy) if dy else 9e9)
    return x + dx * scale, y + dy * scale


def box(name: str) -> str:
    x, y, text, colour = BOXES[name]
    return (
        f'<g><rect x="{x - W / 2:g}" y="{y - H / 2:g}" width="{W}" height="{H}" rx="8" fill="{colour}"/>'
        f'<text x="{x}" y="{y - 4}" class="name">{escape(name)}</text>'
        f'<text x="{x}" y="{y + 15}" class="what">{escape(text)}</text></g>'
    )


def arrow(start: str, end: str, label: str) -> str:
    (x, y), (u, v) = edge(start, end), edge(end, start)
    line = f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{u:.1f}" y2="{v:.1f}" marker-end="url(#tip)"/>'
    if not label:
        return line
    wide = len(label) * LETTER
    mx, my = (x + u) / 2, (y + v) / 2
    return (
        f'{line}<rect x="{mx - wide / 2:.1f}" y="{my - 11:.1f}" width="{wide:.1f}" height="20" rx="4" fill="#f4f4f4"/>'
        f'<text x="{mx:.1f}" y="{my + 3:.1f}" class="label">{escape(label)}</text>'
    )


def legend() -> str:
    parts = []
    for i, (text, colour) in enumerate(
        (("runs a plugin", PLUGIN), ("engine only", STAGE), ("judges; imports no plugin", JUDGE), ("data", DATA))
    ):
        x = 40 + i * 220
        parts.append(f'<rect x="{x}" y="440" width="14" height="14" rx="3" fill="{colour}"/>')
        parts.append(f'<text x="{x + 22}" y="452" class="key">{escape(text)}</text>')
    return "".join(parts)


def stages() -> str:
    """The picture as SVG text."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="system-ui, sans-serif" aria-label="The stages of a run">\n'
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L10 5L0 10z" fill="#888"/></marker></defs>\n'
        "<style>line{stroke:#888;stroke-width:1.8}text{text-anchor:middle}.name{fill:#fff;font-size:16px;"
        "font-weight:600}.what{fill:#fff;font-size:12.5px}.label{fill:#222;font-size:12.5px}"
        ".key{fill:#888;font-size:13px;text-anchor:start}</style>\n"
        + "\n".join([*(arrow(*each) for each in ARROWS), *map(box, BOXES), legend()])
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    (Path(__file__).parent / "stages.svg").write_text(stages(), encoding="utf-8")
