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
from hypothesis import HealthCheck, given, settings
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
    max_examples=int(os.environ.get("MIBENCH_FUZZ", 150)),
    database=None,
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
        ["photos", "folder", "none", "orl", "all", "convnet", "faces", "\udce9", "a\0b", "/dev/null", "..", ""]
    ),
)
VALUES = st.recursive(
    st.one_of(NUMBERS, WORDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
SECTIONS: dict[str, Any] = {
    "private": PrivateSection,
    "public": PublicSection,
    "target": RecipeSection,
    "evaluator": EvaluatorSection,
    "attack": AttackSection,
}


def section(model: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(sorted(model.model_fields)), VALUES, max_size=6)


FIELDS = {
    name: section(SECTIONS[name]) | VALUES if name in SECTIONS else VALUES
    for name in Track.model_fields
    if name != "root"
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracks")
    trees.folder(folder / "photos", {"ann": 2, "bob": 2, "cyd": 2}, (9, 9))
    return folder


def as_planned(path: Path) -> None:
    track = read_track(path)
    if tracked.is_tracked(track):
        tracked.missing(tracked.resolve(track, path.parent / "home"), path.parent / "home")


@bounded
@given(st.fixed_dictionaries({"root": st.just("photos") | WORDS}, optional=FIELDS))
def test_any_track_file_of_fields_is_a_track_or_a_sentence(photos: Path, content: dict[str, Any]) -> None:
    path = photos / "my.yaml"
    try:
        path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8", errors="surrogateescape")
        as_planned(path)
    except UserError as error:
        assert "my" in str(error)


PLAIN = (
    b"root: photos\nresolution: 32\nfill: [0.5]\nchannels: 1\npublic: {class_share: 0.3}\nprivate: {test_share: 0.2}\n"
)


@bounded
@given(harms(len(PLAIN)) | st.binary(max_size=60).map(lambda data: [("replace", 0, data)]))
def test_any_track_file_of_bytes_is_a_track_or_a_sentence(photos: Path, harm: list[Harm]) -> None:
    path = photos / "my.yaml"
    path.write_bytes(harmed(PLAIN, harm))
    try:
        as_planned(path)
    except UserError as error:
        assert "my" in str(error)


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


def as_imported(content: Any) -> None:
    for use in (lambda: fit("gmi_critic", content), lambda: load_published(nn.Linear(2, 3), content)):
        with pytest.raises(UserError) as caught:
            use()
        assert str(caught.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FILES)
@bounded
@given(harm=harms(600))
def test_any_checkpoint_of_bytes_is_read_or_a_sentence(kind: str, harm: list[Harm]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            content = read_checkpoint(harmed(FILES[kind], harm))
        except UserError as error:
            assert str(error).startswith("It ")
            return
        as_imported(content)


DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.float8_e5m2)
SHAPES = st.lists(st.integers(0, 3), max_size=4)
TENSORS = st.builds(lambda shape, dtype: torch.zeros(shape).to(dtype), SHAPES, st.sampled_from(DTYPES))
ODD_TENSORS = st.sampled_from(
    [torch.empty(2, device="meta"), torch.eye(2).to_sparse(), nn.parameter.UninitializedParameter()]
)
NAMES = st.one_of(
    st.sampled_from(
        [*CRITIC, "module", "model", "state_dict", "n_averaged", "weight", "bias", "", ".", "criterion.weight"]
    ),
    st.text(max_size=6),
    st.integers(0, 3),
)
CONTENTS = st.recursive(
    st.one_of(TENSORS, ODD_TENSORS, st.none(), st.integers(), st.text(max_size=5)),
    lambda inner: st.dictionaries(NAMES, inner, max_size=5) | st.lists(inner, max_size=2),
    max_leaves=8,
)


@pytest.mark.filterwarnings("ignore")
@bounded
@given(CONTENTS)
def test_any_content_of_a_checkpoint_is_a_sentence(content: Any) -> None:
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


@pytest.mark.parametrize("kind", PICTURES)
@bounded
@given(harm=harms(300), mode=st.sampled_from(["RGB", "L"]))
def test_any_image_of_bytes_is_pixels_or_damaged(kind: str, harm: list[Harm], mode: str) -> None:
    try:
        image = imaging.decode(harmed(PICTURES[kind], harm), mode, upright=True)
        pixels = imaging.apply(image, (("shorter", 8), ("centre", 8)))
    except imaging.DamagedImage as error:
        assert str(error)
        return
    assert pixels.shape == (3 if mode == "RGB" else 1, 8, 8) and pixels.dtype == np.uint8
