"""A root with the registry's methods and a track ``tiny`` on which every one of them takes a second.

Every integer parameter of a method is at most ``CAP`` there (as far as the method allows it), so a new method is
covered without further ado; one that needs something else gives itself a preset ``tiny`` in registry.yaml.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, ClassVar

import warm
import yaml
from warm import PROGRAM

from mibench.checking.track import SECTION, reduced
from mibench.protocol.methods import Kind
from mibench.registry import Registry
from mibench.resources import resource_root

KINDS: tuple[Kind, ...] = ("defense", "attack", "prior")
PLURAL = {"defense": "defenses", "attack": "attacks", "prior": "priors"}


def make_root(
    folder: Path, sections: dict[str, Any] | None = None, presets: dict[str, dict[str, Any]] | None = None
) -> Path:
    """Copy the methods and the registry to ``folder`` and add the track ``tiny``.

    ``sections`` changes parts of the track (``{"target": {"epochs": 90}}``), ``presets`` parameters by method.
    """
    source = resource_root()
    folder.mkdir(parents=True)
    for name in ("defenses", "attacks"):
        shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "site").symlink_to(source / "site")
    data = yaml.safe_load((source / "registry.yaml").read_text())
    registry = Registry(source)
    for kind in KINDS:
        for name, entry in data[PLURAL[kind]].items():
            small = reduced(registry, kind, name) | (presets or {}).get(name, {})
            entry.setdefault("presets", {})["tiny"] = small
    track = json.loads(json.dumps(SECTION))
    for name, changes in (sections or {}).items():
        track[name] = track.get(name, {}) | changes if isinstance(changes, dict) else changes
    data["tracks"]["tiny"] = track
    (folder / "registry.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return folder


def edit_registry(root: Path, change: Any) -> None:
    """Call ``change`` with the registry of ``root`` as nested dictionaries and write it back."""
    path = root / "registry.yaml"
    data = yaml.safe_load(path.read_text())
    change(data)
    path.write_text(yaml.safe_dump(data, sort_keys=False))


PATIENCE = 600  # seconds to wait for what must happen: how busy the machine is decides no test


class Cli:
    """The installed program, run with a home and a root of its own, in the folder that holds the home."""

    first: subprocess.CompletedProcess[str]  # what filled the home, where a fixture did
    facts: ClassVar[Path | None] = None  # what is remembered of methods, for all new homes: asking them takes torch

    def __init__(self, home: Path, root: Path, **environment: str) -> None:
        self.home, self.root = home, root
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MIBENCH_")}
        self.environment = inherited | {
            "MIBENCH_HOME": str(home),
            "MIBENCH_ROOT": str(root),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            **environment,
        }

    def __call__(self, *arguments: str, code: int | None = 0, **more: str) -> subprocess.CompletedProcess[str]:
        """Run to the end; the exit code must be ``code`` unless that is None."""
        self._share_facts(*arguments[:1])
        environment = self.environment | more
        done = warm.call(arguments, self.home.parent, environment, PATIENCE) or subprocess.run(
            [str(PROGRAM), *arguments],
            cwd=self.home.parent,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
        )
        assert code is None or done.returncode == code, (
            f"mibench {' '.join(arguments)} ended with {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """Run in the background, in a process group of its own. Ctrl-C works there even where a shell's background job
        would ignore it."""
        self._share_facts(*arguments[:1])
        return subprocess.Popen(
            [str(PROGRAM), *arguments],
            cwd=self.home.parent,
            env=self.environment | more,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def copy(self, folder: Path) -> Cli:
        """One that may change its home: ``folder/home``, with the same content. Somebody may be reading this home,
        so SQLite itself copies its database; the files beside it come and go with their readers."""
        shutil.copytree(self.home, folder / "home", symlinks=True, ignore=shutil.ignore_patterns("mibench.db*"))
        with (
            closing(sqlite3.connect(self.home / "mibench.db")) as source,
            closing(sqlite3.connect(folder / "home" / "mibench.db")) as target,
        ):
            source.backup(target)
        return Cli(folder / "home", self.root)

    def _share_facts(self, command: str = "") -> None:
        if self.facts is not None and command in ("run", "plan"):
            with suppress(OSError):  # a home that is no folder, a full or a read-only disk
                (self.home / "cache").mkdir(parents=True)
                (self.home / "cache" / "facts").symlink_to(self.facts)

    def run(self, *arguments: str, code: int | None = 0, **more: str) -> dict[str, Any]:
        """``mibench run --track tiny --device cpu --json`` with further arguments; the object it prints."""
        done = self("run", "--track", "tiny", "--device", "cpu", "--json", *arguments, code=code, **more)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def numbers(answer: dict[str, Any]) -> list[Any]:
    """What two runs must agree in."""
    return [(run["run"], run["metrics"]) for run in answer["runs"]]


def images(cli: Cli) -> dict[str, bytes]:
    """The reconstructions in the store, by path."""
    files = cli.home.glob("store/invert/*/*/images/*.png")
    return {str(file.relative_to(cli.home)): file.read_bytes() for file in files}


def workers_of(home: Path) -> list[int]:
    """The processes that compute a stage for ``home``, started or forked."""
    ours: dict[int, bytes] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if f"MIBENCH_HOME={home}\0".encode() in environment:
            ours[int(folder.name)] = command
    servers = {pid for pid, command in ours.items() if b"mibench.running.forkserver" in command}
    started = [pid for pid, command in ours.items() if b"mibench.running.worker" in command]
    return started + [pid for pid in servers if _parent(pid) in servers]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Wait for the condition; its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return value
