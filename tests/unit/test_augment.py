"""Augmentation: random erasing and crops against torchvision, the warp against whole-pixel truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
import torch
import torchvision
from torch import Tensor
from torchvision.transforms import functional as tv

from mibench.contracts import TrackInfo
from mibench.images.augment import erase_rectangles, mirror, resized_crop, shift_flip_warp
from mibench.random import RowStreams, Stream
from mibench.registry import Registry


class Scripted:
    """An Rng that answers ``uniform`` with the given tensors, in order."""

    def __init__(self, *values: Tensor) -> None:
        self._values = iter(values)

    def uniform(self, n: int, *shape: int) -> Tensor:
        return next(self._values).reshape(n, *shape)

    def normal(self, n: int, *shape: int) -> Tensor:
        raise AssertionError("not scripted")


def _pictures(n: int, channels: int, height: int, width: int) -> Tensor:
    """Random images in [0.25, 0.75], so that a fill of 0 or 1 marks what was erased."""
    return 0.25 + 0.5 * Stream(0).uniform(n, channels, height, width)


def _boxes(mask: Tensor) -> Tensor:
    """(N, 4) top, left, height and width of each (N, H, W) mask; asserts that each is one full rectangle."""
    rows, columns = mask.any(2), mask.any(1)
    top, left = rows.float().argmax(1), columns.float().argmax(1)
    height, width = rows.sum(1), columns.sum(1)
    assert torch.equal(mask.sum((1, 2)), height * width)
    for i in range(len(mask)):
        assert mask[i, top[i] : top[i] + height[i], left[i] : left[i] + width[i]].all()
    return torch.stack([top, left, height, width], 1)


# --- random erasing ----------------------------------------------------------------------------------------


def test_every_image_loses_one_square_of_its_own() -> None:
    images = _pictures(64, 3, 224, 224)
    erased = erase_rectangles(images, Stream(1), (0.1, 0.8), mean=(0.9, 0.8, 0.7))
    changed = (erased != images).any(1)
    boxes = _boxes(changed)
    assert torch.equal(boxes[:, 2], boxes[:, 3])
    assert len(boxes.unique(dim=0)) > 60, "the images of a batch share their squares"
    for i, (top, left, side, _) in enumerate(boxes.tolist()):
        patch = erased[i, :, top : top + side, left : left + side]
        assert torch.equal(patch, torch.tensor([0.9, 0.8, 0.7])[:, None, None].expand_as(patch))
    assert torch.equal(erased[~changed[:, None].expand_as(erased)], images[~changed[:, None].expand_as(images)])


def test_concealed_fraction_and_sides_at_224() -> None:
    """Spec F.1: mean 0.45 +- 0.01 over 4k draws for (0.1, 0.8), side in [71, 200]."""
    rng, images = Stream(2), torch.zeros(200, 1, 224, 224)
    erased = (erase_rectangles(images, rng, (0.1, 0.8), mean=(1.0,))[:, 0] for _ in range(20))
    side = torch.cat([image.amax(2).sum(1) for image in erased])
    assert float((side**2).mean()) / 224**2 == pytest.approx(0.45, abs=0.01)
    assert 71 <= side.min() <= 75 and 196 <= side.max() <= 200


@pytest.mark.parametrize("size", [64, 112, 224])
@pytest.mark.parametrize("area", [0.1, 0.4, 0.5, 0.7, 0.8])
def test_side_is_the_rounded_root_of_the_area(size: int, area: float) -> None:
    mask = erase_rectangles(torch.zeros(4, 1, size, size), Stream(0), (area, area), mean=(1.0,))[:, 0] > 0
    assert _boxes(mask)[:, 2].tolist() == [round(size * area**0.5)] * 4


def _torchvision_boxes(n: int, shape: tuple[int, int], p: float, area: tuple, ratio: tuple) -> Tensor:
    erasing = torchvision.transforms.RandomErasing(p, area, ratio, value=1.0)
    image = torch.zeros(1, *shape)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return torch.stack([erasing(image)[0] > 0 for _ in range(n)])


@pytest.mark.parametrize(
    ("shape", "p", "area", "ratio"),
    [
        ((32, 32), 1.0, (0.1, 0.8), (1.0, 1.0)),
        ((32, 32), 0.6, (0.1, 0.4), (0.3, 3.3)),
        ((24, 40), 1.0, (0.2, 0.6), (0.3, 3.3)),
        ((16, 16), 1.0, (0.9, 0.999), (0.2, 5.0)),
    ],
    ids=["square", "p", "oblong", "failing tries"],
)
def test_the_distribution_is_torchvisions(
    shape: tuple[int, int], p: float, area: tuple[float, float], ratio: tuple[float, float]
) -> None:
    n = 3000
    ours = erase_rectangles(torch.zeros(n, 1, *shape), Stream(3), area, p, ratio, mean=(1.0,))[:, 0] > 0
    theirs = _torchvision_boxes(n, shape, p, area, ratio)
    touched, touched_theirs = ours.any((1, 2)), theirs.any((1, 2))
    table = [[int(t.sum()), n - int(t.sum())] for t in (touched, touched_theirs)]
    if min(table[0][1], table[1][1]) > 0:
        assert scipy.stats.chi2_contingency(table).pvalue > 0.001
    else:
        assert table[0] == table[1] == [n, 0]
    a, b = _boxes(ours[touched]).double(), _boxes(theirs[touched_theirs]).double()
    room = torch.tensor(shape)
    measures = {
        "area": lambda box: box[:, 2] * box[:, 3],
        "aspect": lambda box: box[:, 2] / box[:, 3],
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
        "relative top": lambda box: (box[:, 0] + 0.5) / (room[0] - box[:, 2] + 1),
        "relative left": lambda box: (box[:, 1] + 0.5) / (room[1] - box[:, 3] + 1),
    }
    for name, measure in measures.items():
        assert scipy.stats.ks_2samp(measure(a), measure(b)).pvalue > 0.001, name
    heat, heat_theirs = ours.float().mean(0), theirs.float().mean(0)
    spread = ((heat * (1 - heat) + heat_theirs * (1 - heat_theirs)) / n).sqrt().clamp(min=1e-3)
    assert float(((heat - heat_theirs) / spread).abs().max()) < 5, "some pixels are hidden more often"


def test_failing_tries_really_fail() -> None:
    """The last case above would test little if every try fitted."""
    masks = _torchvision_boxes(500, (16, 16), 1.0, (0.9, 0.999), (0.2, 5.0))
    assert 0.02 < float((~masks.any((1, 2))).float().mean()) < 0.98


def test_a_rectangle_can_lie_anywhere_it_fits() -> None:
    """Inclusive bounds: a 2x2 square in 3x3 images takes each of its four places a quarter of the time."""
    mask = erase_rectangles(torch.zeros(4000, 1, 3, 3), Stream(4), (4 / 9, 4 / 9), mean=(1.0,))[:, 0] > 0
    places = _boxes(mask)[:, :2]
    counts = [int((places == torch.tensor(at)).all(1).sum()) for at in itertools.product((0, 1), repeat=2)]
    assert sum(counts) == 4000
    assert scipy.stats.chisquare(counts).pvalue > 0.001


def test_no_image_changes_with_p_zero() -> None:
    images = _pictures(8, 1, 16, 16)
    assert torch.equal(erase_rectangles(images, Stream(0), (0.1, 0.4), p=0.0), images)


def test_rows_erase_the_same_alone_and_together() -> None:
    images = _pictures(6, 1, 32, 32)
    names = [(0, label, 0) for label in range(6)]
    for fill in ("mean", "patch", "noise"):
        whole = erase_rectangles(images, RowStreams(names, "adapt"), (0.1, 0.4), fill=fill)
        for i in (0, 4):
            alone = erase_rectangles(images[i : i + 1], RowStreams(names[i : i + 1], "adapt"), (0.1, 0.4), fill=fill)
            assert torch.equal(alone[0], whole[i])


def _patches(fill: object, mean: tuple[float, ...] = (0.9, 0.8, 0.7)) -> tuple[Tensor, list[Tensor]]:
    images = _pictures(6, 3, 32, 32)
    erased = erase_rectangles(images, Stream(6), (0.2, 0.4), fill=fill, mean=mean)  # type: ignore[arg-type]
    boxes = _boxes((erased != images).any(1))
    return images, [
        image[:, top : top + height, left : left + width]
        for image, (top, left, height, width) in zip(erased, boxes.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    ("fill", "colour"),
    [("mean", (0.9, 0.8, 0.7)), ("zero", (0.0, 0.0, 0.0)), ((0.1, 0.2, 0.15), (0.1, 0.2, 0.15))],
    ids=str,
)
def test_constant_fills(fill: object, colour: tuple[float, ...]) -> None:
    for patch in _patches(fill)[1]:
        assert torch.equal(patch, torch.tensor(colour)[:, None, None].expand_as(patch))


def test_image_mean_fill() -> None:
    images, patches = _patches("image_mean")
    for image, patch in zip(images, patches, strict=True):
        expected = image.mean((1, 2))[:, None, None].expand_as(patch)
        assert torch.allclose(patch, expected, atol=1e-6)


def test_patch_fill_is_one_colour_per_image() -> None:
    patches = _patches("patch")[1]
    colours = torch.stack([patch[:, 0, 0] for patch in patches])
    for patch, colour in zip(patches, colours, strict=True):
        assert torch.equal(patch, colour[:, None, None].expand_as(patch))
    assert len(colours.unique(dim=0)) == 6 and len(colours[0].unique()) == 3


def test_noise_fill_is_normal_per_pixel() -> None:
    values = torch.cat([patch.flatten() for patch in _patches("noise")[1]])
    assert scipy.stats.kstest(values.numpy(), "norm").pvalue > 0.001


# --- the defense's fill space ------------------------------------------------------------------------------

IMAGENET = (0.485, 0.456, 0.406)


def _erasing(normalisation: tuple[float, float] | None = (0.5, 0.5), **params: object) -> Tensor:
    """The colour that the defense writes into a colour image, in pixel space."""
    track = TrackInfo("t", "faces", 32, 3, 5, IMAGENET, normalisation=normalisation)
    cls = Registry().plugin("defense", "re")
    images = torch.full((1, 3, 32, 32), 0.3)
    erased = cls(cls.Params(**params), track).augment(images, Stream(0))
    return erased[0][:, (erased != images)[0].all(0)][:, 0]


def test_fill_after_normalisation_is_a_light_grey_in_pixels() -> None:
    """Spec F.2: the published fill is the ImageNet mean written after (x - 0.5) / 0.5."""
    assert torch.allclose(_erasing(), torch.tensor([0.7425, 0.728, 0.703]))
    assert torch.allclose(_erasing(fill=0.0), torch.full((3,), 0.5))


@pytest.mark.parametrize(
    ("normalisation", "space"), [((0.5, 0.5), "pixel"), (None, "model_input"), (None, "pixel")], ids=str
)
def test_fill_in_pixels(normalisation: tuple[float, float] | None, space: str) -> None:
    assert torch.allclose(_erasing(normalisation, fill_space=space), torch.tensor(IMAGENET))
    assert torch.allclose(_erasing(normalisation, fill_space=space, fill=0.25), torch.full((3,), 0.25))


# --- crops -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("top", "left", "side"), [(0, 0, 8), (3, 5, 8), (8, 8, 8), (0, 7, 9), (2, 1, 13)])
def test_a_crop_of_whole_pixels_is_torchvisions(top: int, left: int, side: int) -> None:
    images = _pictures(2, 3, 16, 16)
    room = 16 - side
    area = (side / 16) ** 2
    place = [0.0, 0.0, top / room, left / room]
    ours = resized_crop(images, Scripted(torch.tensor([place, place])), (area, area))
    expected = tv.resize(tv.crop(images, top, left, side, side), [16, 16], antialias=False)
    assert torch.allclose(ours, expected, atol=1e-5)


def test_an_oblong_crop_is_torchvisions() -> None:
    """6 high and 12 wide of 16: area 72/256, ratio width / height 2, as in torchvision's RandomResizedCrop."""
    images = _pictures(1, 1, 16, 16)
    rng = Scripted(torch.tensor([[0.0, 0.0, 3 / 10, 1 / 4]]))
    ours = resized_crop(images, rng, (72 / 256, 72 / 256), (2.0, 2.0))
    expected = tv.resize(tv.crop(images, 3, 1, 6, 12), [16, 16], antialias=False)
    assert torch.allclose(ours, expected, atol=1e-5)


