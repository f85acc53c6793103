"""``python docs/figures.py`` draws docs/stages.svg: the stages of a run and what flows between them.

Boxes carry their own ground and text colours, and lines a grey that both themes bear, so the picture needs no theme.
"""

from __future__ import annotations

from html import escape
from itertools import pairwise
from pathlib import Path

WIDTH, HEIGHT = 960, 540
W, H = 180, 54  # of a box
LETTER = 6.8  # width of a letter of a label, generously
DATA, STAGE, PLUGIN, JUDGE = "#5b6770", "#2d6a9f", "#8a4b9c", "#2f7d5b"
KEY = (
    ("a plugin's code", PLUGIN),
    ("asks the served target", STAGE),
    ("judges, no plugin", JUDGE),
    ("images and results", DATA),
)
C1, C2, C3, C4 = 110, 350, 600, 850
R1, R2, R3, R4 = 50, 160, 300, 400
SERVED = 256  # of what the target is served through
BOXES = {  # centre, what it is, colour
    "private images": (C1, R2, "training, sealed test", DATA),
    "evaluator": (C2, R1, "and panel: learn to judge", JUDGE),
    "target": (C2, R2, "a defense trains it", PLUGIN),
    "serve": (C2, SERVED, "with what deploy reads", PLUGIN),
    "utility": (C3, R2, "and gradients: its answers", STAGE),
    "run record": (C4, R1, "database, leaderboard", DATA),
    "evaluate": (C4, R2, "every metric", JUDGE),
    "public images": (C1, R4, "of other people", DATA),
    "prior": (C2, R4, "generates images", PLUGIN),
    "prepare": (C3, R3, "and student: once per target", PLUGIN),
    "invert": (C3, R4, "reconstructs", PLUGIN),
    "features": (C4, R4, "asks the target again", STAGE),
}
X, Y = W / 2, H / 2
LEFT, BOTTOM = C3 - 112, R4 + 42  # of the frame around an attack
Points = tuple[tuple[float, float], ...]
LINES: tuple[tuple[Points, str], ...] = (  # corners, and a label in the middle of the longest part
    (((C1, R2 - Y), (C1, R1), (C2 - X, R1)), ""),
    (((C1 + X, R2), (C2 - X, R2)), ""),
    (((C2, R2 + Y), (C2, SERVED - Y)), ""),
    (((C2 + X, SERVED), (C2 + X + 22, SERVED), (C2 + X + 22, R2), (C3 - X, R2)), ""),
    (((C3 + X, R2), (C4 - X, R2)), ""),
    (((C2 + X, R1), (C4 - X - 30, R1), (C4 - X - 30, R2 - 14), (C4 - X, R2 - 14)), "judge"),
    (((C4, R2 - Y), (C4, R1 + Y)), ""),
    (((C2 - 40, SERVED + Y), (C2 - 40, R4 - Y)), "oracle, if its scope is target"),
    (((C2 + 30, SERVED + Y), (C2 + 30, R3 + 4), (LEFT, R3 + 4)), "oracle"),
    (((C1 + X, R4), (C2 - X, R4)), ""),
    (((C2 + X, R4), (LEFT, R4)), ""),
    (((C1, R4 + Y), (C1, R4 + 74), (C3, R4 + 74), (C3, BOTTOM)), "public images, too"),
    (((C3, R3 + Y), (C3, R4 - Y)), ""),
    (((C3 + 112, R3), (C4, R3), (C4, R2 + Y)), "PNG"),
    (((C3 + 112, R4), (C4 - X, R4)), ""),
)


def box(name: str) -> str:
    x, y, text, colour = BOXES[name]
    return (
        f'<rect x="{x - X:g}" y="{y - Y:g}" width="{W}" height="{H}" rx="8" fill="{colour}"/>'
        f'<text x="{x}" y="{y - 3}" class="name">{escape(name)}</text>'
        f'<text x="{x}" y="{y + 16}" class="what">{escape(text)}</text>'
    )


def line(points: Points, label: str) -> str:
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
    drawn = f'<path d="{path}" class="line" marker-end="url(#tip)"/>'
    if not label:
        return drawn
    pairs = pairwise(points)
    (x, y), (u, v) = max(pairs, key=lambda pair: abs(pair[0][0] - pair[1][0]) + abs(pair[0][1] - pair[1][1]))
    wide, mx, my = len(label) * LETTER + 8, (x + u) / 2, (y + v) / 2
    return (
        f'{drawn}<rect x="{mx - wide / 2:g}" y="{my - 11:g}" width="{wide:g}" height="22" rx="4" fill="#eee"/>'
        f'<text x="{mx:g}" y="{my + 4:g}" class="label">{escape(label)}</text>'
    )


def key() -> str:
    parts = []
    for i, (text, colour) in enumerate(KEY):
        x = 40 + i * 230
        parts.append(f'<rect x="{x}" y="{HEIGHT - 28}" width="14" height="14" rx="3" fill="{colour}"/>')
        parts.append(f'<text x="{x + 22}" y="{HEIGHT - 16}" class="key">{escape(text)}</text>')
    return "".join(parts)


def stages() -> str:
    """The picture as SVG text."""
    frame = (
        f'<rect x="{LEFT}" y="{R3 - 84}" width="224" height="{BOTTOM - R3 + 84}" rx="12" class="frame"/>'
        f'<text x="{C3}" y="{R3 - 64}" class="frame-name">attack</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="system-ui, sans-serif" aria-label="The stages of a run">\n'
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L10 5L0 10z" fill="#888"/></marker></defs>\n'
        "<style>.line{fill:none;stroke:#888;stroke-width:1.8}text{text-anchor:middle}.name{fill:#fff;font-size:16px;"
        "font-weight:600}.what{fill:#fff;font-size:13px}.label{fill:#222;font-size:13px}"
        ".frame{fill:none;stroke:#8a4b9c;stroke-width:1.5;stroke-dasharray:6 4}.frame-name{fill:#a86bb8;font-size:14px;"
        "font-weight:600}.key{fill:#888;font-size:13px;text-anchor:start}</style>\n"
        + "\n".join([frame, *(line(*each) for each in LINES), *map(box, BOXES), key()])
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    (Path(__file__).parent / "stages.svg").write_text(stages(), encoding="utf-8")
