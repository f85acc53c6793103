"""Methods in files of one's own and in installed packages: found without importing, broken ones named."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import Cli, edit_registry, make_root

from mibench.checking.contract import check
from mibench.errors import StageFailed, UserError
from mibench.protocol import method_files as sources
from mibench.protocol.method_files import VARIABLE, entry_of, file_source, kind_of, module_file, use_file
from mibench.protocol.methods import Selection
from mibench.registry import Registry
from mibench.registry.guard import closed, undisturbed

MINE = '''"""Mine: does nothing at all. Really."""
from pathlib import Path
from mibench.contracts import Defense
Path({sentinel!r}).touch()

class Mine(Defense):
    """Nothing."""
    version = 3
    deviations = ("It differs.",)
'''
PACKAGE = {
    "acme_inversion/__init__.py": "raise RuntimeError('a package that cannot be imported whole')\n",
    "acme_methods.py": MINE.format(sentinel="").replace("Path('').touch()\n", "")
    + "\nclass Other(Defense):\n    'Two in one file.'\n",
    "acme_metrics.py": "from mibench.contracts import Metric\nfrom mibench.metrics.evidence import macro\n"
    "class Bright(Metric):\n    title, unit = 'brightness', 'fraction'\n"
    "class Light(Metric):\n    title = 'brightness'\n    direction = 'none'\n    unit = 'fraction'\n"
    "    help = 'Mean pixel.'\n    version = 2\n    @staticmethod\n    def compute(e):\n"
    "        return macro(e.images[:].mean((1, 2, 3)), e.label)\n",
    "acme_broken.py": "class Broken(:\n",
    "acme_raises.py": "from mibench.contracts import Attack\nraise ValueError('no licence key')\n"
    "class Raises(Attack):\n    pass\n",
}
POINTS = """
[mibench.defenses]
mine = acme_methods:Mine
Other = acme_methods:Other
broken = acme_broken:Broken
gone = acme_gone:Gone
nameless = acme_methods
inside = acme_inversion.deep:Deep
[mibench.metrics]
light = acme_metrics:Light
bright = acme_metrics:Bright
[mibench.attacks]
raises = acme_raises:Raises
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A distribution ``Acme.Privacy`` on the path."""
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    facts = tmp_path / "acme_privacy-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: Acme.Privacy\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    sources.offers.cache_clear()
    yield tmp_path
    sources.offers.cache_clear()
    for name in [name for name in sys.modules if name.startswith("acme_")]:
        del sys.modules[name]


def test_package_methods_are_listed_by_package_and_name_without_import(package: Path) -> None:
    registry = Registry()
    entries = registry.entries("defense")
    own = {name.partition("/")[2]: entry for name, entry in entries.items() if name.startswith("acme-privacy/")}
    assert set(own) == {"mine", "other", "broken", "gone", "nameless", "inside"}
    assert own["mine"].title == "Mine: does nothing at all"
    for name, reason in {
        "broken": "line 1, is not Python",
        "gone": "acme_gone was not found",
        "nameless": "module:Class was expected",
        "inside": "acme_inversion.deep was not found",
    }.items():
        assert own[name].title.startswith("unusable") and reason in own[name].title
    assert not [name for name in sys.modules if name.startswith("acme_")]
    assert registry.version("defense", "acme-privacy/mine") == 3
    assert registry.deviations("defense", "acme-privacy/mine") == ("It differs.",)
    assert registry.version("defense", "acme-privacy/other") == 1, "of its own class, not of its neighbour"


def test_package_methods_work_and_broken_ones_break_nothing(package: Path) -> None:
    registry = Registry()
    track = registry.track("synthfaces")
    facts = registry.facts(registry.select("defense", "acme-privacy/mine"), track)
    assert (facts.id, facts.version) == ("acme-privacy/mine", 3)
    assert registry.plugin("defense", "acme-privacy/other").__name__ == "Other"
    with pytest.raises(UserError, match=r"ValueError: no licence key \(.*acme_raises\.py, line 2\)"):
        registry.facts(Selection("attack", "acme-privacy/raises"), track)
    skipped = registry.facts(Selection("attack", "acme-privacy/raises", optional=True), track)
    assert skipped.skip is not None and "no licence key" in skipped.skip
    assert "broken" in str(registry.facts(Selection("defense", "acme-privacy/broken", optional=True), track).skip)
    assert registry.facts(Selection("defense", "none"), track).skip is None
    assert registry.select("defense", "acme-privacy/mine+re").id == "re+acme-privacy/mine"


ENTRY = """
title: Mine
kind: data
paper: {title: T, venue: unpublished, year: 2026, url: "https://example.org"}
licence: MIT
presets: {strong: {}}
"""


def test_a_package_method_keeps_the_contract_with_its_entry_beside_the_module(package: Path, tmp_path: Path) -> None:
    (package / "acme_methods.py").write_text(
        '"""Mine (A. Author, 2026)."""\nfrom mibench.contracts import Defense\nclass Mine(Defense):\n    "As it is."\n'
        "class Other(Defense):\n    'Two in one file.'\n"
    )
    (package / "mine.yaml").write_text(ENTRY)
    (package / "other.yaml").write_text("titel: Other\n")
    (tmp_path / "home").mkdir()
    registry = Registry()
    lines = list(check(registry, "defense", "acme-privacy/mine", tmp_path / "home"))
    assert [line for line in lines if line.ok is False and line.name != "time"] == [] and lines[-1].name == "memory"
    assert registry.select("defense", "acme-privacy/mine[strong]").presets == ("strong",)
    assert "other.yaml is not a registry entry" in registry.entry("defense", "acme-privacy/other").title


def test_module_file_imports_no_parent(package: Path) -> None:
    (package / "acme_inversion" / "deep.py").write_text("x = 1\n")
    assert module_file("acme_inversion.deep") == package / "acme_inversion" / "deep.py"
    assert "acme_inversion" not in sys.modules
    assert module_file("acme_inversion.none") is None and module_file("math") is None


def test_a_file_of_ones_own_is_known_by_its_name_and_not_imported(tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    path = tmp_path / "mine.py"
    path.write_text(MINE.format(sentinel=str(sentinel)))
    use_file(path)
    registry = Registry()
    assert registry.entry("defense", "mine").title == "Mine: does nothing at all"
    assert registry.version("defense", "mine") == 3 and not sentinel.exists()
    path.with_suffix(".yaml").write_text("title: My own\nkind: data\n")
    assert Registry().entry("defense", "mine").title == "My own"
    registry.plugin("defense", "mine")
    assert sentinel.exists()


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("re.py", MINE, "is called like the defense 're'"),
        ("Mine.py", MINE, "not of a-z, 0-9"),
        ("mine.py", "x = 1", "it defines 0"),
        ("mine.py", "def f(:", "line 1, is not Python"),
        ("mine.py", MINE + "class B(Defense):\n    pass\n", "it defines 2"),
        ("mine.py", "(" * 5000 + ")" * 5000, "is not Python|nested too deeply"),
    ],
)
def test_files_that_are_no_method_are_refused(tmp_path: Path, name: str, text: str, reason: str) -> None:
    path = tmp_path / name
    path.write_text(text.replace("{sentinel!r}", "'/nowhere/at/all'"))
    use_file(path)
    with pytest.raises(UserError, match=reason):
        Registry().entries("defense")


def test_use_file_wants_a_python_file_and_keeps_the_others(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("")
    use_file(tmp_path / "a.py")
    use_file(tmp_path / "b.py")
    use_file(tmp_path / "a.py")
    assert os.environ[VARIABLE].split(os.pathsep) == [str(tmp_path / "a.py"), str(tmp_path / "b.py")]
    for wrong in (tmp_path / "c.py", tmp_path):
        with pytest.raises(UserError, match="no plugin file"):
            use_file(wrong)


def test_a_wrong_entry_beside_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MINE.format(sentinel="x"))
    path.with_suffix(".yaml").write_text("title: x\nkindd: data\n")
    with pytest.raises(UserError, match=r"mine\.yaml is not a registry entry(.|\n)*kindd"):
        file_source(path)


def test_kind_and_access_are_read_from_the_text() -> None:
    import ast

    tree = ast.parse("class A(contracts.Attack):\n    'Asks.'\n    access = Access.SCORES\nclass B(Other): pass")
    attack, other = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert kind_of(attack) == "attack" and kind_of(other) is None
    entry = entry_of("attack", tree, attack)
    assert (entry.access, entry.summary) == ("scores", "Asks.") and entry.about["summary"] == "Asks."


def test_what_a_method_replaces_is_put_back() -> None:
    import mibench.primitives.losses

    usual = {
        "softmax": torch.softmax,
        "cross_entropy": torch.nn.functional.cross_entropy,
        "ours": mibench.primitives.losses.cross_entropy,
        "call": torch.nn.Module.__call__,
    }
    with undisturbed() as changed:
        torch.softmax = torch.log_softmax
        torch.nn.functional.cross_entropy = lambda *a: 0  # type: ignore[assignment]
        mibench.primitives.losses.cross_entropy = lambda *a: 0  # type: ignore[assignment]
        torch.Tensor.softmax = lambda *a: 0  # type: ignore[method-assign,assignment]
        torch.something_new = 1  # type: ignore[attr-defined]
    expected = {"torch.softmax", "torch.nn.functional.cross_entropy", "mibench.primitives.losses.cross_entropy"}
    assert {*expected, "torch.Tensor.softmax"} == set(changed)
    assert torch.softmax is usual["softmax"] and torch.nn.functional.cross_entropy is usual["cross_entropy"]
    assert mibench.primitives.losses.cross_entropy is usual["ours"]
    assert torch.ones(1, 2).softmax(1).tolist() == [[0.5, 0.5]]
    del torch.something_new  # type: ignore[attr-defined]
    with undisturbed() as changed:
        importlib.import_module("torch._dynamo")
    assert changed == [], "what torch does to itself is no theft"


def test_package_metrics_are_known_without_import_and_wrong_ones_refused(package: Path) -> None:
    from mibench.metrics import _Metrics

    known = _Metrics()
    info = known["acme-privacy/light"]
    assert (info.title, info.version, info.compute) == ("brightness", 2, "acme_metrics:Light.compute")
    assert "needs title, direction" in known["acme-privacy/bright"].title
    assert "acme_metrics" not in sys.modules and "acme-privacy/light" in set(known) and known["nat1"].version == 1


def test_a_package_metric_is_computed_on_a_run(package: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = make_root(tmp_path_factory.mktemp("root") / "root")
    edit_registry(root, lambda data: data["tracks"]["tiny"].update(metrics=["att1", "acme-privacy/light"]))
    cli = Cli(tmp_path_factory.mktemp("cli") / "home", root, PYTHONPATH=str(package))
    assert "acme-privacy/light" in cli("list", "metrics").stdout
    [run] = cli.run("--attack", "miface")["runs"]
    pictures = [png for png in cli.home.glob("store/invert/*/*/images/*.png")]
    mean = sum(float(torch.tensor(bytearray(Image.open(p).tobytes()), dtype=torch.float64).mean()) for p in pictures)
    assert run["metrics"]["acme-privacy/light"]["value"] == pytest.approx(mean / len(pictures) / 255, abs=1e-6)
    edit_registry(root, lambda data: data["tracks"]["tiny"].update(metrics=["acme-privacy/bright"]))
    assert "needs title" in cli("plan", "--track", "tiny", "--attack", "miface", code=2).stderr


def test_closed_folders_cannot_be_opened_and_open_files_stay(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "inside").write_text("beside")
    secret = tmp_path / "in" / "deep" / "secret"
    secret.write_text("private")
    (tmp_path / "way").symlink_to(secret)
    with secret.open() as before, undisturbed() as changed, closed([tmp_path / "in"]):
        for path in (secret, tmp_path / "way", tmp_path / "in" / ".." / "in" / "deep" / "secret"):
            with pytest.raises(StageFailed, match=r"opened .*secret"):
                path.read_text()
        with pytest.raises(StageFailed, match="opened"):
            list((tmp_path / "in").iterdir())
        with pytest.raises(StageFailed, match="another process"):
            subprocess.run(["true"])
        assert (tmp_path / "inside").read_text() == "beside" and before.read() == "private"
        with closed([tmp_path / "inside"]), pytest.raises(StageFailed):
            (tmp_path / "inside").read_text()
        assert (tmp_path / "inside").read_text() == "beside"
    assert secret.read_text() == "private" and changed == []


def test_installed_packages_describe_their_methods(package: Path) -> None:
    """An entry is package data beside the module: called like what is offered, else like the module."""
    (package / "other.yaml").write_text("title: The other one\nkind: data\npresets: {strong: {}}\n")
    (package / "acme_methods.yaml").write_text("title: What the module is\nkind: output\nlicence: MIT\n")
    (package / "raises.yaml").write_text("title: [no, title]\n")
    registry = Registry()
    other, mine = (registry.entry("defense", f"acme-privacy/{name}") for name in ("other", "mine"))
    assert (other.title, other.kind, list(other.presets)) == ("The other one", "data", ["strong"])
    assert (mine.title, mine.kind, mine.licence) == ("What the module is", "output", "MIT")
    assert registry.select("defense", "acme-privacy/other[strong]").presets == ("strong",)
    wrong = registry.entry("attack", "acme-privacy/raises")
    assert wrong.title.startswith("unusable") and "raises.yaml is not a registry entry" in wrong.title
