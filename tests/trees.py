"""Data sets in their owners' layouts, made of small random pictures: for tests, and for benchmarks at full size.

`python tests/trees.py DIR` writes a set of CelebA's shape (60,027 JPEG files of 178x218) with its lists.
"""

from __future__ import annotations

import gzip
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

MNIST_TRAIN = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)  # images of each digit
MNIST_TEST = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)


def picture(seed: int, size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """A smooth random picture: no two seeds give the same."""
    rng = np.random.RandomState(seed)
    coarse = rng.randint(0, 256, (9, 7, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)


def save(path: Path, seed: int, size: tuple[int, int], mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, size, mode).save(path, **({"quality": 90} if path.suffix in (".jpg", ".jpeg") else {}))


# --- CelebA --------------------------------------------------------------------------------------------------------


def celeba_people(counts: Mapping[int, int], seed: int = 0) -> list[tuple[str, int]]:
    """(image, identity) in file order: people are mixed, as in the real file. ``counts``: images by identity."""
    owners = np.repeat(list(counts), list(counts.values()))
    np.random.RandomState(seed).shuffle(owners)
    return [(f"{number:06d}.jpg", int(person)) for number, person in enumerate(owners, 1)]


def celeba_counts() -> dict[int, int]:
    """Images per identity with the totals of the real file: 10,177 people, 202,599 images, 2,343 people with exactly
    30, 17 with more (548 images), 6,936 people above id 1,000 with fewer (114,179 images)."""
    rng = np.random.RandomState(1)
    low, high = (rng.permutation(ids).tolist() for ids in (np.arange(1, 1001), np.arange(1001, 10178)))
    rich = low[:119] + high[: 2360 - 119]
    first = sorted(rich)[:1000]
    many = dict(zip(first[5:14], [31, 31, 32, 32, 33, 34, 34, 35, 35], strict=True))  # 297 images
    later = sorted(set(rich) - set(first))
    many |= dict(zip(later[10:18], [31, 31, 31, 31, 31, 32, 32, 32], strict=True))  # 251 images
    counts = dict.fromkeys(rich, 30) | many
    counts |= _spread(low[119:], 17_582) | _spread(high[2360 - 119 :], 114_179)
    return dict(sorted(counts.items()))


def _spread(people: Sequence[int], images: int) -> dict[int, int]:
    """About as many images each, between 1 and 29."""
    base, more = divmod(images, len(people))
    return {person: base + (rank < more) for rank, person in enumerate(people)}


def gmi_lists(
    people: Sequence[tuple[str, int]], chosen: Sequence[int], public: Iterable[str]
) -> tuple[list[str], list[str], list[str]]:
    """Lines of trainset.txt, testset.txt and ganset.txt: nine tenths of each private person's images train."""
    train, test = [], []
    for label, person in enumerate(chosen):
        images = [name for name, owner in people if owner == person]
        cut = int(0.9 * len(images))
        train += [f"{name} {label}" for name in images[:cut]]
        test += [f"{name} {label}" for name in images[cut:]]
    return train, test, list(public)


def celeba(
    root: Path,
    counts: Mapping[int, int],
    *,
    private: int,
    at_least: int,
    public_after: int,
    public: int,
    size: tuple[int, int] = (178, 218),
    only_listed: bool = False,
) -> list[tuple[str, int]]:
    """A tree with img_align_celeba/, identity_CelebA.txt and the lists of GMI. The people, in file order.

    ``only_listed``: write just the images that the lists name, which for the real shape are 60,027 of 202,599.
    """
    people = celeba_people(counts)
    chosen = [person for person in sorted(counts) if counts[person] >= at_least][:private]
    pool = [name for name, person in people if person > public_after and counts[person] < at_least]
    drawn = np.random.RandomState(2).permutation(len(pool))[:public]
    lists = gmi_lists(people, chosen, [pool[i] for i in drawn])
    root.mkdir(parents=True, exist_ok=True)
    (root / "identity_CelebA.txt").write_text("".join(f"{name} {person}\n" for name, person in people))
    for name, lines in zip(("trainset.txt", "testset.txt", "ganset.txt"), lists, strict=True):
        (root / name).write_text("\n".join(lines) + "\n")
    listed = {line.split()[0] for lines in lists for line in lines}
    for number, (name, _) in enumerate(people):
        if not only_listed or name in listed:
            save(root / "img_align_celeba" / name, number, size)
    return people


# --- the others ----------------------------------------------------------------------------------------------------


def facescrub(root: Path, actors: Mapping[str, int], actresses: Mapping[str, int], side: int = 40) -> None:
    """Faces by person; ``actors`` and ``actresses`` map names to numbers of images."""
    seed = 0
    for group, people in (("actors", actors), ("actresses", actresses)):
        for person, count in people.items():
            for number in range(count):
                seed += 1
                save(root / group / "faces" / person / f"{person}_{number}.jpg", seed, (side + number, side + number))


def numbered(folder: Path, count: int, size: tuple[int, int]) -> None:
    """FFHQ's folders of a thousand: 00000/00000.png and so on."""
    for number in range(count):
        save(folder / f"{number // 1000 * 1000:05d}" / f"{number:05d}.png", number, size)


def dogs(root: Path, train: Sequence[int], test: Sequence[int], size: tuple[int, int] = (90, 60)) -> None:
    """Stanford Dogs with its lists and annotations. ``train``, ``test``: the breed, from 0, of each image in order."""
    from scipy.io import savemat

    seed = 0
    for name, breeds in (("train_list.mat", train), ("test_list.mat", test)):
        files = []
        for breed in breeds:
            seed += 1
            stem = f"n{breed:08d}-Breed_{breed}/n{breed:08d}_{seed}"
            files.append(f"{stem}.jpg")
            save(root / "Images" / files[-1], seed, size)
            box = root / "Annotation" / stem
            box.parent.mkdir(parents=True, exist_ok=True)
            inner = "".join(
                f"<{k}>{v + seed % 3}</{k}>"
                for k, v in zip(("xmin", "ymin", "xmax", "ymax"), (5, 4, 70, 50), strict=True)
            )
            other = "<object><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
            box.write_text(f"<annotation><object><name>x</name><bndbox>{inner}</bndbox></object>{other}</annotation>")
        table = np.empty((len(files), 1), object)
        table[:, 0] = files
        savemat(root / name, {"file_list": table, "labels": np.array(breeds).reshape(-1, 1) + 1})


def idx(path: Path, array: np.ndarray) -> None:
    """One of MNIST's files, gzipped if its name says so."""
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


def mnist(root: Path, train: Sequence[int], test: Sequence[int], blank: bool = False) -> dict[str, np.ndarray]:
    """The four idx files. ``train``, ``test``: images of each digit. The labels, by part."""
    rng = np.random.RandomState(0)
    labels = {}
    for part, counts in (("train", train), ("t10k", test)):
        digits = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        shape = (len(digits), 28, 28)
        pixels = np.zeros(shape, np.uint8) if blank else rng.randint(0, 256, shape).astype(np.uint8)
        idx(root / f"{part}-images-idx3-ubyte.gz", pixels)
        idx(root / f"{part}-labels-idx1-ubyte.gz", digits)
        labels[part] = digits
    return labels


def chestx(root: Path, rows: Sequence[tuple[str, str]], tested: Iterable[str], side: int = 150) -> None:
    """ChestX-ray8: ``rows`` are (image, findings joined by |); ``tested`` are the images of test_list.txt."""
    tested = set(tested)
    table = "Image Index,Finding Labels,Follow-up #,Patient ID\n"
    (root / "Img").mkdir(parents=True)
    for number, (name, findings) in enumerate(rows):
        save(root / "Img" / name, number, (side, side), "L")
        table += f"{name},{findings},0,{number}\n"
    (root / "Data_Entry_2017.csv").write_text(table)
    for file, chosen in (("train_val_list.txt", False), ("test_list.txt", True)):
        (root / file).write_text("".join(f"{name}\n" for name, _ in rows if (name in tested) is chosen))


def folder(root: Path, counts: Mapping[str, int], size: tuple[int, int] = (48, 40)) -> None:
    """One folder per class, in three image formats."""
    seed = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            seed += 1
            save(root / name / f"{number}{('.jpg', '.png', '.bmp')[number % 3]}", seed, size)


if __name__ == "__main__":
    celeba(
        Path(sys.argv[1]),
        celeba_counts(),
        private=1000,
        at_least=30,
        public_after=1000,
        public=30_000,
        only_listed=True,
    )