def test_a_crop_shows_nothing_from_outside_itself() -> None:
    """A white square in a black image, cropped to exactly: all white."""
    images = torch.zeros(1, 1, 16, 16)
    images[..., 4:12, 4:12] = 1
    ours = resized_crop(images, Scripted(torch.tensor([[0.0, 0.0, 0.5, 0.5]])), (0.25, 0.25))
    assert torch.allclose(ours, torch.ones_like(ours))


def test_a_crop_of_everything_is_the_image() -> None:
    images = _pictures(3, 3, 17, 17)
    assert torch.allclose(resized_crop(images, Stream(0), (1.0, 1.0)), images, atol=1e-6)


def test_crops_differ_per_image_and_stay_in_range() -> None:
    images = _pictures(1, 1, 16, 16).expand(12, 1, 16, 16)
    crops = resized_crop(images, Stream(0), (0.5, 0.9), (0.8, 1.2))
    assert len(crops.flatten(1).unique(dim=0)) == 12
    assert images.min() - 1e-6 <= crops.min() and crops.max() <= images.max() + 1e-6


def test_crop_area_and_place_are_uniform() -> None:
    """Of a horizontal and a vertical ramp a crop keeps its corners: width, height and place can be read off."""
    n, size = 4000, 32
    ramp = (torch.arange(size) + 0.5) / size
    images = torch.stack([ramp.expand(size, size), ramp[:, None].expand(size, size)]).expand(n, 2, size, size)
    crops = resized_crop(images, Stream(8), (0.5, 0.9))
    inner = size // 2 - 4, size // 2 + 4  # away from the clamped border
    side = [(crops[:, c].transpose(1, 2) if c else crops[:, c])[:, 0, inner[1]] for c in (0, 1)]
    start = [(crops[:, c].transpose(1, 2) if c else crops[:, c])[:, 0, inner[0]] for c in (0, 1)]
    width, height = ((b - a) * size / 8 for a, b in zip(start, side, strict=True))
    assert torch.allclose(width, height, atol=1e-4)
    area = ((width * height - 0.5) / 0.4).numpy()
    assert scipy.stats.kstest(area, "uniform").pvalue > 0.001
    left = start[0] - width * (inner[0] + 0.5) / size
    assert scipy.stats.kstest((left / (1 - width)).numpy(), "uniform").pvalue > 0.001


