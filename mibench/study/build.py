"""Make a study: the page for raters, and the key that stays here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mibench.errors import UserError
from mibench.keys import digest
from mibench.records import RunRecord
from mibench.registry import Registry
from mibench.resources import resource_root
from mibench.store.artifacts import Store
from mibench.store.atomic import write_json, write_text
from mibench.study.design import Study, arrange, choose_identities, questions
from mibench.study.gather import Album, people, subject
from mibench.study.key import SCHEMA
from mibench.study.page import render
from mibench.study.results import key_path

NOUNS = {"faces": "person", "digits": "digit"}


@dataclass(frozen=True)
class Built:
    """``page`` goes to the raters, ``key`` to nobody."""

    study: str
    page: Path
    key: Path
    items: int
    longest: int  # questions for one rater
    identities: int
    tasks: tuple[str, ...]


def build_study(
    registry: Registry,
    store: Store,
    records: Sequence[RunRecord],
    out: Path,
    raters: int,
    each: int,
    identities: int,
    per_identity: int,
    seed: int,
    private_images: bool,
) -> Built:
    """Write ``out`` (one HTML file) and the key under ``store.home``; ``each`` of the ``raters`` answer an item. The
    same runs and options give the same study.

    Raises UserError for runs that cannot be studied, or for a track with photographs of people unless
    ``private_images`` says that they may be shown; MissingError where images or the evaluator are not here."""
    _check(registry, records, private_images)
    album = Album()
    subjects = [subject(store, record, album) for record in records]
    first = {record.track: record for record in reversed(records)}
    everyone = {
        name: people(registry, store, record, registry.track(name).identities, seed, album)
        for name, record in first.items()
    }
    chosen = {name: choose_identities(name, sorted(everyone[name]), identities, seed) for name in first}
    asked = questions(subjects, everyone, chosen, per_identity, seed)
    nouns = {name: NOUNS.get(registry.track(name).kind, "class") for name in first}
    content = arrange(asked, [f"rater-{number}" for number in range(1, raters + 1)], min(each, raters), nouns, seed)
    key = _key(content, records, seed)
    page = render(resource_root() / "site" / "study", key["study"], content, album.png)
    kept = key_path(store.home, key["study"])
    write_json(kept, key)
    write_text(out, page)
    longest = max(map(len, content.order.values()))
    tasks = tuple(sorted({item["task"] for item in content.items.values()}))
    return Built(key["study"], out, kept, len(content.items), longest, sum(map(len, chosen.values())), tasks)


def _check(registry: Registry, records: Sequence[RunRecord], private_images: bool) -> None:
    seen = [record.run for record in records]
    if len(set(seen)) != len(seen):
        raise UserError("A run is named twice. Name each run once.")
    for record in records:
        track = registry.track(record.track)
        if not (private_images or track.publish_private):
            raise UserError(
                f"The page would show private training images of track {record.track!r}. Where their licence and your "
                f"ethics board allow showing them to raters, add --private-images."
            )


def _key(content: Study, records: Sequence[RunRecord], seed: int) -> dict[str, Any]:
    body = {
        "schema": SCHEMA,
        "seed": seed,
        "raters": {rater: sorted(name for name, _ in asked) for rater, asked in content.order.items()},
        "runs": [
            {
                "run": record.run,
                "name": record.name,
                "track": record.track,
                "track_version": record.track_version,
            }
            for record in records
        ],
        "items": content.answers,
    }
    return body | {"study": digest(body)[:12]}
