"""What somebody's own folders hold, and what is read of it: photos and what is none, parts of a data set, ranges of
values, orders of classes, readers, copies of private images, and answers that have become stale."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import trees
from factories import make_run
from PIL import Image
from torchvision.datasets import ImageFolder

from mibench import data
from mibench.cli.run import _print
from mibench.data import overlap, tracked
from mibench.data.sets import folder as folders
from mibench.data.sets import imaging
from mibench.data.sets.photos import Skipped, left_by_programs, photo_files
from mibench.data.synthfaces import faces
from mibench.errors import MissingError, UserError
from mibench.keys import digest
from mibench.planning.plan import Plan, Stage
from mibench.registry import Registry
from mibench.registry.own_tracks import read_track
from mibench.running.coordinator import Outcome
from mibench.running.runner import Result, outdated
from mibench.store.manifest import Manifest


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A track file on two classes of photos, and strangers."""
    trees.folder(tmp_path / "photos", {"ann": 5, "bob": 5})
    for number in range(6):
        trees.save(tmp_path / "strangers" / f"{number}.png", 500 + number, (50, 44))
    path = tmp_path / "my.yaml"
    path.write_text("root: photos\nresolution: 32\npublic: {root: strangers}\n")
    return path


# --- which files are photos ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        ".DS_Store",
        "._1.jpg",
        ".thumbnails",
        "@eaDir",
        "__MACOSX",
        "Thumbs.db",
        "#recycle",
        "1.jpg~",
        "1.jpg.part",
        "SYNOFILE_THUMB_M.jpg",
        "$RECYCLE.BIN",
        "desktop.ini",
        ".picasaoriginals",
        "Icon\r",
        "~$photos.docx",
        "lost+found",
    ],
)
def test_what_programs_leave_is_no_photo(name: str) -> None:
    assert left_by_programs(name)


@pytest.mark.parametrize("name", ["@ann", "thumbs up", "1.jpg", "ann~bob", "Recycling", "e@dir", "part", "1"])
def test_a_class_may_be_called_nearly_so(name: str) -> None:
    assert not left_by_programs(name)


