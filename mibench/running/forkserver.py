"""A process that has imported torch, and nothing of a method, and forks a worker for each order: a stage then starts in
milliseconds instead of the seconds that importing torch takes.

    python -m mibench.running.forkserver

Its standard input is a socket. ``Forks`` at the other end sends, for each worker, a number, the path of its order and
the three descriptors that become the worker's standard streams; it hears ``number pid`` when the worker was forked and
``number pid code`` when it has ended. ``-number signal`` asks it to send the worker a signal: the worker's parent alone
knows that no other process can have its pid by then. When the socket closes the server ends.

For workers on a CPU alone: a fork of a process that has looked for GPUs cannot use them. One thread, so that nothing
can be held by another one at the moment of the fork.
"""

from __future__ import annotations

import array
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO

from mibench.protocol.stage_kinds import STAGE_KINDS

SERVER = (sys.executable, "-m", "mibench.running.forkserver")
POSSIBLE = sys.platform == "linux"  # elsewhere libraries start threads of their own, and a fork is not safe
MESSAGE = 8192  # bytes; an order's path is shorter
LOST = 70  # the exit code of a worker whose end nobody can tell, because the server is gone


class Worker:
    """A forked worker, seen from the executor: what ``subprocess.Popen`` is for a started one."""

    def __init__(self, server: socket.socket, number: int, stdin: IO[str], stdout: IO[str]) -> None:
        self.server, self._number = server, number
        self.stdin, self.stdout = stdin, stdout
        self.pid: int | None = None
        self._code: int | None = None
        self._ended = threading.Event()

    def end(self, code: int) -> None:
        """Note how it ended."""
        self._code = code
        self._ended.set()

    def wait(self) -> int:
        """Its exit code once it has ended; -N if signal N ended it."""
        self._ended.wait()
        assert self._code is not None
        return self._code

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it with whatever it started."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with suppress(OSError):  # the server is gone, and soon the worker
            self.server.send(f"-{self._number} {int(number)}".encode())


class Forks:
    """The server, started when the first worker is asked for. It and its workers get ``environment``; what it says
    itself goes to the file ``log``."""

    def __init__(self, environment: dict[str, str], log: Path, command: Sequence[str] = SERVER) -> None:
        self._environment, self._log, self._command = environment, log, command
        self._server: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._workers: dict[int, Worker] = {}
        self._count = 0
        self._lock = threading.Lock()

    def start(self, order: Path, log: int) -> Worker:
        """Fork a worker; its standard error goes to the descriptor ``log``."""
        own = self._connected()
        (taken, stdin), (stdout, given) = os.pipe(), os.pipe()
        with self._lock:
            self._count += 1
            worker = Worker(own, self._count, os.fdopen(stdin, "w"), os.fdopen(stdout))
            self._workers[self._count] = worker
        try:
            descriptors = array.array("i", [taken, given, log])
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors.tobytes())]
            own.sendmsg([f"{self._count} {order}".encode()], rights)
        except OSError:
            self._lost(own)
        finally:
            os.close(taken)
            os.close(given)
        return worker

    def _connected(self) -> socket.socket:
        if self._server is None or self._socket is None or self._server.poll() is not None:
            own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with self._log.open("ab") as log:
                self._server = subprocess.Popen(
                    self._command,
                    stdin=other.fileno(),
                    stdout=log,
                    stderr=log,
                    env=self._environment,
                    start_new_session=True,  # Ctrl-C reaches the coordinator alone
                )
            other.close()
            self._socket = own
            threading.Thread(target=self._listen, args=(own,), daemon=True).start()
        return self._socket

    def _listen(self, own: socket.socket) -> None:
        with suppress(OSError):
            while message := own.recv(MESSAGE):
                number, pid, *code = (int(part) for part in message.split())
                with self._lock:
                    worker = self._workers.pop(number) if code else self._workers[number]
                worker.pid = pid
                if code:
                    worker.end(code[0])
        self._lost(own)

    def _lost(self, server: socket.socket) -> None:
        """The server is gone, and with it whoever could tell how its workers end: end them."""
        with self._lock:
            left = {number: worker for number, worker in self._workers.items() if worker.server is server}
            for number in left:
                del self._workers[number]
        for worker in left.values():
            if worker.pid is not None:
                with suppress(OSError):
                    os.killpg(worker.pid, signal.SIGKILL)
            worker.end(LOST)

    def close(self) -> None:
        """End the server. Workers that still run are not waited for."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        if self._server is not None:
            self._server.wait()


def serve(own: socket.socket, compute: Callable[[Path], int]) -> None:
    """Fork a worker for each message until the other end closes. ``compute`` is called in the worker with the path of
    its order and returns its exit code."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    workers: dict[int, int] = {}  # pid -> number
    while True:
        ready, _, _ = select.select([own.fileno(), woken], [], [])
        if woken in ready:
            with suppress(BlockingIOError):
                os.read(woken, 4096)
            _report_ended(own, workers)
        if own.fileno() not in ready:
            continue
        message, descriptors = _received(own)
        if not message:
            return
        word, _, rest = message.partition(" ")
        if word.startswith("-"):
            for pid in [pid for pid, number in workers.items() if number == -int(word)]:
                _send(pid, int(rest))
            continue
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for descriptor in (own.detach(), woken, wake):
                os.close(descriptor)
            _become_worker(Path(rest), descriptors, compute)
        workers[pid] = int(word)
        for descriptor in descriptors:
            os.close(descriptor)
        own.send(f"{word} {pid}".encode())


def _send(pid: int, number: int) -> None:
    """SIGKILL also to whatever the worker started; it leads a group once it has come so far."""
    if number == signal.SIGKILL:
        with suppress(ProcessLookupError):
            os.killpg(pid, number)
    os.kill(pid, number)


def _received(own: socket.socket) -> tuple[str, list[int]]:
    try:
        data, descriptors, _, _ = socket.recv_fds(own, MESSAGE, 3)
    except ConnectionError:
        return "", []
    return data.decode(), descriptors


def _report_ended(own: socket.socket, workers: dict[int, int]) -> None:
    for pid in list(workers):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            number = workers.pop(pid)
            with suppress(OSError):
                own.send(f"{number} {pid} {os.waitstatus_to_exitcode(status)}".encode())


def _become_worker(order: Path, descriptors: list[int], compute: Callable[[Path], int]) -> None:
    """In the child: take over the streams, compute, end. Never returns."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for stream, descriptor in enumerate(descriptors):
            os.dup2(descriptor, stream)
            os.close(descriptor)
        code = compute(order)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # everything is on disk; tearing torch down takes a second


def warm_up() -> Callable[[Path], int]:
    """Import what workers need: torch and the stages, and nothing of a method. Returns what a worker does."""
    import torch

    from mibench.running.environment import LIBRARIES, resident_libraries
    from mibench.running.worker import work

    for kind in STAGE_KINDS.values():
        import_module(kind.compute.partition(":")[0])
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1, requires_grad=True)])  # the first optimiser imports torch's compiler: a second
    LIBRARIES.append(resident_libraries())
    gc.collect()
    gc.freeze()  # shared with the workers instead of copied
    return work


def main() -> None:
    serve(socket.socket(fileno=os.dup(0)), warm_up())
    os._exit(0)


if __name__ == "__main__":
    main()
