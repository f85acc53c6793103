"""Random erasing's controls: equal budgets of hidden pixels, and what stays the same at every visit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mibench.contracts import Batch, ImageSet, Loop, Output, Progress, TrackInfo, Visit
from mibench.keys import stream_seed
from mibench.nets.small import ConvNet
from mibench.primitives.erasing import concealed
from mibench.primitives.samplers import poisson, thinned
from mibench.primitives.training import fit_classifier, shuffled
from mibench.protocol.params import resolve
from mibench.protocol.tracks import RecipeSection
from mibench.random import RowStreams, Stream
from mibench.registry import Registry

REGISTRY = Registry()
TRACK = TrackInfo("tiny", "faces", 32, 1, 5, (0.449,))


def _defense(name: str, track: TrackInfo = TRACK, **params: Any) -> Any:
    cls = REGISTRY.plugin("defense", name)
    return cls(resolve(cls.Params, params, name), track)


def _preset(name: str, preset: str) -> Any:
    return _defense(name, **REGISTRY.entry("defense", name).presets[preset])


def _visit(n: int, epoch: int = 0, seed: int = 0) -> Visit:
    return Visit(Stream(stream_seed("visit", epoch)), seed, torch.arange(n))


def _pictures(n: int, size: int = 32) -> Tensor:
    return 0.6 + 0.3 * Stream(0).uniform(n, 1, size, size)


def _hidden(defense: Any, images: Tensor, visit: Visit) -> Tensor:
    """(N, H, W): which pixels the defense changes."""
    return (defense.augment(images, visit) != images)[:, 0]


def _share(defense: Any, n: int = 4000) -> float:
    """The share of pixels hidden from the network, by counting: erased, or in images left out of the batches."""
    batches = defense.sampler(torch.zeros(n, dtype=torch.long), 64, Stream(1)) or shuffled(n, 64, Stream(1))
    images, seen = _pictures(n), torch.cat(list(batches))
    mask = _hidden(defense, images[seen], Visit(Stream(2), 0, seen))
    return 1 - float((~mask).sum()) / (n * 32 * 32)


# --- budgets ---------------------------------------------------------------------------------------------------------


def test_the_budget_is_p_times_the_mean_area() -> None:
    assert concealed((0.1, 0.4)) == pytest.approx(0.25)
    assert concealed((0.1, 0.8), 0.5) == pytest.approx(0.225)


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("re", "p0.5_matched"),
        ("re", "p0.75_matched"),
        ("re", "a0.4"),
        ("re", "fill_noise"),
        ("re", "fill_patch"),
        ("re", "fill_zero"),
        ("re_fixed", "image"),
        ("re_fixed", "run"),
        ("re_fixed", "centre"),
        ("re_entire", "skip"),
        ("re_entire", "blank"),
    ],
)
def test_controls_hide_as_much_as_random_erasing(name: str, preset: str) -> None:
    assert _share(_defense("re")) == pytest.approx(0.25, abs=0.01)
    assert _share(_preset(name, preset)) == pytest.approx(concealed((0.1, 0.4)), abs=0.015)


@pytest.mark.parametrize("name", ["re", "re_fixed", "re_entire"])
def test_strong_controls_hide_as_much_as_strong_erasing(name: str) -> None:
    assert _share(_preset(name, "strong")) == pytest.approx(concealed((0.1, 0.8)), abs=0.015)


@pytest.mark.parametrize("high", [0.2, 0.3, 0.4, 0.5, 0.7, 0.8])
def test_strengths_are_named_for_their_largest_area(high: float) -> None:
    defense = _preset("re", f"a{high}")
    assert defense.params.area == (0.1, high)
    assert _share(defense) == pytest.approx(concealed((0.1, high)), abs=0.015)


@pytest.mark.parametrize("p", [0.25, 0.5, 0.75])
def test_presets_of_p_say_how_many_images_are_touched(p: float) -> None:
    mask = _hidden(_preset("re", f"p{p}"), _pictures(4000), _visit(4000))
    assert float(mask.any(2).any(1).float().mean()) == pytest.approx(p, abs=0.025)


def test_rectangles_hide_a_little_less_because_long_ones_do_not_fit() -> None:
    share = _share(_preset("re", "rectangles"))
    assert 0.22 < share < 0.25


# --- fixed squares ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("square", ["image", "run", "centre"])
def test_two_epochs_show_the_same_pixels(square: str) -> None:
    defense, images = _defense("re_fixed", square=square), _pictures(12)
    first = defense.augment(images, _visit(12, epoch=0))
    assert torch.equal(first, defense.augment(images, _visit(12, epoch=1)))
    random = _defense("re")
    assert not torch.equal(random.augment(images, _visit(12, 0)), random.augment(images, _visit(12, 1)))


def test_the_square_belongs_to_the_image_and_not_to_its_place_in_the_batch() -> None:
    defense, images, order = _defense("re_fixed"), _pictures(12), Stream(3).permutation(12)
    whole = defense.augment(images, _visit(12))
    assert torch.equal(defense.augment(images[order], Visit(Stream(9), 0, order)), whole[order])
    masks = _hidden(defense, images, _visit(12)).flatten(1)
    assert len(masks.unique(dim=0)) == 12, "images share their squares"
    assert not torch.equal(masks, _hidden(defense, images, _visit(12, seed=1)).flatten(1)), "runs share their squares"


def test_one_square_for_the_run() -> None:
    defense, images = _defense("re_fixed", square="run"), _pictures(6)
    masks = [_hidden(defense, images, _visit(6, seed=seed)) for seed in range(8)]
    for mask in masks:
        assert torch.equal(mask, mask[:1].expand_as(mask))
        assert int(mask[0].sum()) == 16 * 16, "the mean area of 0.1 to 0.4"
    assert len(torch.stack([mask[0] for mask in masks]).flatten(1).unique(dim=0)) > 1


def test_the_centre_is_the_centre() -> None:
    mask = _hidden(_defense("re_fixed", square="centre"), _pictures(2), _visit(2))[0]
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[8:24, 8:24] = True
    assert torch.equal(mask, expected)


def test_an_attacker_draws_the_squares_of_images_anew() -> None:
    images, names = _pictures(4), [(0, i, 0) for i in range(4)]
    streams = RowStreams(names, "adapt")
    fixed, centre = _defense("re_fixed"), _defense("re_fixed", square="centre")
    assert not torch.equal(fixed.adapt(images, streams), fixed.adapt(images, streams))
    assert torch.equal(centre.adapt(images, streams), centre.augment(images, _visit(4)))


# --- whole images ----------------------------------------------------------------------------------------------------


def test_skipped_images_are_left_out_and_the_others_left_alone() -> None:
    defense, images = _defense("re_entire", share=0.5), _pictures(400)
    assert defense.augment(images, _visit(400)) is images
    first, second = (torch.cat(list(defense.sampler(torch.zeros(400), 64, Stream(seed)))) for seed in (0, 1))
    assert len(first.unique()) == len(first) and 140 < len(first) < 260
    assert set(first.tolist()) != set(second.tolist()), "other images each epoch"


def test_blank_images_are_all_fill_and_the_others_untouched() -> None:
    defense, images = _defense("re_entire", form="blank", share=0.5), _pictures(400)
    out = defense.augment(images, _visit(400))
    blank = (out == TRACK.fill[0]).flatten(1).all(1)
    assert torch.equal(out[~blank], images[~blank]) and 140 < int(blank.sum()) < 260
    assert defense.sampler(torch.zeros(400), 64, Stream(0)) is None


def test_thinned_batches_lose_each_index_alike() -> None:
    rng, kept = Stream(0), torch.zeros(20)
    for _ in range(500):
        for indices in thinned(shuffled(20, 10, rng), 0.3, rng):
            assert len(indices) > 1
            kept[indices] += 1
    assert float((kept / 500 - 0.7).abs().max()) < 0.07
    assert list(thinned(iter([torch.tensor([1, 2])]), 0.999, Stream(0))) == []


def test_poisson_batches_hold_each_index_independently() -> None:
    batches = list(poisson(50, 0.2, 2000, Stream(0)))
    sizes = torch.tensor([float(len(indices)) for indices in batches])
    counts = torch.bincount(torch.cat(batches), minlength=50).float()
    assert float((counts / 2000 - 0.2).abs().max()) < 0.04
    assert float(sizes.var()) == pytest.approx(50 * 0.2 * 0.8, rel=0.1), "binomial, not fixed"


# --- in the training loop --------------------------------------------------------------------------------------------


def _seen(name: str, seed: int = 0, epochs: int = 2, **params: Any) -> list[dict[int, Tensor]]:
    """What the network sees, epoch by epoch: the image of each training index, which its label names."""
    data = ImageSet(_pictures(20), torch.arange(20), 20)
    recipe = RecipeSection(arch="convnet", epochs=epochs, batch=8, lr=0.001, weight_decay=0.0)
    seen: list[dict[int, Tensor]] = [{} for _ in range(epochs)]

    def loss(batch: Batch, output: Output, progress: Progress) -> Tensor:
        assert batch.standard is not None and torch.equal(batch.standard, data.images[batch.labels])
        seen[progress.epoch] |= dict(zip(batch.labels.tolist(), batch.images, strict=True))
        return functional.cross_entropy(output.logits, batch.labels)

    defense = _defense(name, **params)
    torch.manual_seed(0)
    fit_classifier(
        ConvNet(20, 1, 32),
        data,
        recipe,
        lambda purpose: Stream(stream_seed(seed, purpose)),
        lambda *arguments: Loop(*arguments, None, None),
        "train",
        loss,
        defense.augment,
        defense.sampler,
    )
    return seen


def test_the_loop_tells_the_defense_which_images_it_sees() -> None:
    first, second = _seen("re_fixed")
    assert first.keys() == second.keys() == set(range(20))
    assert all(torch.equal(first[i], second[i]) for i in first)
    other = _seen("re_fixed", seed=1)[0]
    assert sum(torch.equal(first[i], other[i]) for i in first) < 3
    moving, moved = _seen("re")
    assert sum(torch.equal(moving[i], moved[i]) for i in moving) < 3


def test_skipped_images_do_not_reach_the_network() -> None:
    epochs = _seen("re_entire", epochs=6, share=0.5)
    images = _pictures(20)
    assert all(torch.equal(image, images[i]) for epoch in epochs for i, image in epoch.items())
    assert 20 < sum(len(epoch) for epoch in epochs) < 100
