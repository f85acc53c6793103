"""Locks between processes: who waits, who does not, what a kill lets go and which files stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mibench.store import locks

ROOT = Path(__file__).parents[2]

_HOLD = """
import sys
from pathlib import Path
from mibench.store import locks
with getattr(locks, sys.argv[2])(Path(sys.argv[1])):
    print("holds", flush=True)
    sys.stdin.readline()
print("let go", flush=True)
"""


class Holder:
    """Another process that takes a lock; it holds it until it is told to let go."""

    def __init__(self, file: Path, how: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(file), how],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def let_go(self) -> None:
        self.process.communicate("\n")


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., Holder]]:
    started: list[Holder] = []

    def start(how: str = "exclusive") -> Holder:
        started.append(Holder(tmp_path / "lock", how))
        return started[-1]

    yield start
    for holder in started:
        holder.process.kill()
        holder.process.communicate()


def waits_for(process: int, file: Path) -> bool:
    """Whether the system says that the process waits for a lock on ``file``."""
    inode = f":{file.stat().st_ino} "
    waiting = [line for line in Path("/proc/locks").read_text().splitlines() if "->" in line and inode in line]
    return any(f" {process} " in line for line in waiting)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_holds_it_and_another_does_not_wait_for_it(tmp_path: Path, hold: Callable[..., Holder]) -> None:
    file = tmp_path / "lock"
    assert not locks.held(file)
    assert not file.exists(), "asking leaves nothing"
    other = hold()
    assert other.says() == "holds"
    assert locks.held(file)
    with locks.exclusive(file, wait=False, on_wait=pytest.fail, remove=lambda: True) as held:
        assert not held
    assert file.exists(), "only a holder removes it"
    other.let_go()
    assert not locks.held(file)
    with locks.exclusive(file, wait=False, on_wait=pytest.fail) as held:
        assert held


def test_a_kill_lets_go(tmp_path: Path, hold: Callable[..., Holder]) -> None:
    file, other, said = tmp_path / "lock", hold(), []
    assert other.says() == "holds"

    def kill() -> None:
        said.append("waiting")
        threading.Timer(0.2, other.process.send_signal, [signal.SIGKILL]).start()

    with locks.exclusive(file, on_wait=kill) as held:
        assert held and locks.held(file)
        assert other.process.wait() == -signal.SIGKILL
    assert said == ["waiting"]


def test_shared_ones_hold_it_together_and_keep_out_who_wants_it_alone(
    tmp_path: Path, hold: Callable[..., Holder]
) -> None:
    file, one, two = tmp_path / "lock", hold("shared"), hold("shared")
    assert (one.says(), two.says()) == ("holds", "holds")
    assert locks.held(file)
    alone = hold("exclusive")
    until(lambda: waits_for(alone.process.pid, file))
    one.let_go()
    assert locks.held(file)
    assert waits_for(alone.process.pid, file)
    two.let_go()
    assert alone.says() == "holds"
    late = hold("shared")
    until(lambda: waits_for(late.process.pid, file))
    alone.let_go()
    assert late.says() == "holds"
    late.let_go()
    assert file.exists() and not locks.held(file)


def test_who_waits_for_a_file_that_is_removed_holds_the_next_one(tmp_path: Path, hold: Callable[..., Holder]) -> None:
    file = tmp_path / "lock"
    with locks.exclusive(file, remove=lambda: True):
        first, other = file.stat().st_ino, hold()
        until(lambda: waits_for(other.process.pid, file))
        keep = os.open(file, os.O_RDONLY)  # or the next file could get the same number
    try:
        assert other.says() == "holds"
        assert file.stat().st_ino != first
        assert locks.held(file)
        with locks.exclusive(file, wait=False) as held:
            assert not held
        other.let_go()
    finally:
        os.close(keep)


def test_it_is_removed_when_the_block_fails_and_not_when_it_shall_stay(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "lock"
    for stays in (True, False):
        with pytest.raises(KeyboardInterrupt), locks.exclusive(file, remove=lambda stays=stays: not stays):  # type: ignore[misc]
            assert locks.held(file)
            raise KeyboardInterrupt
        assert file.exists() == stays
        assert not locks.held(file)


def test_many_who_remove_it_never_hold_it_at_once(tmp_path: Path) -> None:
    """Eight processes, each 200 times: the counter in a file, read and written without any other care, is right."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    code = (
        "import sys\nfrom pathlib import Path\nfrom mibench.store import locks\n"
        "counter = Path(sys.argv[1])\n"
        "for _ in range(200):\n"
        "    with locks.exclusive(counter.with_name('lock'), remove=lambda: True):\n"
        "        counter.write_text(str(int(counter.read_text()) + 1))\n"
    )
    command = [sys.executable, "-c", code, str(counter)]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(8)]
    assert [process.wait() for process in processes] == [0] * 8
    assert counter.read_text() == "1600"
    assert [path.name for path in tmp_path.iterdir()] == ["counter"]
