"""Data sets as their owners distribute them: split rules, preprocessing, every damage, and resuming after a kill."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trees
from PIL import Image
from torchvision import transforms as T

from mibench.data import cache
from mibench.data.sets import SETS, build, celeba, chestx, data_set, dogs, facescrub, ffhq, imaging, mnist_files
from mibench.data.sets import folder as folders
from mibench.data.sets.base import DataSet
from mibench.data.sets.prepared import check, facts
from mibench.data.sets.rules import numpy_argsort, ppa_split
from mibench.errors import MissingError, UserError
from mibench.store import atomic

ROOT = Path(__file__).parents[2]
COUNTS = {1: 3, 2: 6, 4: 7, 5: 6, 7: 6, 8: 9, 11: 2, 12: 4, 13: 5, 15: 3}  # images by identity
SMALL = {"identities": 4, "at_least": 6, "public_after": 10, "counts": {}}


def gmi() -> DataSet:
    return celeba.gmi(**SMALL)


def make_celeba(root: Path, size: tuple[int, int] = (178, 218)) -> list[tuple[str, int]]:
    return trees.celeba(root, COUNTS, private=4, at_least=6, public_after=10, public=10, size=size)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    make_celeba(tmp_path / "celeba")
    return tmp_path / "celeba"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(tree, folder of its arrays), not to be changed."""
    folder = tmp_path_factory.mktemp("celeba")
    make_celeba(folder / "tree")
    return folder / "tree", build.build(gmi(), folder / "tree", folder / "home", chunk=8)[0]


def arrays(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path) for path in folder.glob("*.npy")}


def refused(found: DataSet, root: Path, home: Path, **options: Any) -> str:
    with pytest.raises(MissingError) as caught:
        build.build(found, root, home, **options)
    assert not build.place(home, found.name).exists()
    return str(caught.value)


# --- split rules, against naive implementations ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_shape() -> tuple[dict[str, int], dict[int, int]]:
    counts = trees.celeba_counts()
    return {Path(name).stem: person for name, person in trees.celeba_people(counts)}, counts


def test_the_made_identity_file_has_the_shape_of_the_real_one(real_shape: Any) -> None:
    people, counts = real_shape
    assert len(people) == 202_599 and len(counts) == 10_177
    assert sum(n == 30 for n in counts.values()) == 2_343 and sum(n > 30 for n in counts.values()) == 17
    few = [n for person, n in counts.items() if person > 1000 and n < 30]
    assert len(few) == 6_936 and sum(few) == 114_179


def test_gmi_takes_the_first_thousand_ids_with_thirty_images(real_shape: Any) -> None:
    people, counts = real_shape
    chosen = celeba.gmi_identities(people, 1000, 30)
    naive: list[int] = []
    for person in range(1, 10_178):
        if counts[person] >= 30 and len(naive) < 1000:
            naive.append(person)
    assert chosen == naive
    train, test, _ = trees.gmi_lists([], [], [])
    sizes = [counts[person] for person in chosen]
    assert sum(sizes) == 30_027 and not train and not test
    assert (sum(int(0.9 * n) for n in sizes), sum(n - int(0.9 * n) for n in sizes)) == (27_018, 3_009)


def test_ppa_takes_the_most_frequent_by_first_appearance(real_shape: Any) -> None:
    people, counts = real_shape
    first: dict[int, int] = {}
    for position, person in enumerate(people.values()):
        first.setdefault(person, position)
    naive = sorted(counts, key=lambda person: (-counts[person], first[person]))[:1000]
    assert celeba.ppa_identities(people, 1000) == naive
    images = [stem for stem, person in people.items() if person in set(naive)]
    indices = np.arange(len(images))
    np.random.RandomState(42).shuffle(indices)
    cut = int(0.9 * len(indices))
    train, test = ppa_split(images)
    assert (len(train), len(test)) == (27_034, 3_004)
    assert train == [images[i] for i in indices[:cut]] and test == [images[i] for i in indices[cut:]]


