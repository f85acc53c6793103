"""Which questions a study asks, and in which order: a pure function of runs, people and a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mibench.keys import stream_seed
from mibench.study.key import NEITHER, SAME_ANSWERS, Kind, Task

REFERENCES = 4  # photos of a person beside a reconstruction
LOOKALIKES = 5  # other people in a line-up
BLOCKS: tuple[Task, ...] = ("lineup", "same", "pair")  # the line-up first: the others show whose photo it should be


class ImageRef(NamedTuple):
    """An image: ``owner`` is ``<track>/train``, ``<track>/test`` or a run; ``name`` the image there."""

    owner: str
    name: str


@dataclass(frozen=True)
class Person:
    """One private identity: all its photos, the four to show first, and the people that look most alike."""

    photos: tuple[ImageRef, ...]
    lookalikes: tuple[int, ...] = ()

    @property
    def shown(self) -> tuple[ImageRef, ...]:
        return self.photos[:REFERENCES]


@dataclass(frozen=True)
class Subject:
    """One run: its reconstructions by identity."""

    run: str
    name: str
    track: str
    images: Mapping[int, Sequence[ImageRef]]


@dataclass(frozen=True)
class Question:
    """One item. ``query`` is the image to judge (None where there are two), ``photos`` stand beside it, ``options``
    are images to choose from with what choosing one means: a person's label or a run."""

    task: Task
    kind: Kind
    track: str
    identity: int
    photos: tuple[ImageRef, ...] = ()
    query: ImageRef | None = None
    options: tuple[tuple[ImageRef, str], ...] = ()
    run: str | None = None
    correct: str | None = None  # the meaning of the right answer, if there is one


@dataclass(frozen=True)
class Study:
    """``items`` by id as the page needs them, ``answers`` by id as the key does, ``order`` by rater: pairs of an item
    and the order of its options. ``files`` maps an image's name in the study to its source."""

    items: dict[str, dict[str, Any]]
    answers: dict[str, dict[str, Any]]
    order: dict[str, list[tuple[str, list[int]]]]
    files: dict[str, ImageRef] = field(default_factory=dict)


def draw(*parts: str | int) -> random.Random:
    """The random numbers for one purpose; what was drawn for another does not matter."""
    return random.Random(stream_seed("study", *parts))


def choose_identities(track: str, labels: Sequence[int], count: int, seed: int) -> list[int]:
    """At most ``count`` of the attacked identities. They depend on the track and the seed, not on any run."""
    return sorted(draw(seed, track, "identities").sample(list(labels), min(count, len(labels))))


def order_photos(track: str, label: int, train: Sequence[ImageRef], test: Sequence[ImageRef], seed: int) -> Person:
    """A person whose training photos come first, each group shuffled."""
    rng = draw(seed, track, "photos", label)
    return Person((*rng.sample(list(train), len(train)), *rng.sample(list(test), len(test))))


