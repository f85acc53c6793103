"""The registry: files and entries one to one, strict YAML, names with suggestions, presets and facts."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from mibench.contracts import Defense
from mibench.errors import UserError
from mibench.registry import Registry
from mibench.resources import resource_root

KINDS = ("defense", "attack", "prior")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the registry and its methods, to spoil."""
    source = resource_root()
    for name in ("defenses", "attacks"):
        shutil.copytree(source / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(source / "registry.yaml", tmp_path)
    return tmp_path


def edit(root: Path, old: str, new: str) -> Registry:
    path = root / "registry.yaml"
    text = path.read_text()
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new, 1))
    return Registry(root)


# --- files and entries -------------------------------------------------------------------------------------


def test_every_file_has_an_entry_and_every_entry_a_file() -> None:
    assert list(Registry().unlisted()) == []


def test_a_file_without_entry_and_an_entry_without_file_are_named(root: Path) -> None:
    (root / "defenses" / "stray.py").write_text("")
    (root / "attacks" / "gmi.py").unlink()
    edit(root, "  dcgan:\n", "  ghost:\n    title: No such prior\n  dcgan:\n")
    assert list(Registry(root).unlisted()) == [
        "defenses/stray.py is not in registry.yaml.",
        "attack 'gmi' is in registry.yaml but attacks/gmi.py does not exist.",
        "prior 'ghost' is in registry.yaml but priors/ghost.py does not exist.",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_plugin_agrees_with_its_entry(kind: Any) -> None:
    registry = Registry()
    assert registry.entries(kind)
    for name, entry in registry.entries(kind).items():
        cls = registry.plugin(kind, name)
        assert cls.__doc__, f"{name} says what it is"
        read, fields = registry.defaults(kind, name), cls.Params.model_fields
        for field, value in read.items():  # from the source alone; what is no plain value as it is written
            known = fields[field].get_default(call_default_factory=True)
            assert value == known or (
                isinstance(value, str) and eval(value, vars(sys.modules[cls.__module__])) == known
            )
        assert not read or {field for field, known in fields.items() if not known.is_required()} == set(read)
        assert kind == "prior" or len(re.findall(r"[.](?= [A-Z]|$)", entry.summary)) == 2, f"{name} in two sentences"
        for preset, values in entry.presets.items():
            cls.Params(**values)
            assert preset == preset.lower()
        if kind == "attack":
            assert entry.access == str(cls.access)
            reference = registry.build(kind, name, {}, registry.track("synthfaces")).prior()
            assert entry.prior == (reference.id if reference else None)
        if kind == "prior":
            assert entry.scope == cls.scope


def test_a_file_must_hold_one_plugin(root: Path) -> None:
    path = root / "defenses" / "none.py"
    path.write_text(path.read_text() + "\n\nclass Another(Defense):\n    pass\n")
    with pytest.raises(UserError, match="must define exactly one subclass of Defense; it defines 2"):
        Registry(root).plugin("defense", "none")


def test_a_missing_file_is_said(root: Path) -> None:
    (root / "defenses" / "none.py").unlink()
    with pytest.raises(UserError, match=r"Defense 'none' is in registry.yaml but .*none\.py does not exist"):
        Registry(root).plugin("defense", "none")


def test_a_file_that_fails_is_not_remembered(root: Path) -> None:
    path = root / "defenses" / "none.py"
    text = path.read_text()
    path.write_text("raise RuntimeError('half written')\n")
    with pytest.raises(UserError, match=r"RuntimeError: half written .*none\.py, line 1"):
        Registry(root).plugin("defense", "none")
    path.write_text(text)
    assert issubclass(Registry(root).plugin("defense", "none"), Defense)


def test_two_registries_have_their_own_plugins(root: Path) -> None:
    path = root / "defenses" / "none.py"
    path.write_text(path.read_text().replace("NoDefense", "Changed"))
    assert Registry().plugin("defense", "none").__name__ == "NoDefense"
    assert Registry(root).plugin("defense", "none").__name__ == "Changed"
    assert Registry().plugin("defense", "none").__name__ == "NoDefense"


def test_a_plugin_is_imported_once() -> None:
    assert Registry().plugin("attack", "gmi") is Registry().plugin("attack", "gmi")


# --- the file ----------------------------------------------------------------------------------------------


def test_duplicate_keys_are_refused(root: Path) -> None:
    registry = edit(root, "  none:\n", "  re:\n    title: Twice\n  none:\n")
    with pytest.raises(UserError, match=r"registry\.yaml cannot be read: duplicate key 're'"):
        registry.entries("defense")


def test_aliases_are_refused(root: Path) -> None:
    edit(root, "negative: {alpha: -0.05}", "negative: &a {alpha: -0.05}")
    registry = edit(root, "positive: {alpha: 0.1}", "positive: *a")
    with pytest.raises(UserError, match="aliases are not allowed"):
        registry.entries("defense")


def test_yaml_tags_run_nothing(root: Path) -> None:
    registry = edit(root, "title: No defense", "title: !!python/object/apply:os.getcwd []")
    with pytest.raises(UserError, match="cannot be read"):
        registry.entries("defense")


def test_a_newer_schema_is_refused_as_such(root: Path) -> None:
    """Also when it has fields that this version does not know."""
    registry = edit(root, "schema: 1", "schema: 2\nleagues: {}")
    with pytest.raises(UserError, match=r"has schema 2; this version of mibench reads up to 1"):
        registry.entries("defense")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("title: No defense", "titel: No defense"),
        ("schema: 1", "schema: one"),
        ("schema: 1\n", ""),
        ("venue: TMLR", "venue: [TMLR]"),
        ('url: "https://arxiv.org/abs/2409.01062"', 'url: "javascript:alert(1)"'),
        ("priors:", "priors"),
    ],
)
def test_a_wrong_file_is_a_sentence(root: Path, old: str, new: str) -> None:
    with pytest.raises(UserError, match=r"registry\.yaml cannot be read"):
        edit(root, old, new).entries("defense")