def test_vmi_sorts_as_numpys_scalar_quicksort(real_shape: Any, tmp_path: Path) -> None:
    """In a process of its own, where numpy may not use vector instructions."""
    people, counts = real_shape
    values = [np.array([counts[person] for person in range(1, 10_178)])]
    values += [np.random.RandomState(n).randint(0, most, n) for n in (1, 2, 16, 17, 18, 100, 999) for most in (3, 50)]
    np.savez(tmp_path / "in.npz", *values)
    script = (
        "import sys, numpy as np; a = np.load(sys.argv[1]); np.savez(sys.argv[2], *[np.argsort(a[k]) for k in a.files])"
    )
    from numpy._core._multiarray_umath import __cpu_dispatch__

    environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(__cpu_dispatch__)}
    paths = [str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    subprocess.run([sys.executable, "-c", script, *paths], env=environment, check=True)
    expected = np.load(paths[1])
    for name, value in zip(expected.files, values, strict=True):
        assert numpy_argsort(value) == expected[name].tolist()
    chosen = celeba.vmi_identities(people, 1000)
    assert chosen == (expected[expected.files[0]][-1000:] + 1).tolist()
    assert (25 * len(chosen), sum(counts[person] - 25 for person in chosen)) == (25_000, 5_038)


def test_the_three_celeba_splits_on_one_tree(tmp_path: Path) -> None:
    people = make_celeba(tmp_path / "t")
    by_person: dict[int, list[str]] = defaultdict(list)
    for name, person in people:
        by_person[person].append(name)
    found = gmi().read(tmp_path / "t")
    assert found.identities == ("2", "4", "5", "7")
    for label, person in enumerate((2, 4, 5, 7)):
        own = [
            item.name
            for split in ("private_train", "private_test")
            for item in found.splits[split]
            if item.label == label
        ]
        assert sorted(own) == sorted(by_person[person])
    assert {dict(people)[item.name] for item in found.splits["public"]} <= {11, 12, 13, 15}

    found = celeba.vmi(identities=3, train=4, counts={}).read(tmp_path / "t")
    order = np.argsort([COUNTS.get(person, 0) for person in range(1, 16)], kind="stable")  # so few: insertion sort
    assert found.identities == tuple(str(i + 1) for i in order[-3:])
    for label, person in enumerate(map(int, found.identities)):
        assert [i.name for i in found.splits["private_train"] if i.label == label] == by_person[person][:4]
        assert [i.name for i in found.splits["private_test"] if i.label == label] == by_person[person][4:]
    others = [p for p in COUNTS if str(p) not in found.identities]
    public = [name for person in others for name in by_person[person][: int(0.8 * len(by_person[person]))]]
    assert [item.name for item in found.splits["public"]] == public


def test_facescrub_labels_are_actors_then_actresses(tmp_path: Path) -> None:
    actors = {f"Actor_{number:03d}": 1 for number in range(264)} | {"Woody_Allen": 1}
    actresses = {f"Zoe_{number:03d}": 1 for number in range(264)} | {"Adrianne_León": 2}
    for group, people in (("actors", actors), ("actresses", actresses)):
        for person, count in people.items():
            for number in range(count):
                path = tmp_path / group / "faces" / person / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    found = data_set("facescrub224-ppa").read(tmp_path)
    assert len(found.identities) == 530
    assert found.identities[264] == "Woody_Allen" and found.identities[265] == "Adrianne_León"
    ordered = [f"actors/{p}/{i}.jpg" for p in sorted(actors) for i in range(actors[p])]
    ordered += [f"actresses/{p}/{i}.jpg" for p in sorted(actresses) for i in range(actresses[p])]
    indices = list(range(531))
    np.random.RandomState(42).shuffle(indices)
    assert [item.name for item in found.splits["private_train"]] == [ordered[i] for i in indices[:477]]
    assert [item.name for item in found.splits["private_test"]] == [ordered[i] for i in indices[477:]]


def test_mnist_counts_are_the_published_ones(tmp_path: Path) -> None:
    labels = trees.mnist(tmp_path, trees.MNIST_TRAIN, trees.MNIST_TEST, blank=True)
    found = data_set("mnist-gmi").read(tmp_path)
    sizes = {split: len(items) for split, items in found.splits.items()}
    assert sizes == {"private_train": 30_596, "private_test": 5_139, "public": 34_265}
    assert [item.row for item in found.splits["private_train"]] == np.flatnonzero(labels["train"] < 5).tolist()
    digits = np.concatenate([labels["train"], labels["t10k"]])
    assert [item.label for item in found.splits["public"]] == (digits[digits > 4] - 5).tolist()


def test_dogs_are_the_official_lists_shuffled(tmp_path: Path) -> None:
    train, test = [0, 1, 2, 0, 1, 2, 0], [2, 1, 0]
    trees.dogs(tmp_path, train, test)
    found = dogs.dogs(3, None).read(tmp_path)
    stems = [f"n{b:08d}-Breed_{b}/n{b:08d}_{n}.jpg" for n, b in enumerate(train + test, 1)]
    order = list(range(10))
    np.random.RandomState(42).shuffle(order)
    assert [item.name for item in found.splits["private_train"]] == [stems[i] for i in order[:9]]
    assert [item.name for item in found.splits["private_test"]] == [stems[order[9]]]
    item = found.splits["private_train"][0]
    shift = (order[0] + 1) % 3
    assert item.box == (5 + shift, 4 + shift, 70 + shift, 50 + shift) and item.label == (train + test)[order[0]]


ROWS = [
    ("a.png", "Mass"), ("b.png", "Mass|Nodule"), ("c.png", "No Finding"), ("d.png", "Hernia"), ("e.png", "Nodule"),
    ("f.png", "Edema|Mass"), ("g.png", "No Finding"), *((f"x{i}.png", name) for i, name in enumerate(chestx.CLASSES)),
]  # fmt: skip


def test_chestx_keeps_single_findings_and_no_private_class_is_public(tmp_path: Path) -> None:
    trees.chestx(tmp_path, ROWS, {"e.png", "g.png"})
    found = chestx.vmi(public=3).read(tmp_path)
    names = {split: [(item.name, item.label) for item in items] for split, items in found.splits.items()}
    assert names["private_train"] == [("a.png", 4), *((f"x{i}.png", i) for i in range(8))]
    assert names["private_test"] == [("e.png", 5)]
    assert sorted(names["public"]) == [("c.png", -1), ("d.png", -1), ("g.png", -1)]
    leaky = chestx.leaky(public=len(ROWS)).read(tmp_path)
    assert len(leaky.splits["public"]) == len(ROWS) and "10 of the public images are private" in leaky.notes[0]


def test_lokts_equal_lists_get_a_test_split(tmp_path: Path) -> None:
    trees.facescrub(tmp_path, {"Ann": 20, "Bob": 20}, {"Cyd": 5})
    lines = [f"actors/faces/{p}/{p}_{n}.jpg {label}" for label, p in ((0, "Ann"), (2, "Bob")) for n in range(20)]
    for name in ("lokt_train.txt", "lokt_test.txt"):
        (tmp_path / name).write_text("\n".join(lines))
    with pytest.raises(MissingError, match="not `image label` with a label below 2"):
        facescrub.lokt(identities=2).read(tmp_path)
    found = facescrub.lokt(identities=3).read(tmp_path)
    assert found.identities == ("Ann", "label 1, no image", "Bob")
    assert Counter(item.label for item in found.splits["private_test"]) == {0: 2, 2: 2}
    split = {name: {item.name for item in items} for name, items in found.splits.items()}
    assert split["private_train"] | split["private_test"] == {line.split()[0].replace("/faces", "") for line in lines}
    assert not split["private_train"] & split["private_test"]
    assert split["public"] == {f"actresses/Cyd/Cyd_{n}.jpg" for n in range(5)}
    assert any("same file" in note for note in found.notes)


# --- preprocessing, against torchvision ------------------------------------------------------------------------------


def reference_gmi(side: int) -> Callable[[Image.Image], torch.Tensor]:
    """The chain of the references: tensor, crop, Pillow, resize, tensor."""
    return T.Compose(
        [
            T.ToTensor(),
            T.Lambda(
                lambda x: x[:, (218 - 108) // 2 : (218 - 108) // 2 + 108, (178 - 108) // 2 : (178 - 108) // 2 + 108]
            ),
            T.ToPILImage(),
            T.Resize((side, side)),
            T.ToTensor(),
        ]
    )


CHAINS: dict[tuple[str, str], tuple[tuple[int, int], Callable[..., Any]]] = {
    ("celeba64-gmi", "target"): ((178, 218), reference_gmi(64)),
    ("celeba64-gmi", "evaluator"): ((178, 218), reference_gmi(112)),
    ("celeba224-ppa", "target"): ((224, 224), T.Compose([T.Resize(224), T.CenterCrop(224), T.ToTensor()])),
    ("celeba224-ppa", "evaluator"): ((224, 224), T.Compose([T.Resize(299), T.CenterCrop(299), T.ToTensor()])),
    ("celeba-vmi", "target"): ((178, 218), T.Compose([T.CenterCrop(128), T.Resize(64), T.ToTensor()])),
    ("facescrub224-ppa", "target"): ((101, 97), T.Compose([T.Resize((224, 224)), T.ToTensor()])),
    ("facescrub224-ppa", "evaluator"): ((101, 97), T.Compose([T.Resize((299, 299)), T.ToTensor()])),
    ("facescrub64", "target"): ((101, 97), T.Compose([T.Resize((64, 64)), T.ToTensor()])),
    ("ffhq64", "target"): ((128, 128), T.Compose([T.CenterCrop(88), T.Resize((64, 64)), T.ToTensor()])),
    ("ffhq256", "target"): ((1024, 1024), T.Compose([T.CenterCrop(800), T.Resize(256), T.ToTensor()])),
    ("afhqdog256", "target"): ((512, 512), T.Compose([T.Resize(256), T.ToTensor()])),
    ("dogs224-ppa", "target"): ((500, 333), T.Compose([T.Resize((224, 224)), T.ToTensor()])),
    ("mnist-gmi", "target"): ((28, 28), T.Compose([T.Resize(32), T.ToTensor()])),
    ("chestx-vmi", "target"): ((300, 300), T.Compose([T.Resize(128), T.ToTensor()])),
}


@pytest.mark.parametrize(("name", "view"), CHAINS, ids="-".join)
def test_preprocessing_is_the_references(name: str, view: str) -> None:
    found = data_set(name)
    size, chain = CHAINS[name, view]
    image = trees.picture(3, size, found.mode)
    pixels = imaging.apply(image, found.views[view].steps)
    assert pixels.dtype == np.uint8 and pixels.shape == (found.channels, *[found.views[view].side] * 2)
    torch.testing.assert_close(torch.from_numpy(pixels.copy()) / 255, chain(image), rtol=0, atol=0)


def test_the_evaluator_of_dogs_sees_the_box() -> None:
    image = trees.picture(1, (90, 60))
    pixels = imaging.apply(image, data_set("dogs224-ppa").views["evaluator"].steps, (5, 4, 70, 50))
    expected = Image.fromarray(np.asarray(image)[4:50, 5:70]).resize((299, 299), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(pixels, np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(48, 40), (40, 48), (33, 77), (64, 64)])
def test_own_images_keep_their_proportions(size: tuple[int, int], tmp_path: Path) -> None:
    view = folders.folder(tmp_path, 32, "RGB", None).views["target"]
    image = trees.picture(0, size)
    expected = T.Compose([T.Resize(32), T.CenterCrop(32)])(image)
    np.testing.assert_array_equal(imaging.apply(image, view.steps), np.asarray(expected).transpose(2, 0, 1))


def test_every_kind_of_image_file_becomes_rgb_or_grey(tmp_path: Path) -> None:
    wide = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, "PNG")
    assert np.abs(np.asarray(imaging.decode(buffer.getvalue(), "L")).astype(int) - np.round(wide / 257)).max() <= 1
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    buffer = io.BytesIO()
    clear.save(buffer, "PNG")
    assert np.asarray(imaging.decode(buffer.getvalue(), "RGB")).min() == 255
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    trees.picture(0, (10, 20)).save(turned, "JPEG", exif=exif)
    assert imaging.decode(turned.getvalue(), "RGB").size == (10, 20)
    assert imaging.decode(turned.getvalue(), "RGB", upright=True).size == (20, 10)
    buffer = io.BytesIO()
    trees.picture(0, (10, 20)).convert("CMYK").save(buffer, "JPEG")
    assert imaging.decode(buffer.getvalue(), "RGB").mode == "RGB"


# --- what is prepared ------------------------------------------------------------------------------------------------


def test_arrays_hold_the_listed_images_in_order(prepared: tuple[Path, Path]) -> None:
    tree, folder = prepared
    found = arrays(folder)
    for split, sides in (("private_train", (64, 112)), ("private_test", (64, 112)), ("public", (64,))):
        lines = (
            (tree / {"private_train": "trainset.txt", "private_test": "testset.txt", "public": "ganset.txt"}[split])
            .read_text()
            .split("\n")
        )
        lines = [line for line in lines if line]
        labels = [int(line.split()[1]) if " " in line else -1 for line in lines]
        assert found[f"{split}_labels"].tolist() == labels
        for side in sides:
            images = found[f"{split}_images" if side == 64 else f"{split}_evaluator_images"]
            assert images.shape == (len(lines), 3, side, side) and images.dtype == np.uint8
            for image, line in zip(images, lines, strict=True):
                photo = Image.open(tree / "img_align_celeba" / line.split()[0])
                expected = (reference_gmi(side)(photo) * 255).round().numpy().astype(np.uint8)
                np.testing.assert_array_equal(image, expected)
    assert "public_evaluator_images" not in found


def test_several_processes_give_the_same_bytes(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    tree, folder = prepared
    again, new = build.build(gmi(), tree, tmp_path, jobs=2, chunk=5)
    assert new and cache.read_index(again)["arrays"] == cache.read_index(folder)["arrays"]
    first, second = (cache.read_index(f)["meta"] for f in (folder, again))
    assert first["split"] == second["split"] and first["list"] == second["list"]


def test_the_split_hash_follows_list_labels_bytes_and_recipe(tree: Path, tmp_path: Path) -> None:
    def split(found: DataSet) -> tuple[str, str]:
        folder, _ = build.build(found, tree, tmp_path / "home")
        meta = cache.read_index(folder)["meta"]
        return meta["split"], meta["list"]

    first = split(gmi())
    photo = tree / "img_align_celeba" / (tree / "trainset.txt").read_text().split()[0]
    trees.save(photo, 999, (178, 218))
    other_bytes = split(gmi())
    assert other_bytes[0] != first[0] and other_bytes[1] == first[1]
    train, test = (tree / name for name in ("trainset.txt", "testset.txt"))
    a, b = train.read_text().splitlines(), test.read_text().splitlines()
    train.write_text("\n".join([b[0], *a[1:]]))
    test.write_text("\n".join([a[0], *b[1:]]))
    other_list = split(gmi())
    assert other_list[0] not in (first[0], other_bytes[0]) and other_list[1] != first[1]


def test_a_second_call_decodes_nothing(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.build(gmi(), tree, tmp_path / "home")
    monkeypatch.setattr(imaging, "decode", lambda *a: pytest.fail("decoded again"))
    assert build.build(gmi(), tree, tmp_path / "home")[1] is False


def test_check_compares_arrays_and_sources(tree: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (sentence,) = check(gmi(), home, None)
    assert "mibench data prepare celeba64-gmi --root DIR" in sentence and "mmlab" in sentence
    folder, _ = build.build(gmi(), tree, home)
    assert check(gmi(), home, tree) == []
    photo = tree / "img_align_celeba" / (tree / "testset.txt").read_text().split()[0]
    content = bytearray(photo.read_bytes())
    content[-10] ^= 1
    photo.write_bytes(content)
    (sentence,) = check(gmi(), home, tree)
    assert str(photo) in sentence and "bytes changed" in sentence
    array = folder / "private_test_images.npy"
    array.write_bytes(array.read_bytes()[:-1] + b"\x07")
    (sentence,) = check(gmi(), home, None)
    assert str(array) in sentence and "mibench data prepare" in sentence


# --- damage ----------------------------------------------------------------------------------------------------------


def first_of(tree: Path, name: str) -> Path:
    return tree / "img_align_celeba" / (tree / name).read_text().split()[0]


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_cut_off_jpeg_is_named(kept: float, tree: Path, tmp_path: Path) -> None:
    photo = first_of(tree, "ganset.txt")
    content = photo.read_bytes()
    photo.write_bytes(content[: int(kept * len(content))])
    said = refused(gmi(), tree, tmp_path / "home")
    assert "1 damaged images" in said and str(photo) in said
    trees.save(photo, 12345, (178, 218))
    assert build.build(gmi(), tree, tmp_path / "home")[1]


def test_of_many_damaged_images_ten_are_named(tree: Path, tmp_path: Path) -> None:
    photos = [tree / "img_align_celeba" / line.split()[0] for line in (tree / "trainset.txt").read_text().splitlines()]
    for photo in photos[:12]:
        photo.write_bytes(b"no image")
    said = refused(gmi(), tree, tmp_path / "home", jobs=2, chunk=4)
    assert "12 damaged images" in said and "and 2 more" in said and said.count("not an image") == 10


def test_an_image_of_another_size_is_named(tree: Path, tmp_path: Path) -> None:
    trees.save(first_of(tree, "trainset.txt"), 0, (218, 178))
    said = refused(gmi(), tree, tmp_path / "home")
    assert "not 178x218" in said and f"{first_of(tree, 'trainset.txt')} is 218x178" in said


def test_duplicates_are_named_within_and_across_splits(tree: Path, tmp_path: Path) -> None:
    train, test, public = (first_of(tree, name) for name in ("trainset.txt", "testset.txt", "ganset.txt"))
    second = tree / "img_align_celeba" / (tree / "trainset.txt").read_text().splitlines()[1].split()[0]
    for photo in (test, second):
        photo.write_bytes(train.read_bytes())
    said = refused(gmi(), tree, tmp_path / "home")
    assert f"{train} and {second} (both in private_train)" in said
    assert f"{train} and {test} (in private_train and private_test)" in said and str(public) not in said
    build.build(gmi(), tree, tmp_path / "home", allow_duplicates=True)
    known = facts("celeba64-gmi", tmp_path / "home")
    assert known is not None and known["duplicates"] == 2


def test_missing_images_say_whose(tree: Path, tmp_path: Path) -> None:
    photo = first_of(tree, "trainset.txt")
    photo.unlink()
    said = refused(gmi(), tree, tmp_path / "home")
    assert "missing in" in said and f"{photo.stem} of identity 2" in said


def test_missing_identities_are_named_once(tree: Path, tmp_path: Path) -> None:
    for name, person in trees.celeba_people(COUNTS):
        if person in (4, 7):
            (tree / "img_align_celeba" / name).unlink()
    folder = tree / "img_align_celeba"
    assert refused(gmi(), tree, tmp_path / "home") == f"2 identities without any image in {folder}: 4; 7."
    said = refused(celeba.vmi(identities=3, train=4, counts={}), tree, tmp_path / "home")
    assert said == f"2 identities without any image in {folder}: 4; 7."


def test_an_identity_without_a_test_image_is_named(tree: Path, tmp_path: Path) -> None:
    train, test = ((tree / name).read_text().splitlines() for name in ("trainset.txt", "testset.txt"))
    moved = [line for line in test if line.endswith((" 1", " 2"))]
    (tree / "trainset.txt").write_text("\n".join(train + moved))
    (tree / "testset.txt").write_text("\n".join(line for line in test if line not in moved))
    said = refused(gmi(), tree, tmp_path / "home")
    assert said == "2 identities without an image in private_test: 4 (label 1); 5 (label 2)."


def first_line(name: str) -> Callable[[Path], str]:
    return lambda tree: (tree / name).read_text().splitlines()[0]


def rich_stranger(tree: Path) -> str:
    """An image of somebody who is not private but has too many images to be public."""
    return next(name for name, person in trees.celeba_people(COUNTS) if person == 8)


def add(name: str, line: Callable[[Path], str]) -> Callable[[Path], None]:
    return lambda tree: edit(name, lambda lines: [*lines, line(tree)])(tree)


def edit(name: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def run(tree: Path) -> None:
        lines = (tree / name).read_text().splitlines()
        (tree / name).write_text("\n".join(change(lines)) + "\n")

    return run


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (edit("identity_CelebA.txt", lambda x: x[: len(x) // 4]), "identities with at least 6 images; 4 are needed"),
        (edit("identity_CelebA.txt", lambda x: ["202599", *x]), "line 1 is '202599'"),
        (edit("identity_CelebA.txt", lambda x: [*x, x[0]]), "names twice: 000001.jpg"),
        (edit("trainset.txt", lambda x: [x[0].split()[0] + " 3", *x[1:]]), "identity 2 label 0"),
        (edit("trainset.txt", lambda x: x[1:]), "in neither list"),
        (edit("testset.txt", lambda x: [*x, "000999.jpg 0"]), "not in the identity file"),
        (add("testset.txt", first_line("trainset.txt")), "the lists name twice"),
        (add("ganset.txt", rich_stranger), "identity 8 with 9 images"),
        (lambda tree: (tree / "ganset.txt").unlink(), "it has no ganset.txt"),
    ],
)  # fmt: skip
def test_wrong_lists_are_named(harm: Callable[[Path], Any], said: str, tree: Path, tmp_path: Path) -> None:
    harm(tree)
    assert said in refused(gmi(), tree, tmp_path / "home")


def test_wrong_counts_are_named(tree: Path, tmp_path: Path) -> None:
    said = refused(celeba.gmi(**SMALL | {"counts": {"public": 30_000}}), tree, tmp_path / "home")
    assert f"celeba64-gmi has 30,000 images in public; the files in {tree} give 10" in said


@pytest.mark.parametrize("where", ["above", "below"])
def test_a_wrong_root_names_the_right_one(where: str, tree: Path, tmp_path: Path) -> None:
    root = tree.parent if where == "above" else tree / "img_align_celeba"
    said = refused(gmi(), root, tmp_path / "home")
    assert f"{root} is not the folder of celeba64-gmi" in said and f"type --root {tree}" in said and "Found: " in said
    assert "does not exist" in refused(gmi(), tree / "nowhere", tmp_path / "home")


def test_owners_folders_are_read_too(tree: Path, tmp_path: Path) -> None:
    """Anno/ and Img/, as CelebA's site has them, give the same split."""
    first, _ = build.build(gmi(), tree, tmp_path / "a")
    for folder, name in (("Anno", "identity_CelebA.txt"), ("Img", "img_align_celeba")):
        (tree / folder).mkdir()
        (tree / name).rename(tree / folder / name)
    second, _ = build.build(gmi(), tree, tmp_path / "b")
    assert cache.read_index(first)["meta"]["split"] == cache.read_index(second)["meta"]["split"]


def test_other_sets_name_their_damage(tmp_path: Path) -> None:
    trees.facescrub(tmp_path / "f", {"Ann": 4, "Bob": 4}, {"Cyd": 4, "Dee": 4})
    found = facescrub.ppa(each=2)
    folder, _ = build.build(found, tmp_path / "f", tmp_path / "home")
    assert arrays(folder)["private_train_images"].shape == (14, 3, 224, 224)
    assert arrays(folder)["private_train_evaluator_images"].shape == (14, 3, 299, 299)
    (tmp_path / "f" / "actors" / "faces" / "Empty").mkdir()
    with pytest.raises(MissingError, match="has 3 folders of people, expected 2"):
        found.read(tmp_path / "f")
    with pytest.raises(MissingError, match=r"people without an image: .*Empty"):
        facescrub.public(each=None).read(tmp_path / "f")  # type: ignore[arg-type]

    trees.numbered(tmp_path / "q" / "thumbnails128x128", 5, (128, 128))
    (tmp_path / "q" / "thumbnails128x128" / "00000" / "00003.png").unlink()
    with pytest.raises(MissingError, match=r"00000/00003\.png"):
        ffhq.ffhq64(count=5).read(tmp_path / "q")
    with pytest.raises(MissingError, match="type --root"):
        ffhq.ffhq64(count=4).read(tmp_path / "q" / "thumbnails128x128")

    trees.dogs(tmp_path / "d", [0, 1], [1])
    next((tmp_path / "d" / "Annotation").glob("*/*_1")).unlink()
    next((tmp_path / "d" / "Images").glob("*/*_2.jpg")).unlink()
    with pytest.raises(MissingError) as caught:
        dogs.dogs(2, None).read(tmp_path / "d")
    assert "hold no bounding box" in str(caught.value) and "_2.jpg" in str(caught.value)
    (tmp_path / "d" / "train_list.mat").write_bytes(b"nothing")
    with pytest.raises(MissingError, match="not one of Stanford Dogs' lists"):
        dogs.dogs(2, None).read(tmp_path / "d")

    trees.chestx(tmp_path / "c", ROWS, {"e.png"})
    (tmp_path / "c" / "Img" / "a.png").unlink()
    with pytest.raises(MissingError, match=r"images missing in .*Img: a\.png"):
        chestx.vmi(public=3).read(tmp_path / "c")


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_damaged_idx_files_are_named(name: str, tmp_path: Path) -> None:
    trees.mnist(tmp_path, [3] * 10, [2] * 10)
    found = mnist_files.mnist(counts={})
    assert len(found.read(tmp_path).splits["public"]) == 25
    path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(MissingError, match=f"{name} is damaged"):
        found.read(tmp_path)
    path.unlink()
    with pytest.raises(MissingError, match=name.removesuffix(".gz")):
        found.read(tmp_path)


def test_mnist_png_and_idx_files_give_the_same_images(tmp_path: Path) -> None:
    labels = trees.mnist(tmp_path / "idx", [2] * 10, [1] * 10)
    found = mnist_files.mnist(train=20, counts={})
    (tmp_path / "png").mkdir()
    index = 0
    for part in ("train", "t10k"):
        for pixels, digit in zip(
            mnist_files.read_idx(tmp_path / "idx" / f"{part}-images-idx3-ubyte.gz"), labels[part], strict=True
        ):
            index += 1
            Image.fromarray(pixels).save(tmp_path / "png" / f"{index}_{digit}.png")
    first, second = (arrays(build.build(found, tmp_path / k, tmp_path / f"home {k}")[0]) for k in ("idx", "png"))
    for name in first:
        if name.endswith(("_images", "_labels")):
            np.testing.assert_array_equal(first[name], second[name])
    (tmp_path / "png" / "seven_7.png").write_bytes((tmp_path / "png" / f"1_{labels['train'][0]}.png").read_bytes())
    with pytest.raises(MissingError, match=r"not named <index>_<digit>\.png: seven_7\.png"):
        found.read(tmp_path / "png")


def test_fashion_mnist_says_its_split(tmp_path: Path) -> None:
    trees.mnist(tmp_path, [3] * 10, [2] * 10)
    found = mnist_files.fashion(counts={}).read(tmp_path)
    assert Counter(item.label for item in found.splits["private_train"]) == {label: 3 for label in range(5)}
    assert found.identities[0] == "T-shirt/top" and "0-4 private" in mnist_files.fashion().rule


# --- own folders -----------------------------------------------------------------------------------------------------


def test_a_folder_is_divided_by_hash(tmp_path: Path) -> None:
    trees.folder(tmp_path / "own", {"ann": 10, "bob": 7, "cyd": 5, "dee": 5})
    split = folders.Split(public_share=0.25)
    found = folders.folder(tmp_path / "own", 32, "RGB", split).read(tmp_path / "own")
    public = {item.name.split("/")[0] for item in found.splits["public"]}
    assert len(public) == 1 and set(found.identities) | public == {"ann", "bob", "cyd", "dee"}
    for label, name in enumerate(found.identities):
        own = {s: {i.name for i in found.splits[s] if i.label == label} for s in ("private_train", "private_test")}
        count = {"ann": 10, "bob": 7, "cyd": 5, "dee": 5}[name]
        assert len(own["private_test"]) == max(1, round(0.2 * count)) and not own["private_train"] & own["private_test"]
        assert sum(map(len, own.values())) == count
    before = {item.name for item in found.splits["private_test"]}
    trees.save(tmp_path / "own" / found.identities[0] / "extra.png", 77, (20, 20))
    after = {
        item.name
        for item in folders.folder(tmp_path / "own", 32, "RGB", split).read(tmp_path / "own").splits["private_test"]
    }
    assert len(before - after) <= 1  # one more image does not draw a new split
    fixed = folders.folder(tmp_path / "own", 32, "RGB", folders.Split(train=2, test=1)).read(tmp_path / "own")
    assert Counter(i.label for i in fixed.splits["private_train"]) == dict.fromkeys(range(4), 2)


@pytest.mark.parametrize(
    ("counts", "split", "said"),
    [
        ({}, folders.Split(), "has no class folders"),
        ({"ann": 5}, folders.Split(), "has 1 private class: ann"),
        ({"ann": 5, "bob": 1}, folders.Split(), "bob has 1"),
        ({"ann": 5, "bob": 5}, folders.Split(train=5, test=1), "fewer than 6 images"),
        ({"ann": 5, "bob": 5, "cyd": 5}, folders.Split(public_share=0.7), "needs two or more"),
        ({"ann": 5, "bob": 5, "cyd": 5}, folders.Split(public_share=0.1), "raise public.share"),
    ],
)
def test_unusable_folders_are_refused(counts: dict[str, int], split: folders.Split, said: str, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    trees.folder(tmp_path / "own", counts) if counts else None
    with pytest.raises(MissingError, match=said):
        folders.folder(tmp_path / "own", 32, "RGB", split).read(tmp_path / "own")


# --- resuming --------------------------------------------------------------------------------------------------------


def lines(path: Path) -> int:
    return len([line for line in path.read_text().splitlines() if line]) if path.exists() else 0


@pytest.mark.parametrize("jobs", [1, 2])
def test_kill_and_resume_gives_the_same_bytes(
    jobs: int, prepared: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, whole = prepared
    home, script = tmp_path / "home", tmp_path / "prepare.py"
    script.write_text(
        "import time\nfrom pathlib import Path\nfrom mibench.data.sets import build, celeba, decoding\n"
        "write = decoding._write_rows\n"
        "def slow(*a):\n    time.sleep(0.1)\n    write(*a)\n"
        "decoding._write_rows = slow\n"
        f"tree, home = Path({str(tree)!r}), Path({str(home)!r})\n"
        f"if __name__ == '__main__':\n    build.build(celeba.gmi(**{SMALL!r}), tree, home, jobs={jobs}, chunk=2)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, str(script)], env=environment)
    journal = home / "data" / "sets" / "celeba64-gmi.work" / build.JOURNAL
    deadline = time.monotonic() + 60
    while lines(journal) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    children = _children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 4 <= lines(journal) < 18 and not build.place(home, "celeba64-gmi").exists()
    while any(_alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert jobs == 1 or children
    assert not any(_alive(child) for child in children)

    done, decoded = lines(journal), []
    decode = imaging.decode
    monkeypatch.setattr(imaging, "decode", lambda *a: decoded.append(1) or decode(*a))
    with journal.open("a") as file:
        file.write('["cut o')  # as a kill in the middle of a line leaves it
    folder, _ = build.build(gmi(), tree, home, chunk=2)
    assert cache.read_index(folder)["arrays"] == cache.read_index(whole)["arrays"]
    total = sum(cache.read_index(folder)["meta"]["counts"].values())
    assert total - 2 * done <= len(decoded) <= total - 2 * done + 3
    assert [path.name for path in folder.parent.iterdir() if not path.name.startswith(".")] == ["celeba64-gmi"]


def test_a_disk_that_fills_at_the_end_leaves_the_earlier_set(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = build.build(gmi(), tree, tmp_path / "home")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    trees.save(tree / "img_align_celeba" / (tree / "trainset.txt").read_text().split()[0], 999, (178, 218))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(MissingError, match="No space left"):
        patch.setattr(atomic, "sync_tree", full)
        build.build(gmi(), tree, tmp_path / "home")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    work = folder.with_name(f"{folder.name}.work")
    assert {path for path in folder.parent.iterdir() if path.is_dir()} == {folder, work}
    monkeypatch.setattr(imaging, "decode", lambda *a: pytest.fail("decoded again"))
    assert build.build(gmi(), tree, tmp_path / "home") == (folder, True)
    assert cache.problems(folder, contents=True) == []
    assert {path.name for path in folder.iterdir()} == set(before)
    assert sorted(path.name for path in folder.parent.iterdir()) == [f".{folder.name}.lock", folder.name]


def test_two_processes_at_once(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    tree, whole = prepared
    script = tmp_path / "prepare.py"
    script.write_text(
        "from pathlib import Path\nfrom mibench.data.sets import build, celeba\n"
        f"print(build.build(celeba.gmi(**{SMALL!r}), Path({str(tree)!r}), Path({str(tmp_path)!r}), chunk=2)[1])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script)]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate()[0].strip() for process in started) == ["False", "True"]
    found = cache.read_index(build.place(tmp_path, "celeba64-gmi"))
    assert found["arrays"] == cache.read_index(whole)["arrays"]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_full_disk_is_said_before_anything_is_decoded(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(build.shutil, "disk_usage", lambda path: usage)
    assert "do not fit on the disk" in refused(gmi(), tree, tmp_path / "home")


# --- the catalogue ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_every_set_says_what_to_get(name: str) -> None:
    found = data_set(name)
    assert found.name == name and found.get and found.licence and found.tree and found.rule
    assert "target" in found.views and not (found.sensitive and found.publish_private)
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert f"`{name}`" in page
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    for count in found.counts.values():
        assert f"{count:,}" in row


def test_an_unknown_set_suggests_one() -> None:
    with pytest.raises(UserError, match="celeba64-gmi"):
        data_set("celeba64-gmj")
