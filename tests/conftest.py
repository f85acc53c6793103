"""Lets tests import the helpers beside this file whatever pytest's import mode; fixtures that several folders use."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tiny import Cli, make_root

from mibench.protocol.method_files import VARIABLE


@pytest.fixture(autouse=True)
def no_plugin_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``--plugin`` names in this process (``use_file``) is forgotten after the test."""
    monkeypatch.setenv(VARIABLE, "")


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the track ``tiny``. Nobody changes it: make your own to do so."""
    return make_root(tmp_path_factory.mktemp("tiny") / "root")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path) -> Cli:
    """A home in which ``re`` and ``none`` were attacked with ``ppa``. Read only: copy it to change it."""
    cli = Cli(tmp_path_factory.mktemp("finished") / "home", tiny_root)
    cli.first = cli("run", "--track", "tiny", "--device", "cpu", "--json", "--defense", "re", "--attack", "ppa")
    return cli
