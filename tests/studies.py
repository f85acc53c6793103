"""A made-up study of two runs and ten people, its key, and answers to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mibench.study.design import (
    LOOKALIKES,
    ImageRef,
    Person,
    Question,
    Study,
    Subject,
    arrange,
    choose_identities,
    order_photos,
    questions,
)
from mibench.study.key import Key

LABELS = range(10)
RUNS = ("a" * 12, "b" * 12)
TEMPLATES = Path(__file__).resolve().parents[1] / "site" / "study"


def make_subject(run: str) -> Subject:
    return Subject(run, f"d+{run[0]}", "orl32", {n: [ImageRef(run, f"{n}-{i}") for i in range(4)] for n in LABELS})


def make_people() -> dict[int, Person]:
    def photos(split: str, label: int) -> list[ImageRef]:
        return [ImageRef(f"orl32/{split}", f"{label}-{i}") for i in range(4)]

    return {
        label: Person(
            order_photos("orl32", label, photos("train", label), photos("test", label), 0).photos,
            tuple(sorted((label + step) % 10 for step in range(1, LOOKALIKES + 1))),
        )
        for label in LABELS
    }


def ask(runs: tuple[str, ...] = RUNS, identities: int = 5, per_identity: int = 3) -> list[Question]:
    chosen = choose_identities("orl32", LABELS, identities, 0)
    return questions([make_subject(run) for run in runs], {"orl32": make_people()}, {"orl32": chosen}, per_identity, 0)


def make_study(raters: int = 4, each: int = 4) -> Study:
    return arrange(ask(), [f"rater-{n}" for n in range(raters)], each, {"orl32": "person"}, 0)


def make_key(study: Study) -> Key:
    return Key.model_validate(
        {
            "schema": 1,
            "study": "0" * 12,
            "seed": 0,
            "raters": {rater: [name for name, _ in asked] for rater, asked in study.order.items()},
            "runs": [{"run": run, "name": f"d+{run[0]}", "track": "orl32", "track_version": 1} for run in RUNS],
            "items": study.answers,
        }
    )


def meant(key: Key, name: str, meaning: str) -> str:
    """The answer that means this."""
    return next(answer for answer, what in key.items[name].choices.items() if what == meaning)


def answers_of(key: Key, rater: str, **wanted: Any) -> dict[str, str]:
    """Right on every control and line-up, yes to every reconstruction, the first run of a pair, unless asked else."""
    found = {}
    for name in key.raters[rater]:
        item = key.items[name]
        kind = item.kind if item.task == "same" else item.task
        default = {"reconstruction": "yes", "pair": RUNS[0]}.get(kind, item.correct)
        found[name] = meant(key, name, wanted.get(kind, default))
    return found


def write_sheet(folder: Path, name: str, given: dict[str, str], change: dict[str, Any] | None = None) -> Path:
    path = folder / f"{name}.json"
    answers = [{"item": item, "answer": answer} for item, answer in given.items()]
    path.write_text(json.dumps({"schema": 1, "study": "0" * 12, "rater": name, "answers": answers} | (change or {})))
    return path
