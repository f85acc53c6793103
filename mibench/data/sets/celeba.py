"""CelebA, three times: the splits of GMI/KED-MI, of PPA and of VMI share images and are otherwise three data sets.

Liu et al., "Deep Learning Face Attributes in the Wild", ICCV 2015. Their thousand identities differ (429 are common to
the first two) and so do the labels, so checkpoints of one split are wrong on another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from mibench.data.sets.base import DataSet, Item, Listing, Problems, View, must, text_lines
from mibench.data.sets.rules import numpy_argsort, ppa_split

IDENTITIES = ("identity_CelebA.txt", "Anno/identity_CelebA.txt")
IMAGES = ("img_align_celeba", "Img/img_align_celeba")
LISTS = {
    "private_train": ("trainset.txt", "celeba_trainset.txt", "private_train.txt"),
    "private_test": ("testset.txt", "celeba_testset.txt", "private_test.txt"),
    "public": ("ganset.txt", "celeba_ganset.txt", "public.txt"),
}
ENDINGS = (".jpg", ".png", ".jpeg")
ALIGNED = (178, 218)

_GET = (
    "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: accept the agreement there, then download "
    "`img_align_celeba.zip` and `Anno/identity_CelebA.txt` (the identity file is sent on request)"
)
_LICENCE = "non-commercial research; images may not be published or passed on"
_TREE = "  img_align_celeba/000001.jpg ... (178x218)\n  identity_CelebA.txt  (or Anno/identity_CelebA.txt)"
_MARKS = (IMAGES, IDENTITIES)


def gmi(
    identities: int = 1000, at_least: int = 30, public_after: int = 1000, counts: Mapping[str, int] | None = None
) -> DataSet:
    """The split of GMI, KED-MI, LOMMA, PLG-MI, BREP-MI and RLB-MI. Its sizes follow from the real identity file; the
    arguments make a look-alike for tests."""
    crop = ("crop", 35, 55, 143, 163)
    return DataSet(
        name="celeba64-gmi",
        title="CelebA, split of GMI and KED-MI",
        get=_GET + "; the three lists are in the repositories of KED-MI, PLG-MI and BiDO on GitHub",
        licence=_LICENCE,
        tree=_TREE + "\n  trainset.txt, testset.txt (`image label`), ganset.txt (`image`)",
        rule="private: the first 1,000 identities by id of those with at least 30 images, all their images; which of "
        "them train and test, and which 30,000 images of identities with fewer than 30 are public, is published "
        "only as lists, which are checked against this rule",
        marks=(*_MARKS, *LISTS.values()),
        scan=partial(_scan_gmi, identities=identities, at_least=at_least, public_after=public_after),
        views={
            "target": View(64, (crop, ("resize", 64))),
            "evaluator": View(112, (crop, ("resize", 112)), ("private_train", "private_test")),
        },
        size=ALIGNED,
        identities=identities,
        counts={"private_train": 27_018, "private_test": 3_009, "public": 30_000} if counts is None else counts,
    )


def ppa(identities: int = 1000, counts: Mapping[str, int] | None = None) -> DataSet:
    """The split of PPA, 224x224. No public images: its priors are published StyleGAN2 weights."""
    return DataSet(
        name="celeba224-ppa",
        title="CelebA re-cropped to 224x224, split of PPA",
        get=_GET + "; then crop the in-the-wild images with HD-CelebA-Cropper (224x224, order 3, face factor 0.65, "
        "PNG) into img_align_celeba",
        licence=_LICENCE,
        tree=_TREE.replace("178x218", "224x224, re-cropped"),
        rule="the 1,000 identities with most images, ties by first appearance in the identity file; their images "
        "in file order, shuffled with numpy's RandomState(42), first 90 % train",
        marks=_MARKS,
        scan=partial(_scan_ppa, identities=identities),
        views={
            "target": View(224, (("shorter", 224), ("centre", 224))),
            "evaluator": View(299, (("shorter", 299), ("centre", 299))),
        },
        size=(224, 224),
        identities=identities,
        counts={"private_train": 27_034, "private_test": 3_004} if counts is None else counts,
        inputs=(-1.0, 1.0),
    )


def vmi(identities: int = 1000, train: int = 25, counts: Mapping[str, int] | None = None) -> DataSet:
    """The split of VMI."""
    return DataSet(
        name="celeba-vmi",
        title="CelebA, split of VMI",
        get=_GET,
        licence=_LICENCE,
        tree=_TREE,
        rule="the last 1,000 identities of numpy's (scalar) quicksort of the image counts; first 25 images of each "
        "train, the others test; of everybody else the first 80 % of each identity are public",
        marks=_MARKS,
        scan=partial(_scan_vmi, identities=identities, train=train),
        views={"target": View(64, (("centre", 128), ("resize", 64)))},
        size=ALIGNED,
        identities=identities,
        counts={"private_train": 25_000, "private_test": 5_038} if counts is None else counts,
        inputs=(-1.0, 1.0),
    )


# --- rules, on the identity file alone -----------------------------------------------------------------------------


def gmi_identities(people: Mapping[str, int], identities: int, at_least: int) -> list[int]:
    """Ids of the private people in label order."""
    counts = Counter(people.values())
    return sorted(person for person, count in counts.items() if count >= at_least)[:identities]


def ppa_identities(people: Mapping[str, int], identities: int) -> list[int]:
    """Ids in label order: most images first; ``most_common`` keeps the order of first appearance among equals."""
    return [person for person, _ in Counter(people.values()).most_common(identities)]


def vmi_identities(people: Mapping[str, int], identities: int) -> list[int]:
    """Ids in label order. The published order is numpy's unstable quicksort, which newer versions of numpy replaced
    by vector instructions with other ties: hence our own copy of the old algorithm."""
    counts = np.bincount([person - 1 for person in people.values()], minlength=max(people.values()))
    return [int(i) + 1 for i in numpy_argsort(counts)[-identities:]]


# --- readers -------------------------------------------------------------------------------------------------------


def _people(root: Path, problems: Problems) -> dict[str, int]:
    """Image stem -> identity, in file order."""
    path = must(root, IDENTITIES)
    people: dict[str, int] = {}
    for number, line in enumerate(text_lines(path), 1):
        fields = line.split()
        if len(fields) != 2 or not fields[1].isdigit():
            problems.add(f"lines of {path} that are not `image identity`", f"line {number} is {line[:60]!r}")
            continue
        stem = Path(fields[0]).stem
        if stem in people:
            problems.add(f"images that {path} names twice", fields[0])
        people[stem] = int(fields[1])
    if not people:
        problems.say(f"{path} names no image.")
    problems.stop()
    return people


class _Files:
    """The images that are there, by stem, read once: asking for 60,000 files one by one is slow."""

    def __init__(self, root: Path, problems: Problems) -> None:
        folder = must(root, IMAGES)
        inner = folder / folder.name  # what unpacking into a folder of the archive's name gives
        self.root, self.problems, self.folder = root, problems, inner if inner.is_dir() else folder
        self.told: set[int] = set()  # identities named as missing
        self.names = {p.stem: p.name for p in self.folder.iterdir() if p.suffix.lower() in ENDINGS}

    def items(self, stems: list[tuple[str, int]], people: Mapping[str, int]) -> list[Item]:
        items = []
        there = {people[stem] for stem in self.names if stem in people}
        gone = {people[stem] for stem, _ in stems} - there
        for person in sorted(gone - self.told):
            self.problems.add(f"identities without any image in {self.folder}", str(person))
        self.told |= gone
        for stem, label in stems:
            if people[stem] in gone:
                continue
            name = self.names.get(stem)
            if name is None:
                self.problems.add(f"images missing in {self.folder}", f"{stem} of identity {people[stem]}")
                continue
            items.append(Item(name, label, (self.folder / name).relative_to(self.root).as_posix()))
        return items


def _enough(root: Path, chosen: list[int], identities: int, what: str, problems: Problems) -> None:
    if len(chosen) < identities:
        path = must(root, IDENTITIES)
        problems.say(f"{path} has {len(chosen):,} identities {what}; {identities:,} are needed. Is it the whole file?")
        problems.stop()


def _names(chosen: list[int]) -> tuple[str, ...]:
    return tuple(str(person) for person in chosen)


def _scan_gmi(root: Path, problems: Problems, identities: int, at_least: int, public_after: int) -> Listing:
    people = _people(root, problems)
    chosen = gmi_identities(people, identities, at_least)
    _enough(root, chosen, identities, f"with at least {at_least} images", problems)
    labels = {person: label for label, person in enumerate(chosen)}
    counts = Counter(people.values())
    files = _Files(root, problems)
    seen: dict[str, str] = {}
    splits: dict[str, list[Item]] = {}
    for split, names in LISTS.items():
        path = must(root, names)
        stems: list[tuple[str, int]] = []
        for number, line in enumerate(text_lines(path), 1):
            fields = line.split()
            stem = Path(fields[0]).stem
            person = people.get(stem)
            if person is None:
                problems.add(
                    f"lines of {path} whose image is not in the identity file", f"line {number}: {line[:60]!r}"
                )
                continue
            if stem in seen:
                problems.add("images that the lists name twice", f"{fields[0]} in {seen[stem]} and {path.name}")
                continue
            seen[stem] = path.name
            if split == "public":
                if person <= public_after or counts[person] >= at_least:
                    who = f"{fields[0]} of identity {person} with {counts[person]} images"
                    problems.add(f"lines of {path} that the rule excludes from the public images", who)
                stems.append((stem, -1))
                continue
            if len(fields) != 2 or fields[1] != str(labels.get(person)):
                wanted = f"label {labels[person]}" if person in labels else "is not a private identity"
                problems.add(
                    f"lines of {path} whose label is not the rule's", f"{line[:60]!r}: identity {person} {wanted}"
                )
            stems.append((stem, labels.get(person, -1)))
        splits[split] = files.items(stems, people)
    for stem, person in people.items():
        if person in labels and stem not in seen:
            problems.add("images of private identities that are in neither list", f"{stem} of identity {person}")
    for split in ("private_train", "private_test") if not problems else ():
        there = {item.label for item in splits[split]}
        for person, label in labels.items():
            if label not in there:
                problems.add(f"identities without an image in {split}", f"{person} (label {label})")
    return Listing(splits, _names(chosen))


def _scan_ppa(root: Path, problems: Problems, identities: int) -> Listing:
    people = _people(root, problems)
    chosen = ppa_identities(people, identities)
    _enough(root, chosen, identities, "in all", problems)
    labels = {person: label for label, person in enumerate(chosen)}
    stems = [(stem, labels[person]) for stem, person in people.items() if person in labels]
    train, test = ppa_split(stems)
    files = _Files(root, problems)
    return Listing(
        {"private_train": files.items(train, people), "private_test": files.items(test, people)}, _names(chosen)
    )


def _scan_vmi(root: Path, problems: Problems, identities: int, train: int) -> Listing:
    people = _people(root, problems)
    chosen = vmi_identities(people, identities)
    _enough(root, chosen, identities, "in all", problems)
    labels = {person: label for label, person in enumerate(chosen)}
    by_person: dict[int, list[str]] = {}
    for stem, person in people.items():
        by_person.setdefault(person, []).append(stem)
    stems: dict[str, list[tuple[str, int]]] = {"private_train": [], "private_test": [], "public": []}
    for person in sorted(by_person):
        images = by_person[person]
        if person in labels:
            stems["private_train"] += [(stem, labels[person]) for stem in images[:train]]
            stems["private_test"] += [(stem, labels[person]) for stem in images[train:]]
        else:
            stems["public"] += [(stem, -1) for stem in images[: int(0.8 * len(images))]]
    files = _Files(root, problems)
    return Listing({split: files.items(of_split, people) for split, of_split in stems.items()}, _names(chosen))
