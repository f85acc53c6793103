"""How the suite is run: in several processes, each on one core. And the fixtures that several folders use."""

import json
import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

# Before anything imports torch or numpy. The threads of one worker would wait for each other, and for those of the
# other workers, far longer than they compute.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside this file, whatever pytest's import mode

from once import Once
from tiny import Cli, make_root

from mibench.protocol.method_files import VARIABLE
from mibench.resources import cores

MOST_WORKERS = 8
LONGEST = ("test_slurm", "test_default_track")  # they begin, so that nobody waits for them at the end

# How fast the machine is, and how busy, decides no test.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """One worker per core and two more, because many tests wait for somebody, unless ``-n`` says something else. Each
    begins with a run of neighbouring tests, so that it makes the preparations of few modules; who is done takes from
    the others. Not in pyproject.toml's ``addopts``, where ``-p no:xdist`` would make it an unknown option."""
    if not config.pluginmanager.hasplugin("xdist") or hasattr(config, "workerinput"):
        return
    if config.option.numprocesses is None:
        config.option.numprocesses = min(cores() + 2, config.option.maxprocesses or MOST_WORKERS)
    if config.option.dist == "no":
        config.option.dist = "worksteal"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is marked ``nightly`` runs only where ``-m`` names it."""
    if "nightly" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("nightly")])
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONGEST))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws without a seed of its own does not depend on the tests before it."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_plugin_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``--plugin`` names in this process (``use_file``) is forgotten after the test."""
    monkeypatch.setenv(VARIABLE, "")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """What is made once per session, whichever worker needs it first."""
    folder = tmp_path_factory.getbasetemp()
    return Once(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)


@pytest.fixture(scope="session", autouse=True)
def _facts(once: Once) -> None:
    Cli.facts = once("facts", lambda folder: folder.mkdir())


@pytest.fixture(scope="session")
def tiny_root(once: Once) -> Path:
    """A root with the track ``tiny``. Nobody changes it: make your own to do so."""
    return once("tiny-root", make_root)


@pytest.fixture(scope="session")
def finished(once: Once, tiny_root: Path) -> Cli:
    """A home in which ``re`` and ``none`` were attacked with ``ppa``. Read only: copy it to change it."""

    def make(folder: Path) -> None:
        folder.mkdir()
        cli = Cli(folder / "home", tiny_root)
        done = cli("run", "--track", "tiny", "--device", "cpu", "--json", "--defense", "re", "--attack", "ppa")
        (folder / "said.json").write_text(json.dumps({"stdout": done.stdout, "stderr": done.stderr}))

    folder = once("finished", make)
    cli = Cli(folder / "home", tiny_root)
    cli.first = subprocess.CompletedProcess([], 0, **json.loads((folder / "said.json").read_text()))
    return cli
