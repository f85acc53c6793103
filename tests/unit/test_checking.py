"""Every line of ``mibench check`` fails for a method that has the fault, and for it alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from mibench.checking import scaffold
from mibench.checking.contract import check
from mibench.checking.lines import Line
from mibench.protocol.method_files import VARIABLE
from mibench.registry import Registry

ENTRY = """
title: Mine
kind: data
paper: {title: T, venue: unpublished, year: 2026, url: "https://example.org", authors: [A. Author]}
licence: MIT
"""
DEFENSE = '''"""Mine: a defense for the tests (A. Author, 2026)."""
from dataclasses import replace
import torch
from torch import Tensor
from torch.nn import functional
from pydantic import Field
from mibench.contracts import Defense, DefenseParams


class Mine(Defense):
    """Text."""

    class Params(DefenseParams):
        a: float = Field(0.1)

    {body}
'''
ATTACK_ENTRY = ENTRY.replace("kind: data", "family: pixels\naccess: {access}")
ATTACK = '''"""Mine: an attack for the tests (A. Author, 2026)."""
import torch
from mibench.contracts import Access, Attack, Reconstruction
from mibench.primitives.losses import cross_entropy


class Mine(Attack):
    """Text."""

    access = Access.{access}

    def invert(self, oracle, prior, labels, ctx):
        rows, t = ctx.rows(labels, 2), self.track
        {body}
        for i, label in enumerate(rows.identities):
            yield Reconstruction(label, x[2 * i : 2 * i + 2], start[2 * i : 2 * i + 2], {more})
'''
GOOD = """start = rows.streams("s").uniform(len(rows), t.channels, t.resolution, t.resolution)
        x = start.clone().requires_grad_()
        cross_entropy(oracle.logits(x, rows), rows.label).sum().backward()
        x = (start - x.grad).clamp(0, 1)"""


def failed(lines: list[Line]) -> dict[str, str]:
    """What each failing line says; not that of the time, which is the machine's."""
    wrong = [line for line in lines if line.ok is False and line.name != "time"]
    assert all(line.advice for line in wrong), "what to do"
    return {line.name: line.found for line in wrong}


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, text: str, entry: str) -> dict[str, str]:
    path = tmp_path / "mine.py"
    path.write_text(text)
    path.with_suffix(".yaml").write_text(entry)
    monkeypatch.setenv(VARIABLE, str(path))
    (tmp_path / "home").mkdir()
    return failed(list(check(Registry(), kind, "mine", tmp_path / "home")))  # type: ignore[arg-type]


AUGMENT = "def augment(self, images, rng):\n        return "


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("pass", {}),
        (AUGMENT + "(images + self.params.a * rng.normal(*images.shape)).clamp(0, 1)", {}),
        (AUGMENT + "images[:, :, ::2]", {"shape": "16", "runs": "shapes"}),
        (AUGMENT + "images * 3 - 1", {"range": "-"}),
        (AUGMENT + "images.mul_(0.5)", {"argument": "writes"}),
        (AUGMENT + "(images + torch.rand(images.shape)).clamp(0, 1)", {"determinism": "other", "batch invariance": ""}),
        (AUGMENT + "images / images.amax()", {"batch invariance": "alone"}),
        (
            "def mix(self, batch, rng):\n        return replace(batch, images=batch.images.flip(0) * torch.rand(()), "
            "others=batch.labels.flip(0), share=0.5)",
            {"mix": "another batch"},
        ),
        (
            "def mix(self, batch, rng):\n        return replace(batch, others=batch.labels.flip(0), share=1.5)",
            {"mix": "share 1.5"},
        ),
        (
            "def loss(self, batch, output, progress):\n        return output.logits.logsumexp(1)",
            {"loss": "tensor", "runs": "scalar"},
        ),
        (
            "def loss(self, batch, output, progress):\n"
            "        return functional.cross_entropy(output.logits, batch.labels) / (0 if progress.epoch > 15 else 1)",
            {"loss": "step 19 of 20"},
        ),
        ("def sampler(self, labels, batch, rng):\n        yield torch.arange(batch + 3)", {"sampler": "1 batches"}),
        ("deviations = ('no full stop',)", {"deviations": "tuple of sentences"}),
        ("def train(self, ctx):\n        raise KeyError('lost')", {"runs": "KeyError"}),
        (
            "def build(self, net):\n        net.head.weight.data += torch.rand(()) * 0\n"
            "        import random\n        net.head.bias.data += random.random()\n        return net",
            {"stands alone": "random", "determinism": "trained twice"},
        ),
    ],
)
def test_defenses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, expected: dict[str, str]) -> None:
    found = run(tmp_path, monkeypatch, "defense", DEFENSE.replace("{body}", body), ENTRY)
    assert found.keys() == expected.keys(), found
    for name, words in expected.items():
        assert words in found[name]


