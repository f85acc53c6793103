"""Stage keys: pinned, so that stored results keep their names; canonical JSON; seeds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mibench.keys import KEY_SCHEMA, canonical, digest, stage_key, stream_seed

GOLDEN = Path(__file__).parents[1] / "data" / "golden_keys.json"
PARENT = "a" * 64
BASE: dict[str, Any] = {
    "kind": "target",
    "plugin": "re",
    "version": 1001,
    "params": {"area": [0.1, 0.8]},
    "seed": 0,
    "track_part": {"id": "toy", "version": 1, "private": {"identities": 4}},
    "inputs": {},
}
SPECS: dict[str, dict[str, Any]] = {
    "base": BASE,
    "no parameters": BASE | {"params": {}},
    "tuple": BASE | {"params": {"area": (0.1, 0.8)}},
    "other value": BASE | {"params": {"area": [0.1, 0.4]}},
    "float": BASE | {"params": {"area": [1.0, 2.0]}},
    "integer": BASE | {"params": {"area": [1, 2]}},
    "small": BASE | {"params": {"lr": 1e-05, "alpha": -0.05}},
    "text": BASE | {"params": {"fill": "mean", "name": "Kynkäänniemi"}},
    "flags": BASE | {"params": {"mean_only": True, "restarts": None}},
    "seed": BASE | {"seed": 1},
    "kind": BASE | {"kind": "utility", "inputs": {"target": PARENT}},
    "inputs": BASE | {"kind": "invert", "plugin": "gmi", "inputs": {"target": PARENT, "prior": "b" * 64}},
    "track": BASE | {"track_part": {"id": "toy", "version": 2, "private": {"identities": 4}}},
    "version": BASE | {"version": 1002},
}


@pytest.mark.parametrize("name", SPECS)
def test_golden_keys(name: str) -> None:
    """If this fails every stored result loses its name: raise KEY_SCHEMA knowingly, and write the file anew with
    ``json.dumps({name: stage_key(**spec) for name, spec in SPECS.items()}, indent=1)``."""
    assert stage_key(**SPECS[name]) == json.loads(GOLDEN.read_text())[name]


def test_golden_keys_cover_the_specs_and_differ() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert set(golden) == set(SPECS) and KEY_SCHEMA == 1
    assert golden["base"] == golden["tuple"]
    assert len(set(golden.values())) == len(golden) - 1
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in golden.values())


def test_a_key_is_the_hash_of_readable_json() -> None:
    """So that another program can compute it from a manifest."""
    text = (
        '{"inputs":{},"kind":"target","params":{"area":[0.1,0.8]},"plugin":"re","schema":1,"seed":0,'
        '"track":{"id":"toy","private":{"identities":4},"version":1},"version":1001}'
    )
    assert stage_key(**BASE) == hashlib.sha256(text.encode()).hexdigest()


def test_canonical_json() -> None:
    assert canonical({"b": (1, 2.0), "a": [True, None, "é"]}) == '{"a":[true,null,"é"],"b":[1,2.0]}'
    assert canonical(1) != canonical(1.0)
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})
    assert canonical([1, 2]) != canonical([2, 1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_lacks_are_refused(value: float) -> None:
    with pytest.raises(ValueError):
        canonical({"params": {"p": [value]}})


def test_objects_are_refused() -> None:
    with pytest.raises(TypeError):
        canonical({"p": object()})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_canonical_json_loses_nothing(value: Any) -> None:
    again = json.loads(canonical(value))
    assert canonical(again) == canonical(value) and digest(again) == digest(value)
    assert again == value


def test_seeds() -> None:
    assert len({stream_seed(1, 2), stream_seed(12), stream_seed("1", 2)}) == 3
    assert stream_seed("target", 0) == 9022801365260991648
