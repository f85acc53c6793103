"""Public faces: FFHQ (Karras et al., CVPR 2019), MetFaces (Karras et al., NeurIPS 2020) and the dogs of AFHQ (Choi et
al., CVPR 2020). Unlabelled; at 224 and above the attacks use StyleGAN2 trained on them rather than the images."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mibench.data.sets.base import DataSet, Item, Listing, Marks, Problems, View, must
from mibench.data.sets.rules import by_hash, image_files

FFHQ = 70_000

_FFHQ_GET = "https://github.com/NVlabs/ffhq-dataset: its script downloads {}"
_FFHQ_LICENCE = "CC BY-NC-SA 4.0; each photo has its own Creative Commons licence"


def ffhq64(count: int = FFHQ) -> DataSet:
    """Thumbnails, central 88 of 128 pixels to 64."""
    return _faces(
        name="ffhq64",
        title="FFHQ thumbnails, central 88 pixels to 64x64",
        get=_FFHQ_GET.format("`thumbnails128x128`"),
        licence=_FFHQ_LICENCE,
        tree="  thumbnails128x128/00000/00000.png ... 69000/69999.png (128x128)",
        marks=(("thumbnails128x128",),),
        view=View(64, (("centre", 88), ("resize", 64))),
        size=(128, 128),
        count=count,
        numbered=True,
    )


def ffhq256(count: int = FFHQ) -> DataSet:
    """Central 800 of 1024 pixels to 256."""
    return _faces(
        name="ffhq256",
        title="FFHQ, central 800 pixels to 256x256",
        get=_FFHQ_GET.format("`images1024x1024`"),
        licence=_FFHQ_LICENCE,
        tree="  images1024x1024/00000/00000.png ... 69000/69999.png (1024x1024)",
        marks=(("images1024x1024",),),
        view=View(256, (("centre", 800), ("resize", 256))),
        size=(1024, 1024),
        count=count,
        numbered=True,
    )


def metfaces256(count: int = 1_336) -> DataSet:
    """Central 800 of 1024 pixels to 256."""
    return _faces(
        name="metfaces256",
        title="MetFaces, central 800 pixels to 256x256",
        get="https://github.com/NVlabs/metfaces-dataset: `images` (aligned, 1024x1024)",
        licence="CC BY-NC 2.0",
        tree="  images/*.png (1,336 images, 1024x1024)",
        marks=(("images", "images1024x1024"),),
        view=View(256, (("centre", 800), ("resize", 256))),
        size=(1024, 1024),
        count=count,
        sensitive=False,
    )


def afhqdog256() -> DataSet:
    """The training dogs, resized to 256."""
    return _faces(
        name="afhqdog256",
        title="AFHQ dogs, 256x256",
        get="https://github.com/clovaai/stargan-v2: `bash download.sh afhq-dataset`",
        licence="CC BY-NC 4.0",
        tree="  train/dog/*.jpg (512x512; 4,739 images in the first release)",
        marks=(("train/dog", "afhq/train/dog"),),
        view=View(256, (("resize", 256),)),
        size=(512, 512),
        count=None,
        sensitive=False,
    )


def _faces(
    name: str,
    title: str,
    get: str,
    licence: str,
    tree: str,
    marks: Marks,
    view: View,
    size: tuple[int, int],
    count: int | None,
    numbered: bool = False,
    sensitive: bool = True,
) -> DataSet:
    return DataSet(
        name=name,
        title=title,
        get=get,
        licence=licence,
        tree=tree,
        rule="all images are public, in an order given by a hash of their names",
        marks=marks,
        scan=partial(_scan, name=name, folders=marks[0], numbers=range(count) if numbered and count else None),
        views={"target": view},
        size=size,
        counts={"public": count} if count else {},
        sensitive=sensitive,
    )


def _scan(root: Path, problems: Problems, name: str, folders: tuple[str, ...], numbers: range | None) -> Listing:
    folder = must(root, folders)
    files = {Path(file).name: file for file in image_files(folder)}
    if numbers is not None:
        there = {Path(file).stem for file in files}
        for number in numbers:
            if f"{number:05d}" not in there:
                problems.add(f"images missing in {folder}", f"{number // 1000 * 1000:05d}/{number:05d}.png")
    if not files:
        problems.say(f"{folder} has no image.")
    where = folder.relative_to(root)
    return Listing({"public": [Item(file, -1, (where / files[file]).as_posix()) for file in by_hash(files, name)]})
