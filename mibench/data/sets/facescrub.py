"""FaceScrub: 530 people, 265 actors and 265 actresses. Ng and Winkler, ICIP 2014.

Distributed as a list of addresses, so the number of images depends on how many still resolved. Some people are in
CelebA too; the published protocols do not remove them.
"""

from __future__ import annotations

import unicodedata
from functools import partial
from pathlib import Path

from mibench.data.sets.base import DataSet, Item, Listing, Problems, View, must, text_lines
from mibench.data.sets.rules import by_hash, image_files, ppa_split

GROUPS = ("actors", "actresses")
EACH = 265
LOKT_TRAIN = ("lokt_train.txt", "train_list.txt")
LOKT_TEST = ("lokt_test.txt", "test_list.txt")

_GET = "https://vintage.winklerbros.net/facescrub.html: their list of addresses is sent on request; download, crop"
_LICENCE = "the list is CC BY-NC-ND; the photos belong to their owners and may not be published"
_TREE = "  actors/faces/Aaron_Eckhart/*.jpg ... (265 people)\n  actresses/faces/Adrianne_León/*.jpg ... (265 people)"
_MARKS = tuple((f"{group}/faces", group) for group in GROUPS)


def ppa(each: int = EACH) -> DataSet:
    """224x224, split of PPA and MIDRE; ``each`` people per group (fewer for a look-alike)."""
    return DataSet(
        name="facescrub224-ppa",
        title="FaceScrub faces, 224x224, split of PPA and MIDRE",
        get=_GET,
        licence=_LICENCE,
        tree=_TREE,
        rule="labels: actors in sorted order (0 to 264), then actresses; images in this order, shuffled with numpy's "
        "RandomState(42), first 90 % train. The number of images is recorded, not prescribed",
        marks=_MARKS,
        scan=partial(_scan_ppa, each=each),
        views={"target": View(224, (("resize", 224),)), "evaluator": View(299, (("resize", 299),))},
        identities=2 * each,
        inputs=(-1.0, 1.0),
    )


def public(each: int = EACH) -> DataSet:
    """As public images for 64x64 targets, with PLG-MI's resize of the whole image."""
    return DataSet(
        name="facescrub64",
        title="FaceScrub faces as public images, 64x64",
        get=_GET,
        licence=_LICENCE,
        tree=_TREE,
        rule="all images of the 530 people, in an order given by a hash of their names",
        marks=_MARKS,
        scan=partial(_scan_public, each=each),
        views={"target": View(64, (("resize", 64),))},
    )


def lokt(identities: int = 200) -> DataSet:
    """200 people as private classes at 64x64, split of LOKT."""
    return DataSet(
        name="facescrub64-lokt",
        title="FaceScrub, 200 private people at 64x64 (LOKT's list; not for claims about accuracy)",
        get=_GET + "; the lists are in LOKT's repository",
        licence=_LICENCE,
        tree=_TREE + "\n  lokt_train.txt, lokt_test.txt (`image label`, images relative to this folder)",
        rule="labels 0 to 199 as in the brought lists. The published two lists are the same file, so nothing was held "
        "out: here a tenth of each person's images, by hash, is the test split. Everybody else is public",
        marks=(*_MARKS, LOKT_TRAIN, LOKT_TEST),
        scan=partial(_scan_lokt, identities=identities),
        views={
            "target": View(64, (("resize", 64),)),
            "evaluator": View(112, (("resize", 112),), ("private_train", "private_test")),
        },
        identities=identities,
    )


def _people(root: Path, problems: Problems, each: int | None) -> list[tuple[str, str]]:
    """(name, folder below the root) of everybody in label order."""
    people: list[tuple[str, str]] = []
    for group in GROUPS:
        folder = must(root, (f"{group}/faces", group))
        names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        if each is not None and len(names) != each:
            problems.say(
                f"{folder} has {len(names):,} folders of people, expected {each:,}. A person without any image still "
                f"needs a folder with at least one, or every later label is another person's."
            )
        people += [(name, (folder / name).relative_to(root).as_posix()) for name in names]
    problems.stop()
    return people


