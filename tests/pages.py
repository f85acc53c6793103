"""Pages of the site as trees, read with the standard library."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "input", "br", "img", "wbr", "path", "hr"}


@dataclass
class Node:
    tag: str
    attrs: dict[str, str] = field(default_factory=dict)
    children: list[Node | str] = field(default_factory=list)

    def all(self, tag: str, kind: str = "") -> Iterator[Node]:
        """Those below with this tag and, if given, class."""
        for child in self.children:
            if isinstance(child, Node):
                if child.tag == tag and (not kind or kind in child.attrs.get("class", "").split()):
                    yield child
                yield from child.all(tag, kind)

    def first(self, tag: str, kind: str = "") -> Node | None:
        return next(self.all(tag, kind), None)

    @property
    def text(self) -> str:
        """What one reads, without what is there for screen readers alone."""
        parts = (
            child if isinstance(child, str) else "" if child.attrs.get("class") == "sr" else child.text
            for child in self.children
        )
        return " ".join("".join(parts).split())

    @property
    def own(self) -> str:
        """The text that is not in an element."""
        return "".join(child for child in self.children if isinstance(child, str)).strip()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Node("root")
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        node = self.open.pop()
        assert node.tag == tag, f"<{node.tag}> is closed by </{tag}>"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(path: Path) -> Node:
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    return reader.root


def lines(table: Node) -> Iterator[dict[str, Node]]:
    """The body's rows, each cell by the first line of its column's head."""
    head, body = table.first("thead"), table.first("tbody")
    assert head is not None and body is not None
    names = [(cell.first("span", "head") or cell.first("a", "head") or cell).text.strip() for cell in head.all("th")]
    for row in body.all("tr"):
        cells = [child for child in row.children if isinstance(child, Node)]
        yield dict(zip(names, cells, strict=False))
