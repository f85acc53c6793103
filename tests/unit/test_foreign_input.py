"""Other people's files and code: what is good is read right, and whatever else they are or raise ends in a sentence
that names them."""

from __future__ import annotations

import io
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trees
import yaml
from PIL import Image

from mibench.boundary import in_words, printable, read_bytes, read_text, sentences
from mibench.data import cache
from mibench.data.sets import build, imaging, prepared
from mibench.data.sets import folder as folders
from mibench.errors import MissingError, StageFailed, UserError
from mibench.protocol.grid_files import read_grid
from mibench.registry.own_tracks import read_track

# --- the boundary ----------------------------------------------------------------------------------------------------


def nothing(path: Path) -> None:
    """There is nothing at that path."""


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may have some hundred letters only
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere.at.all")


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def circle(path: Path) -> None:
    path.symlink_to(path.name)


ODD: dict[Callable[[Path], None], str] = {
    nothing: "There is no track file",
    Path.mkdir: "is a folder",
    pipe: "is a pipe",
    listening: "is a socket",
    dangling: "a link to nowhere.at.all, which does not exist",
    device: "is a device",
    circle: "cannot be read",
}


@pytest.mark.parametrize("make", ODD, ids=lambda make: make.__name__)
def test_what_is_no_regular_file_is_named(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    make(path)
    with pytest.raises(UserError) as caught:
        read_track(path)
    assert ODD[make] in str(caught.value) and str(path) in str(caught.value)
    with pytest.raises(MissingError, match=r"my\.yaml"):
        read_bytes(path)
    with pytest.raises(UserError, match=r"my\.yaml"):
        read_grid(path)


def test_text_of_other_programs_is_read_or_named(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_bytes(b"\xef\xbb\xbfroot: photos")
    assert read_text(path) == "root: photos"
    path.write_bytes("root: photos".encode("utf-16"))
    with pytest.raises(UserError, match=r"note.txt is not text in UTF-8 \(byte 1\)"):
        read_text(path)


def test_foreign_code_is_named_with_its_line(tmp_path: Path) -> None:
    code = tmp_path / "mynets.py"
    code.write_text("def net():\n    assert 1 == 2\n")
    space: dict[str, Callable[[], None]] = {}
    exec(compile(code.read_text(), str(code), "exec"), space)
    expected = r"^The factory failed: AssertionError \(mynets.py, line 2\)\. Mend it\.$"
    with pytest.raises(UserError, match=expected), sentences("The factory failed", "Mend it."):
        space["net"]()
    for error in (SystemExit(3), RecursionError("too deep"), MemoryError(), KeyError("a\nb")):
        with pytest.raises(MissingError) as caught, sentences("X", kind=MissingError):
            raise error
        assert "\n" not in str(caught.value) and type(error).__name__ in in_words(error)
    for passing in (KeyboardInterrupt(), StageFailed("said already"), UserError("said already")):
        with pytest.raises(type(passing)) as kept, sentences("X"):
            raise passing
        assert kept.value is passing


# --- photos ----------------------------------------------------------------------------------------------------------


def photo(size: tuple[int, int], exif: bytes) -> bytes:
    buffer = io.BytesIO()
    trees.picture(0, size).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def tags(*entries: tuple[int, int, int, bytes]) -> bytes:
    """An EXIF block, big endian, of (tag, type, count, four bytes)."""
    table = b"".join(struct.pack(">HHL", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0MM\0\x2a\0\0\0\x08" + struct.pack(">H", len(entries)) + table + b"\0\0\0\0"


TURNED = (0x0112, 3, 1, b"\0\x06\0\0")
BAD_TAGS = {
    "an offset behind the end": (0x010F, 2, 400, b"\0\xff\xff\xff"),
    "a type that does not exist": (0x0110, 77, 1, b"abcd"),
    "numbers where text belongs": (0x9286, 12, 9, b"\0\0\0\x09"),
    "a rational over nothing": (0x011A, 5, 1, b"\0\0\0\x08"),
    "another table behind the end": (0x8769, 4, 1, b"\x7f\xff\xff\xff"),
    "text where a number belongs": (0x0128, 2, 4, b"\xff\xfe\xfd\xfc"),
}


@pytest.mark.parametrize("tag", BAD_TAGS)
def test_one_unreadable_tag_does_not_condemn_a_photo(tag: str) -> None:
    """It is decoded, and turned as its camera noted."""
    good = imaging.decode(photo((10, 20), tags(TURNED)), "RGB", upright=True)
    found = imaging.decode(photo((10, 20), tags(BAD_TAGS[tag], TURNED)), "RGB", upright=True)
    assert found.size == (20, 10)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(good))


@pytest.mark.parametrize("note", [0, 9, 255])
def test_a_note_that_means_nothing_turns_nothing(note: int) -> None:
    found = imaging.decode(photo((10, 20), tags((0x0112, 3, 1, bytes([0, note, 0, 0])))), "RGB", upright=True)
    assert found.size == (10, 20)
    assert imaging.decode(photo((10, 20), b"Exif\0\0no table at all"), "RGB", upright=True).size == (10, 20)


@pytest.mark.parametrize("note", range(1, 9))
def test_photos_are_turned_as_pillow_turns_them(note: int) -> None:
    from PIL import ImageOps

    content = photo((11, 20), tags((0x0112, 3, 1, bytes([0, note, 0, 0]))))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(np.asarray(imaging.decode(content, "RGB", upright=True)), np.asarray(expected))


def own(tmp_path: Path) -> Path:
    trees.folder(tmp_path / "photos", {"ann": 6, "bob": 6})
    return tmp_path / "photos"


def test_damaged_photos_are_left_out_and_listed_when_asked_for(tmp_path: Path) -> None:
    root = own(tmp_path)
    found = folders.folder(root, 32, "RGB", folders.Split())
    names = sorted(root.rglob("*.*"))
    names[0].write_bytes(names[0].read_bytes()[:200])
    names[7].write_bytes(b"not a photo at all")
    with pytest.raises(MissingError, match="2 damaged images") as caught:
        build.build(found, root, tmp_path / "home")
    assert "--skip-damaged" in str(caught.value) and str(names[0]) in str(caught.value)
    place, new = build.build(found, root, tmp_path / "home", skip_damaged=True)
    meta = cache.read_index(place)["meta"]
    assert new and set(meta["skipped"]) == {str(path.relative_to(root)) for path in (names[0], names[7])}
    assert sum(meta["counts"].values()) == len(names) - 2 and prepared.check(found, tmp_path / "home", root) == []
    assert build.build(found, root, tmp_path / "home") == (place, False)  # not asked again of the same files
    trees.save(names[0], 555, (40, 40))
    assert build.build(found, root, tmp_path / "home")[1]
    assert set(cache.read_index(place)["meta"]["skipped"]) == {str(names[7].relative_to(root))}


def test_a_class_without_a_whole_photo_is_not_skipped(tmp_path: Path) -> None:
    root = own(tmp_path)
    for path in (root / "bob").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(MissingError, match=r"classes without an undamaged image in private_t.*: bob"):
        build.build(folders.folder(root, 32, "RGB", folders.Split()), root, tmp_path / "home", skip_damaged=True)


@pytest.mark.parametrize("make", [pipe, listening, dangling, device, circle], ids=lambda make: make.__name__)
def test_photos_that_are_no_regular_files_are_named(make: Callable[[Path], None], tmp_path: Path) -> None:
    root = own(tmp_path)
    make(root / "ann" / "odd.jpg")
    found = folders.folder(root, 32, "RGB", folders.Split()).read(root)
    assert "1 skipped" in found.notes[0] and "ann/odd.jpg" in found.notes[0]
    assert len(found.splits["private_train"]) + len(found.splits["private_test"]) == 12


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    root = own(tmp_path)
    for name in ("ann", "bob"):
        (root / name / "up").symlink_to("../..")
        (root / name / "here").symlink_to(".")
    found = folders.folder(root, 32, "RGB", folders.Split()).read(root)
    assert len(found.splits["private_train"]) + len(found.splits["private_test"]) == 12


def test_names_that_are_not_utf_8_are_read(tmp_path: Path) -> None:
    root = own(tmp_path)
    odd = Path(os.fsdecode(os.fsencode(root) + b"/ren\xe9"))
    for number in range(6):
        trees.save(odd / f"{number}.png", 900 + number, (40, 40))
    (odd / "0.png").rename(os.fsdecode(os.fsencode(odd) + b"/\xe9t\xe9.png"))
    found = folders.folder(root, 32, "RGB", folders.Split())
    place, _ = build.build(found, root, tmp_path / "home")
    meta = cache.read_index(place)["meta"]
    assert meta["identities"] == ["ann", "bob", "ren\\udce9"] == ["ann", "bob", printable("ren\udce9")]
    assert sum(meta["counts"].values()) == 18 and prepared.check(found, tmp_path / "home", root) == []
    (odd / "1.png").write_bytes(b"no image")
    with pytest.raises(MissingError, match="1 damaged images") as caught:
        build.build(found, root, tmp_path / "home")
    assert "ren\udce9/1.png" in str(caught.value)


def test_a_strip_is_no_photo(tmp_path: Path) -> None:
    """Resized by its shorter side it would be 64 x 4,194,304 pixels."""
    root = own(tmp_path)
    Image.new("L", (65500, 1)).save(root / "ann" / "strip.png")
    with pytest.raises(MissingError, match=r"strip\.png.*65500x1"):
        build.build(folders.folder(root, 64, "RGB", folders.Split()), root, tmp_path / "home")


# --- numbers in track files ------------------------------------------------------------------------------------------

WRONG: list[tuple[str, str]] = [
    ("resolution: 0", "resolution"),
    ("resolution: -64", "resolution"),
    ("resolution: 1000000", "resolution"),
    ("resolution: .inf", "resolution"),
    ("resolution: many", "resolution"),
    ("channels: 2", "channels"),
    ("channels: 0", "channels"),
    ("channels: .nan", "channels"),
    ("fill: [2.0, 0.5, 0.5]", "fill"),
    ("fill: [.nan, 0.5, 0.5]", "fill"),
    ("fill: [0.5, 0.5]", "fill has 2 numbers for 3 channel"),
    ("fill: []", "fill has 0 numbers"),
    ("fill: red", "fill"),
    ("normalisation: [127.5, 127.5]", "divide"),
    ("normalisation: [0.5, 0]", "normalisation"),
    ("normalisation: [.nan, 0.5]", "normalisation"),
    ("version: -1", "version"),
    ("metrics: []", "metrics"),
    ("private: {test_share: .nan}", "test_share"),
    ("private: {test_share: 1}", "test_share"),
    ("private: {train_per_identity: 0}", "train_per_identity"),
    ("private: {test_per_identity: 1e400}", "test_per_identity"),
    ("private: {identities: 1}", "identities"),
    ("public: {class_share: .nan}", "class_share"),
    ("public: {class_share: 2}", "class_share"),
    ("public: {images: -3}", "images"),
    ("public: {generated_share: .inf}", "generated_share"),
    ("target: {arch: convnet, epochs: 0, batch: 8, lr: 0.1, weight_decay: 0}", "epochs"),
    ("target: {arch: convnet, epochs: 1, batch: 1, lr: 0.1, weight_decay: 0}", "batch"),
    ("target: {arch: convnet, epochs: 1, batch: 8, lr: .nan, weight_decay: 0}", "lr"),
    ("target: {arch: convnet, epochs: 1, batch: 8, lr: .inf, weight_decay: 0}", "lr"),
    ("target: {arch: convnet, epochs: 1, batch: 8, lr: 0.1, weight_decay: .inf}", "weight_decay"),
    ("target: {arch: convnet, epochs: 1, batch: 8, lr: 0.1, weight_decay: 0, rotate: .inf}", "rotate"),
    ("target: {arch: convnet, epochs: 1, batch: 8, lr: 0.1, weight_decay: 0, select: best}", "validation_per_identity"),
    ("target: {arch: konvnet, epochs: 1, batch: 8, lr: 0.1, weight_decay: 0}", "convnet"),
    ("attack: {identities: 0, images_per_identity: 1}", "identities"),
    ("attack: {identities: 99, images_per_identity: 1}", "identities"),
    ("attack: {identities: all, images_per_identity: 0}", "images_per_identity"),
    ("attack: {identities: all, images_per_identity: 99999999999999999999}", "images_per_identity"),
    ("private: 3", "private"),
    ("public: []", "public"),
    ("title: [a]", "title"),
    ("2024-13-45: x", "month"),
    ("? [a, b]\n: c", "my.yaml"),
    ("id: !!python/object/apply:os.getcwd []", "my.yaml"),
    ('root: "\\0"', "root"),
    ("root: [photos]", "root"),
    ("source: nowhere", "nowhere"),
    ("epochs: " + "[" * 4000, "my.yaml"),
    ("version: " + "9" * 5000, "my.yaml"),
]


@pytest.mark.parametrize(("line", "said"), WRONG, ids=lambda value: value[:60])
def test_every_number_of_a_track_file_is_looked_at_where_it_is_read(line: str, said: str, tmp_path: Path) -> None:
    """As ``plan`` reads it."""
    from mibench.registry import Registry
    from mibench.running.request import Planner

    trees.folder(tmp_path / "photos", {"ann": 3, "bob": 3, "cyd": 3})
    path = tmp_path / "my.yaml"
    path.write_text(line if line.startswith("root") else f"root: photos\n{line}\n")
    with pytest.raises(UserError) as caught:
        Planner(Registry(), tmp_path / "home").track(str(path))
    assert said in str(caught.value) and "my" in str(caught.value)


def test_a_good_track_file_stays_good(tmp_path: Path) -> None:
    trees.folder(tmp_path / "photos", {"ann": 3, "bob": 3, "cyd": 3})
    path = tmp_path / "my.yaml"
    section = {"root": "photos", "resolution": 8, "channels": 1, "fill": [0], "normalisation": [0, 1]}
    path.write_text(yaml.safe_dump(section))
    track = read_track(path)
    assert (track.resolution, track.channels, track.fill, track.private.identities) == (8, 1, (0.0,), 3)
    assert stat.S_ISREG(path.stat().st_mode)


# --- other people's networks -----------------------------------------------------------------------------------------

FACTORIES = """
import torch
from torch import nn
from torch.nn import functional


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(48, 5)

    def forward(self, x):
        return self.fc(x.flatten(1))


def good():
    return Base()


class Keyword(Base):
    def forward(self, x):
        return self.fc(input=x.flatten(1))


class Functional(Base):
    def forward(self, x):
        return functional.linear(x.flatten(1), self.fc.weight, self.fc.bias)


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 48))

    def forward(self, x):
        return functional.linear(x.flatten(1), self.weight)


class Asserts(Base):
    def forward(self, x):
        assert x.shape[1] == 7


class Odd(Base):
    def forward(self, x):
        raise ValueError("expected 7 bands")


class Exits(Base):
    def forward(self, x):
        raise SystemExit("no GPU")


class Nothing(Base):
    def forward(self, x):
        return None


class Both(Base):
    def forward(self, x):
        return {"logits": super().forward(x)}


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(9), nn.Linear(9, 5))


def meta():
    with torch.device("meta"):
        return Base()


def quantised():
    return torch.ao.quantization.quantize_dynamic(Base(), {nn.Linear})


def fails():
    raise KeyError("weights.pth")


def leaves():
    raise SystemExit(2)


def number():
    return 3
"""

NETWORKS = {
    "Asserts": "AssertionError (ournets.py, line",
    "Odd": "expected 7 bands",
    "Exits": "no GPU",
    "Nothing": "NoneType",
    "Both": "dict",
    "lazy": "lazy",
    "meta": "meta",
    "quantised": "no tensor but|quantised|cannot be read",
    "fails": "KeyError: 'weights.pth' (ournets.py, line",
    "leaves": "SystemExit: 2",
    "number": "returned int",
}


@pytest.fixture
def ournets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "ournets.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ournets", raising=False)


def tried(factory: str) -> str:
    """As an audit tries a network, with images of 4 x 4 in three colours; the name of its head."""
    from mibench.audit.foreign import Way, call_factory, fingerprint
    from mibench.audit.probe import examine

    network = call_factory(f"ournets:{factory}")
    assert len(fingerprint(network)) == 64
    return examine(network, 5, Way(), 3, 4)[0].head


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("factory", NETWORKS)
def test_whatever_a_network_raises_is_a_sentence(factory: str, ournets: None) -> None:
    with pytest.raises(UserError) as caught:
        tried(factory)
    assert any(part in str(caught.value) for part in NETWORKS[factory].split("|")), str(caught.value)


@pytest.mark.parametrize(("factory", "head"), [("good", "fc"), ("Keyword", "fc"), ("Functional", ""), ("Bare", "")])
def test_a_head_may_be_called_in_any_way(factory: str, head: str, ournets: None) -> None:
    assert tried(factory) == head
