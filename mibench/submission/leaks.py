"""What a submission must not say: who computed it, on which machine, and where on its disk."""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mibench.submission.layout import Refused
from mibench.submission.strict import read_header

SHORTEST = 4  # shorter names are part of too many words
# Names that say nothing of anybody, and are words of source code.
COMMON = {"root", "user", "users", "admin", "runner", "ubuntu", "debian", "docker", "localhost", "test", "home", "none"}
_ABSOLUTE = re.compile(
    r"(?<![\w.:/~-])/(?:home|Users|root|tmp|var|mnt|media|data|scratch|srv|opt|usr|gpfs|lustre|work|nfs)/[\w.~-]+"
    r"|(?<![\w])[A-Za-z]:\\\\?\w+"
)


def secrets_here(home: Path, root: Path) -> dict[str, str]:
    """Words that would say who packed, and what each is. ``home``: MIBENCH_HOME. ``root``: of the methods."""
    names = {str(Path.home()): "your home folder", str(home): "MIBENCH_HOME", str(root): "the folder of the methods"}
    host = socket.gethostname()
    names |= dict.fromkeys((host, host.partition(".")[0]), "the name of this machine")
    with suppress(KeyError, OSError):  # a user without a name
        names[getpass.getuser()] = "your user name"
    names |= {os.environ[name]: "your user name" for name in ("USER", "LOGNAME") if os.environ.get(name)}
    return {name: what for name, what in names.items() if len(name) >= SHORTEST and name.lower() not in COMMON}


def check_leaks(folder: Path, names: Iterable[str], secrets: dict[str, str]) -> None:
    """Refuse a file of the submission that holds one of ``secrets`` as a whole word, or an absolute path. Of
    safetensors the names are read, of everything else all; images hold pixels and are left out."""
    patterns = {what: re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE) for name, what in secrets.items()}
    for name in names:
        text = name if name.endswith(".png") else f"{name}\n{_text(folder / name, name)}"
        for what, pattern in patterns.items():
            if pattern.search(text):
                raise Refused(f"{name} holds {what}. Remove it there, run again and pack again.")
        if absolute := _ABSOLUTE.search(text):
            raise Refused(f"{name} holds the path {absolute[0]!r} of some machine. Remove it, run and pack again.")


def _text(path: Path, name: str) -> str:
    if path.suffix == ".safetensors":
        return "\n".join(read_header(path, name))
    return path.read_bytes().decode("utf-8", errors="replace")
