"""What planning knows of a method, remembered so that a second, identical run needs no torch.

An answer holds as long as nothing that could change it does: the method's file, for a method of an installed package
that package, the engine (every file of it, because a method inherits from it), and the question."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, get_args

import mibench
from mibench.errors import MissingError, UserError
from mibench.keys import digest
from mibench.protocol.method_files import MethodFile, module_file
from mibench.protocol.methods import Facts, Selection
from mibench.protocol.params import SWAPPED, BaseParams
from mibench.protocol.tracks import Track

ENGINE = Path(mibench.__file__).parent


@cache
def sources_sha256(folder: Path) -> str:
    """One hash of every Python file below a folder, with its name."""
    files = {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.py"))}
    return digest({name: hashlib.sha256(text).hexdigest() for name, text in files.items()})


def question_of(method: MethodFile, selection: Selection, track: Track, values: dict[str, Any]) -> dict[str, Any]:
    """All that the facts of a method depend on."""
    source = hashlib.sha256(method.path.read_bytes()).hexdigest() if method.path.is_file() else ""
    package = module_file(method.module.partition(".")[0]) if method.module else None
    return {
        "engine": sources_sha256(ENGINE),
        "package": sources_sha256(package.parent) if package is not None and package.name == "__init__.py" else None,
        "source": source,
        "kind": selection.kind,
        "id": selection.id,
        "role": method.entry.kind,
        "values": values,
        "label": selection.label,
        "track": track.model_dump(mode="json"),
    }


def remembered(home: Path | None, question: dict[str, Any], ask: Callable[[], Facts]) -> Facts:
    """The answer to the question, from ``home`` if it was given before."""
    memo = home / "cache" / "facts" / f"{digest(question)}.json" if home else None
    if memo and memo.is_file():
        try:
            return Facts.from_json(json.loads(memo.read_text()))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            pass  # it is written anew
    facts = ask()
    if memo:
        from mibench.store.atomic import write_text

        with suppress(MissingError):  # a home that can only be read
            write_text(memo, json.dumps(asdict(facts)))
    return facts


def further(plugin: Any, track: Track, role: str) -> dict[str, Any]:
    """The fields of ``Facts`` that only some kinds of methods have. Raises UserError for a recipe that cannot be."""
    from mibench.contracts import Attack, Defense
    from mibench.registry.combination import adapts, brings

    cls = type(plugin)
    if isinstance(plugin, Defense):
        plugin.recipe(track.target)
        for name in cls.served:
            if name not in cls.Params.model_fields:
                raise UserError(f"{cls.__name__}.served names {name!r}, which is none of its parameters.")
        return {
            "deviations": tuple(cls.deviations),
            "brings": brings(cls),
            "role": role,
            "served": tuple((name,) for name in cls.served),
            "against": str(cls.against),
            "adapts": adapts(plugin),
        }
    if isinstance(plugin, Attack):
        reference = plugin.prior()
        return {
            "deviations": tuple(cls.deviations),
            "prior": {"id": reference.id, "params": reference.params} if reference else None,
            "access": str(cls.access),
            "prepares": cls.prepare is not Attack.prepare,
            "adapts": plugin.adapts,
            "swaps": swaps(plugin.params),
        }
    return {"scope": cls.scope, "access": str(cls.access), "seeded": plugin.seeded()}


def swaps(params: BaseParams) -> tuple[dict[str, Any], ...]:
    """The other values of the parameters by which an attack meets masked gradients: the loss, and what it is averaged
    over."""
    fields = type(params).model_fields
    chosen = {name: getattr(params, name) for name in SWAPPED if name in fields}
    return tuple(
        {name: value} for name, own in chosen.items() for value in _choices(fields[name].annotation) if value != own
    )


def _choices(annotation: Any) -> list[str]:
    """The words that a parameter can be, from its type."""
    return [word for part in get_args(annotation) for word in ([part] if isinstance(part, str) else _choices(part))]
