"""New methods and tracks from a template or from an existing method."""

from __future__ import annotations

import ast
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from mibench.data.sets.folder import classes
from mibench.errors import UserError
from mibench.protocol.method_files import NAME, Entry, kind_of, parsed
from mibench.protocol.yaml_files import Loader
from mibench.registry import Registry

Template = Literal["defense", "attack", "prior", "track"]

DEFENSE = '''"""{name}: noisy training images (a template: say what your method does, author, year)."""

from pydantic import Field
from torch import Tensor

from mibench.contracts import Defense, DefenseParams, Rng


class {cls}(Defense):
    """x + strength * noise, cut to [0, 1]. Replace this hook, or override another: docs/add-a-defense.md."""

    class Params(DefenseParams):
        strength: float = Field(0.1, ge=0, description="standard deviation of the noise, at least 0")

    def augment(self, images: Tensor, rng: Rng) -> Tensor:
        return (images + self.params.strength * rng.normal(*images.shape)).clamp(0, 1)
'''

ATTACK = '''"""{name}: gradient descent on pixels (a template: say what your method does, author, year)."""

from pydantic import Field

from mibench.contracts import Access, Attack, BaseParams
from mibench.primitives.losses import cross_entropy
from mibench.primitives.selection import every_restart


class {cls}(Attack):
    """x <- x - grad CE(T(x), y), from noise. Replace this; what there is to build on: docs/add-an-attack.md."""

    access = Access.WHITE_BOX

    class Params(BaseParams):
        iterations: int = Field(100, ge=1, description="steps of length 1, at least 1")

    def invert(self, oracle, prior, labels, ctx):
        rows, t = ctx.rows(labels, ctx.images_per_identity), self.track
        x = start = rows.streams("start").uniform(len(rows), t.channels, t.resolution, t.resolution)
        for _ in ctx.steps("{name}", self.params.iterations):
            x = x.detach().requires_grad_()
            cross_entropy(oracle.logits(x, rows), rows.label).sum().backward()
            x = (x - x.grad).clamp(0, 1)
        yield from every_restart(rows, x.detach(), start)
'''

PRIOR = '''"""{name}: a variational autoencoder of public images (a template: say what it does, author, year)."""

import torch
from pydantic import Field
from torch import nn

from mibench.contracts import BaseParams, Prior, PriorModel
from mibench.primitives.training import descend


class {cls}(Prior):
    """||x - G(z)||^2 + KL(N(m(x), s(x)) || N(0, I)), z = m + s eps. Replace this: docs/add-an-attack.md, priors."""

    scope = "public"

    class Params(BaseParams):
        steps: int = Field(1000, ge=1, description="training steps of 64 images, at least 1")
        latent_dim: int = Field(32, ge=1, description="length of z, at least 1")

    def build(self):
        shape = (self.track.channels, self.track.resolution, self.track.resolution)
        layers = [nn.Linear(self.params.latent_dim, 256), nn.ReLU(), nn.Linear(256, shape[0] * shape[1] * shape[2])]
        return PriorModel(nn.Sequential(*layers, nn.Sigmoid(), nn.Unflatten(1, shape)), self.params.latent_dim)

    def train(self, ctx, model):
        images, d = ctx.public.images, self.params.latent_dim
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(images[:1].numel(), 256), nn.ReLU(), nn.Linear(256, 2 * d))
        encoder = encoder.to(ctx.device)
        adam = torch.optim.Adam([*encoder.parameters(), *model.parameters()], 1e-3)
        loop = ctx.loop("{name}", self.params.steps, dict(model=model, encoder=encoder, adam=adam))
        for step in loop:
            rng = ctx.stream(f"step.{{step}}")
            x = images[rng.integers(len(images), 64)]
            m, log_var = encoder(x).chunk(2, 1)
            z = m + (log_var / 2).exp() * rng.normal(len(x), d)
            kl = (m.square() + log_var.exp() - 1 - log_var).sum(1) / 2
            loss = ((x - model(z)).square().flatten(1).sum(1) + kl).mean()
            descend(adam, loss)
            loop.report(loss=loss)
'''