def test_whatever_pillow_reads_is_read_and_the_rest_is_said(tmp_path: Path) -> None:
    """By ending or by content; ImageFolder's order; every file is either read or counted with a reason."""
    ann = tmp_path / "photos" / "ann"
    for number, name in enumerate(["1.jpg", "2.PNG", "3.gif", "4.jp2", "5.tga", "sub/6.webp"]):
        trees.save(ann / name, number, (20, 20))
    for number, (name, kind) in enumerate({"7": "JPEG", "8.dat": "PNG", "9.jpg_large": "JPEG"}.items()):
        buffer = io.BytesIO()
        trees.picture(90 + number, (20, 20)).save(buffer, kind)
        (ann / name).write_bytes(buffer.getvalue())
    for name in ("@eaDir/1.jpg/SYNOPHOTO_THUMB_S.jpg", ".thumbnails/1.png", "sub/thumbs/6.jpg", "._1.jpg"):
        trees.save(ann / name, 7, (9, 9))
    (ann / "list.txt").write_text("BMW, P1 and others")
    (ann / "code.h").write_text("#define im_width 3\n")
    os.mkfifo(ann / "pipe.jpg")
    (ann / "gone.png").symlink_to("nowhere")
    (ann / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    skipped = Skipped()
    read = photo_files(ann, skipped)
    assert read == ["1.jpg", "2.PNG", "3.gif", "4.jp2", "5.tga", "7", "8.dat", "9.jpg_large", "sub/6.webp"]
    assert {reason.split()[0]: len(names) for reason, names in skipped.names.items()} == {
        "left": 4,
        "no": 2,
        "photos": 1,
        "links": 2,
    }
    said = skipped.sentence(tmp_path / "photos", len(read))
    assert said.startswith("9 files read in photos; 9 skipped") and "list.txt" in said and "IMG_1.HEIC" in said
    assert len(read) + len(skipped) == sum(not path.is_dir() for path in ann.rglob("*"))


def test_it_is_said_once_per_preparation(own: Path, tmp_path: Path) -> None:
    (tmp_path / "photos" / "ann" / "notes.txt").write_text("x")
    (tmp_path / "photos" / ".DS_Store").write_text("x")
    (tmp_path / "photos" / "loose.jpg").write_bytes(b"x")
    (tmp_path / "photos" / "@eaDir").mkdir()
    found, home = read_track(own), tmp_path / "home"
    assert found.private.identities == 2
    said = tracked.prepare(found, home)
    assert said == [
        "10 files read in photos; 3 skipped: 1 beside the class folders (loose.jpg), 1 left by other programs "
        "(.DS_Store), 1 no images (ann/notes.txt)",
        "6 files read in strangers; 0 skipped",
    ]
    assert tracked.prepare(found, home) == []


@pytest.mark.parametrize(
    "names", [("train", "val"), ("Training", "test"), ("faces_train", "faces_valid", "faces_test")]
)
def test_parts_of_a_data_set_are_no_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        trees.folder(tmp_path / "set" / name, {"ann": 2, "bob": 2})
    with pytest.raises(MissingError, match=f"not classes.*{tmp_path}/set/{names[0]}"):
        folders.classes(tmp_path / "set")


def test_classes_may_be_called_like_parts(tmp_path: Path) -> None:
    trees.folder(tmp_path, {"train": 2, "test": 2, "ship": 2})
    assert folders.classes(tmp_path) == ["ship", "test", "train"]


def test_images_to_test_with_may_lie_apart(own: Path, tmp_path: Path) -> None:
    for number, name in enumerate(["ann/a.png", "bob/b.png", "bob/c.png"]):
        trees.save(tmp_path / "later" / name, 800 + number, (40, 40))
    own.write_text("root: photos\nresolution: 32\nprivate: {test_root: later}\n")
    home, found = tmp_path / "home", read_track(own)
    tracked.prepare(found, home)
    images = data.load(tracked.resolve(found, home), home)
    assert images.private_train()[1].tolist() == [0] * 5 + [1] * 5 and images.private_test()[1].tolist() == [0, 1, 1]
    expected = trees.picture(801, (40, 40)).resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(images.private_test()[0][1], np.asarray(expected).transpose(2, 0, 1))
    trees.save(tmp_path / "later" / "eve" / "d.png", 7, (40, 40))
    with pytest.raises(MissingError, match="none of the classes"):
        tracked.prepare(found, home)


# --- how a file becomes pixels --------------------------------------------------------------------------------------


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("most", [200, 4095, 65535])
def test_the_range_of_16_bits_follows_from_the_format(kind: str, most: int) -> None:
    """A dark image of a set stays darker than a bright one."""
    values = np.linspace(0, most, 64).round().astype(np.uint16).reshape(8, 8)
    content = _saved(Image.fromarray(values), kind)
    np.testing.assert_array_equal(np.asarray(imaging.decode(content, "L")), np.rint(values / 257))


def test_floats_are_0_to_1_and_others_are_refused() -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    for scale in (1.0, 0.5):
        pixels = np.asarray(imaging.decode(_saved(Image.fromarray(values * np.float32(scale)), "TIFF"), "L"))
        assert np.abs(pixels - 255 * scale * values.astype(np.float64)).max() < 0.51
    for wrong in (values * 255, values - 0.5, np.full((8, 8), np.nan, np.float32)):
        with pytest.raises(imaging.DamagedImage, match="expected 0 to 1"):
            imaging.decode(_saved(Image.fromarray(wrong), "TIFF"), "L")
    with pytest.raises(imaging.DamagedImage, match="more than 16 bits"):
        imaging.decode(_saved(Image.fromarray(np.full((8, 8), 70000, np.int32)), "TIFF"), "L")


def test_readers_read_as_their_namesakes(tmp_path: Path) -> None:
    """A turned JPEG and transparent PNGs: ``imagefolder`` gives the bytes of torchvision's ImageFolder."""
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = Image.fromarray(np.random.RandomState(0).randint(0, 256, (20, 30, 4)).astype(np.uint8), "RGBA")
    (tmp_path / "ann").mkdir()
    trees.picture(0, (20, 30)).save(tmp_path / "ann" / "1.jpg", exif=exif)
    clear.save(tmp_path / "ann" / "2.png")
    clear.quantize(16).save(tmp_path / "ann" / "3.png")
    for path, _ in ImageFolder(str(tmp_path)).samples:
        content, name = Path(path).read_bytes(), Path(path).name
        theirs = np.asarray(ImageFolder(str(tmp_path)).loader(path))
        by = {
            reader: np.asarray(imaging.decode(content, "RGB", reader != "imagefolder", reader))
            for reader in imaging.READERS
        }
        np.testing.assert_array_equal(by["imagefolder"], theirs)
        if name == "1.jpg":
            assert by["photo"].shape == (20, 30, 3) != theirs.shape
            np.testing.assert_array_equal(by["opencv"], by["photo"])
        if name == "2.png":
            np.testing.assert_array_equal(by["opencv"], np.asarray(clear)[..., :3])
            alpha = np.asarray(clear)[..., 3:] / 255
            blended = np.asarray(clear)[..., :3] * alpha + 255 * (1 - alpha)
            assert np.abs(by["photo"] - blended).max() <= 1


def test_readers_are_other_data(own: Path, tmp_path: Path) -> None:
    names = set()
    for line in (
        "",
        "decode: imagefolder\n",
        "private: {class_order: natural}\n",
        "private: {class_order: [bob, ann]}\n",
    ):
        own.write_text("root: photos\nresolution: 32\n" + line)
        names.add(tracked.private_set(read_track(own)).data_set.name)
    assert len(names) == 4


# --- in which order classes are numbered ----------------------------------------------------------------------------


def test_orders_of_classes(tmp_path: Path) -> None:
    names = [str(number) for number in range(1, 12)]
    assert folders.ordered(names, "natural") == names
    assert folders.ordered(names, "lexicographic") == ["1", "10", "11", *map(str, range(2, 10))]
    assert folders.ordered(["b2", "B10", "a", "7", "b02"], "natural") == ["7", "a", "b02", "b2", "B10"]
    assert folders.ordered(["a", "b"], ["b", "a"]) == ["b", "a"]
    with pytest.raises(UserError, match="it lacks b; there is no folder c"):
        folders.ordered(["a", "b"], ["c", "a"])
    trees.folder(tmp_path, {name: 2 for name in names})
    listing = folders.folder(tmp_path, 32, "RGB", folders.Split(order="natural")).read(tmp_path)
    assert listing.identities == tuple(names)
    assert {item.name.split("/")[0]: item.label for item in listing.splits["private_train"]} == {
        name: label for label, name in enumerate(names)
    }


# --- private images among the public ones ---------------------------------------------------------------------------


@pytest.mark.parametrize("public", ["photos", "photos/ann", ".", "link", "photos/../photos"])
def test_public_images_lie_elsewhere(public: str, own: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    own.write_text(f"root: photos\npublic: {{root: {public}}}\n")
    with pytest.raises(UserError, match="must not be the private ones"):
        read_track(own)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("same.png", lambda image: image),
        ("again.jpg", lambda image: image),
        ("small.png", lambda image: image.resize((36, 30))),
        ("mirror.png", lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        ("turned.png", lambda image: image.transpose(Image.Transpose.ROTATE_90)),
        ("light.png", lambda image: image.point(lambda value: min(255, int(0.9 * value) + 12))),
    ],
)
def test_copies_of_private_images_are_refused(name: str, change: object, own: Path, tmp_path: Path) -> None:
    source = tmp_path / "photos" / "bob" / "1.png"
    change(Image.open(source)).save(tmp_path / "strangers" / name)  # type: ignore[operator]
    found, home = read_track(own), tmp_path / "home"
    with pytest.raises(MissingError, match=f"1 private images of 'my' are among.*bob/1.png is {name}"):
        tracked.prepare(found, home)
    own.write_text(own.read_text() + "copies: allowed\n")
    tracked.prepare(read_track(own), home)
    own.write_text(own.read_text().replace("copies: allowed\n", ""))
    (tmp_path / "strangers" / name).unlink()
    tracked.prepare(found, home)


def test_people_who_look_alike_are_no_copies() -> None:
    people, others = (
        faces(np.repeat(np.arange(first, first + count), 8), np.tile(np.arange(8), count), 32, 0)
        for first, count in ((0, 20), (100, 60))
    )
    coarse, fine = (overlap._vectors(others, side) for side in (8, 16))
    assert not list(overlap._matches(people, coarse, fine))
    others[7] = people[3][..., ::-1]
    coarse, fine = (overlap._vectors(others, side) for side in (8, 16))
    assert list(overlap._matches(people, coarse, fine)) == [(3, 7)]


# --- answers that have become stale ---------------------------------------------------------------------------------


def test_exchanged_photos_are_noticed(own: Path, tmp_path: Path) -> None:
    """Same names, sizes and times: neither a check nor a preparation takes them for the old ones."""
    bmp = [tmp_path / "photos" / "ann" / "2.bmp", tmp_path / "photos" / "bob" / "3.bmp"]
    found, home = read_track(own), tmp_path / "home"
    for path, seed in zip(bmp, (1, 2), strict=True):
        trees.save(path, 300 + seed, (48, 40))
    tracked.prepare(found, home)
    before = tracked.resolve(found, home)
    assert data.check(before, home) == []
    first, second = (path.read_bytes() for path in bmp)
    for path, content in zip(bmp, (second, first), strict=True):
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        path.write_bytes(content)
        os.utime(path, ns=times)
    [problem] = data.check(before, home)
    assert problem.startswith("2 files whose bytes changed")
    tracked.prepare(found, home)
    assert tracked.resolve(found, home).split != before.split and data.check(tracked.resolve(found, home), home) == []


def _stage(plugin: str, source: str) -> Stage:
    key = digest(plugin)
    return Stage("invert", key, plugin, 1, {}, {}, 0, "my", source_sha256=source, title=plugin)


def _result(outcome: Outcome, todo: set[str], outdated: list[str]) -> Result:
    record = make_run()
    return Result(Plan(), [record], [], {record.run: True}, todo, outcome, [], outdated)


def test_a_changed_file_of_the_same_version_is_said() -> None:
    plan = Plan(stages={stage.key: stage for stage in (_stage("mine", "a" * 64), _stage("other", "b" * 64))})
    done = {}
    for stage, source in zip(plan.stages.values(), ("c" * 64, "b" * 64), strict=True):
        done[stage.key] = Manifest("invert", stage.key, stage.plugin, 1, {}, {}, 0, "my", 1, source_sha256=source)
    assert outdated(plan, done) == {"mine": ["invert"]}
    assert outdated(plan, {key: done[key] for key in list(done)[1:]}) == {}


@pytest.mark.parametrize(
    ("result", "failures", "said"),
    [
        (_result(Outcome(), set(), []), [], True),
        (_result(Outcome(), set(), ["mine"]), [], False),
        (_result(Outcome(), {"key"}, []), [], False),
        (_result(Outcome(), set(), []), [{"status": "failed"}], False),
    ],
)
def test_everything_was_computed_before_only_if_it_was(
    result: Result, failures: list[dict[str, str]], said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    failures = [{"defense_label": "a", "attack_label": "b", "seed": "0", "reason": "r"} | each for each in failures]
    _print(result, failures, "index.html", Registry())
    assert ("Everything was computed before." in capsys.readouterr().out) is said
