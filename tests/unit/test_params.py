"""``name[key=value]``, validation with sentences, and which parameters name a result."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from mibench.errors import UserError
from mibench.keys import canonical
from mibench.protocol.params import BaseParams, non_default, parse_call, parse_value, resolve


class Example(BaseParams):
    area: tuple[float, float] = Field((0.1, 0.4), description="range of the erased area")
    p: float = Field(1.0, ge=0, le=1, description="probability, in [0, 1]")
    steps: int = Field(10, ge=1)
    fill: Literal["mean", "zero"] | float = "mean"
    restarts: int | None = None
    extra: dict[str, Any] = Field(default_factory=dict)


# --- notation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("re", ("re", [], {})),
        ("re[]", ("re", [], {})),
        ("  k_plus_one ", ("k_plus_one", [], {})),
        ("re[strong]", ("re", ["strong"], {})),
        ("re[strong, p=0.5 ,area=0.1:0.8]", ("re", ["strong"], {"p": 0.5, "area": (0.1, 0.8)})),
        ("tl[frozen=2,frozen_statistics=true]", ("tl", [], {"frozen": 2, "frozen_statistics": True})),
        ("gmi[lr=1e-3,restarts=null]", ("gmi", [], {"lr": 0.001, "restarts": None})),
        ("ls[alpha=-.05]", ("ls", [], {"alpha": -0.05})),
    ],
)
def test_calls(text: str, expected: tuple[str, list[str], dict[str, Any]]) -> None:
    assert parse_call(text, "defense") == expected


@pytest.mark.parametrize("text", ["", "RE", "re[", "re]", "re[a=1", "[a=1]", "re(a=1)", "-re", "re[a=1]b", "../re"])
def test_what_is_no_call_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match=r"Cannot read defense .*Expected a name such as"):
        parse_call(text, "defense")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3.0", 3.0),
        ("true", True),
        ("mean", "mean"),
        ("0.1:0.8", (0.1, 0.8)),
        ("16,8", (16, 8)),
        ("1e-3", 0.001),
        ("-2", -2),
        ("{steps: 20, betas: [0.5, 0.9]}", {"steps": 20, "betas": [0.5, 0.9]}),
    ],
)
def test_values(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["inf", "-.inf", ".nan", "1e999", "{steps: .nan}"])
def test_a_number_that_is_not_finite_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected a finite number"):
        parse_value(text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=12))
def test_no_value_breaks_the_reader(text: str) -> None:
    """Text that is no YAML (``[1``, ``*a``, ``!x``) is the user's to hear of, not a traceback; so is an infinity."""
    with suppress(UserError):
        parse_value(text)


@pytest.mark.parametrize("text", ["re[p=[1]", "re[p=*a]", "re[p={a]", "re[p=!x]", "re[p=2024-13-45]"])
def test_a_value_that_is_no_yaml_is_refused_by_its_parameter(text: str) -> None:
    _, _, params = parse_call(text, "defense")
    with pytest.raises(UserError, match=r"re\.p: "):
        resolve(Example, params, "re")


# --- validation --------------------------------------------------------------------------------------------


def test_unknown_parameters_get_the_nearest_name() -> None:
    with pytest.raises(UserError) as error:
        resolve(Example, {"aera": (0.1, 0.2)}, "re")
    assert "Unknown parameter of re 'aera'. Did you mean 'area'" in str(error.value)
    assert "Known: area, extra, fill, p, restarts, steps." in str(error.value)


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    with pytest.raises(UserError) as error:
        resolve(Example, {"qqqq": 1}, "re")
    assert "Did you mean" not in str(error.value)


def test_a_wrong_value_is_named_with_what_is_allowed() -> None:
    with pytest.raises(UserError) as error:
        resolve(Example, {"p": 1.5, "steps": 0}, "re")
    message = str(error.value)
    assert "re.p: Input should be less than or equal to 1 (found 1.5)" in message
    assert "re.steps: " in message and "probability, in [0, 1]" in message
    assert error.value.exit_code == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(value: float) -> None:
    with pytest.raises(UserError, match=r"re\.p: "):
        resolve(Example, {"p": value}, "re")


def test_parameters_do_not_change() -> None:
    with pytest.raises(ValidationError):
        resolve(Example, {}, "re").p = 0.5


# --- what enters a key -------------------------------------------------------------------------------------


def test_only_what_differs_from_the_defaults_enters_a_key() -> None:
    assert non_default(Example()) == {}
    assert non_default(Example(area=(0.1, 0.4), p=1, steps=10, extra={})) == {}
    assert non_default(Example(area=(0.1, 0.8), p=0.5)) == {"area": [0.1, 0.8], "p": 0.5}
    assert non_default(Example(restarts=4, extra={"width": 16})) == {"restarts": 4, "extra": {"width": 16}}


def test_the_way_of_writing_a_number_does_not_change_the_key() -> None:
    """``lr=1`` and ``lr=1.0`` are one parameter, because the model says it is a float."""
    first = resolve(Example, {"area": (0.1, 1), "p": 0}, "re")
    second = resolve(Example, {"area": [0.1, 1.0], "p": 0.0}, "re")
    assert canonical(non_default(first)) == canonical(non_default(second)) == '{"area":[0.1,1.0],"p":0.0}'