TRACK = """# A track on a folder of images, photos/<class>/*.jpg. What is not here has a default (docs/data.md).
root: {root}
title: {title}
resolution: 64        # images are cut square and resized
channels: 3           # 1 for grey
private: {{test_share: 0.2}}
{public}
sensitive: true       # real people: blurred on pages
"""

ENTRIES: dict[str, dict[str, Any]] = {
    "defense": {"title": "{title}", "kind": "data"},
    "attack": {"title": "{title}", "family": "pixels", "access": "white_box"},
    "prior": {"title": "{title}", "scope": "public"},
}

TEST = '''"""{name} keeps the contract. Without --draft the paper and the licence are asked for too."""

from pathlib import Path

from click.testing import CliRunner

from mibench.cli import cli


def test_{test}_keeps_the_contract():
    found = CliRunner().invoke(cli, {command})
    assert found.exit_code == 0, found.output
'''

TRACK_TEST = '''"""The track {name} can be read and planned."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from mibench.cli import cli

HERE = Path(__file__).parent


@pytest.mark.skipif(not (HERE / "{root}").is_dir(), reason="the images are not here")
def test_{test}_can_be_planned():
    found = CliRunner().invoke(cli, ["plan", "--track", str(HERE / "{name}.yaml"), "--attack", "all"])
    assert found.exit_code == 0, found.output
'''


@dataclass(frozen=True)
class Draft:
    """Files to write, by path, and what to type next."""

    files: dict[Path, str]
    next: tuple[str, ...]


def draft(registry: Registry, kind: Template, name: str, start: str | None, folder: Path, root: str) -> Draft:
    """What ``mibench new`` writes. In a checkout (``folder`` has a registry.yaml) a defense or an attack goes to its
    place there; elsewhere, and a prior everywhere, it is a file with its entry beside it. Raises UserError if the name
    is taken or no name."""
    if not NAME.fullmatch(name):
        raise UserError(f"A name is of a-z, 0-9, _ and -, and begins with a letter or digit; {name!r} is not.")
    if kind == "track":
        return _track(registry, name, folder, root)
    if name in registry.entries(kind):
        raise UserError(f"There is a {kind} {name!r} already: {registry.path(kind, name)}. Choose another name.")
    code = _copy(registry, kind, name, start) if start else _template(kind, name)
    values = _entry(registry, kind, name, start)
    Entry.model_validate(values)
    test = name.replace("-", "_")
    listing = folder / "registry.yaml"
    if listing.is_file() and kind != "prior":
        command = f'["check", "{kind}", "{name}", "--draft"]'
        files = {
            folder / f"{kind}s" / f"{name}.py": code,
            listing: with_entry(listing.read_text(encoding="utf-8"), f"{kind}s", name, values),
            folder / "tests" / "plugins" / f"test_{kind}_{test}.py": _test(name, test, command),
        }
        plugin = _plugin(folder / f"{kind}s" / f"{name}.py") if folder.resolve() != registry.root else ""
    else:
        own = f'str(Path(__file__).with_name("{name}.py"))'
        command = f'["check", "{kind}", "{name}", "--draft", "--plugin", {own}]'
        files = {
            folder / f"{name}.py": code,
            folder / f"{name}.yaml": yaml.safe_dump(values, sort_keys=False, allow_unicode=True),
            folder / f"test_{test}.py": _test(name, test, command),
        }
        plugin = _plugin(folder / f"{name}.py")
    asked = {"defense": f"--defense {name} --attack gmi", "attack": f"--attack {name} --defense none"}
    asked["prior"] = f"--attack 'ppa[prior={name}]'"
    return Draft(files, (f"mibench check {kind} {name}{plugin} --draft", f"mibench run {asked[kind]}{plugin}"))


def _plugin(path: Path) -> str:
    return f" --plugin {shlex.quote(str(path))}"


