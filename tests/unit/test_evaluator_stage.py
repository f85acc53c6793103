"""How the evaluator is trained, in which reading it judges, and what bytes of reconstructions it is shown."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from mibench.contracts import Oracle, Reconstruction
from mibench.errors import MissingError
from mibench.images.pixels import read_bytes
from mibench.nets import build_classifier
from mibench.protocol.tracks import Track
from mibench.stages import evaluator, invert
from mibench.stages.job import Job, Tools

PEOPLE, OTHERS = 3, 2
RECIPE = {"arch": "convnet", "epochs": 30, "batch": 10, "lr": 0.01, "weight_decay": 0.0}
TRACK: dict[str, Any] = {
    "id": "grey",
    "version": 1,
    "title": "Shades",
    "kind": "digits",
    "sensitive": False,
    "source": "mnist",
    "resolution": 16,
    "channels": 1,
    "fill": (0.5,),
    "private": {"identities": PEOPLE},
    "target": RECIPE,
    "attack": {"images_per_identity": 1},
    "metrics": ("att1",),
}


def shades(first: int, count: int, label: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Ten images of each of ``count`` classes, all of one grey that tells the class; labels from 0, or ``label``."""
    classes = np.repeat(np.arange(count), 10)
    images = np.broadcast_to(20 + 50 * (first + classes)[:, None, None, None], (len(classes), 1, 16, 16))
    return images.astype(np.uint8), classes if label is None else np.full_like(classes, label)


def job(
    tmp_path: Path, public: tuple[np.ndarray, np.ndarray], attack: dict[str, Any] | None = None, **changes: Any
) -> Job:
    made = Job(
        SimpleNamespace(track="grey", kind="evaluator", seed=0, inputs={}, params={}, access="labels"),  # type: ignore[arg-type]
        SimpleNamespace(),  # type: ignore[arg-type]
        SimpleNamespace(),  # type: ignore[arg-type]
        tmp_path,
        torch.device("cpu"),
        lambda event: None,
    )
    brightest = np.full((10, 1, 16, 16), 250, np.uint8), np.zeros(10, np.int64)  # sealed photos of the darkest person
    data = {"private_train": lambda view: shades(0, PEOPLE), "private_test": lambda view: brightest}
    tools = Tools("grey", "evaluator", 0, made.device, tmp_path / "state", made.emit, tmp_path)
    sections = {"evaluator": RECIPE | changes, "attack": TRACK["attack"] | (attack or {})}
    track = Track.model_validate(TRACK | sections)
    made.__dict__ |= {"track": track, "data": SimpleNamespace(**data, public=lambda: public), "tools": tools}
    return made


def test_a_judge_of_more_classes_knows_the_public_people_after_the_private_ones(tmp_path: Path) -> None:
    asked = job(tmp_path, shades(PEOPLE, OTHERS), classes=PEOPLE + OTHERS)
    assert evaluator.run(asked)["accuracy_on_its_training_images"] == 1.0
    judge = build_classifier("convnet", PEOPLE + OTHERS, 1, 16).eval()
    judge.load_state_dict(load_file(tmp_path / "model.safetensors"))
    images = torch.from_numpy(np.concatenate([shades(0, PEOPLE)[0], shades(PEOPLE, OTHERS)[0]])) / 255
    with torch.no_grad():
        assert judge(images).logits.argmax(1).tolist() == np.repeat(np.arange(PEOPLE + OTHERS), 10).tolist()


def test_the_judge_sees_sealed_photos_unless_it_is_trained_as_published(tmp_path: Path) -> None:
    """Sealed photos here look like nothing else the person's photos show: who never saw them gets them wrong."""
    for name in ("all", "train"):
        (tmp_path / name).mkdir()
    everything = evaluator.run(job(tmp_path / "all", shades(0, 1)))
    assert everything == {"accuracy_on_its_training_images": 1.0}
    published = evaluator.run(job(tmp_path / "train", shades(0, 1), photos="train"))
    assert published == {"accuracy_on_its_training_images": 1.0, "accuracy_on_sealed_images": 0.0}


@pytest.mark.parametrize("public", [shades(PEOPLE, OTHERS, label=-1), shades(PEOPLE, OTHERS + 1)])
def test_public_people_who_are_not_those_classes_are_refused(
    tmp_path: Path, public: tuple[np.ndarray, np.ndarray]
) -> None:
    with pytest.raises(MissingError, match=r"knows 5 classes.* not of 2 people"):
        evaluator.run(job(tmp_path, public, classes=PEOPLE + OTHERS))
    with pytest.raises(ValidationError, match=r"evaluator\.classes is 2"):
        job(tmp_path, public, classes=PEOPLE - 1)


@pytest.mark.parametrize(("reading", "transforms"), [("kept", True), ("dropped", False)])
def test_the_reading_is_that_of_judging_not_of_training(tmp_path: Path, reading: str, transforms: bool) -> None:
    asked = job(tmp_path, shades(0, 1), arch="inception_v3", resolution=299, transform_input=reading)
    with torch.device("meta"):
        net: Any = asked.evaluator()
        assert net.net.transform_input
        assert asked.judging(net) is net and net.net.transform_input == transforms


@pytest.mark.parametrize(("attack", "byte"), [({}, 101), ({"stored": "truncated"}, 100)])
def test_reconstructions_are_stored_as_the_track_says(tmp_path: Path, attack: dict[str, Any], byte: int) -> None:
    for folder in ("images", "initial"):
        (tmp_path / folder).mkdir()
    image = torch.full((1, 1, 16, 16), 100.7 / 255)
    made = Reconstruction(label=0, images=image, initial=image)
    asked = Oracle(torch.nn.Identity(), "labels", 1)  # type: ignore[arg-type]
    [entry] = invert._block(job(tmp_path, shades(0, 1), attack), iter([made]), [0], asked)
    for file in (entry["file"], entry["file"].replace("images", "initial")):
        assert read_bytes(tmp_path / file, 1).unique().tolist() == [byte]
