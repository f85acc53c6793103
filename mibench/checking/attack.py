"""An attack at work: reconstructions of an undefended target on the smallest track."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from mibench.boundary import in_words
from mibench.checking.bench import Bench
from mibench.checking.cost import cost_checks
from mibench.checking.lines import Line
from mibench.contracts import Oracle, Reconstruction
from mibench.contracts.oracle import AccessDenied
from mibench.errors import StageFailed, UserError
from mibench.planning.plan import Plan, Stage
from mibench.stages.invert import _Context
from mibench.stages.prior import load_prior
from mibench.store.artifacts import STATE

RANKS = ("labels", "scores", "white_box")
KINDS = {"labels": {"label"}, "scores": {"label", "forward"}, "white_box": {"label", "forward", "gradient"}}


def attack_checks(bench: Bench, name: str) -> Iterator[Line]:
    """The whole stage twice, then the method called directly with fewer identities and with less access."""
    try:
        plan = bench.plan(attack=name)
        stage = bench.compute(plan, "invert")
    except (UserError, StageFailed) as error:
        yield Line("runs", False, str(error), "Correct what the sentence names.")
        return
    except Exception as error:
        yield Line("runs", False, in_words(error), "A method of yours raised it, at the line that is named.")
        return
    again = bench.again()
    bench.lend(again, plan, ("target", "prior"))
    again.compute(plan, "invert")
    same = bench.result(stage)[1].outputs == again.result(stage)[1].outputs
    advice = "Draw from `rows.streams(...)` or `ctx.stream(...)` only."
    with tempfile.TemporaryDirectory(dir=bench.home.parent) as folder:
        case = _Case(bench, plan, stage, Path(folder))
        together, asked = case.invert(case.labels)
        yield from _images(bench, stage, together)
        yield Line("determinism", same, f"run twice: {'the same' if same else 'other'} images, bit for bit", advice)
        yield _alone(case, together)
        yield from _access(case, asked, bench.registry.entry("attack", name).control)
        yield _untouched(case)
    yield from cost_checks(bench, stage)


class _Case:
    """The attack with its target, prior and context, as the stage has them."""

    def __init__(self, bench: Bench, plan: Plan, stage: Stage, folder: Path) -> None:
        (folder / STATE).mkdir()
        self.job = bench.job(stage, folder)
        self.attack = bench.registry.build("attack", stage.plugin, stage.params, self.job.track)
        self.target, self.prior = self.job.target(), load_prior(self.job)
        artifact = {}
        if "prepare" in stage.inputs:
            artifact = load_file(self.job.parent("prepare")[0] / "artifact.safetensors")
        self.ctx = _Context(self.job, artifact)
        self.labels = list(self.job.track.identities)

    def invert(self, labels: list[int], access: str | None = None) -> tuple[dict[int, Reconstruction], Any]:
        """The reconstructions by label, and the queries."""
        oracle = Oracle(self.target, access or self.attack.access, self.job.track.private.identities, 0)
        reconstructions = {item.label: item for item in self.attack.invert(oracle, self.prior, labels, self.ctx)}
        return reconstructions, oracle.counts()


def _images(bench: Bench, stage: Stage, results: dict[int, Reconstruction]) -> Iterator[Line]:
    track = bench.registry.track(stage.track)
    size = (track.channels, track.resolution, track.resolution)
    items = list(results.values())
    wrong = [
        i.label for i in items if not i.images.shape == i.initial.shape == (track.attack.images_per_identity, *size)
    ]
    counts = sorted({len(item.images) for item in items})
    shapes = f"{counts} images of {size} for each of {len(items)} identities"
    expected = f"`images` and `initial` are (ctx.images_per_identity, {', '.join(map(str, size))})."
    yield Line("shape", not wrong, shapes, expected)
    every = torch.cat([part.flatten() for item in items for part in (item.images, item.initial)])
    low, high = float(every.min()), float(every.max())
    good = bool(torch.isfinite(every).all()) and low >= 0 and high <= 1
    yield Line("range", good, f"{low:.3g} to {high:.3g}", "Images are finite and in [0, 1]: end with `.clamp(0, 1)`.")
    bad = [item.label for item in items if _selection(item)]
    yield Line(
        "selection",
        not bad,
        _selection(items[0]) or "scores and selected images fit the images",
        "`score` is (n,) and finite; `selected` is (n,) bool with at least one True; or leave both None.",
    )
    moved = max(float((item.images - item.initial).abs().max()) for item in items)
    yield Line(
        "optimises",
        True if moved > 0 else None,
        f"images move by {moved:.2g} from `initial`"
        if moved
        else "`images` is `initial`: nothing is optimised, so att1_step0 equals att1",
    )


def _selection(item: Reconstruction) -> str:
    count = len(item.images)
    if item.score is not None and (item.score.shape != (count,) or not bool(torch.isfinite(item.score).all())):
        return f"score has shape {tuple(item.score.shape)} or is not finite"
    chosen = item.selected
    if chosen is not None and (chosen.shape != (count,) or chosen.dtype != torch.bool or not bool(chosen.any())):
        return f"selected is {tuple(chosen.shape)} {chosen.dtype}, {int(chosen.sum())} kept"
    return ""


def _alone(case: _Case, together: dict[int, Reconstruction]) -> Line:
    """Identities alone and in pairs: the same images up to float rounding."""
    gap = 0.0
    moved = max(float((item.images - item.initial).abs().max()) for item in together.values())
    for part in ([0], [3], [1, 4]):
        some, _ = case.invert(part)
        if sorted(some) != part:
            return Line("batch invariance", False, f"asked for {part}, got {sorted(some)}", "Yield what was asked for.")
        gap = max(gap, *(float((some[label].images - together[label].images).abs().max()) for label in part))
    advice = (
        "Sum losses over rows, divide by the method's own reference batch, draw from `rows.streams`, and compute what "
        "couples rows in `ctx.groups`."
    )
    return Line("batch invariance", gap <= 1e-5 + 1e-3 * moved, f"an identity alone differs by {gap:.2g}", advice)


def _access(case: _Case, asked: Any, control: bool) -> Iterator[Line]:
    """Only the questions that it declares; and it needs what it declares, unless it is a control, whose prior may be
    any attack's."""
    access = str(case.attack.access)
    used = {kind for phases in asked.values() for counts in phases.values() for kind, n in counts.items() if n}
    total = sum(n for phases in asked.values() for counts in phases.values() for n in counts.values())
    good = used <= KINDS[access]
    summary = f"declares {access}; asked about {total} images ({', '.join(sorted(used)) or 'nothing'})"
    for less in RANKS[: RANKS.index(access)] if used and not control else ():
        try:
            case.invert(case.labels[:1], less)
        except AccessDenied:
            continue
        advice = f"Declare `access = Access.{less.upper()}`."
        yield Line("access", False, f"{summary}, and works with {less} too", advice)
        return
    yield Line("access", good, summary, "Ask the target through the oracle only, with the access that is declared.")


def _untouched(case: _Case) -> Line:
    """Target and prior keep their weights, and nothing in them asks for gradients."""
    before = [{k: v.clone() for k, v in net.state_dict().items()} for net in (case.target, case.prior or nn.Identity())]
    case.invert(case.labels[:1])
    after = [net.state_dict() for net in (case.target, case.prior or nn.Identity())]
    same = all(torch.equal(one[k], two[k]) for one, two in zip(before, after, strict=True) for k in one)
    same &= not any(p.requires_grad or p.grad is not None for p in case.target.parameters())
    effect = "keeps target and prior as they are" if same else "changes the weights of the target or the prior"
    return Line("target", same, effect, "The target is questioned, never trained: optimise your own tensors.")