def _template(kind: str, name: str) -> str:
    return {"defense": DEFENSE, "attack": ATTACK, "prior": PRIOR}[kind].format(name=name, cls=class_name(name))


def class_name(name: str) -> str:
    """``clip-weights`` -> ``ClipWeights``."""
    camel = "".join(part.capitalize() for part in re.split(r"[-_]", name))
    return camel if camel[0].isalpha() else f"M{camel}"


def _copy(registry: Registry, kind: Any, name: str, start: str) -> str:
    """The file of ``start`` with a class of another name and a docstring that says where it comes from."""
    path = registry.path(kind, start)
    text, tree = path.read_text(encoding="utf-8"), parsed(path)
    [own] = [node for node in tree.body if isinstance(node, ast.ClassDef) and kind_of(node) == kind]
    text = re.sub(rf"\b{own.name}\b", class_name(name), text)
    return text.replace('"""', f'"""{name}, which starts from {start}. ', 1)


def _entry(registry: Registry, kind: Any, name: str, start: str | None) -> dict[str, Any]:
    title = name.replace("_", " ").replace("-", " ").capitalize()
    if start is None:
        return {key: value.format(title=title) for key, value in ENTRIES[kind].items()}
    entry = registry.entry(kind, start)
    values = entry.model_dump(mode="json", exclude={"paper", "reported", "licence", "summary"}, exclude_defaults=True)
    return values | {"title": f"{title} (from {entry.title})"}


def _test(name: str, test: str, command: str) -> str:
    text = TEST.format(name=name, test=test, command=command)
    return text if "Path(" in command else text.replace("from pathlib import Path\n\n", "")


def _track(registry: Registry, name: str, folder: Path, root: str) -> Draft:
    if name in registry.tracks:
        raise UserError(f"There is a track {name!r} already. Choose another name.")
    title = name.replace("_", " ").replace("-", " ").capitalize()
    path = folder / f"{name}.yaml"
    images = Path(root) if Path(root).is_absolute() else folder / root
    there = len(classes(images)) if images.is_dir() else 0
    share = there == 0 or there > 2  # of two classes none can be spared
    public = "public: {class_share: 0.3}  # these classes are public, the others private; or {root: FOLDER} of others"
    public = public if share else "# public: {root: FOLDER}  # images of others; without them some attacks cannot run"
    test = name.replace("-", "_")
    files = {
        path: TRACK.format(root=json.dumps(root), title=title, public=public),
        folder / f"test_{test}.py": TRACK_TEST.format(name=name, test=test, root=root),
    }
    typed = shlex.quote(str(path))
    put = () if there else (f"Put images into {images}/<class>/, of two classes or more. Then type:",)
    attack = "ppa" if share else "miface"
    return Draft(files, (*put, f"mibench plan --track {typed}", f"mibench run --track {typed} --attack {attack}"))


def with_entry(text: str, section: str, name: str, values: dict[str, Any]) -> str:
    """registry.yaml with one entry more at the end of a section, everything else as it was. Raises UserError if the
    result would not be that."""
    lines = text.splitlines(keepends=True)
    starts = [i for i, line in enumerate(lines) if re.match(rf"{section}:\s*(#.*)?$", line.rstrip("\n"))]
    if len(starts) != 1:
        raise UserError(f"registry.yaml has no line `{section}:`, so the entry cannot be added there.")
    end = next((i for i in range(starts[0] + 1, len(lines)) if re.match(r"[^\s#]", lines[i])), len(lines))
    while lines[end - 1].strip() == "":
        end -= 1
    if not lines[end - 1].endswith("\n"):
        lines[end - 1] += "\n"
    added = yaml.safe_dump({name: values}, sort_keys=False, allow_unicode=True, width=1000)
    result = "".join([*lines[:end], *(f"  {line}\n" for line in added.splitlines()), *lines[end:]])
    before, after = (yaml.load(each, Loader=Loader) for each in (text, result))
    before[section][name] = values
    if before != after:
        raise UserError(f"registry.yaml is not laid out as expected; add the entry to `{section}:` by hand.")
    return result
