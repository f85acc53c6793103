"""Tracks on prepared data sets and on folders of one's own: planning without data, keys, what they are refused for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trees
from click.testing import CliRunner
from PIL import Image

from mibench import data
from mibench.cli import cli
from mibench.data import sets, tracked
from mibench.data.sets import build, celeba, ffhq, prepared
from mibench.errors import MissingError, UserError
from mibench.planning.plan import Cell, make_plan
from mibench.protocol.methods import Facts
from mibench.protocol.tracks import PublicSection, Track
from mibench.records import Seeds
from mibench.registry import Registry
from mibench.registry.own_tracks import read_track

RECIPE = {"arch": "convnet", "epochs": 1, "batch": 4, "lr": 0.01, "weight_decay": 0.0}
COUNTS = {1: 3, 2: 6, 4: 7, 5: 6, 7: 6, 12: 4, 13: 5}
GMI = {"identities": 4, "at_least": 6, "public_after": 10, "counts": {}}
SMALL = {
    "celeba64-gmi": celeba.gmi(**GMI),
    "celeba224-ppa": celeba.ppa(identities=4, counts={}),
    "ffhq64": ffhq.ffhq64(count=6),
}


def track(**changes: Any) -> Track:
    values: dict[str, Any] = {
        "id": "small",
        "version": 1,
        "title": "Small",
        "kind": "faces",
        "sensitive": True,
        "source": "celeba64-gmi",
        "resolution": 64,
        "channels": 3,
        "fill": (0.5, 0.5, 0.5),
        "private": {"identities": 4},
        "target": RECIPE,
        "evaluator": RECIPE,
        "attack": {"images_per_identity": 1},
        "metrics": ("att1",),
    }
    return Track(**values | changes)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real names, with few people."""

    real = sets.data_set

    def named(name: str) -> Any:
        return SMALL.get(name) or real(name)

    monkeypatch.setattr(sets, "data_set", named)
    monkeypatch.setattr(tracked, "data_set", named)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Trees, and a home in which all the small sets are prepared. Not to be changed."""
    folder = tmp_path_factory.mktemp("sets")
    trees.celeba(folder / "gmi", COUNTS, private=4, at_least=6, public_after=10, public=5)
    trees.celeba(folder / "ppa", COUNTS, private=4, at_least=6, public_after=10, public=5, size=(224, 224))
    trees.numbered(folder / "ffhq" / "thumbnails128x128", 6, (128, 128))
    for name, root in (("celeba64-gmi", "gmi"), ("celeba224-ppa", "ppa"), ("ffhq64", "ffhq")):
        build.build(SMALL[name], folder / root, folder / "home")
    return {"home": folder / "home", "gmi": folder / "gmi", "ffhq": folder / "ffhq"}


def keys(on: Track) -> dict[str, str]:
    """The keys of a run's stages, by kind."""
    defense = Facts("defense", "none", "none", 1, {}, {}, "")
    attack = Facts("attack", "a", "a", 1, {}, {}, "", access="scores", prior={"id": "p", "params": {}})
    prior = Facts("prior", "p", "p", 1, {}, {}, "", scope="public", access="scores")
    plan = make_plan([Cell(on, defense, attack, Seeds.of(0))], lambda *_: prior)
    return {stage.kind: stage.key for stage in plan.stages.values()}


# --- keys ------------------------------------------------------------------------------------------------------------


def test_tracks_of_packages_have_the_sections_that_are_in_published_keys() -> None:
    for name in ("orl32", "orl64", "synthfaces", "mnist"):
        part = Registry().track(name).part("private", "public")
        assert part["private"].keys() == {"identities", "train_per_identity", "test_per_identity"}
        assert part["public"].keys() == {"images", "generated_share", "identities", "labelled"}
        assert "root" not in Registry().track(name).model_dump() and "file" not in part


