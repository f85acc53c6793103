"""Forked workers behave as started ones: streams, exit codes, signals, isolation, and ends of everybody concerned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import until

from mibench.running.forkserver import LOST, POSSIBLE, Forks, Worker

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="workers are forked on Linux alone")

# A server without torch whose workers run their order as Python.
SERVER = """
import os, socket
from mibench.running.forkserver import serve
shared = {}
def compute(path):
    found = {"shared": shared}
    exec(path.read_text(), found)
    return found.get("code", 0)
serve(socket.socket(fileno=os.dup(0)), compute)
"""


@pytest.fixture
def forks(tmp_path: Path) -> Iterator[Forks]:
    own = Forks(dict(os.environ) | {"PYTHONUNBUFFERED": "1"}, tmp_path / "server.txt", [sys.executable, "-c", SERVER])
    yield own
    own.close()


def start(forks: Forks, folder: Path, text: str) -> Worker:
    order = folder / f"{time.monotonic_ns()}.py"
    order.write_text(text)
    with (folder / "log.txt").open("a") as log:
        return forks.start(order, log.fileno())


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_streams_and_exit_code(forks: Forks, tmp_path: Path) -> None:
    worker = start(
        forks,
        tmp_path,
        "import sys\nprint('hears', sys.stdin.readline().strip())\nprint('in the log', file=sys.stderr)\ncode = 7",
    )
    worker.stdin.write("a word\n")
    worker.stdin.flush()
    assert worker.stdout.read() == "hears a word\n"
    assert worker.wait() == 7
    assert (tmp_path / "log.txt").read_text() == "in the log\n"
    assert worker.pid is not None and not alive(worker.pid), "it was reaped"


def test_an_exception_is_in_the_log(forks: Forks, tmp_path: Path) -> None:
    assert start(forks, tmp_path, "1 / 0").wait() == 1
    assert "ZeroDivisionError" in (tmp_path / "log.txt").read_text()


def test_many_at_once_keep_apart(forks: Forks, tmp_path: Path) -> None:
    workers = [start(forks, tmp_path, f"shared[{n}] = 1\nprint(sorted(shared))\ncode = {n}") for n in range(30)]
    for number, worker in enumerate(workers):
        assert worker.stdout.read() == f"[{number}]\n", "what one worker changes the others do not see"
        assert worker.wait() == number


def test_a_worker_has_its_three_streams_and_nothing_else(forks: Forks, tmp_path: Path) -> None:
    running = start(forks, tmp_path, "import sys\nsys.stdin.read()")
    worker = start(forks, tmp_path, "import os\nprint(*os.listdir('/proc/self/fd'))")
    assert worker.stdout.read().split()[:3] == ["0", "1", "2"]
    assert worker.wait() == 0
    assert len(start(forks, tmp_path, "import os\nprint(*os.listdir('/proc/self/fd'))").stdout.read().split()) == 4, (
        "the fourth is the folder that is being listed"
    )
    running.stdin.close()
    assert running.wait() == 0, "nobody else holds its standard input open"


def test_signals(forks: Forks, tmp_path: Path) -> None:
    asked = start(
        forks,
        tmp_path,
        "import os, signal, time\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(5))\n"
        "print('ready', flush=True)\ntime.sleep(60)",
    )
    assert asked.stdout.readline() == "ready\n"
    asked.terminate()
    assert asked.wait() == 5
    parent = start(
        forks,
        tmp_path,
        "import subprocess, time\nprint(subprocess.Popen(['sleep', '60']).pid, flush=True)\ntime.sleep(60)",
    )
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    assert parent.wait() == -signal.SIGKILL
    until(lambda: not alive(child), 10)
    parent.terminate()  # after its end: nothing happens
    hasty = start(forks, tmp_path, "import time\ntime.sleep(60)")
    hasty.kill()
    assert hasty.wait() == -signal.SIGKILL, "however early it is killed"


def test_a_lost_server(forks: Forks, tmp_path: Path) -> None:
    """Its workers end, and the next one is started by a new server."""
    worker = start(forks, tmp_path, "import os, time\nprint(os.getppid(), flush=True)\ntime.sleep(60)")
    server = int(worker.stdout.readline())
    os.kill(server, signal.SIGKILL)
    assert worker.wait() == LOST
    assert worker.pid is not None
    pid = worker.pid
    until(lambda: not alive(pid), 10)
    assert start(forks, tmp_path, "code = 4").wait() == 4


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    forks = Forks(dict(os.environ), tmp_path / "server.txt", [sys.executable, "-c", "raise SystemExit('no torch')"])
    assert start(forks, tmp_path, "").wait() == LOST
    assert "no torch" in (tmp_path / "server.txt").read_text()
    forks.close()


OWNER = """
import json, os, sys, time
from pathlib import Path
from mibench.running.forkserver import Forks
forks = Forks(dict(os.environ), Path(sys.argv[1]) / "server.txt", [sys.executable, "-c", sys.argv[2]])
with open(os.devnull, "w") as log:
    worker = forks.start(Path(sys.argv[1]) / "order.py", log.fileno())
print(worker.stdout.readline(), end="", flush=True)
time.sleep(60)
"""


def test_everybody_ends_with_the_executor(tmp_path: Path) -> None:
    """The server, because its socket closes; a worker, because its standard input does."""
    (tmp_path / "order.py").write_text(
        "import json, os, sys\nprint(json.dumps([os.getpid(), os.getppid()]), flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", OWNER, str(tmp_path), SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = json.loads(owner.stdout.readline())
        assert all(map(alive, pids))
        owner.kill()
    until(lambda: not any(map(alive, pids)), 10)


WARM = """
import json, os, sys
from mibench.running.forkserver import warm_up
warm_up()
methods = [name for name in sys.modules if name.startswith(("mibench_plugins", "mibench.priors."))]
print(json.dumps([len(os.listdir("/proc/self/task")), "torch" in sys.modules, methods]))
"""


def test_the_server_has_torch_and_one_thread_and_nothing_of_a_method() -> None:
    """A fork of a process with several threads can hold a lock for ever that another one held."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", WARM], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [1, True, []]