def test_gradients_flow_through_a_crop() -> None:
    images = _pictures(2, 1, 8, 8).double().requires_grad_(True)
    place = torch.tensor([[0.3, 0.0, 0.4, 0.7], [0.9, 0.0, 0.1, 0.2]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: resized_crop(x, Scripted(place), (0.5, 0.9)), images)


def test_rows_crop_the_same_alone_and_together() -> None:
    images = _pictures(4, 1, 16, 16)
    names = [(0, label, 0) for label in range(4)]
    whole = resized_crop(images, RowStreams(names, "crop"), (0.5, 0.9))
    alone = resized_crop(images[2:3], RowStreams(names[2:3], "crop"), (0.5, 0.9))
    assert torch.allclose(alone[0], whole[2], atol=1e-6)


# --- the standard augmentation -----------------------------------------------------------------------------


def _warp_numbers(n: int, **named: float) -> Scripted:
    """The seven numbers of the warp in [-1, 1]: shift x, shift y, angle, zoom, flip, contrast, brightness."""
    names = ("x", "y", "angle", "zoom", "flip", "contrast", "brightness")
    u = torch.tensor([named.get(name, 0.0) for name in names])
    return Scripted(((u + 1) / 2).expand(n, 7))


def test_nothing_asked_nothing_changed() -> None:
    images = _pictures(5, 3, 32, 32)
    assert torch.allclose(shift_flip_warp(images, Stream(0)), images, atol=1e-5)


def test_a_pure_flip_is_a_mirror_image_half_of_the_time() -> None:
    images = _pictures(1, 1, 16, 16).expand(2000, 1, 16, 16)
    out = shift_flip_warp(images, Stream(0), flip=True)
    flipped = torch.isclose(out, images.flip(3), atol=1e-4).flatten(1).all(1)
    kept = torch.isclose(out, images, atol=1e-4).flatten(1).all(1)
    assert (flipped ^ kept).all()
    assert scipy.stats.binomtest(int(flipped.sum()), 2000).pvalue > 0.001


@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (0, 3), (-1, 2)])
def test_a_pure_shift_of_whole_pixels_replicates_the_border(dx: int, dy: int) -> None:
    images = _pictures(2, 1, 16, 16)
    out = shift_flip_warp(images, _warp_numbers(2, x=dx / 4, y=dy / 4), shift=0.25)  # at most 4 pixels
    rows = (torch.arange(16) + dy).clamp(0, 15)
    columns = (torch.arange(16) + dx).clamp(0, 15)
    assert torch.allclose(out, images[:, :, rows][:, :, :, columns], atol=1e-4)


