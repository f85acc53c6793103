"""Where other people's code and files come in: whatever they raise leaves here as a sentence that names them."""

from __future__ import annotations

import stat
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sysconfig import get_path

from mibench.errors import MissingError, StageFailed, UserError

_NOT_USERS = {Path(__file__).parent, *(Path(get_path(name)) for name in ("stdlib", "purelib", "platlib"))}
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def sentences(what: str, advice: str = "", kind: type[UserError] = UserError) -> Iterator[None]:
    """Whatever is raised in the block becomes an error of this ``kind`` that begins with ``what``, which names the code
    or the file, and ends with ``advice``. Sentences pass as they are, and so does an interruption."""
    try:
        yield
    except (UserError, StageFailed):
        raise
    except (Exception, SystemExit) as error:  # nobody can list what foreign code raises
        raise kind(f"{what}: {in_words(error)}{f' {advice}' if advice else ''}") from error


def in_words(error: BaseException) -> str:
    """What went wrong, in one line: ``ValueError: 3 is odd (mynets.py, line 7).`` The place is the innermost one
    outside of this program and of what is installed."""
    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    own = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(Path(f.filename))]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{said[:300].rstrip('.')}{place}."


def _is_users(file: Path) -> bool:
    return file.is_file() and not any(file.is_relative_to(folder) for folder in _NOT_USERS)


def read_bytes(path: Path, what: str = "file", kind: type[UserError] = MissingError) -> bytes:
    """The bytes of a regular file: a pipe or a device would never end. Raises an error of this ``kind``."""
    with sentences(f"{printable(path)} cannot be read", kind=kind):
        try:
            mode = stat.S_IFMT(path.stat().st_mode)
            if mode != stat.S_IFREG:
                raise kind(f"{printable(path)} is {_KINDS.get(mode, 'no regular file')}. Expected a {what}.")
            return path.read_bytes()
        except FileNotFoundError:
            if path.is_symlink():
                raise kind(f"{printable(path)} is a link to {path.readlink()}, which does not exist.") from None
            raise kind(f"There is no {what} {printable(path)}.") from None
        except OSError as error:
            raise kind(f"{printable(path)} cannot be read: {error.strerror or error}.") from None
        except MemoryError:
            raise kind(f"{printable(path)} does not fit into the memory of this machine.") from None


def read_text(path: Path, what: str = "file", kind: type[UserError] = UserError) -> str:
    """The text of a regular file in UTF-8, with or without a byte order mark. Raises an error of this ``kind``."""
    try:
        return read_bytes(path, what, kind).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise kind(
            f"{printable(path)} is not text in UTF-8 (byte {error.start + 1}). Expected a {what}; save it as UTF-8."
        ) from None


_LEFT = {"__MACOSX", ".DS_Store", ".AppleDouble", ".Spotlight-V100", ".Trashes", "Thumbs.db", "desktop.ini"}


def is_leftover(name: str) -> bool:
    """Whether a file of this path is what a Finder or an Explorer leaves in folders and archives."""
    return any(part in _LEFT or part.startswith("._") for part in name.split("/"))


def printable(name: str | Path) -> str:
    """A file's name as text that can be printed and stored: a byte that is not UTF-8, E9, as ``\\udce9``."""
    return str(name).encode(errors="backslashreplace").decode()


def machine_sentence(error: OSError) -> MissingError | None:
    """A file or folder that the system refuses, named; None if the error names none."""
    if error.filename is None or isinstance(error.filename, int):
        return None
    named = " and ".join(printable(name) for name in (error.filename, error.filename2) if name is not None)
    return MissingError(f"Cannot use {named}: {error.strerror}.")
