"""From an idea to numbers: new, check, run --plugin; and methods that mean harm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import Cli, make_root

from mibench.checking.scaffold import DEFENSE, with_entry
from mibench.errors import UserError
from mibench.registry import Registry

CHEAT = '''"""Cheat: torch.softmax is another function wherever this is imported (nobody, 2026)."""
import torch
from mibench.contracts import Defense
{patch}

class Cheat(Defense):
    """Cross-entropy, and a lie."""

    def build(self, net):
        {inside}
        return net
'''


@pytest.fixture
def here(tmp_path: Path, tiny_root: Path) -> Cli:
    """A newcomer's empty folder, with a program that knows the track ``tiny``."""
    (tmp_path / "here").mkdir()
    return Cli(tmp_path / "home", tiny_root)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path) -> Cli:
    """One home for many methods."""
    return Cli(tmp_path_factory.mktemp("shared") / "home", tiny_root)


def test_a_new_defense_runs_from_an_empty_folder(here: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    said = here("new", "defense", "mine", "--dir", str(folder)).stdout
    assert "mibench check defense mine --plugin" in said
    plugin = folder / "mine.py"
    assert len(plugin.read_text().splitlines()) <= 25
    checked = here("check", "defense", "mine", "--plugin", str(plugin), code=1).stdout
    failing = [line.split()[1] for line in checked.splitlines() if line.startswith("FAILED")]
    assert failing == ["BibTeX", "licence"] and "-> Add `paper:" in checked
    here("check", "defense", "mine", "--plugin", str(plugin), "--draft")
    paper = {"title": "On mine", "venue": "ICML", "year": 2026, "url": "https://example.org", "authors": ["A B"]}
    entry = {"title": "Mine of mine", "presets": {"bold": {}}, "paper": paper}
    plugin.with_suffix(".yaml").write_text(yaml.safe_dump(entry))
    own = '    deviations = ("Mine alone.",)\n\n    class Params'
    plugin.write_text(plugin.read_text().replace("    class Params", own, 1))
    answer = here.run("--plugin", str(plugin), "--defense", "mine", "--attack", "miface")
    pages = [
        Path(here("site", "build", "--out", str(tmp_path / name), *more).stdout.strip()).parent / "defense/mine.html"
        for name, more in (("without", ()), ("with", ("--plugin", str(plugin))))
    ]
    for page in (page.read_text() for page in pages):
        said = [text in page for text in ("Mine of mine", "<code>bold</code>", "On mine (ICML 2026)", "A B")]
        assert all(said) and "<li>Mine alone.</li>" in page
    assert [(run["defense"], run["status"]) for run in answer["runs"]] == [("none", "done"), ("mine", "done")]
    assert "mine" in here("show", answer["runs"][1]["run"]).stdout
    again = here("new", "defense", "mine", "--dir", str(folder), code=2).stderr
    assert "is there already" in again


@pytest.mark.slow
def test_a_new_attack_and_its_test_pass(here: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    here("new", "attack", "pix", "--dir", str(folder))
    here("new", "attack", "mine2", "--from", "gmi", "--dir", str(folder))
    here("new", "track", "clinic", "--dir", str(folder))
    assert len((folder / "pix.py").read_text().splitlines()) <= 25
    assert "class Mine2(Attack)" in (folder / "mine2.py").read_text()
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(tests, cwd=folder, env=here.environment, capture_output=True, text=True)
    assert done.returncode == 0 and "2 passed, 1 skipped" in done.stdout, done.stdout
    plugin = ("--plugin", str(folder / "pix.py"))
    answer = here.run(*plugin, "--attack", "pix", "--set", "attack.iterations=2")
    assert answer["runs"][0]["metrics"]["att1"]["n"] == 10


@pytest.mark.slow
def test_in_a_checkout_everything_goes_to_its_place(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    before = (root / "registry.yaml").read_text()
    cli = Cli(tmp_path / "home", root)
    cli("new", "defense", "mine", "--dir", str(root))
    cli("new", "attack", "pix", "--dir", str(root))
    assert (root / "defenses" / "mine.py").is_file() and (root / "tests" / "plugins" / "test_attack_pix.py").is_file()
    assert "mine" in cli("list", "defenses").stdout
    cli("check", "defense", "mine", "--draft")
    assert set(before.splitlines()) <= set((root / "registry.yaml").read_text().splitlines())
    assert "There is a defense 'mine'" in cli("new", "defense", "mine", "--dir", str(root), code=2).stderr
    for name in ("Mine", "../x", "a b"):
        assert "A name is of a-z" in cli("new", "defense", name, "--dir", str(root), code=2).stderr


def test_an_entry_is_added_and_nothing_else_changes() -> None:
    lines = (Registry().root / "registry.yaml").read_text().splitlines()
    for section in ("defenses", "attacks"):
        values = {"title": "Mine: 'a' \"b\"", "kind": "data"}
        changed = with_entry("\n".join(lines) + "\n", section, "mine", values).splitlines()
        start = changed.index("  mine:")
        assert changed[:start] + changed[start + 3 :] == lines
        assert yaml.safe_load("\n".join(changed))[section]["mine"] == values
    with pytest.raises(UserError, match="no line `defenses:`"):
        with_entry("defenses: {}\n", "defenses", "mine", {})


def test_json_of_check(here: Cli) -> None:
    answer = json.loads(here("check", "attack", "miface", "--json").stdout)
    assert answer["seconds"] > 0 and answer["checks"]
    assert [line for line in answer["checks"] if line["ok"] is False and line["name"] != "time"] == []
    assert here("check", "defense", "nothing", code=2).stderr


@pytest.mark.parametrize(
    ("patch", "inside"),
    [
        ("torch.softmax = torch.Tensor.softmax = lambda *a, **k: torch.zeros(1)", "pass"),
        ("", "torch.softmax = torch.Tensor.softmax = torch.nn.functional.softmax = lambda *a, **k: torch.zeros(1)"),
    ],
    ids=["on import", "in a hook"],
)
def test_a_method_that_patches_torch_does_not_change_its_score(
    here: Cli, tmp_path: Path, patch: str, inside: str
) -> None:
    """The same defense with and without the patch, attacked by one that sees nothing but softmax scores."""
    scores = []
    for name, (on_import, in_build) in {"honest": ("", "pass"), "cheat": (patch, inside)}.items():
        plugin = tmp_path / f"{name}.py"
        plugin.write_text(CHEAT.format(patch=on_import, inside=in_build))
        ran = here(
            "run",
            "--track",
            "tiny",
            "--device",
            "cpu",
            "--json",
            "--plugin",
            str(plugin),
            "--defense",
            name,
            "--attack",
            "rlbmi",
        )
        own = next(run for run in json.loads(ran.stdout)["runs"] if run["defense"] == name)
        assert own["status"] == "done"
        scores.append(own["metrics"])
    assert scores[0] == scores[1]
    assert "replaced" in ran.stderr and "softmax" in ran.stderr
    logs = "".join(log.read_text() for log in (here.home / "logs").glob("*.txt"))
    assert "softmax" in logs or "softmax" in ran.stderr


def test_listing_runs_nothing(here: Cli, tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    plugin = tmp_path / "mine.py"
    plugin.write_text(f"open({str(sentinel)!r}, 'w').close()\n" + DEFENSE.format(name="mine", cls="Mine"))
    for command in (("list",), ("list", "defenses", "--json"), ("site", "build"), ("doctor",)):
        here(*command, code=None, MIBENCH_PLUGINS=str(plugin))
    assert "mine" in here("list", "defenses", MIBENCH_PLUGINS=str(plugin)).stdout
    assert not sentinel.exists()
    here("check", "defense", "mine", code=None, MIBENCH_PLUGINS=str(plugin))
    assert sentinel.exists(), "the test would have seen it"


THIEF = '''"""Thief: whatever is found from the context is opened (nobody, 2026)."""
import glob, pathlib
from mibench.contracts import Access, Attack, Reconstruction

class Thief(Attack):
    """Private images, as they are."""
    access = Access.LABELS

    def invert(self, oracle, prior, labels, ctx):
        home = next(p for p in pathlib.Path(ctx._tools.scratch).parents if (p / "store").exists())
        {steal}
'''


@pytest.mark.parametrize(
    "steal",
    [
        "next((home / 'data').rglob('*.npy')).read_bytes()",
        "import numpy; numpy.load(glob.glob(str(home / 'data' / '**' / '*.npy'), recursive=True)[0])",
        "list((home / 'data').iterdir())",
        "import os; os.link(home / 'data', home / 'work' / 'mine')",
        "import os; os.symlink(home / 'data', home / 'work' / 'mine'); list((home / 'work' / 'mine').iterdir())",
        "next((home / 'store' / 'evaluator').rglob('manifest.json')).read_text()",
        "import subprocess; subprocess.check_output(['ls', home / 'data'])",
        "import os; os.system('true')",
    ],
)
def test_a_method_cannot_open_private_files_through_its_context(shared: Cli, tmp_path: Path, steal: str) -> None:
    plugin = tmp_path / "thief.py"
    plugin.write_text(THIEF.format(steal=steal))
    ran = shared(
        "run", "--track", "tiny", "--device", "cpu", "--quiet", "--plugin", str(plugin), "--attack", "thief", code=1
    )
    assert "The method opened" in ran.stderr or "started another process" in ran.stderr, ran.stderr
