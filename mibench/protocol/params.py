"""Parameters of plugins: a frozen pydantic model each, and the ``name[key=value]`` notation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mibench.errors import UserError, unknown
from mibench.keys import canonical

_CALL = re.compile(r"^(?P<name>[a-z0-9][a-z0-9_-]*(?:/[a-z0-9][a-z0-9_-]*)?)(?:\[(?P<body>.*)\])?$")


class BaseParams(BaseModel):
    """Base of every ``Params``: immutable, unknown fields refused, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RunParams(BaseParams):
    """What every attack takes beside its own parameters: the engine sees to it. Without them it is as it says."""

    query_budget: int | None = Field(
        None, ge=1, description="images asked about per identity, shared ones included, at least 1"
    )
    precision: Literal["tf32", "bf16"] | None = Field(
        None, description="how products and convolutions are rounded while the attack computes; None: to float32"
    )
    effort: int = Field(1, ge=1, description="times its steps, starts and results, of which the target keeps the best")
    transfer: bool = Field(False, description="an undefended student, distilled on public images, is inverted instead")


BUDGET, PRECISION, *_ = RunParams.model_fields
SWAPPED = ("align", "loss")  # parameters of attacks by which gradients that a defense masked are met


def common(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an attack's parameters that every attack takes, if they change anything."""
    defaults = {name: field.default for name, field in RunParams.model_fields.items()}
    return {name: value for name, value in values.items() if name in defaults and value != defaults[name]}


def changed(label: str, params: Mapping[str, Any]) -> bool:
    """Whether an attack, by its label and its resolved parameters, is an adaptive variant of what it is by itself."""
    asked = bool(re.search(r"[\[,]loss=", label))
    return asked or bool(params.get("align") or params.get("transfer") or params.get("effort"))


def multiplied(params: BaseParams, names: Sequence[str], times: int) -> dict[str, Any]:
    """Those of ``names`` that count something, a number or several, ``times`` as large."""
    counts = {name: value for name in names if (value := getattr(params, name, None)) is not None}
    return {k: times * v if isinstance(v, int) else tuple(times * n for n in v) for k, v in counts.items()}


def parse_value(text: str) -> Any:
    """``0.1:0.8`` and ``0.1,0.8`` are pairs, ``re[area=0.1:0.8]`` is a method, anything else is YAML: ``3``, ``true``,
    ``mean``, ``{steps: 20}``."""
    if _CALL.match(text.strip()) and text.strip().endswith("]"):
        return text.strip()
    parts = [text] if text.lstrip().startswith("{") else re.split(r"[:,]", text)
    if len(parts) > 1:
        return tuple(parse_value(part) for part in parts)
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: 2024-13-45 looks like a date
        return text
    if isinstance(value, str):
        try:  # YAML 1.1 reads 1e-3 as text
            value = float(value)
        except ValueError:
            return value
    try:
        canonical(value)
    except ValueError:
        raise UserError(f"A parameter cannot be {text.strip()!r}: expected a finite number.") from None
    except TypeError:  # a date
        return text
    return value


def outside_brackets(text: str, separator: str) -> list[str]:
    """``text`` split at every ``separator`` that stands in no brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == separator and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def parse_call(text: str, kind: str) -> tuple[str, list[str], dict[str, Any]]:
    """Split ``re[strong,p=0.5,area=0.1:0.8]`` into name, presets and parameters.

    Raises UserError when the text is not of that form.
    """
    match = _CALL.match(text.strip())
    if match is None:
        raise UserError(f"Cannot read {kind} {text!r}. Expected a name such as 're' or 're[area=0.1:0.8]'.")
    presets: list[str] = []
    params: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in outside_brackets(match["body"] or "", ","))):
        key, equals, value = item.partition("=")
        if equals:
            params[key.strip()] = parse_value(value.strip())
        else:
            presets.append(item)
    return match["name"], presets, params


def resolve(model: type[BaseParams], values: dict[str, Any], owner: str) -> BaseParams:
    """Validate ``values`` against ``model``; say which parameter is wrong and what is allowed.

    Raises UserError naming the parameter, what was found and what is allowed.
    """
    for key in values:
        if key not in model.model_fields:
            raise unknown(f"parameter of {owner}", key, model.model_fields)
    try:
        return model(**values)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            field = ".".join(str(part) for part in item["loc"]) or "parameters"
            lines.append(f"{owner}.{field}: {item['msg']} (found {item['input']!r})")
        fields = {str(item["loc"][0]) for item in error.errors() if item["loc"]}
        hints = [
            f"{name}: {model.model_fields[name].description}"
            for name in sorted(fields)
            if name in model.model_fields and model.model_fields[name].description
        ]
        raise UserError("; ".join(lines + hints) + ".") from None


def non_default(params: BaseParams) -> dict[str, Any]:
    """The parameters that differ from the defaults: the part that enters a stage key."""
    resolved = params.model_dump(mode="json")
    default = {name: field.get_default(call_default_factory=True) for name, field in type(params).model_fields.items()}
    default_json = type(params).model_construct(**default).model_dump(mode="json")
    return {name: value for name, value in resolved.items() if value != default_json.get(name)}