@pytest.mark.parametrize("text", ["", "[]", "just text"])
def test_a_file_of_something_else_is_a_sentence(root: Path, text: str) -> None:
    (root / "registry.yaml").write_text(text)
    with pytest.raises(UserError, match=r"registry\.yaml cannot be read"):
        Registry(root).entries("defense")


@pytest.mark.parametrize("asked", [0, -1, 31, 1000])
def test_a_track_cannot_attack_more_classes_than_there_are(root: Path, asked: int) -> None:
    registry = edit(root, "attack: {identities: all", f"attack: {{identities: {asked}")
    with pytest.raises(UserError, match=rf"(?s)orl32.*attack.identities is {asked}; the target has 30 classes"):
        registry.track("orl32")


def test_a_wrong_track_is_named(root: Path) -> None:
    registry = edit(root, "arch: convnet, epochs: 100", "arch: convnet, epochs: 0")
    with pytest.raises(UserError, match=r"Track 'orl32' in registry.yaml cannot be read.*\s*target\.epochs"):
        registry.track("orl64")


# --- names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda r: r.track("orl23"), "Unknown track 'orl23'. Did you mean 'orl32'"),
        (lambda r: r.entry("defense", "bidu"), "Unknown defense 'bidu'. Did you mean 'bido'"),
        (lambda r: r.select("attack", "gmmi"), "Unknown attack 'gmmi'. Did you mean 'gmi'"),
        (lambda r: r.select("defense", "re[storng]"), "Unknown preset of re 'storng'. Did you mean 'strong'?"),
        (lambda r: r.plugin("prior", "wgan-gp"), "Unknown prior 'wgan-gp'. Did you mean 'wgan_gp'"),
    ],
)
def test_names_that_do_not_exist(ask: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        ask(Registry())
    assert message in str(error.value) and "Known: " in str(error.value)


@pytest.mark.parametrize(
    "text", ["re", "re[strong]", "re[strong,p=0.5]", "re[area=0.1:0.8,p=0.5]", "mid[mean_only=true]"]
)
def test_a_label_is_how_to_ask_again(text: str) -> None:
    selection = Registry().select("defense", text)
    assert selection.label == text
    assert Registry().select("defense", selection.label) == selection


def test_later_presets_and_parameters_win() -> None:
    registry, track = Registry(), Registry().track("synthfaces")
    assert registry.values(registry.select("defense", "mid"), track) == {"beta": 0.01}  # the track's own preset
    assert registry.values(registry.select("defense", "mid[paper]"), track) == {"beta": 0.003}
    assert registry.values(registry.select("defense", "mid[paper,small]"), track) == {"beta": 0.01}
    assert registry.values(registry.select("defense", "mid[beta=0.2,paper]"), track) == {"beta": 0.2}


# --- facts -------------------------------------------------------------------------------------------------


def test_facts_hold_resolved_and_non_default_parameters() -> None:
    registry = Registry()
    facts = registry.facts(registry.select("defense", "re[strong]"), registry.track("synthfaces"))
    assert facts.params["area"] == [0.1, 0.8] and facts.params["p"] == 1.0
    assert facts.non_default == {"area": [0.1, 0.8]}
    assert facts.label == "re[strong]" and facts.skip is None and len(facts.source_sha256) == 64


def test_facts_of_attacks_and_priors() -> None:
    registry = Registry()
    track = registry.track("synthfaces")
    by_name = {name: registry.facts(registry.select("attack", name), track) for name in ("gmi", "kedmi", "ppa")}
    assert {name: facts.prior["id"] for name, facts in by_name.items()} == {
        "gmi": "wgan_gp",
        "kedmi": "k_plus_one",
        "ppa": "dcgan",
    }
    assert {name for name, facts in by_name.items() if facts.prepares} == {"ppa"}
    assert all(facts.access == "white_box" for facts in by_name.values())
    scopes = {name: registry.facts(registry.select("prior", name), track).scope for name in ("wgan_gp", "k_plus_one")}
    assert scopes == {"wgan_gp": "public", "k_plus_one": "target"}


def test_a_defense_says_where_it_makes_no_sense() -> None:
    registry = Registry()
    selection = registry.select("defense", "tl")
    assert "no labelled public images" in registry.facts(selection, registry.track("mnist")).skip
    assert registry.facts(selection, registry.track("orl32")).skip is None


@pytest.mark.parametrize(
    ("text", "name"), [("re[p=1.5]", r"re\.p"), ("re[aera=1:2]", "'aera'"), ("re[area=0.1]", r"re\.area")]
)
def test_wrong_parameters_are_refused_at_planning(text: str, name: str) -> None:
    registry = Registry()
    with pytest.raises(UserError, match=name):
        registry.facts(registry.select("defense", text), registry.track("synthfaces"))


def test_facts_are_remembered_until_the_source_changes(root: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"

    def facts(forbidden: bool) -> Any:
        registry = Registry(root, home)
        if forbidden:
            registry.plugin = lambda *_: pytest.fail("asked the plugin again")  # type: ignore[method-assign]
        return registry.facts(registry.select("attack", "ppa"), registry.track("synthfaces"))

    first = facts(forbidden=False)
    assert facts(forbidden=True) == first
    (memo,) = (home / "cache" / "facts").iterdir()
    memo.write_text("{")
    assert facts(forbidden=False) == first
    path = root / "attacks" / "ppa.py"
    path.write_text(path.read_text() + "\n# a change\n")
    with pytest.raises(pytest.fail.Exception):
        facts(forbidden=True)
    assert facts(forbidden=False).source_sha256 != first.source_sha256
