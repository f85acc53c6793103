"""The key of a study and the answers of a rater, as files; both are checked strictly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mibench.errors import UserError

SCHEMA = 1
SAME_ANSWERS = ("yes", "no", "unsure")
NEITHER = "neither"

Task = Literal["lineup", "same", "pair"]
Kind = Literal["reconstruction", "matched", "mismatched"]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class KeyItem(_File):
    """What an item was. ``choices`` maps each possible answer to what it means: itself, a person's label or a run;
    ``correct`` is such a meaning. ``identity`` is the person asked about."""

    task: Task
    kind: Kind
    track: str
    identity: int
    run: str | None
    shown: list[str] | None
    choices: dict[str, str]
    correct: str | None


class KeyRun(_File):
    run: str
    name: str
    track: str
    track_version: int


class Key(_File):
    """All that the raters must not know. ``raters`` maps each one to the items asked of them."""

    schema_: Literal[1] = Field(alias="schema")
    study: str = Field(pattern="^[0-9a-f]{12}$")
    seed: int
    raters: dict[str, list[str]]
    runs: list[KeyRun]
    items: dict[str, KeyItem]


class _Answer(_File):
    item: str
    answer: str


class _Answers(_File):
    schema_: Literal[1] = Field(alias="schema")
    study: str
    rater: str
    answers: list[_Answer]


@dataclass(frozen=True)
class Sheet:
    """One rater's answers: item -> answer."""

    rater: str
    answers: dict[str, str]


_Model = TypeVar("_Model", bound=_File)


def read_key(path: Path) -> Key:
    """Raises UserError if the file is not a key."""
    return _read(path, Key, "a key that `mibench study build` wrote")


def study_of(path: Path) -> str:
    """The id of the study that a file of answers is for. Raises UserError if it is not such a file."""
    return _read_answers(path).study


def read_sheets(paths: Sequence[Path], key: Key) -> list[Sheet]:
    """The answers in all files, by rater. Raises UserError for anything that does not fit the key."""
    sheets: dict[str, tuple[Sheet, Path]] = {}
    for path in paths:
        sheet = _sheet(path, key)
        if sheet.rater in sheets:
            raise UserError(
                f"{path} and {sheets[sheet.rater][1]} are both from rater {sheet.rater!r}. Give one file per rater."
            )
        sheets[sheet.rater] = sheet, path
    return [sheets[rater][0] for rater in key.raters if rater in sheets]


def _sheet(path: Path, key: Key) -> Sheet:
    saved = _read_answers(path)
    if saved.study != key.study:
        raise UserError(
            f"{path} holds answers to the study {_short(saved.study)}, but the key is that of {key.study!r}. "
            "Give the key.json that was built together with the page."
        )
    if saved.rater not in key.raters:
        raise UserError(f"{path} is from rater {_short(saved.rater)}. The study's raters: {', '.join(key.raters)}.")
    asked = set(key.raters[saved.rater])
    answers: dict[str, str] = {}
    for given in saved.answers:
        if given.item not in asked:
            raise UserError(
                f"{path} answers the item {_short(given.item)}, which the study does not ask of {saved.rater!r}."
            )
        if given.item in answers:
            raise UserError(f"{path} answers the item {given.item!r} twice. Expected one answer per item.")
        choices = key.items[given.item].choices
        if given.answer not in choices:
            raise UserError(
                f"{path} answers {_short(given.answer)} to the item {given.item!r}. Expected one of "
                f"{', '.join(sorted(choices))}."
            )
        answers[given.item] = given.answer
    return Sheet(saved.rater, answers)


def _read_answers(path: Path) -> _Answers:
    return _read(path, _Answers, "a file of answers that the page of a study saved")


def _read(path: Path, model: type[_Model], what: str) -> _Model:
    try:
        return model.model_validate(json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise UserError(f"{path} is not {what}: {where}: {first['msg']}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not {what}: {error}.") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return members


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
