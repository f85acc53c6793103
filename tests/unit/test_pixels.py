"""Images kept as bytes are the same images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as transforms
from torchvision.utils import save_image

from mibench.contracts import ImageSet
from mibench.images import pixels
from mibench.images.pixels import Pixels


def _bytes(n: int = 7) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 3, 4, 4), dtype=np.uint8)


def test_every_way_of_looking_gives_the_same_floats() -> None:
    array = _bytes()
    whole = torch.from_numpy(array).float() / 255
    found = Pixels.of(array, torch.device("cpu"))
    assert len(found) == 7 and found.shape == whole.shape
    assert torch.equal(found[:], whole) and torch.equal(found[3], whole[3])
    index, mask = torch.tensor([5, 0, 5]), torch.arange(7) % 2 == 0
    assert torch.equal(found[index], whole[index]) and torch.equal(found[mask], whole[mask])
    assert torch.equal(found.subset(mask)[1:], whole[mask][1:])
    assert [len(part) for part in found.split(3)] == [3, 3, 1] and torch.equal(torch.cat([*found.split(3)]), whole)


def test_a_large_array_stays_on_disk(tmp_path: Path, monkeypatch: object) -> None:
    path = tmp_path / "a.npy"
    np.save(path, _bytes())
    mapped = np.load(path, mmap_mode="r")
    monkeypatch.setattr(pixels, "COPIED", 10)  # type: ignore[attr-defined]
    found = Pixels.of(mapped, torch.device("cpu"))
    assert found._bytes.data_ptr() == mapped.ctypes.data
    assert torch.equal(found[2:5], torch.from_numpy(_bytes()[2:5]).float() / 255)


def test_subsets_of_a_set_of_images() -> None:
    labels = torch.arange(7) % 3
    kept = ImageSet(Pixels.of(_bytes(), torch.device("cpu")), labels, 3).subset(labels == 1)
    plain = ImageSet(torch.from_numpy(_bytes()).float() / 255, labels, 3).subset(labels == 1)
    assert len(kept) == len(plain) == 2
    assert torch.equal(kept.images[:], plain.images[:]) and torch.equal(kept.labels, plain.labels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [5, 9])
def test_resizing_is_that_of_the_libraries(tmp_path: Path, channels: int, side: int) -> None:
    array = np.random.default_rng(1).integers(0, 256, (3, channels, 7, 7), dtype=np.uint8)
    files = []
    for n, picture in enumerate(array):
        files.append(tmp_path / f"{n}.png")
        Image.fromarray(picture[0] if channels == 1 else picture.transpose(1, 2, 0)).save(files[-1])
    read = Pixels.read(files, channels, torch.device("cpu"))
    assert torch.equal(read[:], torch.from_numpy(array).float() / 255)
    by_pil = read.resized(side, "pil")
    for n, path in enumerate(files):
        wanted = np.asarray(Image.open(path).resize((side, side), Image.Resampling.BILINEAR)).reshape(side, side, -1)
        assert torch.equal(by_pil[n], torch.from_numpy(wanted.transpose(2, 0, 1).copy()).float() / 255)
    assert by_pil.shape == by_pil[:].shape == (3, channels, side, side)
    assert torch.equal(by_pil.subset(torch.tensor([2, 0]))[0], by_pil[2])
    wanted = transforms.resize(read[:], [side, side], antialias=True)
    torch.testing.assert_close(read.resized(side, "tensor")[:], wanted)
    assert read.resized(7, "pil")[:].equal(read[:])


def test_bytes_are_rounded_or_truncated_as_by_the_libraries(tmp_path: Path) -> None:
    images = torch.rand(3, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    for n, image in enumerate(images):
        cut = np.asarray(transforms.to_pil_image(image)).transpose(2, 0, 1)
        pixels.write_png(image, tmp_path / "cut.png", "truncated")
        assert np.array_equal(pixels.read_bytes(tmp_path / "cut.png", 3), cut)
        pixels.write_png(image, tmp_path / "whole.png")
        save_image(image, tmp_path / "theirs.png")
        assert np.array_equal(
            pixels.read_bytes(tmp_path / "whole.png", 3), pixels.read_bytes(tmp_path / "theirs.png", 3)
        )
        shown = transforms.to_tensor(transforms.resize(transforms.to_pil_image(image), [12, 12]))
        assert torch.equal(pixels.resized(images, 12, "pil")[n], shown)
    everything = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal((everything.float() / 255 * 255).byte(), everything), "bytes that were read stay what they are"
