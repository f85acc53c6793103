"""What is remembered of a method is asked again once anything changed that it could follow from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mibench
from mibench.protocol.methods import Facts, Selection
from mibench.registry import Registry
from mibench.registry.facts import remembered

ASK = """
import json, sys
from pathlib import Path
from mibench.registry import Registry
registry = Registry(home=Path(sys.argv[1]))
track = registry.track("orl32")
facts = {name: registry.facts(registry.select("defense", name), track) for name in ("none", "re")}
told = {name: [known.params, known.skip] for name, known in facts.items()}
print(json.dumps(told | {"torch": "torch" in sys.modules}))
"""


def ask(engine: Path, home: Path) -> dict[str, Any]:
    """What planning is told with a copy of the engine, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(engine), "MIBENCH_ROOT": str(Path(mibench.__file__).parents[1])}
    command = [sys.executable, "-c", ASK, str(home)]
    done = subprocess.run(command, env=environment, cwd=engine, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.slow
def test_an_upgrade_that_changes_what_methods_inherit_is_seen(tmp_path: Path) -> None:
    """A default and a skip rule that no method's file mentions, with an answer from before the upgrade present."""
    engine, home = tmp_path / "engine", tmp_path / "home"
    shutil.copytree(Path(mibench.__file__).parent, engine / "mibench", ignore=shutil.ignore_patterns("__pycache__"))
    first = ask(engine, home)
    again = ask(engine, home)
    assert first["torch"] and not again["torch"], "the second question is answered from what is remembered"
    assert first["re"] == again["re"] and "patience" not in first["re"][0] and first["re"][1] is None
    file = engine / "mibench" / "contracts" / "defense.py"
    text = file.read_text()
    assert text.count("class DefenseParams(BaseParams):") == 1
    body = text.partition("class DefenseParams(BaseParams):")[2]
    changed = text.replace(body, body.replace("    recipe:", "    patience: int = 7\n    recipe:", 1))
    rule = '"""A reason why this defense makes no sense on the track, or None."""\n        return None'
    assert rule in changed
    file.write_text(changed.replace(rule, rule.replace("return None", "return 'not today'")))
    upgraded = ask(engine, home)
    assert upgraded["torch"], "it asked the methods again"
    for name in ("none", "re"):
        assert upgraded[name][0] == first[name][0] | {"patience": 7}
        assert upgraded[name][1] == "not today"


def test_another_role_in_the_registry_is_another_question(tmp_path: Path) -> None:
    registry = Registry(home=tmp_path)
    track, selection = registry.track("orl32"), Selection("defense", "re")
    assert registry.facts(selection, track).role == "data"
    other = Registry(home=tmp_path)
    source = other.source("defense", "re")
    other._sources["defense"]["re"] = source.__class__(
        source.kind, source.id, source.path, source.entry.model_copy(update={"kind": "training"})
    )
    assert other.facts(selection, track).role == "training"


def test_a_damaged_answer_is_asked_again(tmp_path: Path) -> None:
    known = Facts("defense", "d", "d", 1, {}, {}, "")
    remembered(tmp_path, {"a": 1}, lambda: known)
    [memo] = (tmp_path / "cache" / "facts").iterdir()
    for text in ("", "{}", "[]", '{"kind": 3}', memo.read_text()[:-5]):
        memo.write_text(text)
        assert remembered(tmp_path, {"a": 1}, lambda: known) == known
    assert remembered(tmp_path, {"a": 1}, lambda: pytest.fail("it is remembered")) == known
