"""The installed program, forked from a process that has imported it and torch: what it computes is the same, and each
of the suite's many calls saves the seconds that importing takes. ``tests/tiny.py`` calls it; what needs a process of
the program's own (signals, its command line in ``/proc``) is started as a user starts it.

    python tests/warm.py

is such a process; it speaks as ``mibench.running.forkserver`` does, and an order is a file of arguments. With the path
of a socket it waits there for callers; ``client`` is such a caller, a program that a shell can start.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mibench.running import forkserver

PROGRAM = Path(sys.executable).with_name("mibench")  # the installed entry point
# variables that are read before any code runs
AT_START = ("PYTHON", "OMP_", "MKL_", "OPENBLAS_", "LD_", "LANG", "LC_")
MESSAGE = 2**17


def call(
    arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], patience: float
) -> subprocess.CompletedProcess[str] | None:
    """What ``subprocess.run`` gives of ``mibench ARGUMENTS`` with nothing on its standard input; None where a variable
    that a process reads at its start is another one here. Raises TimeoutExpired, and ends it."""
    if not forkserver.POSSIBLE or _early(environment) != _early(_environment()):
        return None
    with TemporaryDirectory(prefix="warm-") as folder:
        order, said = Path(folder, "order.json"), Path(folder, "stderr.txt")
        order.write_text(json.dumps({"arguments": arguments, "cwd": str(cwd), "environment": dict(environment)}))
        with said.open("wb") as log:
            worker = _server().start(order, log.fileno())
        worker.stdin.close()
        late = threading.Event()
        killer = threading.Timer(patience, lambda: (late.set(), worker.kill()))
        killer.start()
        with worker.stdout:
            out = worker.stdout.read()
        code = worker.wait()
        killer.cancel()
        if late.is_set():
            raise subprocess.TimeoutExpired(list(arguments), patience, out)
        return subprocess.CompletedProcess([str(PROGRAM), *arguments], code, out, said.read_text(errors="replace"))


@cache
def _server() -> forkserver.Forks:
    folder = TemporaryDirectory(prefix="warm-")
    server = forkserver.Forks(_environment(), Path(folder.name, "log.txt"), (sys.executable, __file__))
    atexit.register(folder.cleanup)
    atexit.register(server.close)
    return server


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MIBENCH_")} | {
        "OMP_NUM_THREADS": "1"
    }


def _early(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(AT_START)}


def client(path: Path) -> str:
    """The source of a program that has itself carried out by the process that listens at ``path``."""
    return f"""#!{sys.executable} -S
import json, os, socket, sys, tempfile
own = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
with tempfile.NamedTemporaryFile("w", suffix=".json") as order:
    json.dump({{"arguments": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}}, order)
    order.flush()
    own.connect({str(path)!r})
    socket.send_fds(own, [f"1 {{order.name}}".encode()], [0, 1, 2])
    while len(words := own.recv(100).split()) == 2:
        pass
os._exit(int(words[2]) if words else 70)
"""


@contextmanager
def listening(path: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Such a process, with these variables at its start."""
    server = subprocess.Popen([sys.executable, __file__, str(path)], env=dict(environment), start_new_session=True)
    try:
        while not path.exists():
            assert server.poll() is None, "it ended"
            time.sleep(0.05)
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


# --- in the process that is forked ---------------------------------------------------------------------------------


class _Nursery:
    """A process, forked before the program begins and starts threads, that becomes its fork server when it asks for
    one; what ``subprocess.Popen`` is to ``Forks``."""

    def __init__(self, compute: Callable[[Path], int]) -> None:
        self.socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.used, self._code = False, None
        self.pid = os.fork()
        if self.pid == 0:
            self.socket.close()
            os.setsid()
            self._become_server(other, compute)
        other.close()

    @staticmethod
    def _become_server(own: socket.socket, compute: Callable[[Path], int]) -> None:
        with suppress(ConnectionError):
            if asked := own.recv(MESSAGE):
                found = json.loads(asked)
                _in_place(found["environment"])
                log = os.open(found["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                null = os.open(os.devnull, os.O_RDONLY)
                for stream, descriptor in enumerate((null, log, log)):
                    os.dup2(descriptor, stream)
                forkserver.serve(own, compute)
        os._exit(0)

    def poll(self) -> int | None:
        return self._ended(os.WNOHANG)

    def wait(self) -> int:
        code = self._ended(0)
        assert code is not None
        return code

    def _ended(self, how: int) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, how)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code


def _run(compute: Callable[[Path], int], order: Path) -> int:
    """In a forked process: be the program."""
    asked: dict[str, Any] = json.loads(order.read_text())
    nursery = _Nursery(compute)
    started = forkserver.Forks._connected

    def connected(forks: forkserver.Forks) -> socket.socket:
        if not nursery.used:
            nursery.used = True
            request = {"environment": forks._environment, "log": str(forks._log)}
            nursery.socket.send(json.dumps(request).encode())
            forks._server, forks._socket = nursery, nursery.socket  # type: ignore[assignment]
            threading.Thread(target=forks._listen, args=(nursery.socket,), daemon=True).start()
        return started(forks)

    forkserver.Forks._connected = connected  # type: ignore[method-assign]
    sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", buffering=1, closefd=False) for descriptor in (1, 2))
    _in_place(asked["environment"])
    os.chdir(asked["cwd"])
    sys.argv = [str(PROGRAM), *asked["arguments"]]
    from mibench.cli import main

    code: Any = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    if not nursery.used:
        nursery.socket.close()
        nursery.wait()
    return code if isinstance(code, int) else 0 if code is None else 1


def _in_place(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _imported() -> None:
    """What the commands import when they are called."""
    for name in ("cli.run", "cli.inspect", "cli.site", "running.runner", "publish.build", "store.db"):
        import_module(f"mibench.{name}")


def _listen(path: Path, run: Callable[[Path], int]) -> None:
    """Serve each caller in a process of its own."""
    own = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    part = path.with_suffix(".part")
    own.bind(str(part))
    own.listen()
    part.rename(path)  # there when it listens
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        caller, _ = own.accept()
        if os.fork() == 0:
            own.close()
            forkserver.serve(caller, run)
            os._exit(0)
        caller.close()


if __name__ == "__main__":
    run = partial(_run, forkserver.warm_up())
    _imported()
    if sys.argv[1:]:
        _listen(Path(sys.argv[1]), run)
    forkserver.serve(socket.socket(fileno=os.dup(0)), run)
    os._exit(0)