def test_planning_needs_no_data_and_keys_follow_it(small: None, homes: dict[str, Path], tmp_path: Path) -> None:
    plain = track()
    unprepared = tracked.resolve(plain, tmp_path)
    assert unprepared.split is None and keys(unprepared) == keys(plain)
    found = tracked.resolve(plain, homes["home"])
    meta = prepared.facts("celeba64-gmi", homes["home"])
    assert meta is not None and found.split == meta["split"]
    assert all(keys(found)[kind] != key for kind, key in keys(plain).items())
    pinned = track(split="0" * 64)
    assert tracked.resolve(pinned, homes["home"]) == pinned


def test_other_public_images_change_what_is_trained_on_them(small: None, homes: dict[str, Path]) -> None:
    own, other = (tracked.resolve(track(public=p), homes["home"]) for p in ({}, {"source": "ffhq64"}))
    meta = prepared.facts("ffhq64", homes["home"])
    assert meta is not None and other.public.split == meta["split"] and own.split == other.split
    changed = {kind for kind, key in keys(own).items() if keys(other)[kind] != key}
    assert "prior" in changed and "evaluator" not in changed


def test_where_images_lie_is_in_no_key(tmp_path: Path) -> None:
    roots = [
        track(source="folder", root=r, file=f"{r}.yaml", public={"root": f"{r}/public"}, split="1" * 64) for r in "ab"
    ]
    assert keys(roots[0]) == keys(roots[1])


def test_a_track_survives_the_way_to_a_worker() -> None:
    on = track(public={"source": "ffhq64", "images": 3, "split": "2" * 64}, root="x")
    assert Track.model_validate(on.model_dump(mode="json")) == on


# --- data ------------------------------------------------------------------------------------------------------------


