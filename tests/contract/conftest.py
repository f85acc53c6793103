"""The store that the contract suite fills."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from once import Once
from plugins import RESIDUAL, Bench, with_shortcuts
from tiny import edit_registry


@pytest.fixture(scope="module")
def bench(once: Once, tiny_root: Path) -> Iterator[Bench]:
    """A store that the tests here fill together, in all workers: a stage that one computes another waits for."""

    def make(folder: Path) -> None:
        shutil.copytree(tiny_root, folder / "root", symlinks=True)
        edit_registry(
            folder / "root", lambda data: data["tracks"].update({RESIDUAL: with_shortcuts(data["tracks"]["tiny"])})
        )
        (folder / "home").mkdir()

    folder = once("contract", make)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIBENCH_ROOT", str(folder / "root"))
        yield Bench(folder / "home", folder / "root")


@pytest.fixture
def again(bench: Bench, tmp_path: Path) -> Bench:
    """An empty store, to compute something a second time; it shares what has nothing to do with plugins."""
    other = Bench(tmp_path / "home", bench.root)
    other.home.mkdir()
    if (bench.home / "data").exists():
        (other.home / "data").symlink_to(bench.home / "data")
    return other
