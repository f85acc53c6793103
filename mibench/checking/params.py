"""The class of a method: can it be imported, and are its parameters what they must be?"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from mibench.checking.lines import Line
from mibench.checking.track import smallest
from mibench.errors import UserError
from mibench.protocol.methods import Kind, Selection
from mibench.protocol.params import BaseParams, resolve
from mibench.registry import Registry


def class_checks(registry: Registry, kind: Kind, name: str) -> Iterator[Line]:
    """Import, parameters, presets, and that the registry entry says what the class says."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            cls = registry.plugin(kind, name)
        except UserError as error:
            yield Line("import", False, str(error), "Correct the file so that it can be imported.")
            return
    replaced = [str(warning.message) for warning in said if "replaced" in str(warning.message)]
    advice = "Import and call what you need; never assign to a name in torch or mibench."
    yield Line("import", not replaced, "; ".join(replaced) or f"class {cls.__name__}", advice)
    yield _parameters(cls.Params, name)
    yield _presets(registry, kind, name, cls)
    if kind == "prior":
        scope = registry.entry(kind, name).scope
        found = f"scope {cls.scope}" + (f" in the class, {scope} in the entry" if scope != cls.scope else "")
        yield Line("entry and class", scope == cls.scope, found, "Make the entry say what the class says.")
        return
    yield _deviations(cls.deviations)
    if kind == "attack":
        yield _declared(registry, name)


def _parameters(model: Any, name: str) -> Line:
    advice = "Give every field of `Params` a default, and let Params derive from BaseParams (defense: DefenseParams)."
    if not (isinstance(model, type) and issubclass(model, BaseParams)):
        return Line("parameters", False, "Params does not derive from BaseParams", advice)
    try:
        params = model()
    except (ValidationError, TypeError) as error:
        return Line("parameters", False, f"they have no defaults: {error}", advice)
    for field in model.model_fields:
        try:
            setattr(params, field, getattr(params, field))
        except (ValidationError, TypeError):
            continue
        return Line("parameters", False, f"{field} can be changed after it was read", advice)
    try:
        model.model_validate({"no_such_parameter": 1})
    except ValidationError:
        return Line("parameters", True, ", ".join(model.model_fields) or "none")
    return Line("parameters", False, "unknown ones are not refused", advice)


def _presets(registry: Registry, kind: Kind, name: str, cls: Any) -> Line:
    presets = registry.entry(kind, name).presets
    for preset, values in presets.items():
        try:
            resolve(cls.Params, values, f"{name}[{preset}]")
        except UserError as error:
            return Line("presets", False, str(error), "Correct the preset in the registry entry.")
    return Line("presets", True, ", ".join(presets) or "none")


def _deviations(texts: Any) -> Line:
    advice = 'Write `deviations = ("What differs from the paper, and why.",)`, a tuple of sentences.'
    good = isinstance(texts, tuple) and all(isinstance(t, str) and t.strip().endswith(".") for t in texts)
    if not good:
        return Line("deviations", False, f"{texts!r:.80} is not a tuple of sentences", advice)
    declared = f"{len(texts)} declared" if texts else "none declared: it does exactly what its paper says"
    return Line("deviations", True, declared, advice)


def _declared(registry: Registry, name: str) -> Line:
    entry = registry.entry("attack", name)
    try:
        facts = registry.facts(Selection("attack", name), smallest())
    except UserError as error:
        return Line("entry and class", False, str(error), "Correct the defaults.")
    prior = facts.prior["id"] if facts.prior else None
    wrong = []
    if entry.access != facts.access:
        wrong.append(f"access is {facts.access} in the class and {entry.access} in the entry")
    if entry.prior != prior:
        wrong.append(f"prior is {prior} in the class and {entry.prior} in the entry")
    declared = f"access {facts.access}, prior {prior or 'none'}"
    return Line("entry and class", not wrong, "; ".join(wrong) or declared, "Make the entry say what the class says.")
