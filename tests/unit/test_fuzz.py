"""Track files, checkpoints and image headers of any content end in sentences. What once ended otherwise stays as an
example. ``MIBENCH_FUZZ=20000`` looks further than the suite has time for."""

from __future__ import annotations

import io
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trees
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as save_safetensors
from torch import nn

from mibench.data import tracked
from mibench.data.sets import imaging
from mibench.errors import UserError
from mibench.nets import gan
from mibench.protocol.tracks import AttackSection, EvaluatorSection, PrivateSection, PublicSection, RecipeSection, Track
from mibench.registry.own_tracks import read_track
from mibench.weights.files import read_checkpoint
from mibench.weights.fit import load_published
from mibench.weights.kinds import fit

bounded = settings(
    derandomize="MIBENCH_FUZZ" not in os.environ,
    max_examples=int(os.environ.get("MIBENCH_FUZZ", 80)),
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


# --- harm to bytes ---------------------------------------------------------------------------------------------------

Harm = tuple[str, int, bytes]


def harms(reach: int) -> st.SearchStrategy[list[Harm]]:
    """Bytes that are replaced, put in or cut off, most near the beginning."""
    place = st.one_of(st.integers(0, 64), st.integers(0, reach))
    kind = st.sampled_from(("replace", "insert", "cut", "delete"))
    return st.lists(st.tuples(kind, place, st.binary(min_size=1, max_size=8)), max_size=4)


def harmed(data: bytes, harm: list[Harm]) -> bytes:
    for kind, place, new in harm:
        if kind == "cut":
            data = data[: max(place, 1)]
        else:
            rest = place + (0 if kind == "insert" else len(new))
            data = data[:place] + (b"" if kind == "delete" else new) + data[rest:]
    return data


# --- track files -----------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-3, 70), st.sampled_from([10**9, 10**30, -(10**30), 2**63]), st.floats(), st.booleans(), st.none()
)
WORDS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["photos", "folder", "none", "orl", "all", "convnet", "faces", "\udce9", "a\0b", "/dev/null", ".."]
    ),
)
VALUES = st.recursive(
    st.one_of(NUMBERS, WORDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
RECIPE = {"arch": "convnet", "epochs": 2, "batch": 8, "lr": 0.003, "weight_decay": 0.0}
SECTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "private": (PrivateSection, {"test_share": 0.5}),
    "public": (PublicSection, {"class_share": 0.3}),
    "target": (RecipeSection, RECIPE),
    "evaluator": (EvaluatorSection, RECIPE),
    "attack": (AttackSection, {"images_per_identity": 2}),
}
GOOD = {"root": "photos", "resolution": 32, "channels": 1, "fill": [0.5]} | {
    name: own for name, (_, own) in SECTIONS.items()
}
PLACES = [(name,) for name in Track.model_fields]
PLACES += [(name, field) for name, (model, _) in SECTIONS.items() for field in model.model_fields]
CHANGES = st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracks")
    trees.folder(folder / "photos", {"ann": 2, "bob": 2, "cyd": 2}, (9, 9))
    return folder


def as_planned(path: Path) -> None:
    """As ``plan`` reads it: a track, or a sentence that names the file or the track."""
    try:
        track = read_track(path)
        if tracked.is_tracked(track):
            tracked.missing(tracked.resolve(track, path.parent / "home"), path.parent / "home")
    except UserError as error:
        assert "my.yaml" in str(error) or "Track" in str(error)


@bounded
@given(CHANGES)
@example([(("public", "class_share"), float("nan"))])  # rounding it failed
@example([(("public", "root"), "a\0b")])  # and so did looking for a folder of that name
@example([(("root",), "\udce9")])
@example([(("channels",), [])])
def test_any_track_file_of_fields_is_a_track_or_a_sentence(photos: Path, changes: list[Any]) -> None:
    content = {name: dict(value) if isinstance(value, dict) else value for name, value in GOOD.items()}
    for (*above, last), value in changes:
        place: Any = content[above[0]] if above else content
        if isinstance(place, dict):
            place[last] = value
    path = photos / "my.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8", errors="surrogateescape")
    as_planned(path)


PLAIN = b"root: photos\nresolution: 32\nfill: [0.5]\nchannels: 1\npublic: {class_share: 0.3}\n"


@bounded
@given(harms(len(PLAIN)) | st.binary(max_size=60).map(lambda data: [("replace", 0, data)]))
@example([("replace", 0, b"? [a, b]\n: c")])  # a key that cannot be one
@example([("replace", 0, b"2024-13-45: 1\n")])  # what looks like a date
def test_any_track_file_of_bytes_is_a_track_or_a_sentence(photos: Path, harm: list[Harm]) -> None:
    path = photos / "my.yaml"
    path.write_bytes(harmed(PLAIN, harm))
    as_planned(path)


# --- checkpoints -----------------------------------------------------------------------------------------------------

CRITIC = {name.replace("layers", "ls"): value for name, value in gan.GmiCritic(32, 1, width=2).state_dict().items()}