def _all_images(root: Path, problems: Problems, each: int | None) -> tuple[list[Item], tuple[str, ...]]:
    people = _people(root, problems, each)
    items = []
    for label, (person, folder) in enumerate(people):
        files = image_files(root / folder)
        if not files:
            problems.add("people without an image", str(root / folder))
        group = folder.split("/")[0]
        items += [Item(_composed(f"{group}/{person}/{file}"), label, f"{folder}/{file}") for file in files]
    return items, tuple(_composed(person) for person, _ in people)


def _composed(name: str) -> str:
    """File systems store the accent of Adrianne León in two ways; hashes know one."""
    return unicodedata.normalize("NFC", name)


def _scan_ppa(root: Path, problems: Problems, each: int) -> Listing:
    items, people = _all_images(root, problems, each)
    train, test = ppa_split(items)
    return Listing(
        {"private_train": train, "private_test": test}, people, (f"{len(items):,} images of {len(people)} people",)
    )


def _scan_public(root: Path, problems: Problems, each: int) -> Listing:
    items, people = _all_images(root, problems, each)
    by_name = {item.name: item for item in items}
    return Listing({"public": [by_name[name] for name in by_hash(by_name, "facescrub64")]}, people)


def _scan_lokt(root: Path, problems: Problems, identities: int) -> Listing:
    images, names = _all_images(root, problems, None)
    by_name = {name: item for item in images for name in (item.name, item.file)}
    train_file, test_file = must(root, LOKT_TRAIN), must(root, LOKT_TEST)
    same = train_file.read_bytes() == test_file.read_bytes()
    owner: dict[int, int] = {}  # label of the list -> person
    listed: dict[str, dict[str, int]] = {}
    for path in (train_file, test_file):
        listed[path.name] = {}
        for number, line in enumerate(text_lines(path), 1):
            fields = line.split()
            item = by_name.get(_composed(fields[0]))
            if len(fields) != 2 or not fields[1].isdigit() or int(fields[1]) >= identities:
                problems.add(
                    f"lines of {path} that are not `image label` with a label below {identities}",
                    f"line {number}: {line[:60]!r}",
                )
            elif item is None:
                problems.add(f"images of {path} that are missing in {root}", fields[0])
            elif owner.setdefault(int(fields[1]), item.label) != item.label:
                problems.add(
                    f"labels of {path} that two people share",
                    f"{fields[1]}: {fields[0]} is not of {names[owner[int(fields[1])]]}",
                )
            elif item.name in listed[path.name]:
                problems.add(f"images that {path} names twice", fields[0])
            else:
                listed[path.name][item.name] = int(fields[1])
    problems.stop()
    train, test = listed[train_file.name], listed[test_file.name]
    if same:
        test = _tenth(train)
    both = sorted(train.keys() & test.keys()) if not same else []
    for name in both:
        problems.add("images in both lists", name)

    def items(chosen: dict[str, int]) -> list[Item]:
        return [Item(name, label, by_name[name].file) for name, label in chosen.items()]

    private = set(owner.values())
    others = {item.name: item for item in images if item.label not in private}
    notes = ["the two lists are the same file: a tenth of each person's images was held out by hash"] if same else []
    absent = sorted(set(range(identities)) - set(owner))
    if absent:
        notes.append(f"the lists have no image for {len(absent)} of the {identities} labels: {absent[:10]}")
    return Listing(
        {
            "private_train": items({name: label for name, label in train.items() if name not in test}),
            "private_test": items(test),
            "public": [Item(name, -1, others[name].file) for name in by_hash(others, "facescrub64-lokt")],
        },
        tuple(names[owner[label]] if label in owner else f"label {label}, no image" for label in range(identities)),
        tuple(notes),
    )


def _tenth(train: dict[str, int]) -> dict[str, int]:
    """A tenth of each label's images, at least one."""
    chosen: dict[str, int] = {}
    for label in sorted(set(train.values())):
        names = by_hash((name for name, other in train.items() if other == label), "facescrub64-lokt", "test")
        chosen |= dict.fromkeys(names[: max(1, len(names) // 10)], label)
    return chosen