def test_shifts_reach_their_range_and_no_further() -> None:
    """Of a ramp, a shift changes the middle by itself: uniform within 6 % of the side."""
    ramp = torch.arange(32.0)[None, None, None].expand(3000, 1, 32, 32)
    shift = shift_flip_warp(ramp, Stream(1), shift=0.06)[:, 0, 16, 16] - 16
    assert scipy.stats.kstest((shift / (0.06 * 32)).numpy(), "uniform", args=(-1, 2)).pvalue > 0.001


def test_a_quarter_turn_turns() -> None:
    images = _pictures(1, 1, 16, 16)
    out = shift_flip_warp(images, _warp_numbers(1, angle=0.5), rotate=180.0)
    assert torch.allclose(out, images.rot90(1, (2, 3)), atol=1e-4) or torch.allclose(
        out, images.rot90(-1, (2, 3)), atol=1e-4
    )


def test_light_scales_brightness_and_contrast() -> None:
    images = _pictures(1, 1, 16, 16)
    bright = shift_flip_warp(images, _warp_numbers(1, brightness=1.0), light=0.2)
    assert torch.allclose(bright, (1.2 * images).clamp(0, 1), atol=1e-4)
    contrast = shift_flip_warp(images, _warp_numbers(1, contrast=-1.0), light=0.2)
    assert float(contrast.std()) == pytest.approx(0.8 * float(images.std()), rel=1e-3)
    assert float(contrast.mean()) == pytest.approx(float(images.mean()), rel=1e-4)


def test_the_whole_warp_stays_in_range_and_differs_per_image() -> None:
    images = _pictures(1, 3, 32, 32).expand(20, 3, 32, 32)
    out = shift_flip_warp(images, Stream(0), 0.1, True, 12.0, 0.12, 0.2)
    assert out.shape == images.shape and out.min() >= 0 and out.max() <= 1
    assert len(np.unique(out.flatten(1).numpy(), axis=0)) == 20


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_mirror(p: float) -> None:
    images = _pictures(1, 1, 8, 8).expand(2000, 1, 8, 8)
    out = mirror(images, Stream(0), p)
    flipped = (out == images.flip(3)).flatten(1).all(1)
    assert ((out == images).flatten(1).all(1) ^ flipped).all()
    assert scipy.stats.binomtest(int(flipped.sum()), 2000, p).pvalue > 0.001
