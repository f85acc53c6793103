"""How networks are trained: optimisers, schedules, PPA's augmentation; against torch and torchvision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torchvision.transforms import ColorJitter, functional

from mibench.contracts import ImageSet, Loop
from mibench.errors import UserError
from mibench.images import colour as photometric
from mibench.nets.base import Classifier
from mibench.primitives.training import fit_classifier, make_optimiser, shuffled, standard_augmentation
from mibench.protocol.methods import Selection
from mibench.protocol.tracks import AttackSection, EvaluatorSection, RecipeSection
from mibench.random import Stream
from mibench.registry import Registry

PLAIN: dict[str, Any] = {"arch": "x", "epochs": 10, "batch": 4, "lr": 0.1, "weight_decay": 0.01}


def _images(n: int = 6, channels: int = 3) -> Tensor:
    return Stream(3).uniform(n, channels, 16, 16)


def test_later_fields_at_their_default_are_not_written() -> None:
    before = ["arch", "epochs", "batch", "lr", "weight_decay", "shift", "flip", "rotate", "scale", "light"]
    before += ["select", "validation_per_identity"]
    assert list(RecipeSection(**PLAIN).model_dump(mode="json")) == before
    changed = RecipeSection(**PLAIN, optimiser="sgd", momentum=0.9).model_dump(mode="json")
    assert list(changed) == [*before, "optimiser", "momentum"]
    assert RecipeSection(**changed) == RecipeSection(**PLAIN, optimiser="sgd", momentum=0.9)
    later = set(RecipeSection.model_fields) - set(before)
    assert later == RecipeSection.ADDED
    assert list(EvaluatorSection(**PLAIN).model_dump(mode="json")) == before
    assert set(EvaluatorSection.model_fields) - set(before) == EvaluatorSection.ADDED
    judge = EvaluatorSection(**PLAIN | {"arch": "inception_v3"}, transform_input="dropped").model_dump(mode="json")
    assert list(judge) == [*before, "transform_input"]
    assert list(AttackSection(images_per_identity=4).model_dump()) == ["identities", "images_per_identity"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule": "steps"},
        {"milestones": [3]},
        {"schedule": "steps", "milestones": [5, 3]},
        {"momentum": 0.9},
        {"crop": [0.5, 0.2]},
        {"jitter": [0.1, 0.1, 0.1, 0.9]},
    ],
)
def test_contradictions_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RecipeSection(**PLAIN, **wrong)


def test_only_an_evaluator_that_has_an_input_transform_drops_it() -> None:
    with pytest.raises(ValidationError, match="resnet50 has none"):
        EvaluatorSection(**PLAIN | {"arch": "resnet50"}, transform_input="dropped")
    with pytest.raises(ValidationError, match="Extra inputs"):
        RecipeSection(**PLAIN | {"arch": "inception_v3"}, transform_input="dropped")


@pytest.mark.parametrize(
    ("recipe", "kind", "settings"),
    [
        ({"optimiser": "sgd", "momentum": 0.9, "nesterov": True}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ({"optimiser": "adam"}, torch.optim.Adam, {}),
        ({}, torch.optim.AdamW, {}),
    ],
)
def test_one_step_is_torchs(recipe: dict[str, Any], kind: Any, settings: dict[str, Any]) -> None:
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    optimiser, _ = make_optimiser(ours, RecipeSection(**PLAIN, schedule="constant", **recipe), 100)
    reference = kind(theirs.parameters(), lr=0.1, weight_decay=0.01, **settings)
    for step in range(3):
        for net, best in ((ours, optimiser), (theirs, reference)):
            best.zero_grad()
            net(torch.full((2, 3), step + 1.0)).square().sum().backward()
            best.step()
    assert torch.equal(ours.weight, theirs.weight)


def test_milestones_are_those_of_multi_step_lr() -> None:
    recipe = RecipeSection(**PLAIN, schedule="steps", milestones=[3, 7], gamma=0.2)
    net = nn.Linear(1, 1)
    optimiser, schedule = make_optimiser(net, recipe, steps=50)  # 5 steps an epoch
    reference = torch.optim.SGD(net.parameters(), lr=0.1)
    theirs = torch.optim.lr_scheduler.MultiStepLR(reference, [3, 7], 0.2)
    for step in range(50):
        assert optimiser.param_groups[0]["lr"] == pytest.approx(reference.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
        if (step + 1) % 5 == 0:
            reference.step()
            theirs.step()


def test_incomplete_batches() -> None:
    assert [len(part) for part in shuffled(10, 4, Stream(0))] == [4, 4, 2]
    assert [len(part) for part in shuffled(9, 4, Stream(0))] == [4, 4]
    assert [len(part) for part in shuffled(10, 4, Stream(0), smallest=4)] == [4, 4]


class _Net(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 16 * 16, 2)
        self.feature_dim = 3 * 16 * 16

    def stages(self) -> Any:
        yield "features", nn.Flatten()


def test_a_whole_training_is_the_reference_loop() -> None:
    """SGD with milestones and without augmentation, against a loop written with torch alone."""
    recipe = RecipeSection(
        **PLAIN | {"epochs": 4},
        optimiser="sgd",
        momentum=0.9,
        schedule="steps",
        milestones=[2],
        drop_last=True,
        crop=[1.0, 1.0],
    )
    images, labels = _images(10), torch.arange(10) % 2
    torch.manual_seed(0)
    ours, theirs = _Net(), _Net()
    theirs.load_state_dict(ours.state_dict())

    def stream(name: str) -> Stream:
        return Stream(sum(map(ord, name)))

    def loop(name: str, steps: int, state: dict[str, Any]) -> Loop:
        assert steps == 8
        return Loop(name, steps, state, None, None)

    fit_classifier(ours, ImageSet(images, labels, 2), recipe, stream, loop, "t")
    optimiser = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for epoch in range(4):
        for index in stream(f"t.order.{epoch}").permutation(10).split(4)[:2]:
            optimiser.param_groups[0]["lr"] = 0.1 if epoch < 2 else 0.01
            optimiser.zero_grad()
            nn.functional.cross_entropy(theirs(images[index]).logits, labels[index]).backward()
            optimiser.step()
    torch.testing.assert_close(ours.head.weight, theirs.head.weight, rtol=1e-4, atol=1e-5)


def test_a_defense_trains_with_its_own_recipe() -> None:
    registry = Registry()
    track = registry.track("orl32")
    changes = {"optimiser": "sgd", "lr": 0.5, "epochs": 3}
    chosen = Selection("defense", "ls", params={"recipe": changes})
    facts = registry.facts(chosen, track)
    assert facts.non_default == {"recipe": changes}
    plugin = registry.build("defense", "ls", facts.params, track)
    found = plugin.recipe(track.target)
    assert (found.optimiser, found.lr, found.epochs) == ("sgd", 0.5, 3) and found.batch == track.target.batch
    both = registry.build("defense", "re+ls", {"re": {}, "ls": facts.params}, track)
    assert both.recipe(track.target) == found
    assert registry.build("defense", "re", {}, track).recipe(track.target) is track.target
    for wrong in ({"arch": "x"}, {"epoch": 3}, {"epochs": 0}, {"momentum": 0.9}):
        with pytest.raises(UserError):
            registry.facts(Selection("defense", "ls", params={"recipe": wrong}), track)


# --- colour ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (photometric.brightness, functional.adjust_brightness, (0.8, 1.0, 1.2, 0.3)),
        (photometric.contrast, functional.adjust_contrast, (0.8, 1.0, 1.2, 0.3)),
        (photometric.saturation, functional.adjust_saturation, (0.9, 1.0, 1.1, 0.0)),
        (photometric.hue, functional.adjust_hue, (-0.1, 0.0, 0.1, 0.5)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_change_is_torchvisions(ours: Any, theirs: Any, factors: tuple[float, ...], channels: int) -> None:
    images = _images(4, channels)
    images[1, :, :4] = 0.5  # grey pixels have no hue
    found = ours(images, torch.tensor(factors))
    wanted = torch.stack([theirs(image, factor) for image, factor in zip(images, factors, strict=True)])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)


def test_jitter_has_torchvisions_distribution() -> None:
    """Means over many draws of one image, per channel, and their spread."""
    image = torch.tensor([0.8, 0.3, 0.1])[:, None, None].expand(3, 4, 4).clone()
    image[:, :2] *= 0.4
    strength = (0.2, 0.1, 0.1, 0.1)
    ours = photometric.colour_jitter(image.expand(4000, 3, 4, 4), Stream(0), strength)[:, :, 3, 3].numpy()
    torch.manual_seed(0)
    jitter = ColorJitter(*strength)
    theirs = torch.stack([jitter(image)[:, 3, 3] for _ in range(2000)]).numpy()
    error = np.sqrt(ours.var(0) / len(ours) + theirs.var(0) / len(theirs))
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * error).all()
    np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.08)


def test_images_of_a_batch_change_in_their_own_way_and_stay_in_range() -> None:
    recipe = RecipeSection(**PLAIN, crop=[0.85, 1.0], jitter=[0.2, 0.2, 0.1, 0.1], flip=True)
    batch = _images(1).expand(32, 3, 16, 16)
    found = standard_augmentation(batch, Stream(1), recipe)
    assert found.shape == batch.shape and float(found.min()) >= 0 and float(found.max()) <= 1
    distances = torch.cdist(found.flatten(1), found.flatten(1)) + torch.eye(32)
    assert float(distances.min()) > 0.1
    assert torch.equal(found, standard_augmentation(batch, Stream(1), recipe))
    assert len(standard_augmentation(batch[:0], Stream(1), recipe)) == 0
