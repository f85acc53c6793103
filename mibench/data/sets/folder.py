"""Any folder of images, ``root/<class>/*.jpg``: an engineer's own classifier and data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mibench.data.sets.base import DataSet, Item, Listing, Problems, View
from mibench.data.sets.rules import by_hash, image_files
from mibench.keys import digest


@dataclass(frozen=True)
class Split:
    """How a folder is divided. ``train``, ``test``: images per class, or None: all that is left, and ``test_share`` of
    each class. ``public_share``: the share of the classes whose images are public instead of private."""

    train: int | None = None
    test: int | None = None
    test_share: float = 0.2
    public_share: float = 0.0

    @property
    def least(self) -> int:
        return (self.train or 1) + (self.test or 1)


def classes(root: Path) -> list[str]:
    """Names of the class folders, sorted."""
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def public_classes(names: list[str], share: float) -> list[str]:
    """Which classes are public: ``share`` of them, by hash."""
    return by_hash(names, "folder", "public classes")[: round(share * len(names))]


def folder(root: Path, side: int, mode: str, split: Split | None) -> DataSet:
    """A folder as private classes, divided by ``split``; or, without one, as public images."""
    absolute = root.resolve()
    options = [
        str(absolute),
        side,
        mode,
        None if split is None else [split.train, split.test, split.test_share, split.public_share],
    ]
    return DataSet(
        name=f"folder-{digest(options)[:16]}",
        title=f"images in {root.name}",
        get="your own images",
        licence="yours to know",
        tree="  <class>/*.jpg  (any image format; one folder per class)",
        rule="in each class the test images are chosen by a hash of their names",
        marks=(),
        scan=partial(_scan, split=split),
        views={"target": View(side, (("shorter", side), ("centre", side)))},
        mode=mode,
        upright=True,
    )


def _scan(root: Path, problems: Problems, split: Split | None) -> Listing:
    names = classes(root)
    if split is None:
        files = image_files(root)
        if not files:
            problems.say(f"{root} has no image in it or in its folders.")
        return Listing({"public": [Item(file, -1) for file in by_hash(files, "folder", "public order")]})
    if not names:
        loose = len(image_files(root))
        instead = (
            f"It holds {loose:,} images themselves: put those of each class into a folder." if loose else "It is empty."
        )
        problems.say(f"{root} has no class folders. Expected {root}/<class>/*.jpg. {instead}")
        return Listing({})
    public = set(public_classes(names, split.public_share))
    private = [name for name in names if name not in public]
    if len(private) < 2:
        held = f" ({len(public)} of {len(names)} are public)" if public else ""
        problems.say(
            f"{root} has {len(private)} private class{held}: {', '.join(private)}. A classifier needs two or more."
        )
    if split.public_share and not public:
        problems.say(f"{split.public_share} of the {len(names)} classes in {root} is none: raise public.share.")
    splits: dict[str, list[Item]] = {"private_train": [], "private_test": []}
    for label, name in enumerate(private):
        files = _images(root, name)
        if len(files) < split.least:
            problems.add(f"classes with fewer than {split.least} images", f"{root / name} has {len(files)}")
            continue
        test = split.test if split.test is not None else max(1, round(split.test_share * len(files)))
        test = min(test, len(files) - (split.train or 1))
        order = by_hash(files, "folder", "test", name)
        chosen = set(order[:test])
        kept = set(order[test:][: split.train])
        splits["private_test"] += [Item(file, label) for file in files if file in chosen]
        splits["private_train"] += [Item(file, label) for file in files if file in kept]
    if public:
        labels = {name: label for label, name in enumerate(sorted(public))}
        items = {file: Item(file, labels[name]) for name in labels for file in _images(root, name)}
        splits["public"] = [items[file] for file in by_hash(items, "folder", "public order")]
    return Listing(splits, tuple(private))


def _images(root: Path, name: str) -> list[str]:
    return [f"{name}/{file}" for file in image_files(root / name)]