def test_views_and_public_images(small: None, homes: dict[str, Path]) -> None:
    found = data.load(track(), homes["home"])
    images, labels = found.private_train()
    judged, same = found.private_train(view="evaluator")
    assert images.shape[1:] == (3, 64, 64) and judged.shape[1:] == (3, 112, 112)
    np.testing.assert_array_equal(labels, same)
    assert found.private_test(view="evaluator")[0].shape[1:] == (3, 112, 112)
    first = (homes["gmi"] / "trainset.txt").read_text().split()[0]
    photo = Image.open(homes["gmi"] / "img_align_celeba" / first)
    expected = photo.crop((35, 55, 143, 163)).resize((112, 112), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(judged[0], np.asarray(expected).transpose(2, 0, 1))
    assert len(found.public()[0]) == 5 and found.public_labelled() is None
    other = data.load(track(public={"source": "ffhq64", "images": 4}), homes["home"])
    everything = np.load(build.place(homes["home"], "ffhq64") / "public_images.npy")
    np.testing.assert_array_equal(other.public()[0], everything[:4])


def test_a_track_without_views_gives_the_evaluator_the_same_images(tmp_path: Path) -> None:
    private = {"identities": 3, "train_per_identity": 2, "test_per_identity": 2}
    plain = Registry().track("synthfaces").model_dump(mode="json") | {"private": private, "split": None}
    found = data.load(Track(**plain), tmp_path)
    np.testing.assert_array_equal(found.private_train("evaluator")[0], found.private_train()[0])


@pytest.mark.parametrize(
    "on",
    [
        track(public={"source": "none"}),
        track(source="celeba224-ppa", resolution=224),
    ],
)
def test_public_images_may_be_absent(on: Track, small: None, homes: dict[str, Path]) -> None:
    found = data.load(on, homes["home"])
    assert not found.has_public and found.public_labelled() is None and len(found.private_train()[0]) > 0
    with pytest.raises(MissingError, match="no public images"):
        found.public()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"private": {"identities": 5}}, "5 identities; celeba64-gmi has 4"),
        ({"private": {"identities": 4, "train_per_identity": 2}}, "private.train_per_identity, but the split"),
        ({"public": {"class_share": 0.5}}, "public.class_share"),
        ({"resolution": 32}, "resolution 32"),
        ({"channels": 1, "fill": (0.5,)}, "1 channel"),
        ({"sensitive": False}, "sensitive: False"),
        ({"publish_private": True}, "publish_private: True"),
        ({"public": {"images": 6}}, "6 public images; celeba64-gmi has 5"),
        ({"public": {"source": "ffhq64", "labelled": True}}, "carry no labels"),
        ({"public": {"source": "none", "labelled": True}}, "no public images"),
        ({"split": "0" * 64}, "expected celeba64-gmi with SHA-256 0000"),
        ({"public": {"source": "ffhq64", "split": "0" * 64}}, "expected ffhq64 with SHA-256 0000"),
        ({"root": "somewhere"}, "sets root"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(
    changes: dict[str, Any], said: str, small: None, homes: dict[str, Path]
) -> None:
    with pytest.raises(UserError, match=said):
        data.load(track(**changes), homes["home"])


def test_a_set_that_is_not_prepared_says_what_to_type_and_get(small: None, tmp_path: Path) -> None:
    with pytest.raises(MissingError) as caught:
        data.load(track(public={"source": "ffhq64"}), tmp_path)
    said = str(caught.value)
    assert "Track 'small' needs celeba64-gmi, which is not prepared here." in said
    assert "mibench data prepare celeba64-gmi --root DIR" in said and "mmlab.ie.cuhk.edu.hk" in said
    assert "mibench data prepare ffhq64 --root DIR" in said and "identity_CelebA.txt" in said


def test_damaged_arrays_are_refused(small: None, homes: dict[str, Path], tmp_path: Path) -> None:
    folder, _ = build.build(SMALL["celeba64-gmi"], homes["gmi"], tmp_path)
    path = folder / "private_train_images.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MissingError, match=r"damaged: .*private_train_images\.npy has .* Type: mibench data prepare"):
        data.load(track(), tmp_path)
    assert build.build(SMALL["celeba64-gmi"], homes["gmi"], tmp_path)[1]
    assert data.check(track(), tmp_path) == []


def test_packages_need_counts(tmp_path: Path) -> None:
    plain = Registry().track("mnist").model_dump(mode="json") | {"split": None, "private": {"identities": 5}}
    with pytest.raises(UserError, match=r"needs private\.train_per_identity"):
        data.load(Track(**plain), tmp_path)


# --- the command line ------------------------------------------------------------------------------------------------


def call(home: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    done = CliRunner().invoke(cli, arguments, env={"MIBENCH_HOME": str(home)})
    error = done.exception
    if isinstance(error, UserError):  # ``main`` turns it into a sentence and its exit code
        assert error.exit_code == code
        return done.stdout, str(error)
    assert done.exit_code == code, (done.output, error)
    return done.stdout, done.stderr


def test_prepare_show_and_check(small: None, homes: dict[str, Path], tmp_path: Path) -> None:
    out, _ = call(tmp_path, "data", "show", "celeba64-gmi")
    assert "not prepared" in out and "trainset.txt" in out
    _, error = call(tmp_path, "data", "prepare", "celeba64-gmi", code=3)
    assert "--root DIR" in error
    root = str(homes["gmi"])
    out, error = call(tmp_path, "data", "prepare", "celeba64-gmi", "--root", root, "--jobs", "1")
    assert out.startswith("celeba64-gmi: 21 private_train, 4 private_test, 5 public images, split ")
    assert "decoding 30/30" in error
    out, error = call(tmp_path, "data", "prepare", "celeba64-gmi", "--root", root, "--quiet")
    assert out.endswith("prepared before\n") and error == ""
    assert call(tmp_path, "data", "check", "celeba64-gmi", "--root", root)[0] == "celeba64-gmi: as prepared\n"
    assert " prepared " in call(tmp_path, "data", "show")[0].splitlines()[0]
    _, error = call(tmp_path, "data", "prepare", "celeba64-gmi", "--root", str(homes["ffhq"]), code=3)
    assert "is not the folder of celeba64-gmi" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("celeba64",), "Did you mean 'celeba64-gmi'"),
        (("folder", "--root", "."), "data prepare my.yaml"),
        (("orl32", "--root", "."), "found without it"),
        (("ffhq64", "celeba64-gmi", "--root", "."), "--root is for one data set"),
    ],
)
def test_wrong_names_are_refused(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    assert said in call(tmp_path, "data", "prepare", *arguments, code=2)[1]


# --- track files -----------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    trees.folder(tmp_path / "photos", {"ann": 6, "bob": 5, "cyd": 7})
    trees.folder(tmp_path / "strangers", {"x": 4, "y": 5}, size=(39, 51))
    path = tmp_path / "my.yaml"
    path.write_text("root: photos\nresolution: 32\npublic: {root: strangers}\n")
    return path


def test_a_track_file_needs_little(own: Path, tmp_path: Path) -> None:
    found = read_track(own)
    assert (found.id, found.private.identities, found.channels, found.sensitive) == ("my", 3, 3, True)
    assert found.root == str(tmp_path / "photos") and found.public.root == str(tmp_path / "strangers")
    home = tmp_path / "home"
    assert (
        "mibench data prepare" in "\n".join(tracked.missing(found, home).values())
        and len(tracked.missing(found, home)) == 2
    )
    tracked.prepare(found, home)
    images = data.load(tracked.resolve(found, home), home)
    assert len(images.private_train()[0]) + len(images.private_test()[0]) == 18
    assert images.public()[0].shape == (9, 3, 32, 32)


def test_changed_photos_are_decoded_again_and_change_the_split(own: Path, tmp_path: Path) -> None:
    found, home = read_track(own), tmp_path / "home"
    tracked.prepare(found, home)
    before = tracked.resolve(found, home)
    trees.save(tmp_path / "photos" / "ann" / "new.png", 99, (30, 30))
    tracked.prepare(found, home)
    assert tracked.resolve(found, home).split != before.split
    with pytest.raises(MissingError, match="is not what it was"):
        data.load(before, home)


def test_classes_of_the_folder_may_be_public(own: Path, tmp_path: Path) -> None:
    own.write_text("root: photos\nchannels: 1\npublic: {class_share: 0.34, labelled: true}\n")
    found, home = read_track(own), tmp_path / "home"
    assert found.private.identities == 2
    tracked.prepare(found, home)
    images = data.load(found, home)
    labelled = images.public_labelled()
    assert labelled is not None and labelled[2] == 1 and len(labelled[0]) in (5, 6, 7)
    assert len(labelled[0]) + len(images.private_train()[0]) + len(images.private_test()[0]) == 18


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- 1", "expected `name: value`"),
        ("resolution: 32", "Add `root: DIR`"),
        ("root: nowhere", "which is not a folder"),
        ("root: photos\nid: My Track", "must be of a-z"),
        ("root: photos\nid: orl32", "has the id 'orl32' of a track"),
        ("root: photos\nchanels: 1", "chanels"),
        ("root: photos\nresolution: many", "resolution: Input should be"),
        ("root: photos/ann", "0 private classes"),
        ("root: photos\nmetrics: [att9]", "att9"),
        ("root: photos\npublic: 5", "public must be a mapping"),
        ("root: photos\nroot: photos", "duplicate key"),
        ("root: [", "cannot be read"),
    ],
)
def test_wrong_track_files_are_refused(text: str, said: str, own: Path, tmp_path: Path) -> None:
    own.write_text(text)
    code = 3 if said in ("which is not a folder", "0 private classes") else 2
    assert said in call(tmp_path / "home", "plan", "--track", str(own), code=code)[1]


def test_unreadable_photos_are_named(own: Path, tmp_path: Path) -> None:
    (tmp_path / "photos" / "bob" / "0.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "photos" / "cyd" / "1.png").write_bytes((tmp_path / "photos" / "cyd" / "4.png").read_bytes())
    _, error = call(tmp_path / "home", "data", "prepare", str(own), code=3)
    assert f"1 damaged images: {tmp_path}/photos/bob/0.jpg" in error
    (tmp_path / "photos" / "bob" / "0.jpg").unlink()
    _, error = call(tmp_path / "home", "data", "prepare", str(own), code=3)
    assert "photos/cyd/1.png" in error and "photos/cyd/4.png" in error and "--allow-duplicates" in error
    call(tmp_path / "home", "data", "prepare", str(own), "--allow-duplicates")
    assert call(tmp_path / "home", "data", "check", str(own))[0].endswith("as prepared\n")


def test_a_public_section_takes_no_unknown_field() -> None:
    with pytest.raises(ValueError, match="images_"):
        PublicSection(images_=3)  # type: ignore[call-arg]
