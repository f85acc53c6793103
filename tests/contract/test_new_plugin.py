"""A method is a file and a registry entry: nothing else is needed to run it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Cli, edit_registry, make_root

MINE = '''"""Mine: cross-entropy with noisy images (nobody, 2026)."""

from mibench.contracts import Defense


class Mine(Defense):
    """x + noise / 10."""

    def augment(self, images, rng):
        return (images + 0.1 * rng.normal(*images.shape)).clamp(0, 1)
'''


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_root(tmp_path_factory.mktemp("new") / "root")
    (folder / "defenses" / "mine.py").write_text(MINE)
    return folder


def test_file_without_an_entry_is_named(root: Path, tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home", root)
    assert "defenses/mine.py is not in registry.yaml" in cli("doctor", code=3).stdout
    assert "mine" in cli("run", "--track", "tiny", "--defense", "mine", code=2).stderr


@pytest.mark.slow
def test_file_and_entry_run(root: Path, tmp_path: Path) -> None:
    paper = {"title": "Mine", "venue": "Nowhere", "year": 2026, "url": "https://example.org"}
    edit_registry(root, lambda data: data["defenses"].update(mine={"title": "My defense", "paper": paper}))
    cli = Cli(tmp_path / "home", root)
    assert "My defense" in cli("list", "defenses").stdout
    runs = cli.run("--defense", "mine", "--attack", "gmi")["runs"]
    assert [(run["defense"], run["attack"], run["status"]) for run in runs] == [
        ("none", "gmi", "done"),
        ("mine", "gmi", "done"),
    ]
    assert runs[1]["metrics"]["nat1"]["value"] is not None
    assert runs[0]["metrics"]["conf"]["value"] != runs[1]["metrics"]["conf"]["value"]
    pages = [path.read_text() for path in (cli.home / "site").rglob("*.html")]
    assert any("My defense" in page for page in pages)
