"""What was tried: one file of JSON lines per stage, ``attempts/<xx>/<key>.jsonl``, a line when an attempt begins and
one when it ends. Workers append them; of a worker that died the coordinator says so. They never leave the machine."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mibench.errors import MissingError
from mibench.store import atomic
from mibench.store.manifest import check_name

OUTCOMES = ("done", "failed", "missing", "stopped", "died", "limit")


@dataclass
class Attempt:
    """One try at a stage. ``outcome`` is None while it runs, and for ever if its machine went down."""

    id: str
    started: str  # ISO 8601, UTC
    device: str = ""
    host: str = ""  # an alias
    job: str | None = None  # of a cluster's scheduler
    ended: str | None = None
    outcome: str | None = None
    message: str | None = None
    exit_code: int | None = None
    source_sha256: str = ""  # of the method's file

    @property
    def final(self) -> bool:
        """Whether trying again with the same method would only fail again."""
        return self.outcome == "failed"


def path(home: Path, key: str) -> Path:
    check_name("attempt", key)
    return home / "attempts" / key[:2] / f"{key}.jsonl"


def begin(home: Path, key: str, device: str, source_sha256: str, job: str | None = None) -> str:
    """Note that an attempt begins; its id."""
    name = secrets.token_hex(6)
    line = {"id": name, "started": _now(), "device": device, "host": host(home), "job": job}
    _append(home, key, line | {"source_sha256": source_sha256})
    return name


def end(home: Path, key: str, name: str, outcome: str, message: str | None = None, exit_code: int = 0) -> None:
    """Note how an attempt ended."""
    if outcome not in OUTCOMES:
        raise ValueError(f"An attempt cannot end as {outcome!r}.")
    _append(home, key, {"id": name, "ended": _now(), "outcome": outcome, "message": message, "exit_code": exit_code})


def died(home: Path, key: str, message: str, outcome: str = "died", exit_code: int = 1) -> None:
    """Say of an attempt whose process is gone without a word how it ended."""
    for attempt in read(home, key)[-1:]:
        if attempt.outcome is None:
            end(home, key, attempt.id, outcome, message, exit_code)


def read(home: Path, key: str) -> list[Attempt]:
    """The attempts at a stage, oldest first. A line that a full disk or a kill cut off is left out."""
    attempts: dict[str, Attempt] = {}
    for line in _lines(path(home, key)):
        name = str(line.pop("id", ""))
        if "started" in line:
            with suppress(TypeError):
                attempts[name] = Attempt(name, **line)
        elif name in attempts:
            for what in ("ended", "outcome", "message", "exit_code"):
                setattr(attempts[name], what, line.get(what))
    return list(attempts.values())


def last(home: Path, key: str) -> Attempt | None:
    return next(iter(read(home, key)[-1:]), None)


def failed_before(home: Path, stages: Iterable[tuple[str, str]]) -> dict[str, Attempt]:
    """Of stages (key, SHA-256 of the method's file) those whose last attempt failed in a way that the same method
    would fail again, by key."""
    failed = {}
    for key, source in stages:
        attempt = last(home, key)
        if attempt is not None and attempt.final and attempt.source_sha256 == source:
            failed[key] = attempt
    return failed


def host(home: Path) -> str:
    """An alias for this machine, which tells machines apart and nothing about them."""
    salt = home / "cache" / "salt"
    try:
        secret = salt.read_text()
    except OSError:
        secret = secrets.token_hex(16)
        with suppress(OSError, MissingError):
            atomic.write_text(salt, secret)
    return hashlib.sha256(f"{secret}{socket.gethostname()}".encode()).hexdigest()[:8]


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    try:
        text = file.read_bytes()
    except OSError:
        return
    for line in text.splitlines():
        with suppress(ValueError):
            fields = json.loads(line)
            if isinstance(fields, dict):
                yield fields


def _append(home: Path, key: str, line: dict[str, Any]) -> None:
    """One write at the end of the file, so that lines of several processes do not mix; a line that was cut off before
    is closed first."""
    file = path(home, key)
    with atomic.writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, (("\n" if cut else "") + json.dumps(line) + "\n").encode())
        finally:
            os.close(descriptor)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
