"""ChestX-ray8: chest X-rays with findings. Wang et al., CVPR 2017; split of VMI. Classes are findings, not people."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from mibench.data.sets.base import DataSet, Item, Listing, Problems, View, first_of, must, text_lines
from mibench.data.sets.rules import IMAGE_ENDINGS

CLASSES = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
)
TABLES = ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")
FOLDERS = ("Img", "images", *(f"images_{number:03d}/images" for number in range(1, 13)))


def vmi(public: int = 30_000, published: bool = False) -> DataSet:
    """The split of VMI. ``published``: public images as VMI and BiDO drew them, from all rows, because a slip of
    operator precedence left the private classes in."""
    pool = (
        "all rows (as published, so images of the private classes are among them)"
        if published
        else ("the rows with none of the eight findings")
    )
    return DataSet(
        name="chestx-vmi-leaky" if published else "chestx-vmi",
        title="ChestX-ray8, eight findings, 128x128 grey, split of VMI"
        + (", public images as published" if published else ""),
        get="https://nihcc.app.box.com/v/ChestXray-NIHCC: all image archives, `Data_Entry_2017.csv` and the two lists",
        licence="free to use if the NIH Clinical Center is acknowledged and cited; medical images of people",
        tree="  Img/*.png  (or images/, or images_001/images/ ... images_012/images/)\n"
        "  Data_Entry_2017.csv, train_val_list.txt, test_list.txt",
        rule="rows whose findings are exactly one of the eight; the official lists say which train and which test; "
        f"public: {public:,} of {pool}, drawn with numpy's RandomState(0). The same patient can be in both",
        marks=(TABLES, ("train_val_list.txt",), ("test_list.txt",), FOLDERS),
        scan=partial(_scan, public=public, published=published),
        views={"target": View(128, (("resize", 128),)), "small": View(64, (("resize", 64),))},
        mode="L",
        identities=len(CLASSES),
        counts={"public": public},
        inputs=(-1.0, 1.0),
    )


def leaky(public: int = 50_000) -> DataSet:
    """As published: public images from all rows."""
    return vmi(public, published=True)


def _scan(root: Path, problems: Problems, public: int, published: bool) -> Listing:
    findings = _findings(must(root, TABLES), problems)
    lists = {"private_train": must(root, ("train_val_list.txt",)), "private_test": must(root, ("test_list.txt",))}
    files = _files(root)
    splits: dict[str, list[Item]] = {}
    labelled = {name: CLASSES.index(own[0]) for name, own in findings.items() if len(own) == 1 and own[0] in CLASSES}
    used: dict[str, str] = {}
    for split, path in lists.items():
        splits[split] = []
        for name in (line.strip() for line in text_lines(path)):
            if name not in findings:
                problems.add(f"images of {path} that the table does not have", name)
            elif name in used:
                problems.add("images that the lists name twice", f"{name} in {used[name]} and {path.name}")
            elif name in labelled:
                splits[split] += _items(name, labelled[name], files, root, problems)
            used[name] = path.name
    pool = [name for name in findings if name not in labelled or published]
    if not published:
        pool = [name for name in pool if not set(findings[name]) & set(CLASSES)]
    order = np.random.RandomState(0).permutation(len(pool))[:public]
    splits["public"] = [item for i in order for item in _items(pool[i], -1, files, root, problems)]
    if published:
        private = {item.name for split in lists for item in splits[split]}
        leaked = sum(item.name in private for item in splits["public"])
        return Listing(splits, CLASSES, (f"{leaked:,} of the public images are private ones, as published",))
    there = {item.label for item in splits["private_train"]}
    for label, name in enumerate(CLASSES):
        if label not in there:
            problems.add("findings without a training image", name)
    return Listing(splits, CLASSES)


def _findings(path: Path, problems: Problems) -> Mapping[str, list[str]]:
    """Image -> findings, in the order of the table."""
    rows: dict[str, list[str]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        columns = table.fieldnames or []
        if "Image Index" not in columns or "Finding Labels" not in columns:
            problems.say(f"{path} has no columns `Image Index` and `Finding Labels`; it has {', '.join(columns[:8])}.")
            problems.stop()
        for row in table:
            rows[row["Image Index"]] = (row["Finding Labels"] or "").split("|")
    return rows


def _files(root: Path) -> dict[str, str]:
    files: dict[str, str] = {}
    for folder in (root / name for name in FOLDERS if (root / name).is_dir()):
        for path in folder.iterdir():
            if path.suffix.lower() in IMAGE_ENDINGS:
                files.setdefault(path.name, path.relative_to(root).as_posix())
    return files


def _items(name: str, label: int, files: Mapping[str, str], root: Path, problems: Problems) -> list[Item]:
    if name not in files:
        folder = first_of(root, FOLDERS)
        problems.add(f"images missing in {folder}", name)
        return []
    return [Item(name, label, files[name])]