def file(content: Any, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


SMALL = {"state_dict": {"model.ls.0.weight": torch.ones(2, 1, 5, 5), "n_averaged": torch.tensor(3)}, "epoch": 3}
FILES = {
    "zip": file(SMALL),
    "legacy": file(SMALL, legacy=True),
    "pickle 2": pickle.dumps(SMALL, 2),
    "pickle 4": pickle.dumps(SMALL, 4),
    "safetensors": save_safetensors({"ls.0.weight": torch.ones(2, 1, 5, 5)}),
}


def as_loaded(content: Any) -> None:
    try:
        load_published(nn.Linear(2, 3), content)
    except UserError as error:
        assert str(error)


def as_imported(content: Any) -> None:
    try:
        fit("gmi_critic", content)
    except UserError as error:
        assert str(error)


@pytest.mark.filterwarnings("ignore")
@bounded
@given(kind=st.sampled_from(sorted(FILES)), harm=harms(600))
def test_any_checkpoint_of_bytes_is_read_or_a_sentence(kind: str, harm: list[Harm]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            content = read_checkpoint(harmed(FILES[kind], harm))
        except UserError as error:
            assert str(error)
            return
        as_loaded(content)


DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.float8_e5m2)
SHAPES = st.lists(st.integers(0, 3), max_size=4)
LAZY = nn.parameter.UninitializedParameter()
TENSORS = st.one_of(
    st.builds(lambda shape, dtype: torch.zeros(shape).to(dtype), SHAPES, st.sampled_from(DTYPES)),
    st.sampled_from([torch.empty(2, device="meta"), torch.eye(2).to_sparse(), LAZY, torch.full((3, 2), float("nan"))]),
)
LAYER = {"weight": torch.ones(3, 2), "bias": torch.ones(3)}
NAMES = st.one_of(
    st.sampled_from(
        [*CRITIC, *LAYER, "module", "model", "state_dict", "n_averaged", "", ".", "loss.weight", "a.weight"]
    ),
    st.text(max_size=6),
    st.integers(0, 3),
)
PREFIXES = st.sampled_from(["", "module.", "model.", "_orig_mod.", "backbone.", "."])


@pytest.mark.filterwarnings("ignore")
@bounded
@given(
    base=st.sampled_from([CRITIC, LAYER, {}]),
    prefix=PREFIXES,
    changes=st.dictionaries(NAMES, TENSORS | st.none() | st.integers() | st.just({}), max_size=3),
    wrap=st.sampled_from([lambda s: s, lambda s: {"state_dict": s}, lambda s: {"net": s, "model": {}}, lambda s: [s]]),
)
@example(LAYER, "", {"weight": torch.eye(2).to_sparse()}, lambda state: state)  # nobody looks whether that is finite
@example(LAYER, "", {"weight": LAZY}, lambda state: state)  # it has no shape to compare
@example(CRITIC, "", {"ls.0.weight": torch.ones(3)}, lambda state: state)  # nor channels
def test_any_content_of_a_checkpoint_is_read_or_a_sentence(
    base: dict[str, Any], prefix: str, changes: dict[Any, Any], wrap: Any
) -> None:
    content = wrap({f"{prefix}{name}": value for name, value in base.items()} | changes)
    as_loaded(content)
    as_imported(content)


# --- images ----------------------------------------------------------------------------------------------------------


def picture(form: str, mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    trees.picture(0, (12, 9)).convert(mode).save(stream, form, **options)
    return stream.getvalue()


def wide() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)).save(stream, "PNG")
    return stream.getvalue()


def noted() -> Image.Exif:
    exif = Image.Exif()
    for tag, value in {0x0112: 6, 0x010F: "maker", 0x011A: 72.0}.items():
        exif[tag] = value
    return exif


PICTURES = {
    "jpeg": picture("JPEG", exif=noted()),
    "cmyk": picture("JPEG", "CMYK"),
    "png": picture("PNG", exif=noted()),
    "palette": picture("PNG", "P", transparency=3),
    "16 bit": wide(),
    "gif": picture("GIF"),
    "tiff": picture("TIFF", exif=noted()),
    "lzw": picture("TIFF", compression="tiff_lzw"),
    "bmp": picture("BMP"),
    "ppm": picture("PPM"),
    "webp": picture("WEBP", exif=noted()),
    "ico": picture("ICO"),
    "tga": picture("TGA"),
    "jpeg 2000": picture("JPEG2000"),
}


STRIP = [("replace", 16, b"\0\0\xff\xff\0\0\0\1")]  # width and height of a PNG


@settings(bounded, max_examples=2 * bounded.max_examples)
@given(kind=st.sampled_from(sorted(PICTURES)), harm=harms(300), mode=st.sampled_from(["RGB", "L"]))
@example("jpeg", [("replace", 40, b"\xff\xff\xff\x7f")], "RGB")  # tags that lie behind the end of the file
@example("png", STRIP, "RGB")
def test_any_image_of_bytes_is_pixels_or_damaged(kind: str, harm: list[Harm], mode: str) -> None:
    try:
        image = imaging.decode(harmed(PICTURES[kind], harm), mode, upright=True)
        pixels = imaging.apply(image, (("shorter", 8), ("centre", 8)))
    except imaging.DamagedImage as error:
        assert str(error)
        return
    assert pixels.shape == (3 if mode == "RGB" else 1, 8, 8) and pixels.dtype == np.uint8
