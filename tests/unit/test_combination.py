"""Several defenses in one target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mibench.contracts import BaseParams, Batch, Defense, Output, Progress
from mibench.errors import UserError
from mibench.protocol.methods import Facts, combined, joined_by_plus
from mibench.registry import Registry
from mibench.registry.combination import Combined, brings
from mibench.running.request import apply_settings


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry()


def facts(registry: Registry, text: str) -> Facts:
    return registry.facts(registry.select("defense", text), registry.track("orl32"))


def test_plus_outside_brackets_separates() -> None:
    assert joined_by_plus("re[strong]+bido[coco]") == ["re[strong]", "bido[coco]"]
    assert joined_by_plus("re[x=a+b]") == ["re[x=a+b]"]
    assert joined_by_plus("re") == ["re"]


def test_the_order_of_the_parts_does_not_matter(registry: Registry) -> None:
    one, other = (facts(registry, text) for text in ("bido[coco]+re[strong]", "re[strong]+bido[coco]"))
    assert one == other
    assert (one.id, one.label) == ("re+bido", "re[strong]+bido[coco]")
    assert one.params["re"]["area"] == [0.1, 0.8] and one.params["bido"]["measure"] == "coco"
    assert one.non_default != facts(registry, "re+bido[coco]").non_default


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("bido+ls", "loss of their own"),
        ("mixup+cutmix", "mixing of their own"),
        ("mid+re_entire", "re_entire and mid each have a sampler of their own .*: a target has one"),
        ("trapmid+mixup", "would have no effect"),
        ("tl+distill", "training of their own"),
        ("re+re", "each defense once"),
        ("none+re", "only defenses"),
        ("trapmid+bido", "would have no effect"),
        ("dpsgd+ls", "would have no effect"),
        ("re+nothing", "nothing"),
        ("re+", "Cannot read"),
    ],
)
def test_what_cannot_be_combined(registry: Registry, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        facts(registry, text)


@pytest.mark.parametrize("text", ["re+bido", "re+mid", "re+ls", "re+tl", "tl+ls", "re+trapmid", "re+tl+bido"])
def test_what_can_be_combined(registry: Registry, text: str) -> None:
    assert set(facts(registry, text).id.split("+")) == set(text.split("+"))


def test_a_new_version_of_a_part_is_a_new_stage() -> None:
    part = Facts("defense", "a", "a", 1, {}, {}, "s")
    newer = Facts("defense", "a", "a", 2, {}, {}, "s")
    other = Facts("defense", "b", "b", 1, {}, {}, "s", deviations=("d",))
    before, after = combined([part, other]), combined([newer, other])
    assert before.non_default != after.non_default and before.version == after.version
    assert before.deviations == ("d",)
    assert combined([part, Facts("defense", "b", "b", 2, {}, {}, "s")]).non_default != after.non_default


def test_settings_go_to_the_parts_that_have_them(registry: Registry) -> None:
    asked = [registry.select("defense", text) for text in ("re+bido", "ls")]
    found = apply_settings(registry, asked, {"sigma": 2.0})
    assert [selection.label for selection in found] == ["re+bido[sigma=2.0]", "ls"]
    with pytest.raises(UserError, match="parameter of re, bido"):
        apply_settings(registry, asked[:1], {"beta": 1.0})


class Adds(Defense):
    class Params(BaseParams):
        amount: float = 1.0

    def augment(self, images: Tensor, rng: Any) -> Tensor:
        return images + self.params.amount

    def adapt(self, images: Tensor, rng: Any) -> Tensor:
        return images + self.params.amount

    def deploy(self, net: Any) -> Any:
        return [*net, self.params.amount]

    build = deploy


class Doubles(Adds):
    def augment(self, images: Tensor, rng: Any) -> Tensor:
        return 2 * images

    def loss(self, batch: Batch, output: Output, progress: Progress) -> Tensor:
        return torch.tensor(7.0)

    def sampler(self, labels: Tensor, batch: int, rng: Any) -> Iterator[Tensor]:
        return iter([labels])

    def mix(self, batch: Batch, rng: Any) -> Batch:
        return replace(batch, share=0.5)

    def train(self, ctx: Any) -> Any:
        return "trained"


def test_hooks_are_chained_or_taken_from_the_part_that_has_them() -> None:
    track: Any = None
    first, second = Adds(Adds.Params(), track), Doubles(Doubles.Params(amount=3.0), track)
    both, rng = Combined([first, second]), None
    one = torch.ones(1)
    assert float(both.augment(one, rng)) == 4 and float(Combined([second, first]).augment(one, rng)) == 3
    assert float(both.adapt(one, rng)) == 5  # type: ignore[arg-type]
    assert Combined([Defense(None, track), Defense(None, track)]).adapt(one, rng) is None
    assert both.build([]) == both.deploy([]) == [1.0, 3.0]
    assert float(both.loss(None, None, None)) == 7  # type: ignore[arg-type]
    assert [list(found) for found in [both.sampler(one, 1, rng)]] == [[one]]  # type: ignore[arg-type]
    assert both.train(None) == "trained"  # type: ignore[arg-type, comparison-overlap]
    assert brings(Adds) == () and brings(Doubles) == ("loss", "sampler", "mix", "train")
    assert both.mix(Batch(one, one), rng).share == 0.5  # type: ignore[arg-type]
    assert Combined([first, first]).sampler(one, 1, rng) is None  # type: ignore[arg-type]
