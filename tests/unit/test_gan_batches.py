"""Which public images a GAN sees when, and when the target labels them: WGAN-GP and KEDMI's K+1 GAN."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mibench.contracts import ImageSet, Loop, Oracle, PriorContext, TrackInfo
from mibench.keys import stream_seed
from mibench.nets.base import Classifier, Output
from mibench.primitives.training import Epochs
from mibench.random import Stream
from mibench.registry import Registry

CLASSES, PUBLIC, BATCH = 3, 14, 4
TRACK = TrackInfo("t", "faces", resolution=32, channels=1, num_classes=CLASSES, fill=(0.5,))
SMALL: dict[str, Any] = {"batch": BATCH, "width": 2, "latent_dim": 5}


class Context(PriorContext):
    def __init__(self, oracle: Oracle | None) -> None:
        self.device, self.track, self.seed, self.oracle = torch.device("cpu"), TRACK, 0, oracle
        self.public = ImageSet(Stream(5).uniform(PUBLIC, 1, 32, 32), torch.full((PUBLIC,), -1), CLASSES)
        self.state: dict[str, Any] = {}

    def stream(self, name: str) -> Stream:
        return Stream(stream_seed(name))

    def loop(self, name: str, steps: int, state: dict[str, Any]) -> Loop:
        self.state = state
        return Loop(name, steps, state, None, None)


class Moody(Classifier):
    """A target whose answer is its own at every call: ``logits`` of the call's number."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    @staticmethod
    def logits(call: int) -> Tensor:
        return torch.tensor([0.1, 0.2, 0.3]) * call

    def forward(self, images: Tensor, rng: Any = None) -> Output:
        self.calls += 1
        return Output(self.logits(self.calls).expand(len(images), -1), images.flatten(1), {})


def trained(name: str, steps: int, **params: Any) -> tuple[Context, Moody, list[Tensor]]:
    """The context, the target, and what the critic was given in each forward pass."""
    cls: Any = Registry().plugin("prior", name)
    prior = cls(cls.Params(steps=steps, **SMALL | params), TRACK)
    target = Moody()
    ctx = Context(Oracle(target, "scores", CLASSES) if cls.scope == "target" else None)
    torch.manual_seed(0)
    model = prior.build()
    seen: list[Tensor] = []
    model.critic.register_forward_pre_hook(lambda net, given: seen.append(given[0].detach()))
    prior.train(ctx, model)
    return ctx, target, seen


def shown(ctx: Context, images: Tensor) -> list[int]:
    """Which public images these are."""
    distance = torch.cdist(images.flatten(1), ctx.public.images.flatten(1))
    assert float(distance.amin(1).max()) < 1e-3
    return distance.argmin(1).tolist()


def test_epochs_show_every_image_once_and_leave_the_rest_out() -> None:
    """14 images in batches of 4: three batches, two images left out, others in every epoch. From any step alike."""
    batches = Epochs(lambda name: Stream(stream_seed(name)), "x", PUBLIC, BATCH)
    drawn = [batches(step) for step in range(60)]
    epochs = [torch.cat(drawn[start : start + 3]).tolist() for start in range(0, 60, 3)]
    assert all(len(set(epoch)) == 12 for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) == 20
    assert {i for epoch in epochs for i in epoch} == set(range(PUBLIC))
    resumed = Epochs(lambda name: Stream(stream_seed(name)), "x", PUBLIC, BATCH)
    assert all(torch.equal(resumed(step), drawn[step]) for step in (40, 41, 42, 7))
    assert len(Epochs(lambda name: Stream(0), "x", 3, BATCH)(5)) == 3, "fewer images than a batch: all of them"


@pytest.mark.parametrize("batches", ["replacement", "epochs"])
def test_wgan_gp_goes_through_epochs_if_asked(batches: str) -> None:
    """Of the critic's passes in a step with critic_steps=2 the second is the one at reals (fakes, reals, between)."""
    ctx, _, seen = trained("wgan_gp", 6, critic_steps=100, batches=batches)
    reals = [shown(ctx, images) for images in seen[1::3]]
    assert len(reals) == 6
    whole = [len({i for batch in reals[start : start + 3] for i in batch}) == 12 for start in (0, 3)]
    assert all(whole) is (batches == "epochs")


@pytest.mark.parametrize("batches", ["replacement", "epochs"])
def test_the_k_plus_one_gan_has_three_epochs_of_its_own(batches: str) -> None:
    """Batches A, B of every step and C of every step with the generator's; each goes through all images."""
    ctx, _, seen = trained("k_plus_one", 6, discriminator_steps=1, batches=batches)
    both = [images for images in seen if len(images) == 3 * BATCH]
    assert len(both) == 6 and len(seen) == 6 * 3
    kinds = {
        "A": [shown(ctx, images[:BATCH]) for images in both],
        "B": [shown(ctx, images[BATCH : 2 * BATCH]) for images in both],
        "C": [shown(ctx, images) for images in seen[1::3]],
    }
    for kind in kinds.values():
        whole = [len({i for batch in kind[start : start + 3] for i in batch}) == 12 for start in (0, 3)]
        assert all(whole) is (batches == "epochs")
    assert kinds["A"] != kinds["B"] and kinds["B"] != kinds["C"]


def test_a_stochastic_targets_labels_are_drawn_once_or_at_each_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target's third call answers 0.3, 0.6, 0.9 before the softmax: so do the labels of the third step."""
    used: list[Tensor] = []
    module = sys.modules[Registry().plugin("prior", "k_plus_one").__module__]
    usual = module.discriminator_loss
    monkeypatch.setattr(module, "discriminator_loss", lambda *given: [used.append(given[1]), usual(*given)][1])

    ctx, target, _ = trained("k_plus_one", 4)
    assert target.calls == 1 and ctx.oracle is not None and "oracle" not in ctx.state
    assert ctx.oracle.counts() == {"shared": {"prior": {"forward": PUBLIC, "gradient": 0, "label": 0}}}
    for labels in used:
        torch.testing.assert_close(labels.softmax(1), Moody.logits(1).softmax(0).expand(BATCH, -1))

    used.clear()
    ctx, target, _ = trained("k_plus_one", 4, labels="always")
    assert target.calls == 4 and ctx.oracle is not None
    assert ctx.oracle.counts() == {"shared": {"prior": {"forward": 4 * BATCH, "gradient": 0, "label": 0}}}
    for call, labels in enumerate(used, 1):
        torch.testing.assert_close(labels.softmax(1), Moody.logits(call).softmax(0).expand(BATCH, -1))
    assert ctx.state["oracle"] is ctx.oracle, "counts and noise outlive an interruption"
    assert isinstance(ctx.state["model"], nn.Module)
