"""How the project's YAML files are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mibench.boundary import printable, read_text, sentences
from mibench.errors import UserError, unknown


class Loader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys and aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases are not allowed {self.peek_event().start_mark}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.YAMLError(f"duplicate key {key!r} {key_node.start_mark}")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, what: str) -> Any:
    """The content of a YAML file, called ``what`` in sentences. Raises UserError if it cannot be read."""
    text = read_text(path, what)
    with sentences(f"{printable(path)} cannot be read as a {what}"):
        try:
            return yaml.load(text, Loader=Loader)
        except yaml.YAMLError as error:
            raise UserError(f"{printable(path)} cannot be read: {' '.join(str(error).split())}") from None


def extended(name: str, sections: Mapping[str, dict[str, Any]], seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The section ``name`` with what it takes over from the one it ``extends``: mappings are joined, everything else is
    replaced. Raises UserError where that leads nowhere or in a circle."""
    own = dict(sections[name])
    base = own.pop("extends", None)
    if base is None:
        return own
    if base not in sections:
        raise UserError(f"{name}: {unknown('track to extend', base, sections)}")
    if base in (*seen, name):
        raise UserError(f"{name} extends itself, by way of {' and '.join((*seen, name))}.")
    return joined(extended(base, sections, (*seen, name)), own)


def joined(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = joined(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