def questions(
    subjects: Sequence[Subject],
    people: Mapping[str, Mapping[int, Person]],
    chosen: Mapping[str, Sequence[int]],
    per_identity: int,
    seed: int,
) -> list[Question]:
    """All items. Of the same-person items 60 % are reconstructions, 20 % matched and 20 % mismatched photos."""
    asked: list[Question] = []
    for subject in subjects:
        for label in chosen[subject.track]:
            for source in _some(subject, label, per_identity, seed):
                asked += _judge(subject, label, source, people[subject.track], seed)
    for track in dict.fromkeys(subject.track for subject in subjects):
        judged = sum(item.task == "same" and item.track == track for item in asked)
        asked += _controls(track, people[track], chosen[track], -(-judged // 3), seed)
    if len(subjects) == 2 and subjects[0].track == subjects[1].track:
        asked += _pairs(subjects, people[subjects[0].track], chosen[subjects[0].track], seed)
    return asked


def _some(subject: Subject, label: int, count: int, seed: int) -> list[ImageRef]:
    """``count`` reconstructions of an identity: the same places in every run that has as many."""
    made = list(subject.images.get(label, ()))
    places = draw(seed, subject.track, "reconstructions", label).sample(range(len(made)), min(count, len(made)))
    return [made[place] for place in places]


def _judge(subject: Subject, label: int, source: ImageRef, people: Mapping[int, Person], seed: int) -> list[Question]:
    person, track = people[label], subject.track
    asked = [Question("same", "reconstruction", track, label, person.shown, source, run=subject.run)]
    if len(person.lookalikes) == LOOKALIKES:
        rng = draw(seed, track, "lineup", subject.run, source.name)
        options = tuple((rng.choice(people[who].shown), str(who)) for who in (label, *person.lookalikes))
        asked.append(
            Question("lineup", "reconstruction", track, label, (), source, options, subject.run, correct=str(label))
        )
    return asked


def _controls(track: str, people: Mapping[int, Person], chosen: Sequence[int], count: int, seed: int) -> list[Question]:
    """``count`` photos beside others of the same person, and as many beside those of somebody else. Photos that no
    other item shows are taken first."""
    controls = []
    rng = draw(seed, track, "controls")
    matched, mismatched = (rng.sample(list(chosen), len(chosen)) for _ in range(2))
    for turn in range(count):
        round_, place = divmod(turn, len(chosen))
        label = matched[place]
        query = _unseen(people[label], round_)
        photos = tuple(photo for photo in people[label].photos if photo != query)[:REFERENCES]
        controls.append(Question("same", "matched", track, label, photos, query, correct="yes"))
        label = mismatched[place]
        other = rng.choice([who for who in sorted(people) if who != label])
        query = _unseen(people[other], -1 - turn)
        controls.append(Question("same", "mismatched", track, label, people[label].shown, query, correct="no"))
    return controls


def _unseen(person: Person, turn: int) -> ImageRef:
    """Another photo each turn, those that are not shown beside reconstructions first."""
    photos = (*person.photos[REFERENCES:], *person.shown)
    spare = len(person.photos) - REFERENCES
    return photos[turn % spare] if turn < 0 else photos[turn % len(photos)]


def _pairs(
    subjects: Sequence[Subject], people: Mapping[int, Person], chosen: Sequence[int], seed: int
) -> list[Question]:
    """One pair per identity, as the published preference studies have it."""
    pairs = []
    for label in chosen:
        made = [_some(subject, label, 1, seed) for subject in subjects]
        if all(made):
            options = tuple((images[0], subject.run) for images, subject in zip(made, subjects, strict=True))
            track = subjects[0].track
            pairs.append(Question("pair", "reconstruction", track, label, people[label].shown, None, options))
    return pairs


def arrange(asked: Sequence[Question], raters: Sequence[str], each: int, nouns: Mapping[str, str], seed: int) -> Study:
    """Give items and images names that say nothing, ``each`` item to as many raters, and every rater an order and
    sides of their own."""
    mixed = draw(seed, "items").sample(list(asked), len(asked))
    sources = sorted({source for item in mixed for source in _sources(item)})
    shuffled = draw(seed, "files").sample(sources, len(sources))
    width = len(str(len(sources)))
    files = {source: f"{place:0{width}}" for place, source in enumerate(shuffled, start=1)}
    width = len(str(len(mixed)))
    names = [f"q{place:0{width}}" for place in range(1, len(mixed) + 1)]
    items = {name: _for_page(item, files, nouns) for name, item in zip(names, mixed, strict=True)}
    answers = {name: _for_key(item, files) for name, item in zip(names, mixed, strict=True)}
    shares = _shares(mixed, len(raters), each)
    order = {
        rater: _order([names[i] for i in share], [mixed[i] for i in share], draw(seed, "order", rater))
        for rater, share in zip(raters, shares, strict=True)
    }
    return Study(items, answers, order, {name: source for source, name in files.items()})


def _shares(asked: Sequence[Question], raters: int, each: int) -> list[list[int]]:
    """Which items each rater gets: ``each`` raters per item, the same number of every kind (reconstructions of a run,
    controls) give or take one."""
    shares: list[list[int]] = [[] for _ in range(raters)]
    turns: dict[tuple[str, str, str, str | None], int] = {}
    for place, item in enumerate(asked):
        kind = (item.task, item.kind, item.track, item.run)
        start = turns.get(kind, 0)
        for turn in range(start, start + each):
            shares[turn % raters].append(place)
        turns[kind] = start + each
    return shares


def _order(names: Sequence[str], asked: Sequence[Question], rng: random.Random) -> list[tuple[str, list[int]]]:
    order = []
    for block in BLOCKS:
        own = [(name, item) for name, item in zip(names, asked, strict=True) if item.task == block]
        for name, item in rng.sample(own, len(own)):
            order.append((name, rng.sample(range(len(item.options)), len(item.options))))
    return order


def _sources(item: Question) -> list[ImageRef]:
    return [*item.photos, *([item.query] if item.query else []), *(source for source, _ in item.options)]


def _for_page(item: Question, files: Mapping[ImageRef, str], nouns: Mapping[str, str]) -> dict[str, Any]:
    return {
        "task": item.task,
        "noun": nouns[item.track],
        "query": files[item.query] if item.query else None,
        "photos": [files[source] for source in item.photos],
        "options": [files[source] for source, _ in item.options],
    }


def _for_key(item: Question, files: Mapping[ImageRef, str]) -> dict[str, Any]:
    choices = {files[source]: meaning for source, meaning in item.options} or {name: name for name in SAME_ANSWERS}
    if item.task == "pair":
        choices[NEITHER] = NEITHER
    return {
        "task": item.task,
        "kind": item.kind,
        "track": item.track,
        "identity": item.identity,
        "run": item.run,
        "shown": None if item.query is None else list(item.query),
        "choices": choices,
        "correct": item.correct,
    }
