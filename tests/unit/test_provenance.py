"""Which code computed a result: a checkout by its commit, an installed package by its files' hashes."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from importlib.metadata import Distribution
from pathlib import Path

import pytest

import mibench
from mibench.running import environment


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package elsewhere that the module takes for this one."""
    folder = tmp_path / "site" / "mibench"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("x = 1\n")
    monkeypatch.setattr(mibench, "__file__", str(folder / "__init__.py"))
    return folder


def git(folder: Path, *words: str) -> str:
    name = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    return subprocess.run(["git", *name, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_checkout(package: Path) -> None:
    root = package.parent
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    commit = git(root, "rev-parse", "HEAD")
    assert environment.code_version() == {"commit": commit, "modified": False}
    (root / "new.txt").write_text("beside the code")
    assert environment.code_version()["modified"] is False
    (package / "__init__.py").write_text("x = 2\n")
    assert environment.code_version() == {"commit": commit, "modified": True}


def test_installed_package(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = package / "__init__.py"
    digest = base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).rstrip(b"=").decode()
    info = package.parent / "mibench-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: mibench\nVersion: 1.0\n")
    (info / "RECORD").write_text(f"mibench/__init__.py,sha256={digest},6\nmibench-1.0.dist-info/RECORD,,\n")
    monkeypatch.setattr(environment, "distribution", lambda name: Distribution.at(info))
    assert environment.code_version() == {"commit": None, "modified": False}
    file.write_text("x = 2\n")
    assert environment.code_version() == {"commit": None, "modified": True}
    file.unlink()
    assert environment.code_version() == {"commit": None, "modified": True}


def test_neither(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = package.parent / "mibench-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: mibench\nVersion: 1.0\n")
    monkeypatch.setattr(environment, "distribution", lambda name: Distribution.at(info))
    assert environment.code_version() == {"commit": None, "modified": None}