@pytest.mark.parametrize(
    ("access", "body", "more", "expected"),
    [
        ("WHITE_BOX", GOOD, "None", {}),
        ("WHITE_BOX", GOOD.replace(".clamp(0, 1)", " + 1"), "None", {"range": "to"}),
        ("WHITE_BOX", GOOD.replace("t.resolution, t.resolution)", "t.resolution, 8)"), "None", {"runs": ""}),
        (
            "WHITE_BOX",
            GOOD + "\n        x = x - x.mean() * 0.1\n        x = x.clamp(0, 1)",
            "None",
            {"batch invariance": "alone"},
        ),
        (
            "WHITE_BOX",
            GOOD + "\n        x = (x + 0.1 * torch.rand(x.shape)).clamp(0, 1)",
            "None",
            {"determinism": "other", "batch invariance": "alone"},
        ),
        ("WHITE_BOX", GOOD, "score=torch.zeros(3)", {"selection": "(3,)"}),
        (
            "WHITE_BOX",
            "start = rows.streams('s').uniform(len(rows), t.channels, t.resolution, t.resolution)\n"
            "        x = start * oracle.scores(start, rows).amax(1).reshape(-1, 1, 1, 1)",
            "None",
            {"access": "scores too"},
        ),
        ("SCORES", GOOD, "None", {"runs": "white_box"}),
        ("WHITE_BOX", GOOD + "\n        next(oracle._net.parameters()).data += 1", "None", {"target": "changes"}),
    ],
)
def test_attacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, access: str, body: str, more: str, expected: dict[str, str]
) -> None:
    text = ATTACK.replace("{access}", access).replace("{body}", body).replace("{more}", more)
    found = run(tmp_path, monkeypatch, "attack", text, ATTACK_ENTRY.replace("{access}", access.lower()))
    assert found.keys() >= expected.keys(), found
    assert found.keys() <= expected.keys() | {"determinism", "batch invariance"}, found
    for name, words in expected.items():
        assert words in found[name]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("title: Mine\n", {"registry entry": "kind", "BibTeX": "no paper", "licence": "none"}),
        (ENTRY.replace("kind: data", "kind: clever"), {"registry entry": "kind"}),
        (ENTRY.replace("MIT", "free for all!"), {"licence": "free"}),
        (ENTRY.replace("title: T,", 'title: "{T",'), {"BibTeX": "mine2026"}),
        (ENTRY + "presets: {fast: {b: 1}}\n", {"presets": "b"}),
    ],
)
def test_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, expected: dict[str, str]) -> None:
    found = run(tmp_path, monkeypatch, "defense", DEFENSE.replace("{body}", "pass"), entry)
    assert found.keys() == expected.keys(), found
    for name, words in expected.items():
        assert words in found[name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DEFENSE.replace("{body}", "x = open").replace("import torch\n", "import os\n"), {"stands alone": "os"}),
        (DEFENSE.replace("{body}", "pass\n" + "\n" * 120), {"file": "lines"}),
        (DEFENSE.replace("{body}", "pass").replace('    """Text."""\n', ""), {"docstrings": "Mine"}),
        (DEFENSE.replace("{body}", "pass").replace("Field(0.1)", "Field()"), {"parameters": "no defaults"}),
        (
            DEFENSE.replace("{body}", "pass").replace(
                "(DefenseParams)", ":\n        x = 1\n\n    class Q(DefenseParams)"
            ),
            {"parameters": ""},
        ),
        (DEFENSE.replace("{body}", "pass") + "\ntorch.softmax = torch.log_softmax\n", {"import": "torch.softmax"}),
        (DEFENSE.replace("{body}", "pass") + "\n1 / 0\n", {"import": "ZeroDivisionError"}),
    ],
)
def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: dict[str, str]) -> None:
    found = run(tmp_path, monkeypatch, "defense", text, ENTRY)
    assert found.keys() == expected.keys(), found
    for name, words in expected.items():
        assert words in found[name]


PRIOR_ENTRY = ENTRY.replace("kind: data", "scope: public")
USUAL = scaffold.PRIOR.format(name="mine", cls="Mine")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", {}),
        (
            "nn.Sigmoid()",
            "nn.Identity(), nn.Threshold(9.0, 9.0)",
            {"range": "9", "latents": "same", "gradient": "none"},
        ),
        ("rng.normal(len(x), d)", "torch.randn(len(x), d, generator=Mine.own)", {"determinism": "other"}),
        (
            "def build(self):",
            "def seeded(self):\n        return False\n\n    def build(self):",
            {"seeds": "other weights"},
        ),
        ('scope = "public"', 'scope = "target"', {"entry and class": "target in the class"}),
        ("nn.Unflatten(1, shape)", "nn.Unflatten(1, shape[1:])", {"shape": "(6, 32, 32)"}),
        (
            "nn.Sigmoid()",
            "nn.Sigmoid(), nn.BatchNorm1d(1024, track_running_stats=False)",
            {"batch invariance": "", "range": ""},
        ),
        ("descend(adam, loss)", "descend(adam, loss.log() * float('nan'))", {"runs": "nan"}),
    ],
)
def test_priors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, expected: dict[str, str]) -> None:
    text = USUAL.replace(old, new) if old else USUAL
    text = text.replace("    scope = ", "    own = torch.Generator()\n    scope = ")
    found = run(tmp_path, monkeypatch, "prior", text, PRIOR_ENTRY)
    assert found.keys() == expected.keys(), found
    assert all(part in found[name] for name, part in expected.items()), found
