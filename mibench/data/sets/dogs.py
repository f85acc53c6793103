"""Stanford Dogs: 120 breeds from ImageNet, with bounding boxes. Khosla et al., FGVC 2011; split of PPA."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from mibench.data.sets.base import DataSet, Item, Listing, Problems, View, must
from mibench.data.sets.rules import ppa_split
from mibench.errors import MissingError

LISTS = ("train_list.mat", "test_list.mat")
IMAGES = ("Images",)
BOXES = ("Annotation", "Annotations")


def dogs(breeds: int = 120, counts: tuple[int, int] | None = (12_000, 8_580)) -> DataSet:
    """Whole images for the target; the first bounding box for evaluator and distances, as published. ``counts``: lines
    of the two official lists."""
    total = sum(counts) if counts else 0
    train = int(0.9 * total)
    return DataSet(
        name="dogs224-ppa",
        title="Stanford Dogs, 224x224, split of PPA",
        get="http://vision.stanford.edu/aditya86/ImageNetDogs/: `images.tar`, `annotation.tar` and `lists.tar`",
        licence="images of ImageNet: non-commercial research; they may not be published",
        tree="  Images/n02085620-Chihuahua/n02085620_10074.jpg ...\n"
        "  Annotation/n02085620-Chihuahua/n02085620_10074 ...\n  train_list.mat, test_list.mat",
        rule="the official training list, then the official test list, shuffled with numpy's RandomState(42), "
        "first 90 % train; labels are the lists' less 1",
        marks=(IMAGES, BOXES, *((name, f"lists/{name}") for name in LISTS)),
        scan=partial(_scan, counts=counts),
        views={
            "target": View(224, (("resize", 224),)),
            "evaluator": View(299, (("box",), ("resize", 299))),
            "cropped": View(224, (("box",), ("resize", 224))),
        },
        identities=breeds,
        counts={"private_train": train, "private_test": total - train} if counts else {},
        sensitive=False,
        inputs=(-1.0, 1.0),
    )


def _scan(root: Path, problems: Problems, counts: tuple[int, int] | None) -> Listing:
    images, boxes = must(root, IMAGES), must(root, BOXES)
    items = []
    for name, expected in zip(LISTS, counts or (None, None), strict=True):
        path = must(root, (name, f"lists/{name}"))
        rows = _list(path)
        if expected is not None and len(rows) != expected:
            problems.say(f"{path} names {len(rows):,} images, expected {expected:,}.")
        for file, label in rows:
            if not (images / file).is_file():
                problems.add(f"images missing in {images}", file)
                continue
            box = _box(boxes / Path(file).with_suffix(""), problems)
            items.append(Item(file, label, (images / file).relative_to(root).as_posix(), box))
    names = {item.label: Path(item.name).parent.name for item in items}
    twice = len(items) - len({item.name for item in items})
    if twice:
        problems.say(f"The lists in {root} name {twice:,} images twice.")
    if names and sorted(names) != list(range(len(names))):
        problems.say(
            f"The labels of the lists in {root} leave gaps: {len(names)} breeds, the largest label {max(names)}."
        )
    problems.stop()
    train, test = ppa_split(items)
    return Listing({"private_train": train, "private_test": test}, tuple(names[label] for label in sorted(names)))


def _list(path: Path) -> list[tuple[str, int]]:
    """(file, label from 0) of one of the owners' MATLAB lists."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        table = loadmat(path)
        files, labels = table["file_list"].ravel(), table["labels"].ravel()
        return [(str(file.item()), int(label) - 1) for file, label in zip(files, labels, strict=True)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, NotImplementedError, MatReadError) as error:
        raise MissingError(f"{path} is not one of Stanford Dogs' lists ({type(error).__name__}: {error}).") from None


def _box(path: Path, problems: Problems) -> tuple[int, int, int, int] | None:
    """The first bounding box of an annotation."""
    try:
        box = next(ElementTree.parse(path).getroot().iter("bndbox"))
        left, top, right, bottom = (int(box.findtext(name, "")) for name in ("xmin", "ymin", "xmax", "ymax"))
    except (OSError, ElementTree.ParseError, StopIteration, ValueError) as error:
        problems.add("annotations that are missing or hold no bounding box", f"{path} ({type(error).__name__})")
        return None
    if not (0 <= left < right and 0 <= top < bottom):
        problems.add("annotations with an empty bounding box", f"{path} ({left}, {top}, {right}, {bottom})")
    return left, top, right, bottom
