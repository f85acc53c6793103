"""Any folder of images, ``root/<class>/*.jpg``: an engineer's own classifier and data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mibench.data.sets.base import DataSet, Item, Listing, Problems, View
from mibench.data.sets.photos import BESIDE, LEFT, Skipped, left_by_programs, photo_files
from mibench.data.sets.rules import by_hash
from mibench.errors import MissingError, UserError
from mibench.keys import digest

_PART = re.compile(
    r"(.*[_ -])?(train(ing)?|val(id(ation)?)?|test(ing)?|dev|eval(uation)?|hold-?out)([_ -]?(set|data|images|split))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Split:
    """How a folder is divided. ``train``, ``test``: images per class, or None: all that is left, and ``test_share`` of
    each class. ``public_share``: the share of the classes whose images are public instead of private. ``order``: how
    classes are numbered, see ``ordered``. ``test_root``: a folder of the same classes, all of whose images test."""

    train: int | None = None
    test: int | None = None
    test_share: float = 0.2
    public_share: float = 0.0
    order: str | tuple[str, ...] = "lexicographic"
    test_root: Path | None = None

    @property
    def least(self) -> int:
        return (self.train or 1) + (0 if self.test_root else self.test or 1)


def classes(root: Path) -> list[str]:
    """Names of the class folders, sorted. Raises MissingError for a folder whose folders are parts of a data set."""
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not left_by_programs(path.name))
    parts = [name for name in names if _PART.fullmatch(name)]
    inside = [{path.name for path in (root / name).iterdir() if path.is_dir()} for name in parts]
    if len(parts) > 1 and set.intersection(*inside):
        first = next((name for name in parts if "train" in name.lower()), parts[0])
        raise MissingError(
            f"{root} holds parts of a data set ({', '.join(parts)}), not classes. Give the part whose folders are the "
            f"classes: {root / first}. Images to test with stay apart: `private: {{test_root: DIR}}` in a track file, "
            f"--val DIR for an audit."
        )
    return names


def apart(private: Path, other: Path, what: str) -> None:
    """Raises UserError if one of two folders is, or lies in, the other, by whatever name. ``what``: of the other."""
    one, two = private.resolve(), other.resolve()
    if one == two or one in two.parents or two in one.parents or (one.exists() and two.exists() and one.samefile(two)):
        where = "is" if one == two or (one not in two.parents and two not in one.parents) else "lies in"
        inner, outer = (other, private) if one in two.parents else (private, other)
        raise UserError(
            f"{inner} {where} {outer}: {what} must not be the private ones. Give them a folder of their own, outside."
        )


def ordered(names: Sequence[str], order: str | Sequence[str]) -> list[str]:
    """Class names by their number: ``lexicographic`` (1, 10, 2), as torchvision's ImageFolder; ``natural`` (1, 2, 10);
    or as listed. Raises UserError for a list of other names."""
    if order == "lexicographic":
        return sorted(names)
    if order == "natural":
        return sorted(names, key=lambda name: ([_number(part) for part in re.split(r"(\d+)", name)], name))
    if sorted(order) != sorted(names):
        absent, unknown = sorted(set(names) - set(order)), sorted(set(order) - set(names))
        what = [f"it lacks {', '.join(absent[:5])}"] if absent else []
        what += [f"there is no folder {', '.join(unknown[:5])}"] if unknown else []
        raise UserError(f"The order of the classes is not one of the {len(names)} folders: {'; '.join(what) or order}.")
    return list(order)


def _number(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdecimal() else (-1, part.casefold())


def public_classes(names: list[str], share: float) -> list[str]:
    """Which classes are public: ``share`` of them, by hash."""
    return by_hash(names, "folder", "public classes")[: round(share * len(names))]


def folder(root: Path, side: int, mode: str, split: Split | None, reader: str = "photo") -> DataSet:
    """A folder as private classes, divided by ``split``; or, without one, as public images. ``reader``: see
    ``imaging.READERS``."""
    options: list[object] = [str(root.resolve()), side, mode]
    options.append(None if split is None else [split.train, split.test, split.test_share, split.public_share])
    if split is not None and (split.order != "lexicographic" or split.test_root is not None):
        options.append([split.order, str(split.test_root and split.test_root.resolve())])
    if reader != "photo":
        options.append(reader)
    return DataSet(
        name=f"folder-{digest(options)[:16]}",
        title=f"images in {root.name}",
        get="your own images",
        licence="yours to know",
        tree="  <class>/*.jpg  (whatever Pillow reads; one folder per class)",
        rule="in each class the test images are chosen by a hash of their names",
        marks=(),
        scan=partial(_scan, split=split),
        views={"target": View(side, (("shorter", side), ("centre", side)))},
        mode=mode,
        upright=reader != "imagefolder",
        reader=reader,
        version=2,
    )


def _scan(root: Path, problems: Problems, split: Split | None) -> Listing:
    skipped = Skipped()
    if split is None:
        files = photo_files(root, skipped)
        if not files:
            problems.say(f"{root} has no image in it or in its folders: {skipped.sentence(root, 0)}.")
        items = [Item(file, -1) for file in by_hash(files, "folder", "public order")]
        return Listing({"public": items}, notes=(skipped.sentence(root, len(files)),))
    names = classes(root)
    if not names:
        loose = len(photo_files(root, skipped))
        instead = (
            f"It holds {loose:,} images themselves: put those of each class into a folder." if loose else "It is empty."
        )
        problems.say(f"{root} has no class folders. Expected {root}/<class>/*.jpg. {instead}")
        return Listing({})
    public = set(public_classes(names, split.public_share))
    private = [name for name in ordered(names, split.order) if name not in public]
    if len(private) < 2:
        held = f" ({len(public)} of {len(names)} are public)" if public else ""
        problems.say(
            f"{root} has {len(private)} private class{held}: {', '.join(private)}. A classifier needs two or more."
        )
    if split.public_share and not public:
        problems.say(f"{split.public_share} of the {len(names)} classes in {root} is none: raise public.share.")
    files_of = {name: photo_files(root, skipped, name) for name in names}
    splits: dict[str, list[Item]] = {"private_train": [], "private_test": []}
    for label, name in enumerate(private):
        files = files_of[name]
        if len(files) < split.least:
            problems.add(f"classes with fewer than {split.least} images", f"{root / name} has {len(files)}")
            continue
        if split.test_root is not None:
            test = 0
        else:
            test = split.test if split.test is not None else max(1, round(split.test_share * len(files)))
        test = min(test, len(files) - (split.train or 1))
        order = by_hash(files, "folder", "test", name)
        chosen = set(order[:test])
        kept = set(order[test:][: split.train])
        splits["private_test"] += [Item(file, label) for file in files if file in chosen]
        splits["private_train"] += [Item(file, label) for file in files if file in kept]
    notes = [_beside(root, names, skipped).sentence(root, sum(map(len, files_of.values())))]
    if split.test_root is not None:
        splits["private_test"], note = _tests(split.test_root, private, problems)
        notes.append(note)
    if public:
        labels = {name: label for label, name in enumerate(sorted(public))}
        items_of = {file: Item(file, labels[name]) for name in labels for file in files_of[name]}
        splits["public"] = [items_of[file] for file in by_hash(items_of, "folder", "public order")]
    return Listing(splits, tuple(private), tuple(filter(None, notes)))


def _tests(root: Path, private: Sequence[str], problems: Problems) -> tuple[list[Item], str]:
    """The images of another folder of the same classes, and how many there are."""
    skipped = Skipped()
    if not root.is_dir():
        problems.say(f"{root} is not a folder. Expected images to test with, {root}/<class>/*.jpg.")
        return [], ""
    for name in classes(root):
        if name not in private:
            problems.add("folders of test images that are none of the classes", str(root / name))
    items = [
        Item(f"test/{file}", label, str(root.resolve() / file))
        for label, name in enumerate(private)
        if (root / name).is_dir()
        for file in photo_files(root, skipped, name)
    ]
    return items, skipped.sentence(root, len(items))


def _beside(root: Path, names: Sequence[str], skipped: Skipped) -> Skipped:
    """What lies beside the class folders, added to ``skipped``."""
    for path in sorted(root.iterdir()):
        if path.is_dir() and path.name not in names:
            skipped.all_of(path, path.name)
        elif not path.is_dir():
            skipped.add(LEFT if left_by_programs(path.name) else BESIDE, path.name)
    return skipped
