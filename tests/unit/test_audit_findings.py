"""Whether it is the owner's network, and what an audit may conclude: on made-up networks, photos and runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import make_run
from PIL import Image
from scipy.stats import binomtest
from torch import Tensor, nn

from mibench import data
from mibench.audit import accuracy
from mibench.audit.findings import Judge, Models, findings, recognised
from mibench.audit.foreign import Way
from mibench.audit.report import next_steps, page
from mibench.audit.request import AuditRequest, normalisation, read_order
from mibench.data import tracked
from mibench.errors import UserError
from mibench.records import MetricValue, RunRecord
from mibench.registry.own_tracks import read_track
from mibench.resources import resource_root
from mibench.stats.audit import matched, share_interval

SIDE = 16
NAMES = [str(number) for number in range(1, 12)]  # numbered: 1, 2, ... 11, or 1, 10, 11, 2, ...


# --- is it the owner's network? -------------------------------------------------------------------------------------


def patterns(count: int) -> np.ndarray:
    """(count, SIDE, SIDE, 3) uint8: a coarse pattern for each class; of four in turn one is as drawn, one has red for
    blue, one is upside down, one is both."""
    drawn = np.random.RandomState(0).randint(0, 256, (count, 4, 4, 3)).astype(np.uint8)
    turns = (lambda x: x, lambda x: x[..., ::-1], lambda x: x[::-1, ::-1], lambda x: x[::-1, ::-1, ::-1])
    coarse = [turns[number % 4](drawn[number - number % 4]) for number in range(count)]
    return np.stack([np.kron(each, np.ones((SIDE // 4, SIDE // 4, 1), np.uint8)) for each in coarse])


class Nearest(nn.Module):
    """Knows each class by its pattern: logits are less the squared distances to them, as pixels of 0 to ``top``."""

    def __init__(self, known: np.ndarray, top: float = 1.0, end: Callable[[Tensor], Tensor] = lambda z: z) -> None:
        super().__init__()
        self.register_buffer("known", torch.from_numpy(known).permute(0, 3, 1, 2).flatten(1).float() / 255 * top)
        self.top, self.end = top, end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(-torch.cdist(x.flatten(1), self.known).square() / self.top**2)


def photos(root: Path, count: int, exif: int | None = None, clear: bool = False) -> None:
    """Four noisy photos of each of ``count`` classes, in folders called 1, 2, ..."""
    rng, options = np.random.RandomState(1), {}
    if exif is not None:
        noted = Image.Exif()
        noted[0x0112] = exif
        options = {"exif": noted}
    for name, pattern in zip(NAMES, patterns(count), strict=False):
        for number in range(4):
            noisy = np.clip(pattern + rng.normal(0, 12, pattern.shape), 0, 255).astype(np.uint8)
            if clear:  # all lies hidden in transparent pixels
                noisy = np.concatenate([noisy, np.zeros_like(noisy[..., :1])], 2)
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(noisy).save(root / name / f"{number}.png", **options)


def checked(tmp_path: Path, network: nn.Module, **asked: Any) -> tuple[accuracy.Accuracy, float]:
    track = tmp_path / "own.yaml"
    track.write_text(
        f"root: photos\nresolution: {SIDE}\nprivate: {{class_order: {asked.get('class_order', 'natural')}}}\n"
    )
    found, home = read_track(track), tmp_path / "home"
    tracked.prepare(found, home)
    given: dict[str, Any] = {
        "arch": "x",
        "resolution": SIDE,
        "channels": 3,
        "normalise": "none",
        "class_order": "natural",
    }
    given |= {"checkpoint": "x.pth", "data": tmp_path / "photos", "epochs": 1, "images": 1, "out": tmp_path} | asked
    return accuracy.check(AuditRequest(**given), network.eval(), Way(), data.load(tracked.resolve(found, home), home))


def test_the_owners_network_is_known_by_its_accuracy(tmp_path: Path) -> None:
    photos(tmp_path / "photos", 4)
    found, scale = checked(tmp_path, Nearest(patterns(4)), expect_accuracy=1.0)
    assert (found.value, found.n, found.chance, scale) == (1.0, 12, 0.25, 1.0)
    found, scale = checked(tmp_path, Nearest(patterns(4), end=lambda z: z / 5000), expect_accuracy=1.0)
    assert found.value == 1.0 and found.sure < 0.3 and scale >= 256, "as cosines without their scale"


@pytest.mark.parametrize(
    ("network", "made", "asked", "better"),
    [
        (Nearest(patterns(11)), {"count": 11}, {"class_order": "lexicographic"}, "--class-order natural: 100%"),
        (
            Nearest(patterns(4)[[2, 0, 3, 1]]),
            {"count": 4},
            {},
            r"classes in another order \(--class-order FILE\): 100%",
        ),
        (Nearest(patterns(8), 255.0), {"count": 8}, {}, "--normalise bytes: 100%"),
        (Nearest(patterns(4)[..., ::-1].copy()), {"count": 4}, {}, "--bgr: 100%"),
        (Nearest(patterns(4)), {"count": 4, "exif": 3}, {}, "--decode imagefolder: 100%"),
        (Nearest(patterns(4)), {"count": 4, "clear": True}, {}, "--decode (imagefolder|opencv): 100%"),
        (Nearest(patterns(4), end=lambda z: -z), {"count": 4}, {}, "smallest, not largest.*: 100%"),
        (Nearest(patterns(4)[[0, 0, 0, 0]]), {"count": 4}, {}, "It names 1 for 100% of them"),
    ],
    ids=["order", "any order", "bytes", "bgr", "exif", "alpha", "energies", "one answer"],
)
def test_another_function_than_the_owners_is_refused_with_its_reason(
    network: nn.Module, made: dict[str, Any], asked: dict[str, Any], better: str, tmp_path: Path
) -> None:
    photos(tmp_path / "photos", **made)
    with pytest.raises(UserError, match=better) as error:
        checked(tmp_path, network, **asked, expect_accuracy=0.95)
    assert "Nothing was attacked" in str(error.value)


def test_an_untrained_network_is_refused_unless_its_owner_says_so(tmp_path: Path) -> None:
    photos(tmp_path / "photos", 4)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(UserError, match="the weights are not trained") as error:
        checked(tmp_path, network)
    stated = float(str(error.value).rpartition(" ")[2])
    assert checked(tmp_path, network, expect_accuracy=stated)[0].value == pytest.approx(stated, abs=0.01)


@pytest.mark.parametrize(
    ("hits", "n", "classes", "guessed"),
    [(4, 12, 3, True), (7, 12, 3, True), (12, 12, 3, False), (40, 120, 10, False), (4, 4, 2, False)],
)
def test_near_chance(hits: int, n: int, classes: int, guessed: bool) -> None:
    assert accuracy.Accuracy(hits / n, n, (0,) * classes).guessed is guessed


def test_far_below_what_is_stated() -> None:
    assert accuracy.Accuracy(0.80, 256, (0,) * 10).below(0.95)
    assert not accuracy.Accuracy(0.90, 256, (0,) * 10).below(0.95)
    assert not accuracy.Accuracy(0.80, 10, (0,) * 10).below(0.95), "ten images do not tell"


def test_normalisations_of_bytes() -> None:
    """(255 x - mean) / std of pixels in 0 to 255 is the same function of pixels in 0 to 1."""
    x = np.random.RandomState(0).rand(5)
    for text, expected in (
        ("123.675,116.28,103.53:58.395,57.12,57.375", (255 * x - 123.675) / 58.395),
        ("127.5:127.5", 2 * x - 1),
        ("0:255", x),
        ("bytes", 255 * x),
        ("0.5:0.25", (x - 0.5) / 0.25),
    ):
        mean, std = normalisation(text, 3)
        np.testing.assert_allclose((x - mean[0]) / std[0], expected)


@pytest.mark.parametrize(
    "text", ["b\na\n\nc\n", '["b", "a", "c"]', '{"b": 0, "a": 1, "c": 2}', '{"0": "b", "2": "c", "1": "a"}']
)
def test_orders_of_classes_from_files(text: str, tmp_path: Path) -> None:
    (tmp_path / "order").write_text(text)
    assert read_order(tmp_path / "order") == ["b", "a", "c"]


@pytest.mark.parametrize("text", ['{"a": 0, "b": 2}', "{", '{"a": [1]}'])
def test_what_is_no_order_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "order").write_text(text)
    with pytest.raises(UserError, match="is no order of classes"):
        read_order(tmp_path / "order")


# --- what may be concluded? -----------------------------------------------------------------------------------------


def test_matching_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    tables = [rng.dirichlet(np.ones(5), 5) for _ in range(2)]
    best = max(np.trace(table) for table in tables)
    ways = list(permutations(range(5)))
    reached = [max(sum(table[row, way[row]] for row in range(5)) for table in tables) for way in ways]
    assert matched(tables) == pytest.approx(np.mean([value >= best - 1e-9 for value in reached]))


def test_one_answer_to_everything_tells_nothing_and_few_classes_little() -> None:
    assert matched([np.eye(10)[[3] * 10]]) == 1.0
    for count in (3, 5):
        assert matched([np.eye(count)]) == pytest.approx(1 / math.factorial(count))
    assert matched([np.eye(12)]) < 1e-3
    assert matched([np.eye(12)[:4]]) == pytest.approx(1 / 24), "four of twelve classes attacked"


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (3, 10), (9, 9)])
def test_intervals_of_shares_are_scipys(hits: int, n: int) -> None:
    theirs = binomtest(hits, n).proportion_ci(0.95, "exact")
    assert share_interval(hits, n) == pytest.approx((theirs.low, theirs.high))


MODELS = Models("own_model", "none", "re", "Random erasing", "floor", "ceiling", "photos")
CLASSES = [f"c{number}" for number in range(10)]


def judged(defense: str, attack: str, verdicts: list[int]) -> RunRecord:
    """A run with two reconstructions of each of ten classes, both taken for the same class."""
    images = [
        {"label": label, "index": index, "file": "", "verdict": verdict, "correct": label == verdict, "confidence": 0.5}
        for label, verdict in enumerate(verdicts)
        for index in range(2)
    ]
    rates = {str(label): float(label == verdict) for label, verdict in enumerate(verdicts)}
    value = MetricValue(sum(rates.values()) / 10, 20, 0.0, 1.0, None, rates)
    metrics = {"att1": value, "att1_step0": MetricValue(0.1, 20), "nat1": MetricValue(0.9, 20)}
    return make_run(defense=defense, attack=attack, images=images, metrics=metrics, chance=0.1)


KNOWING = Judge(0.95, 40)


def report(verdicts: list[int], judge: Judge | None = KNOWING) -> dict[str, Any]:
    runs = [judged(defense, "gmi", verdicts) for defense in ("own_model", "none", "re")]
    runs += [judged("own_model", "floor", [0] * 10), judged("none", "photos", list(range(10)))]
    return findings("m.pth", CLASSES, runs, MODELS, judge, {}, [])


def test_a_judge_with_one_answer_exposes_nobody() -> None:
    """As of an untrained network: one class is recognised at 100 %, and that is chance."""
    found = report([3] * 10)
    assert found["verdict"]["leaks"] is False and found["p"] == 1 and found["exposed"] == []
    assert (
        found["verdict"]["title"] == "Not told apart from chance" and "c3, to 100.0 %" in found["verdict"]["sentence"]
    )
    assert found["recognised"][0]["rate"] == 1 and found["recognised"][0]["others"] == 1


def test_a_leak_is_told_with_its_evidence() -> None:
    found = report([0, 1, 2, 3, 4, 5, 6, 7, 7, 7])
    assert found["verdict"]["leaks"] is True and found["p"] < 0.01
    assert {item["class"] for item in found["exposed"]} == {f"c{n}" for n in range(7)}, "others are taken for c7"
    assert (found["floor"]["value"], found["photos"]["value"], found["ceiling"]) == (0.1, 1.0, None)
    assert found["judge"]["useful"] and found["attacks"][0]["own"]["ci_low"] > 0.3


def test_a_judge_that_knows_nothing_gives_no_verdict() -> None:
    for judge in (Judge(0.1, 40), None):
        assert report(list(range(10)), judge)["verdict"]["leaks"] is None


def test_two_classes_never_tell() -> None:
    runs = [judged("own_model", "gmi", list(range(10)))]
    runs[0].images[:] = [image for image in runs[0].images if image["label"] < 2]
    runs[0].metrics["att1"].per_identity.clear()
    runs[0].metrics["att1"].per_identity.update({"0": 1.0, "1": 1.0})
    found = findings("m.pth", CLASSES, runs, MODELS, Judge(0.95, 40), {}, [])
    assert found["verdict"]["leaks"] is False and "With 2 classes attacked" in found["verdict"]["sentence"]


def test_the_page_begins_with_the_verdict_and_ends_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "b").mkdir()
    request = AuditRequest(
        checkpoint="x.pth", arch="x", data=tmp_path / "photos", resolution=16, channels=3, normalise="none", epochs=1,
        images=1, out=tmp_path / "out here",
    )  # fmt: skip
    for verdicts, leaks in (([3] * 10, False), (list(range(10)), True)):
        found = report(verdicts) | {"unfinished": None}
        found["next"] = next_steps(found, request)
        text = page(found, [], resource_root() / "site" / "audit")
        order = [text.index(word) for word in (found["verdict"]["title"], "<h2>Attacks", "What to do next")]
        assert order == sorted(order) and ("Train with a defense" in text) is leaks
        assert ("No class stands out" in text) is not leaks
        assert any(f"--track '{tmp_path}/out here/track.yaml'" in step for step in found["next"])


def test_nobody_is_recognised_without_runs() -> None:
    assert recognised(["a"], []) == []
    assert findings("m", CLASSES, [], MODELS, None, {}, [])["verdict"]["leaks"] is None
